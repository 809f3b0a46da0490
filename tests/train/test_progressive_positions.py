"""Position embeddings on smaller images: those of the final size, interpolated in the model."""

import jax
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.train.batches import open_training_data
from vit_jax.train.run import prepare
from vit_jax.train.step import make_gradient
from vit_jax.trees import named_leaves
from vit_jax.weights.resample import resample_positions


def tiny_run(size, sizes="", **options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.pp = f"resize({size})|value_range(-1, 1)"
    config.progressive.sizes = sizes
    config.batch_size = 16
    config.total.steps = 2
    config.update_from_flattened_dict(options)
    return prepare(config, open_training_data(config)[2])


def noisy(run):
    """Parameters in which no position is zero."""
    params = run.engine.init(run.create).params
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
        jax.device_get(params),
    )


def test_position_embeddings_are_interpolated_inside_the_model():
    """As FlexiViT: torch's antialiased resizing of the final embedding, and its gradient."""
    torch = pytest.importorskip("torch")
    run = tiny_run(16, "8@0.5, 16")
    small = run.stages[0]
    params = noisy(run)
    batch = dict(
        image=np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8),
        label=np.arange(4, dtype=np.int32),
    )
    loss, gradient = jax.jit(make_gradient(small.task))(params, batch, 0)
    old = params["posemb"]["embedding"]
    whole = torch.tensor(np.array(old), requires_grad=True)
    grid = whole[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (2, 2), mode="bilinear", antialias=True)
    resized = torch.cat([whole[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 4, 32)], 1)
    alone = tiny_run(8)
    own = params | dict(posemb=dict(embedding=resized.detach().numpy()))
    expected, own_gradient = jax.jit(make_gradient(alone.task))(own, batch, 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    resized.backward(torch.tensor(np.array(own_gradient["posemb"]["embedding"])))
    np.testing.assert_allclose(gradient["posemb"]["embedding"], whole.grad, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"model.posemb": "learned2d"},
        {"model.posemb": "relative"},
        {"model.posemb_where": "layers"},
        {"model.position_bias": "table"},
        {"model.position_bias": "mlp(hidden=8)", "model.rotary": "mixed"},
        {"model.attention_kind": "axial", "model.head": "gap"},
    ],
    ids=str,
)
def test_every_kind_of_position_is_that_of_weights_fitted_to_the_size(options):
    run = tiny_run(16, "8@0.5, 16", **options | {"progressive.resample": "bicubic"})
    small = run.stages[0]
    params = noisy(run)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    flat = named_leaves(params)
    fitted = resample_positions(flat, run.model_config, small.model_config, "bicubic")
    flat |= fitted
    found = small.task.model(params)(images)
    own = jax.tree.unflatten(jax.tree.structure(params), flat.values())
    model = tiny_run(8, **options).task.model(own)
    np.testing.assert_allclose(found, model(images), atol=1e-5)
