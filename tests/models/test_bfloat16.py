"""bfloat16 matrix products; float32 parameters, norms, softmax, features and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from vit_jax.models import create_model, merge, split

BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")


def equations(jaxpr, primitive):
    """(dtypes of the inputs, dtype of the output) of every use of a primitive, in order."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            found.append((*(v.aval.dtype for v in eqn.invars), eqn.outvars[0].aval.dtype))
        inner = list(core.jaxprs_in_params(eqn.params))
        if eqn.primitive.name == "cond":  # one branch a platform; accelerators have the last
            inner = inner[-1:]
        for jaxpr in inner:
            found += equations(jaxpr, primitive)
    return found


def traced(model, images):
    graphdef, params = split(model)
    return jax.make_jaxpr(lambda params: merge(graphdef, params)(images))(params).jaxpr


def test_products_are_bfloat16_and_the_head_float32(vit):
    model = vit.model(dtype="bfloat16", pre_logits=9)
    assert equations(traced(model, vit.images(model)), "dot_general") == [
        (BF16, BF16, BF16),  # patch embedding
        (BF16, BF16, BF16),  # query, key, value
        (BF16, BF16, F32),  # scores, summed in float32
        (BF16, BF16, BF16),  # weights by values
        (BF16, BF16, BF16),  # attention's output
        (BF16, BF16, BF16),  # MLP
        (BF16, BF16, BF16),
        (F32, F32, F32),  # pre_logits
        (F32, F32, F32),  # head
    ]


def test_products_of_the_gradient_are_bfloat16_in_the_blocks(vit):
    model = vit.model(dtype="bfloat16")
    graphdef, params = split(model)
    images = vit.images(model)

    def loss(params):
        return merge(graphdef, params)(images).sum()

    found = equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr, "dot_general")
    float32 = [types for types in found if F32 in types[:2]]
    assert len(float32) == 3  # of the head: itself and its two gradients
    assert len(found) == 3 * 8


def test_everything_is_float32_in_a_float32_model(vit):
    model = vit.model(pre_logits=9)
    assert set(equations(traced(model, vit.images(model)), "dot_general")) == {(F32, F32, F32)}


@pytest.mark.parametrize("head", ["token", "gap", "map"])
def test_softmax_and_norms_are_float32(vit, head):
    model = vit.model(dtype="bfloat16", head=head, qk_norm=True)
    jaxpr = traced(model, vit.images(model))
    for primitive, times in [("exp", 1 + (head == "map")), ("rsqrt", 5 + (head == "map"))]:
        found = equations(jaxpr, primitive)
        assert found == [(F32, F32)] * times, primitive
    sums = equations(jaxpr, "reduce_sum")
    assert set(sums) == {(F32, F32)}


def test_parameters_and_gradients_are_float32():
    options = dict(width=24, depth=2, mlp_dim=24, image_size=32, num_classes=5, head="map")
    model = nnx.eval_shape(
        lambda: create_model("ViT-Ti/16", dtype="bfloat16", registers=2, pre_logits=7, **options)
    )
    graphdef, params = split(model)
    images = jnp.ones((2, 32, 32, 3))
    gradient = jax.eval_shape(
        jax.grad(lambda params: merge(graphdef, params)(images).sum()), params
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradient))} == {F32}


def test_dtypes_of_outputs(vit):
    model = vit.model(dtype="bfloat16")
    logits, out = jax.eval_shape(
        lambda images: model(images, return_intermediates=True), vit.images(model)
    )
    assert logits.dtype == F32
    assert {name: value.dtype for name, value in out.items()} == {
        "embedding": BF16,
        **{f"block{i:02}/attention": F32 for i in range(3)},
        **{f"block{i:02}/output": BF16 for i in range(3)},
        "encoded": F32,
        "pre_logits": F32,
    }


@pytest.mark.parametrize("options", [dict(), dict(head="map")], ids=str)
def test_logits_and_gradients_are_near_float32(vit, options):
    results = []
    for dtype in ("float32", "bfloat16"):
        model = vit.model(dtype=dtype, **options)
        images = vit.images(model, batch=16)
        graphdef, params = split(model)

        def loss(params, graphdef=graphdef, images=images):
            logits = merge(graphdef, params)(images)
            return jax.nn.log_softmax(logits)[:, 0].mean(), logits

        results.append(jax.jit(jax.grad(loss, has_aux=True))(params))
    (gradient, logits), (rough_gradient, rough_logits) = results
    # bfloat16 has 8 bits: 0.4% per rounding.
    assert 1e-4 < distance(rough_logits, logits) < 0.03
    for path, leaf in jax.tree.leaves_with_path(gradient):
        other = rough_gradient
        for key in path:
            other = other[key.key]
        assert distance(other, leaf) < 0.05, jax.tree_util.keystr(path)


def test_features_are_not_rounded_to_bfloat16(vit):
    model = vit.model(dtype="bfloat16", head="gap", num_classes=0)
    features = model(vit.images(model, batch=8))
    rounded = features.astype(BF16).astype(F32)
    assert np.mean(np.asarray(rounded == features)) < 0.1


def distance(a, b):
    return float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))
