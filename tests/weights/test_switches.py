"""Every part of a ViT is written and read again bit for bit, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

import vit_jax
from vit_jax import models, weights
from vit_jax.errors import InputError

SWITCHES = [
    dict(rotary="centred(rescale=2.0)", posemb="none", mlp="swiglu", qkv_bias="no_key"),
    dict(rotary="mixed", norm="rms", patch_norm=True, norm_pre=True, patch_bias=False),
    dict(position_bias="table", registers=0, head="gap", pool_then_norm=True, class_token=True),
    dict(position_bias="table(shared=True)", registers=0, posemb="none"),
    dict(position_bias="mlp(hidden=8)", block="post_norm", qkv_bias="none", out_bias=False),
    dict(position_bias="mlp(shared=True, hidden=8)", qkv_bias="none"),
    dict(attention_norm=True, mlp_norm=True, gelu="quick", projection=8, mlp_bias=False),
    dict(block="parallel", qk_norm=True, final_norm=False, head="gap"),
    dict(block="branched(count=2)", head="map", class_token=True, pool_prefix=True, map_heads=4),
    dict(head="map", registers=0, map_mlp_dim=40),
]


def record(**options) -> weights.Weights:
    shape = dict(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=4)
    shape |= dict(image_size=(8, 12), registers=1, num_classes=3)
    config = models.model_config("ViT-Ti/16", **shape | options)
    _, params = models.split(models.build_model(config, nnx.Rngs(0)))
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(0, 0.3, leaf.shape).astype(np.float32), params)
    name, stored = models.identify(config)
    return weights.Weights(name=name, options=stored, params=params, pp="value_range(-1, 1)")


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_npz_holds_every_part_bit_for_bit(options, tmp_path):
    before = record(**options)
    weights.write(before, tmp_path / "x.npz")
    after = weights.read(tmp_path / "x.npz")
    assert after.config == before.config
    flat = [traverse_util.flatten_dict(each.params, sep="/") for each in (before, after)]
    assert flat[0].keys() == flat[1].keys()
    for path, array in flat[0].items():
        np.testing.assert_array_equal(flat[1][path], array, err_msg=path)
    model, _ = vit_jax.load(tmp_path / "x.npz")
    assert model(jnp.zeros((1, 8, 12, 3))).shape == (1, 3)


@pytest.mark.parametrize("options", SWITCHES[:1] + SWITCHES[2:9], ids=str)
def test_a_format_without_a_part_refuses_the_model_by_its_name(options, tmp_path):
    before = record(**options)
    with pytest.raises(InputError, match=r"has no model with \w+=") as error:
        weights.write(before, tmp_path / "directory")
    name = str(error.value).split(" with ")[1].split("=")[0]
    assert f"{name}={getattr(before.config, name)!r}" in str(error.value)
    assert not (tmp_path / "directory").exists()


def test_a_table_of_biases_is_resized_to_another_grid(tmp_path):
    """Linear biases stay linear under bilinear resampling; the class token's rows stay."""
    before = record(position_bias="table", registers=0, image_size=(16, 16), posemb="none")
    table = before.params["blocks"]["position_bias"]["table"]
    offsets = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4), indexing="ij"), -1)
    table[:, :49] = (offsets.reshape(-1, 2) @ np.array([2.0, -1.0]) / 3)[None, :, None]
    after = weights.refit(before, image_size=(24, 12))
    new = after.params["blocks"]["position_bias"]["table"]
    np.testing.assert_array_equal(new[:, -3:], table[:, -3:])
    rows = np.stack(np.meshgrid(np.arange(-5, 6) / 5, np.arange(-2, 3) / 2, indexing="ij"), -1)
    expected = rows.reshape(-1, 2) @ np.array([2.0, -1.0])
    np.testing.assert_allclose(new[:, :-3, 0], np.stack([expected] * 2), atol=1e-6)
