"""LoRA beside peft on a ViT of transformers: outputs, gradients, steps, initial values."""

import jax
import numpy as np
import pytest

from tests.weights.lora_models import (
    CLASSES,
    RANK,
    SIZES,
    assert_close,
    base_model,
    flat,
    peft,
    pixels,
    run_config,
    theirs,
    to_torch,
    torch,
    with_peft,
)
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.step import make_gradient
from vit_jax.trees import named_leaves
from vit_jax.weights import read


@pytest.mark.parametrize(
    "parallel",
    [dict(tensor=2, fsdp=2, data=2, accumulate=2), dict(engine="pmap")],
    ids=str,
)
def test_outputs_gradients_and_adamw_steps_are_those_of_peft(parallel, tmp_path):
    targets = ("query", "value", "out", "fc1", "fc2")
    adapted = with_peft(base_model("vit", tmp_path), targets)
    weights = read(tmp_path)
    config = run_config(tmp_path, **{"lora.targets": targets})
    config.parallel.update(parallel, replicated_tolerance=1.0)
    config.model.remat = "full"
    # Adam divides by the gradient's size: a large epsilon keeps small gradients comparable.
    config.optimizer.eps = 1e-3
    run = prepare(
        config, Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3), start=weights.config
    )
    state = run.engine.init(run.create)
    expected = theirs(adapted)
    start = {**flat(weights.params), **expected(lambda parameter: parameter)}

    def place(path, leaf):
        assert leaf.size == start[path].size, path
        array = start[path].reshape(leaf.shape).astype(np.float32)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    named = named_leaves(state.params)
    placed = {path: place(path, leaf) for path, leaf in named.items()}
    params = jax.tree.unflatten(jax.tree.structure(state.params), list(placed.values()))
    state = state.replace(params=params)

    decays, others = [], []
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            (others if name.endswith("bias") else decays).append(parameter)
    optimizer = torch.optim.AdamW(
        [dict(params=decays, weight_decay=0.1), dict(params=others, weight_decay=0.0)],
        lr=0.01,
        eps=1e-3,
    )
    rng = np.random.default_rng(0)
    for number in range(3):
        batch = dict(image=pixels(8, number), label=rng.integers(0, CLASSES, 8).astype(np.int32))
        optimizer.zero_grad()
        out = adapted(to_torch(batch["image"])).logits
        loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(batch["label"]).long())
        loss.backward()
        optimizer.step()
        if not number and parallel.get("engine") == "pmap":
            gradient = jax.jit(make_gradient(run.task))(state.params, batch, 0)[1]
            for path, grad in expected(lambda parameter: parameter.grad).items():
                found = flat(gradient)[path]
                assert_close(found.reshape(grad.shape), grad)
            frozen = flat(gradient).keys() - expected(lambda parameter: parameter).keys()
            assert not any(np.any(flat(gradient)[path]) for path in frozen)
        state, metrics = run.train_step(state, run.engine.put_batch(batch, 8))
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    after = expected(lambda parameter: parameter)
    for path, leaf in flat(state.params).items():
        if path in after:
            np.testing.assert_allclose(leaf.reshape(after[path].shape), after[path], atol=2e-5)
        else:
            np.testing.assert_array_equal(leaf, start[path].reshape(leaf.shape))
    # Moments of A, B and the head, and nothing else.
    moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(moments) == 2 * sum(array.size for array in after.values())


def test_a_fresh_adapter_is_drawn_as_pefts_and_changes_nothing(tmp_path):
    model = base_model("vit", tmp_path)
    run = prepare(
        run_config(tmp_path),
        Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3),
        start=read(tmp_path).config,
    )
    fresh = flat(run.create().params)
    lora = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"]))
    drawn = torch.cat([p.ravel() for name, p in lora.named_parameters() if "lora_A" in name])
    bound = SIZES["hidden_size"] ** -0.5
    for values in (drawn.detach().numpy(), np.concatenate([
        fresh[f"lora/blocks/attention/{name}/a/kernel"].ravel() for name in ("query", "value")
    ])):  # fmt: skip
        assert 0.9 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not np.any(fresh["lora/blocks/attention/query/b/kernel"])
    trained, _ = lora.get_nb_trainable_parameters()
    assert trained == sum(leaf.size for path, leaf in fresh.items() if path.startswith("lora/"))
    usable = flat(run.usable(run.create().params))
    for path, leaf in usable.items():
        np.testing.assert_array_equal(leaf, fresh[path])
