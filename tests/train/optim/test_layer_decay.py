"""Layer-wise learning rate decay beside timm's table and torch's parameter groups.

timm_layer_decay.json holds the `lr_scale` of every parameter that timm 1.0.31 gives:
optim.param_groups_layer_decay(model, layer_decay=0.75[, min_scale=0.4]).
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.train.optim import stepping
from vit_jax import InputError, models
from vit_jax.config import default
from vit_jax.train.optim import create_optimizer
from vit_jax.weights.record import Weights, parameter_shapes
from vit_jax.weights.write import named

TABLES = json.loads((Path(__file__).parent / "timm_layer_decay.json").read_text())["models"]


def change(config, shapes, **options):
    """What one step of SGD at rate 1 adds for gradients of -1: the factors."""
    section = default().optimizer
    section.update(dict(name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant") | options)
    params = {path: jnp.zeros(shape) for path, shape in shapes.items()}
    params = traverse_util.unflatten_dict(params, sep="/")
    pooled = getattr(config, "pool_then_norm", False)
    tx, _ = create_optimizer(section, params, 10, batch_size=1, train_size=1, pooled_norm=pooled)
    gradients = jax.tree.map(lambda p: -jnp.ones_like(p), params)
    return jax.jit(lambda grads: tx.update(grads, tx.init(grads), grads)[0])(gradients)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table["options"]))
def test_every_parameter_of_a_vit_has_timms_factor(table):
    options = dict(num_classes=10, image_size=32) | table["options"]
    config = models.model_config("ViT-Ti/16", **options)
    for scales, least in (("scales", 0.0), ("at_least_4_tenths", 0.4)):
        factors = change(config, parameter_shapes(config), layer_decay=0.75, layer_decay_min=least)
        params = jax.tree.map(np.asarray, factors)
        weights = Weights(name="ViT-Ti/16", options=options, params=params, pp="")
        theirs = named(weights, "timm ViT")
        if config.pool_then_norm:  # they call it fc_norm then
            theirs = {re.sub("^norm", "fc_norm", name): x for name, x in theirs.items()}
        assert theirs.keys() == table[scales].keys()
        for name, factor in table[scales].items():
            np.testing.assert_allclose(theirs[name], factor, rtol=1e-6, err_msg=name)


def test_it_scales_decoupled_weight_decay_and_multipliers_as_torch_groups_do():
    """Unstacked, each layer is a group of torch's AdamW with its own learning rate."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = {
        "embedding/kernel": rng.normal(size=(4, 3)),
        "blocks/mlp/fc1/kernel": rng.normal(size=(2, 3, 3)),
        "head/kernel": rng.normal(size=(3, 2)),
    }
    factors = {"embedding/kernel": [0.7**3], "head/kernel": [2.0]}
    factors["blocks/mlp/fc1/kernel"] = [0.7**2, 0.7]
    tensors = {
        path: [torch.tensor(x, requires_grad=True) for x in (p if p.ndim == 3 else [p])]
        for path, p in start.items()
    }
    groups = [
        dict(params=[tensor], lr=0.1 * factor)
        for path in start
        for tensor, factor in zip(tensors[path], factors[path], strict=True)
    ]
    theirs = torch.optim.AdamW(groups, weight_decay=0.3, eps=1e-8)
    mine = {path: p.astype(np.float32) for path, p in start.items()}
    tx = stepping.create(
        stepping.nested(mine),
        weight_decay=0.3,
        layer_decay=0.7,
        multipliers=(("head/.*", 2.0),),
    )
    gradients = []
    for _ in range(4):
        gradients.append({})
        for path, group in tensors.items():
            for tensor in group:
                tensor.grad = tensor.detach() ** 3
            gradient = np.stack([tensor.grad.numpy() for tensor in group]).astype(np.float32)
            gradients[-1][path] = gradient.reshape(start[path].shape)
        theirs.step()
    params = stepping.descend(tx, stepping.nested(mine), map(stepping.nested, gradients))
    for path, p in traverse_util.flatten_dict(params, sep="/").items():
        expected = np.stack([tensor.detach().numpy() for tensor in tensors[path]])
        np.testing.assert_allclose(p.reshape(expected.shape), expected, rtol=2e-5, atol=5e-6)


def test_a_resnet_and_a_minimum_without_decay_are_refused():
    config = models.model_config("BiT-R50x1", num_classes=10)
    shapes = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in parameter_shapes(config).items()
    }
    params = traverse_util.unflatten_dict(shapes, sep="/")
    for options, message in [
        (dict(layer_decay=0.75), "layer_decay needs one stack of transformer blocks"),
        (dict(layer_decay_min=0.1), "layer_decay_min needs"),
        (dict(layer_decay=0.0), "layer_decay is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            stepping.create(params, **options)
