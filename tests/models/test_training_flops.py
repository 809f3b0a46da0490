"""FLOPs of partly frozen runs: those of the products in the jaxpr of the gradient."""

import math

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from vit_jax import config as configs
from vit_jax.finetune.methods import apply_method
from vit_jax.plan.roofline import recomputed_macs
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.step import make_gradient

BATCH, WIDTH, CLASSES, MLP, DEPTH, PATCHES = 8, 32, 10, 48, 3, 16


def tiny_run(**options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=WIDTH, depth=DEPTH, mlp_dim=MLP, num_heads=2)
    config.batch_size, config.total.steps = BATCH, 2
    method = options.pop("method", "full")
    config.update_from_flattened_dict(options)
    apply_method(config, method)
    return prepare(config, Dataset(64, CLASSES, (16, 16), (0.5,) * 3, (0.5,) * 3))


def products(jaxpr):
    """FLOPs of the dot_generals in a jaxpr; a scan's body counts once per iteration."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            outputs = math.prod(equation.outvars[0].aval.shape)
            total += 2 * outputs * math.prod(left[axis] for axis in contracted)
        elif name == "cond":  # the same product in the layouts of two kinds of devices
            total += max(products(branch.jaxpr) for branch in params["branches"])
        elif name == "scan":
            total += params["length"] * products(params["jaxpr"].jaxpr)
        elif name == "custom_jvp_call":
            total += products(params["call_jaxpr"].jaxpr)
        elif name in ("jit", "pjit"):
            total += products(params["jaxpr"].jaxpr)
        elif name in ("checkpoint", "remat", "remat2"):
            total += products(params["jaxpr"])
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "head"},
        {"method": "bias"},
        {"optimizer.freeze_blocks": 1},
        {"optimizer.train": ("blocks/.*/qkv/.*", "head/.*")},
        {"optimizer.freeze": ("(cls|posemb|embedding).*",)},
        {"optimizer.train": ("posemb/.*", "head/.*")},
        {"optimizer.train": ("norm/.*", "head/.*")},
        {"model.mlp": "swiglu", "optimizer.train": ("blocks/.*/mlp/fc2/.*", "head/.*")},
        {"model.head": "map", "optimizer.train": ("map_head/.*", "head/.*")},
        {"model.pre_logits": 24, "method": "head"},
        {"model.patch_dropout": 0.5, "method": "bias"},
    ],
    ids=str,
)
def test_flops_are_those_of_the_products_of_a_step(options):
    run, found = traced(**options)
    assert run.train_flops() == pytest.approx(found, rel=0.005)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model.layer_scale": 0.1, "model.mlp": "swiglu", "model.attention_norm": True},
        {"model.block": "parallel", "model.dropout": 0.1},
        {"model.block": "sum_norm", "model.position_bias": "table"},
        {"model.block": "post_norm", "model.qk_norm": True},
        {"model.block": "branched(2)"},
    ],
    ids=str,
)
def test_policy_names_repeats_the_products_of_queries_and_keys_alone(options):
    run, found = traced(**options, **{"model.remat": "names"})
    again = recomputed_macs(run.model_config, "names", jax.devices()[0])
    assert again > 0
    assert run.train_flops() + 2 * again == pytest.approx(found, rel=0.005)


def traced(**options):
    """A run, and the FLOPs of the products in its gradient for one image."""
    run = tiny_run(**options)
    batch = dict(
        image=jax.ShapeDtypeStruct((BATCH, 16, 16, 3), np.uint8),
        label=jax.ShapeDtypeStruct((BATCH,), np.int32),
    )
    step = jax.ShapeDtypeStruct((), np.int32)
    closed = jax.make_jaxpr(make_gradient(run.task))(run.abstract.params, batch, step)
    # As XLA does: products that reach no result are left out.
    used, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    found = products(used) / BATCH
    if any("embedding" in path for path in run.trained):
        found += 2 * PATCHES * 48 * WIDTH  # the gradient of the images, counted by convention
    return run, found


def test_a_head_alone_costs_the_forward_pass_and_its_own_gradient():
    run = tiny_run(method="head")
    assert run.train_flops() == 2 * run.task.macs(run.model_config) + 2 * WIDTH * CLASSES


def test_lora_spares_the_gradients_of_weights_that_are_not_adapted():
    run = tiny_run(**{"method": "lora", "lora.targets": ("query", "value")})
    tokens = PATCHES + 1
    square, wide = DEPTH * tokens * WIDTH**2, DEPTH * tokens * WIDTH * MLP
    embedding = PATCHES * 48 * WIDTH
    # Left out: both gradients of the embedding, and those of the weights of out, fc1 and fc2.
    spared = 2 * embedding + square + 2 * wide
    assert run.train_flops() == 6 * run.task.macs(run.model_config) - 2 * spared
