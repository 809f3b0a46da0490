"""The formulations for TPUs against those for CPUs, which other tests compare with references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.models.forms import platform
from vit_jax.models.layers import normalize_in_one_pass

TINY = dict(width=32, depth=2, mlp_dim=64, num_heads=2, image_size=16, num_classes=5)
CASES = [
    {},
    dict(dropout=0.2, stochastic_depth=0.3, attention_dropout=0.1),
    dict(layer_scale=0.1, qk_norm=True, qkv_bias="no_key"),
    dict(rotary="mixed", mlp="swiglu", head="gap"),
    dict(block="parallel", norm="rms"),
    dict(block="post_norm", attention_norm=True),
    dict(block="sum_norm", position_bias="mlp"),
    dict(block="branched(2)", patch_dropout=0.5),
    dict(attention_kind="window(3)"),
    dict(attention_kind="axial", head="gap"),
    dict(attention_kind="causal", head="gap"),
    dict(remat="dots_no_batch"),
    dict(remat="none", unroll=-1),
    dict(unroll=-1),  # the default of TPUs where parameters are sharded
]


def loss_and_gradient(options, tpu, monkeypatch):
    """Of a small model in training, as it is written for one platform."""
    monkeypatch.setattr(platform, "device_in_use", lambda: ("tpu" if tpu else "cpu", ""))
    assert platform.on_tpu() == tpu
    model = vit_jax.create_model("ViT-Ti/4", **(TINY | options))
    graphdef, params = vit_jax.models.split(model)
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * generator.normal(size=x.shape).astype(np.float32), params
    )
    images = jnp.asarray(generator.uniform(-1, 1, (3, 16, 16, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    wanted = jnp.asarray(generator.normal(size=(3, 5)), jnp.float32)

    def loss(params):
        logits = vit_jax.models.merge(graphdef, params)(images, keys=keys)
        return jnp.square(logits - wanted).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_both_formulations_have_the_same_loss_and_gradient(options, monkeypatch):
    expected, gradient = loss_and_gradient(options, False, monkeypatch)
    found, own = loss_and_gradient(options, True, monkeypatch)
    assert float(found) == pytest.approx(float(expected), rel=2e-6)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(gradient))
    for (path, x), y in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(y, x, rtol=2e-6, atol=2e-6 * largest, err_msg=str(path))


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_a_norm_in_one_pass_equals_torch(offset):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0).normal
    shape = (3, 5, 24)
    given = [draw(offset, 1, shape), draw(1, 0.2, 24), draw(0, 0.2, 24), draw(0, 1, shape)]
    x, scale, bias, grad = (jnp.asarray(each, jnp.float32) for each in given)
    y, pull = jax.vjp(lambda *args: normalize_in_one_pass(*args, 1e-6, jnp.float32), x, scale, bias)
    tensors = [torch.tensor(np.array(each), requires_grad=True) for each in (x, scale, bias)]
    expected = torch.nn.functional.layer_norm(tensors[0], (24,), *tensors[1:], eps=1e-6)
    expected.backward(torch.tensor(np.array(grad)))
    tolerance = 3e-6 * (1 + offset**2)
    np.testing.assert_allclose(y, expected.detach(), atol=tolerance)
    for found, tensor in zip(pull(grad), tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad, atol=tolerance)
