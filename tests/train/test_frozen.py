"""Freezing by pattern, by depth and by method, beside torch's optimizers on the trained part."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import config as configs
from vit_jax.errors import InputError
from vit_jax.finetune.methods import METHODS, apply_method
from vit_jax.models import model_config
from vit_jax.train import loop
from vit_jax.train.config import check
from vit_jax.train.optim import count_trained, create_optimizer, trained_tree
from vit_jax.train.run import Dataset, prepare
from vit_jax.trees import named_leaves
from vit_jax.weights.record import parameter_shapes

DEPTH, FROZEN = 3, 1
SHAPES = {
    "embedding": {"kernel": (2, 3)},
    "cls": (1, 1, 3),
    "blocks": {"mlp": {"kernel": (DEPTH, 4, 5), "bias": (DEPTH, 5)}},
    "head": {"kernel": (3, 2), "bias": (2,)},
}


def draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def trained_part(tree):
    """What `freeze_blocks` leaves to train, by path."""
    leaves = named_leaves(tree)
    kept = {path: leaf[FROZEN:] for path, leaf in leaves.items() if path.startswith("blocks/")}
    return kept | {path: leaf for path, leaf in leaves.items() if path.startswith("head/")}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_the_last_blocks_train_as_torch_trains_them_alone(name, clip_norm):
    torch = pytest.importorskip("torch")
    config = configs.default().optimizer
    config.update(name=name, learning_rate=0.1, schedule="constant", weight_decay=0.2)
    config.update(clip_norm=clip_norm, freeze_blocks=FROZEN, momentum=0.9)
    params = start = draw(0)
    optimizer, _ = create_optimizer(config, params, 10, batch_size=1, train_size=1)
    state = optimizer.init(params)
    own = {path: torch.tensor(leaf) for path, leaf in trained_part(params).items()}
    decays = [tensor for path, tensor in own.items() if path.endswith("kernel")]
    others = [tensor for path, tensor in own.items() if not path.endswith("kernel")]
    groups = [dict(params=decays, weight_decay=0.2), dict(params=others, weight_decay=0.0)]
    theirs = (
        torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        if name == "sgd"
        else torch.optim.AdamW(groups, lr=0.1)
    )
    for seed in range(1, 4):
        grads = draw(seed)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for path, tensor in own.items():
            tensor.grad = torch.tensor(trained_part(grads)[path])
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(list(own.values()), clip_norm)
        theirs.step()
    for path, leaf in trained_part(params).items():
        np.testing.assert_allclose(leaf, own[path], rtol=0, atol=1e-5)
    for tree in (params, start):
        tree["blocks"] = jax.tree.map(lambda leaf: np.asarray(leaf)[:FROZEN], tree["blocks"])
        tree["head"] = {}
    for after, before in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(after, before)


def tiny(**options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=DEPTH, mlp_dim=24, num_heads=2)
    config.model.image_size = 8
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 8
    config.total.steps = 4
    config.optimizer.update(learning_rate=0.01, weight_decay=0.1, schedule="constant")
    config.log.update(every=1, tensorboard=False)
    config.update_from_flattened_dict(options)
    return config


def prepared(config):
    return prepare(config, Dataset(100, 10, (8, 8), (0.5,) * 3, (0.5,) * 3))


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_a_step_leaves_the_first_blocks_and_measures_the_rest(engine):
    run = prepared(tiny(**{"optimizer.freeze_blocks": 2, "parallel.engine": engine}))
    state = run.engine.init(run.create)
    before = {path: np.asarray(leaf) for path, leaf in named_leaves(state.params).items()}
    rng = np.random.default_rng(0)
    batch = dict(
        image=rng.integers(0, 256, (8, 8, 8, 3), np.uint8),
        label=rng.integers(0, 10, 8).astype(np.int32),
    )
    # The head starts at zero and would hide the gradient of the blocks.
    state.params["head"]["kernel"] = state.params["head"]["kernel"] + 0.1
    state.params["head"]["kernel"] *= jnp.arange(10)
    start = jax.tree.map(np.asarray, state.params)

    def loss(params):
        inputs = run.task.inputs(batch, jax.random.key(0), None)
        return run.task.losses(run.task.model(params), inputs, None).mean()

    grads = named_leaves(jax.jit(jax.grad(loss))(start))
    own = [g[2:] for path, g in grads.items() if path.startswith("blocks/")]
    own += [g for path, g in grads.items() if path.startswith(("head/", "norm/"))]
    state, metrics = run.train_step(state, run.engine.put_batch(batch, 8))
    norm = np.sqrt(sum(float((g**2).sum()) for g in own))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    for path, leaf in named_leaves(state.params).items():
        if path.startswith("blocks/"):
            np.testing.assert_array_equal(leaf[:2], before[path][:2])
            assert np.any(np.asarray(leaf[2:]) != before[path][2:]), path
        elif not path.startswith(("head/", "norm/")):
            np.testing.assert_array_equal(leaf, before[path])


def test_a_run_with_frozen_blocks_goes_on_exactly(tmp_path):
    options = {"optimizer.freeze_blocks": 2, "optimizer.clip_norm": 0.1}
    once = loop.train(tiny(**options), str(tmp_path / "once"))
    loop.train(tiny(**options, **{"total.steps": 2}), str(tmp_path / "twice"))
    twice = loop.train(tiny(**options), str(tmp_path / "twice"))
    assert twice["metrics"]["train/loss"] == once["metrics"]["train/loss"]
    sizes = parameter_shapes(model_config("ViT-Ti/4", **SMALL))
    sizes = {path: int(np.prod(shape)) for path, shape in sizes.items()}
    blocks = sum(size for path, size in sizes.items() if path.startswith("blocks/"))
    head = sum(size for path, size in sizes.items() if path.startswith(("head/", "norm/")))
    assert once["trained_params"] == blocks // DEPTH + head
    assert once["params"] == sum(sizes.values())


SMALL = dict(width=16, depth=DEPTH, mlp_dim=24, num_heads=2, image_size=8, num_classes=10)


def test_methods_train_what_they_name():
    found = {}
    for method in METHODS:
        config = tiny()
        apply_method(config, method)
        run = prepared(config)
        trained = named_leaves(trained_tree(config.optimizer, run.abstract.params))
        found[method] = {path for path, mask in trained.items() if mask}
        assert count_trained(config.optimizer, run.abstract.params) == sum(
            leaf.size
            for path, leaf in named_leaves(run.abstract.params).items()
            if path in found[method]
        )
    everything = set(parameter_shapes(model_config("ViT-Ti/4", **SMALL)))
    head = {"head/kernel", "head/bias"}
    assert found["full"] == everything
    assert found["head"] == found["probe"] == head
    assert found["bias"] == {path for path in everything if path.endswith("bias")} | head
    assert head < found["lora"] and all(path.startswith("lora/") for path in found["lora"] - head)
    config = tiny(**{"lora.rank": 3})
    apply_method(config, "lora")
    assert config.lora.rank == 3
    apply_method(config, "full")
    assert config.lora.rank == 0
    config.lora.update(rank=3, alpha=5.0, targets=("out",))
    apply_method(config, "head")
    check(config)  # nothing of the adapter is left


def test_gradients_of_frozen_parameters_are_not_computed():
    """Training takes three products for each of the forward pass, a head alone only that one."""
    flops = {}
    for method in ("full", "head"):
        config = tiny(**{"model.unroll": -1})  # the cost of a loop counts once
        apply_method(config, method)
        run = prepared(config)
        shapes = dict(image=((8, 8, 8, 3), np.uint8), label=((8,), np.int32))
        batch = {name: jax.ShapeDtypeStruct(*each) for name, each in shapes.items()}
        lowered = run.train_step.lower(run.abstract, run.engine.abstract_batch(batch))
        flops[method] = lowered.compile().cost_analysis()["flops"]
    assert flops["head"] < 0.45 * flops["full"]


def test_frozen_parameters_have_no_moments():
    config = tiny()
    apply_method(config, "head")
    run = prepared(config)
    moments = [leaf.size for leaf in jax.tree.leaves(run.abstract.opt_state) if leaf.ndim]
    assert sum(moments) == 2 * (16 * 10 + 10)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optimizer.freeze_blocks": 4}, "freeze_blocks is 4, but the model has 3 blocks"),
        ({"optimizer.freeze_blocks": -1}, "freeze_blocks is -1"),
        (
            {"optimizer.freeze_blocks": 1, "model.name": "BiT-R50x1"},
            "the model has no Transformer blocks",
        ),
        ({"optimizer.train": ("had/.*",)}, "optimizer.train: 'had/.*' matches no parameter"),
        (
            {"optimizer.train": ("cls",), "optimizer.freeze_blocks": 1},
            "train with config.optimizer.freeze_blocks matches every parameter",
        ),
        ({"optimizer.train": ("head/.*",), "optimizer.freeze": ("head/.*",)}, "nothing is left"),
    ],
    ids=str,
)
def test_what_is_refused(options, message):
    config = tiny(**options)
    if "model.name" in options:
        config.model.update(width=None, depth=None, mlp_dim=None, num_heads=None, image_size=32)
    with pytest.raises(InputError, match=message):
        size = config.model.image_size
        prepare(config, Dataset(100, 10, (size, size), (0.5,) * 3, (0.5,) * 3))


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="unknown method of fine-tuning 'lore'.*'lora'"):
        apply_method(tiny(), "lore")
