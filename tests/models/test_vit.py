"""The ViT against its equations in NumPy (`vit.reference`), and its initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import InputError
from vit_jax.models import create_model, merge, split


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(gelu="erf", norm_eps=1e-3),
        dict(image_size=(11, 7)),  # incomplete patches are cut off
        dict(posemb_class_slot=False),
        dict(posemb="none"),
        dict(posemb="learned2d"),
        dict(posemb="learned2d", posemb_where="layers", registers=2),
        dict(posemb="learned", posemb_where="layers_shared", registers=2),
        dict(posemb="relative"),
        dict(posemb="relative", posemb_where="layers", registers=2, qk_norm=True),
        dict(attention_kind="axial", head="gap", image_size=(12, 4), posemb_where="layers"),
        dict(registers=3),
        dict(registers=3, posemb_class_slot=False, layer_scale=0.1),
        dict(qk_norm=True),
        dict(pre_logits=-1),
        dict(pre_logits=9, num_classes=0),
        dict(num_classes=0),
        dict(head="gap", registers=2),
        dict(head="map", registers=2, gelu="erf"),
        dict(depth=1, num_heads=1),
    ],
    ids=str,
)
def test_logits_and_intermediates_follow_the_equations(vit, options):
    model = vit.model(**options)
    images = vit.images(model)
    logits, out = vit.apply(model, images)
    expected_logits, expected = vit.reference(model, images)
    assert out.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)


def test_logits_do_not_depend_on_what_else_is_returned(vit):
    model = vit.model(attention="xla")
    images = vit.images(model)
    logits, _ = vit.apply(model, images)
    np.testing.assert_allclose(model(images), logits, rtol=1e-5, atol=1e-6)


def test_intermediates_have_names_and_shapes(vit):
    model = vit.model(registers=2, pre_logits=9)
    _, out = vit.apply(model, vit.images(model, batch=4))
    tokens = 1 + 2 + 6
    blocks = {}
    for i in range(3):
        blocks[f"block{i:02}/attention"] = (4, 3, tokens, tokens)
        blocks[f"block{i:02}/output"] = (4, tokens, 12)
    assert {name: value.shape for name, value in out.items()} == {
        "embedding": (4, tokens, 12),
        **blocks,
        "encoded": (4, tokens, 12),
        "pre_logits": (4, 9),
    }
    for i in range(3):
        np.testing.assert_allclose(out[f"block{i:02}/attention"].sum(-1), 1, rtol=1e-5)


def test_patches_are_ordered_by_row(vit):
    model = vit.model(posemb="none", head="gap")
    images = np.zeros((1, 8, 6, 3), np.float32)
    images[:, 4:, 2:4] = 1.0  # second row, second column of 2 x 3
    _, out = vit.apply(model, images)
    changed = np.abs(out["embedding"] - out["embedding"][:, :1]).max(-1)[0] > 0
    np.testing.assert_array_equal(changed, [0, 0, 0, 0, 1, 0])


def loss_and_gradient(model, images, keys=None):
    graphdef, params = split(model)

    def loss(params):
        return jnp.square(merge(graphdef, params)(images, keys=keys)).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def plain_results(vit):
    """Loss and gradient of a scanned model without remat: in evaluation, with dropout."""
    model = vit.model(dropout=0.3, stochastic_depth=0.4)
    images, keys = vit.images(model), jax.random.split(jax.random.key(0), 2)
    return {used: loss_and_gradient(model, images, keys if used else None) for used in (0, 1)}


@pytest.mark.parametrize(
    "options, with_keys",
    [
        (dict(unroll=2), False),
        (dict(unroll=7), False),
        (dict(remat="full"), False),
        (dict(remat="dots"), False),
        (dict(remat="dots_no_batch"), False),
        (dict(unroll=-1), True),
        (dict(remat="full"), True),
    ],
    ids=str,
)
def test_execution_options_change_neither_loss_nor_gradient(vit, plain_results, options, with_keys):
    model = vit.model(dropout=0.3, stochastic_depth=0.4, **options)
    keys = jax.random.split(jax.random.key(0), 2) if with_keys else None
    actual = loss_and_gradient(model, vit.images(model), keys)
    expected = plain_results[with_keys]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), actual, expected)


@pytest.mark.parametrize("unroll, barriers", [(1, False), (2, False), (3, True), (-1, True)])
def test_remat_is_protected_where_no_loop_separates_the_passes(vit, unroll, barriers):
    graphdef, params = split(vit.model(remat="full", unroll=unroll))
    images = np.zeros((1, 8, 6, 3), np.float32)
    gradient = jax.jit(jax.grad(lambda params: merge(graphdef, params)(images).sum()))
    # Kernels' gradients have barriers on CPUs.
    lowered = gradient.trace(params).lower(lowering_platforms=("tpu",))
    assert ("optimization_barrier" in lowered.as_text()) == barriers


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 6, 8, 3), (8, 6, 3), (2, 8, 6, 1)], ids=str)
def test_images_of_another_shape_are_refused(vit, shape):
    message = r"the model takes images of shape \(batch, 8, 6, 3\), got \("
    with pytest.raises(InputError, match=message):
        vit.model()(np.zeros(shape, np.float32))


def initialised(**options):
    options = dict(width=96, depth=4, mlp_dim=384, image_size=64, num_classes=10) | options
    model = nnx.jit(lambda: create_model("ViT-Ti/16", **options))()
    return jax.tree.map(np.asarray, split(model)[1])


@pytest.fixture(scope="module")
def fresh():
    return initialised(head="token", pre_logits=-1, registers=8, layer_scale=1e-4, head_bias=-10.0)


def assert_uniform(kernel, fan_in, fan_out):
    bound = (6 / (fan_in + fan_out)) ** 0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert abs(kernel.mean()) < 0.03 * bound


def test_initial_blocks_are_xavier_uniform_and_differ(fresh):
    blocks = fresh["blocks"]
    for layer in range(4):
        qkv = blocks["attention"]["qkv"]["kernel"][layer]
        for i in range(3):
            assert_uniform(qkv[:, i], 96, 96)
        assert_uniform(blocks["attention"]["out"]["kernel"][layer], 96, 96)
        assert_uniform(blocks["mlp"]["fc1"]["kernel"][layer], 96, 384)
        assert_uniform(blocks["mlp"]["fc2"]["kernel"][layer], 384, 96)
    for kernel in (qkv, blocks["mlp"]["fc1"]["kernel"]):
        assert len(np.unique(kernel)) > 0.95 * kernel.size
    assert not np.allclose(*blocks["mlp"]["fc1"]["kernel"][:2])


def test_initial_biases_norms_and_scales(fresh):
    blocks = fresh["blocks"]
    for layer in ("fc1", "fc2"):
        bias = blocks["mlp"][layer]["bias"]
        assert bias.std() == pytest.approx(1e-6, rel=0.15)
        assert abs(bias.mean()) < 2e-7
    assert not blocks["attention"]["qkv"]["bias"].any()
    assert not blocks["attention"]["out"]["bias"].any()
    for norm in (blocks["norm1"], blocks["norm2"], fresh["norm"]):
        assert (norm["scale"] == 1).all()
        assert not norm["bias"].any()
    assert (blocks["scale1"] == np.float32(1e-4)).all()
    assert (blocks["scale2"] == np.float32(1e-4)).all()


def test_initial_tokens_positions_and_heads(fresh):
    assert not fresh["cls"].any()
    assert fresh["posemb"]["embedding"].std() == pytest.approx(0.02, rel=0.06)
    assert fresh["registers"].std() == pytest.approx(0.02, rel=0.1)
    assert not fresh["head"]["kernel"].any()
    assert (fresh["head"]["bias"] == -10).all()
    assert fresh["embedding"]["kernel"].std() == pytest.approx(768**-0.5, rel=0.02)
    assert fresh["pre_logits"]["kernel"].std() == pytest.approx(96**-0.5, rel=0.03)
    assert not fresh["embedding"]["bias"].any()
    assert not fresh["pre_logits"]["bias"].any()


def test_initial_attention_pool():
    pool = initialised(head="map", depth=1)["map_head"]
    assert_uniform(pool["query"]["kernel"], 96, 96)
    for i in range(2):
        assert_uniform(pool["key_value"]["kernel"][:, i], 96, 96)
    assert_uniform(pool["out"]["kernel"], 96, 96)
    assert np.abs(pool["probe"]).max() <= (6 / 97) ** 0.5
    assert pool["probe"].std() > 0.1


def test_seeds_give_different_and_repeatable_models():
    def draw(seed):
        options = dict(width=24, depth=1, mlp_dim=24, image_size=16)
        model = create_model("ViT-Ti/16", rngs=nnx.Rngs(seed), **options)
        return split(model)[1]["blocks"]["mlp"]["fc1"]["kernel"]

    first = draw(0)
    np.testing.assert_array_equal(draw(0), first)
    assert not np.allclose(draw(1), first)
