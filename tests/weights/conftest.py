"""What the tests of published files share: torch models, and ours run on what was read."""

import jax
import numpy as np
import pytest
from flax import nnx

from vit_jax.models import abstract, build_model, model_config


@pytest.fixture(scope="session")
def run_ours():
    """(what convert.read returns, images) -> logits."""

    def run(published, images):
        config = model_config(published.name, **published.options)
        graphdef, _ = abstract(lambda rngs: build_model(config, rngs))
        return np.asarray(jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(published.params, images))

    return run


@pytest.fixture(scope="session")
def randomise():
    """Moves every parameter of a torch module from its initial value; logits stay near 1."""
    torch = pytest.importorskip("torch")

    def draw(model):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                scale = parameter[0].numel() ** -0.5 if parameter.ndim in (2, 4) else 0.3
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
                if parameter.ndim == 1 and "bias" not in name:
                    parameter.add_(1.0)
        return model.eval()

    return draw


@pytest.fixture(scope="session")
def run_torch():
    """(torch model, images (B, H, W, 3), options) -> its output."""
    torch = pytest.importorskip("torch")

    def run(model, images, **options):
        with torch.no_grad():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2), **options)

    return run
