"""Which options of a model come from the weights it begins with, and what is refused."""

import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.models import derived_config, identify, model_config
from vit_jax.weights import fit
from vit_jax.weights.record import parameter_shapes

SMALL = dict(width=8, depth=1, mlp_dim=16, num_heads=2, patch_size=4, image_size=8)
STORED = model_config(
    "ViT-S/16", **SMALL, num_classes=5, gelu="erf", norm_eps=1e-12, registers=2, layer_scale=0.1
)


def params_of(config):
    return {path: np.ones(shape, np.float32) for path, shape in parameter_shapes(config).items()}


def test_options_left_alone_come_from_the_weights():
    wanted = derived_config(STORED, num_classes=3, image_size=12, dropout=0.1)
    assert (wanted.gelu, wanted.norm_eps, wanted.registers) == ("erf", 1e-12, 2)
    assert (wanted.width, wanted.patch_size, wanted.layer_scale) == (8, (4, 4), 0.1)
    assert (wanted.num_classes, wanted.image_size, wanted.dropout) == (3, (12, 12), 0.1)


def test_what_training_uses_does_not_come_from_the_weights():
    dropped = derived_config(model_config("ViT-S/16", dropout=0.5, dtype="bfloat16"))
    assert (dropped.dropout, dropped.dtype) == (0.0, "float32")


def test_the_nearest_name_is_that_of_the_weights():
    """Its options are then those of the weights, here the initial LayerScale."""
    giant = model_config(
        "ViT-g/14", width=1536, num_heads=24, mlp_dim=4096, mlp="swiglu", layer_scale=1.0
    )
    name, _ = identify(giant)
    assert name == "ViT-Giant2/14"
    assert derived_config(giant, "vit_giant2/14", image_size=224) == giant
    other = derived_config(giant, "ViT-B/14")
    assert (other.width, other.mlp) == (768, "swiglu")


def test_what_is_taken_over_and_what_starts_afresh():
    wanted = derived_config(STORED, num_classes=3, image_size=12)
    fitted = fit(params_of(STORED), STORED, wanted, skip=["head/.*"])
    assert fitted.fresh == {"head/kernel": (8, 3), "head/bias": (3,)}
    assert fitted.params.keys() | fitted.fresh.keys() == parameter_shapes(wanted).keys()
    assert all(fitted.params[k].shape == parameter_shapes(wanted)[k] for k in fitted.params)
    count = sum(array.size for array in fitted.params.values())
    assert fitted.report[0].startswith(f"loaded {count:,} parameters from the weights")
    assert sum(line.startswith("left out: head/") for line in fitted.report) == 2
    resized = [line for line in fitted.report if line.startswith("resized")]
    assert resized == ["resized: posemb/embedding (1, 5, 8) -> (1, 10, 8), bilinear_align_corners"]


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(gelu="tanh"), "something else: gelu is 'erf' in the weights, 'tanh' in the model"),
        (dict(norm_eps=1e-6), "norm_eps is 1e-12 in the weights, 1e-06 in the model"),
        (dict(mlp_dim=12), r"mlp_dim is 16 in the weights, 12 in the model; blocks/mlp/fc1/bias"),
        (dict(registers=1), r"registers: weights \(1, 2, 8\), model \(1, 1, 8\)"),
        (dict(depth=2), "depth is 1 in the weights, 2 in the model;.*and 10 more"),
    ],
)
def test_a_contradiction_is_refused(changed, message):
    wanted = derived_config(STORED, num_classes=5, image_size=8, **changed)
    with pytest.raises(InputError, match=message):
        fit(params_of(STORED), STORED, wanted)


def test_another_pooling_of_the_same_parameters_is_said():
    stored = model_config("ViT-S/16", **SMALL, head="token_gap", num_classes=0)
    wanted = derived_config(stored, head="token", num_classes=0, image_size=8)
    assert "note: head is 'token_gap' in the weights, 'token' in the model" in (
        fit(params_of(stored), stored, wanted).report
    )


def test_a_resnet_is_no_transformer():
    bit = model_config("BiT-R50x1", resnet_stages=(1, 1))
    with pytest.raises(InputError, match="the weights are of BiT-R26x1, the model is ViT-"):
        fit(params_of(bit), bit, derived_config(bit, "ViT-S/16"))
