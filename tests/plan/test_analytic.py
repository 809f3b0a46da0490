"""The formulas against compiled steps, and against closed forms."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from tests.plan.planning import plan
from vit_jax import config as configs
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.parallel.axes import AXES
from vit_jax.parallel.engines import create_engine
from vit_jax.plan.analytic.activations import kept_by, padded_size
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.plan.analytic.memory import is_looped
from vit_jax.plan.analytic.network import group
from vit_jax.plan.analytic.step import Analyst, Layout
from vit_jax.plan.compile import compile_step, topology_devices
from vit_jax.plan.dataset import dataset_of
from vit_jax.plan.layouts.search import rank
from vit_jax.train.batches import abstract_batch
from vit_jax.train.run import Dataset, prepare

# Plans that libtpu compiled; `software` says which.
COMPILED = json.loads((Path(__file__).parent / "compiled.json").read_text())["steps"]
SIZES = dict.fromkeys(AXES, 1)
TOKENS, WIDTH, HEADS, DEPTH, MLP = 17, 64, 2, 3, 128


def analyst(name, topology, **options):
    config = load_config(name)
    config.update_from_flattened_dict(options)
    return Analyst(config, dataset_of(config), describe_devices(topology))


@pytest.mark.parametrize(
    "compiled", COMPILED, ids=lambda row: f"{row['config'][8:]}-{row['options']}"
)
def test_memory_and_collectives_of_compiled_steps(compiled):
    """S/16 to G/14 under several layouts, to 15%; traffic varies more without a loop."""
    step = analyst(compiled["config"], compiled["topology"], **compiled["options"]).step()
    assert step.analytic
    assert step.total_bytes == pytest.approx(compiled["total_bytes"], rel=0.15)
    assert sum(c.bytes for c in step.found) == pytest.approx(compiled["sent_bytes"], rel=0.15)
    tolerance = 0.35 if compiled.get("form") else 0.2
    assert step.traffic_bytes == pytest.approx(compiled["traffic_bytes"], rel=tolerance)


# Milliseconds "one by one" of steps that libtpu 0.0.42.1 compiled for v5e:16x16, 2026-11-30; with a
# loop over blocks, and without (-1).
ONE_BY_ONE = [
    ("L/16", 16, 16, 1, 41.0),
    ("L/16", 4, 64, -1, 43.7), ("L/16", 2, 128, -1, 45.2),
    ("L/16", 256, 1, 1, 55.0), ("L/16", 4, 64, 1, 39.7), ("L/16", 8, 32, 1, 39.2),
    ("L/16", 2, 128, 1, 40.4), ("L/16", 8, 32, -1, 43.8), ("L/16", 16, 16, -1, 43.3),
    ("H/14", 4, 64, 1, 111.4), ("H/14", 8, 32, 1, 113.2), ("H/14", 16, 16, 1, 114.9),
    ("H/14", 16, 16, -1, 114.5), ("G/14", 16, 16, -1, 312.8),
    ("G/14", 8, 32, 1, 316.1), ("G/14", 16, 16, 1, 313.4),
]  # fmt: skip


@pytest.mark.parametrize("model, data, fsdp, unroll, expected", ONE_BY_ONE)
def test_operations_one_by_one_of_compiled_steps(model, data, fsdp, unroll, expected):
    config = "L/16" if model == "L/16" else "H/14"
    layout = {"parallel.layout": "given", "parallel.data": data, "parallel.fsdp": fsdp}
    options = {"model.name": f"ViT-{model}", "model.unroll": unroll, **layout}
    step = analyst(f"configs/vit_jft.py:ViT-{config}", "v5e:16x16", **options).step()
    assert 1000 * step.one_by_one == pytest.approx(expected, rel=0.14)


def test_only_blocks_have_a_loop_to_leave_out():
    """The estimate of a ResNet does not depend on `model.unroll`."""
    layout = {"parallel.layout": "given", "parallel.data": 4, "parallel.fsdp": 4}
    found = [
        analyst("configs/vit_jft.py:BiT-R50x1", "v5e:4x4", **layout).step(),
        analyst("configs/vit_jft.py:ViT-B/16", "v5e:4x4", **layout).step(),
        analyst("configs/vit_jft.py:ViT-B/16", "v5e:4x4", **layout, **{"model.unroll": 1}).step(),
    ]
    resnet, without, looped = found
    assert resnet.total_bytes > 0 and is_looped(resnet.run, SIZES | dict(fsdp=4), "none")
    assert not is_looped(without.run, SIZES | dict(fsdp=4), "names")
    assert is_looped(without.run, SIZES, "names") and is_looped(looped.run, SIZES, "names")
    sent, more = (sum(c.bytes for c in step.found) for step in (without, looped))
    assert sent < more and without.total_bytes > looped.total_bytes


@pytest.mark.parametrize(
    "options, looped",
    [
        ({"parallel.fsdp": 4}, False),
        ({"parallel.fsdp": 4, "parallel.accumulate": 2}, False),
        ({"parallel.fsdp": 2, "parallel.data": 2, "model.unroll": 1}, True),
        ({"parallel.fsdp": 4, "model.remat": "full"}, True),
        ({"parallel.data": 4}, True),
        ({"parallel.data": 4, "model.unroll": -1}, False),
    ],
    ids=str,
)
def test_the_step_has_the_loop_that_the_formulas_expect(options, looped):
    """Traced for four TPUs that need not be there: the scans over blocks, forward and backward."""
    options = {"parallel.layout": "given", "model.depth": 3, "batch_size": 16} | options
    known = analyst("configs/vit_jft.py:ViT-B/16", "v5e:2x2", **options)
    config = known.config
    run = prepare(config, known.dataset, create_engine(config.parallel, known.devices), None)
    with jax.set_mesh(run.engine.mesh):
        traced = run.train_step.function.trace(run.abstract, abstract_batch(run))
    assert set(scans(traced.jaxpr.jaxpr, 3)) == {1 if looped else 3}
    sizes = {axis: run.engine.mesh.shape.get(axis, 1) for axis in AXES}
    assert is_looped(run, sizes, known.policy(config.model.remat)) == looped


def scans(jaxpr, length):
    """How many iterations at a time the scans of a length unroll."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and eqn.params["length"] == length:
            yield eqn.params["unroll"]
        for inner in core.jaxprs_in_params(eqn.params):
            yield from scans(inner, length)


def test_one_by_one_is_no_faster_than_the_fastest_step():
    found = rank(analyst("configs/vit_jft.py:ViT-L/16", "h100:8x8"))
    assert all(each.one_by_one >= each.roofline["step"] for each in found.fitting)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"batch_size": 256, "parallel.data": 4},
        {
            "batch_size": 16,
            "parallel.data": 2,
            "parallel.sequence": 2,
            "data.pp": "decode|resize(1024)|value_range(-1, 1)",
            "model.remat": "dots_no_batch",
        },
    ],
    ids=["data", "sequence"],
)
def test_the_installed_compiler_agrees(layout):
    pytest.importorskip("libtpu")
    shorter = {"model.depth": 2, "parallel.layout": "given", **layout}
    formulas = analyst("configs/vit_jft.py:ViT-B/16", "v5e:2x2", **shorter)
    step = compile_step(formulas.config, formulas.dataset, topology_devices("v5e:2x2"))
    found = formulas.step()
    assert found.total_bytes == pytest.approx(step.total_bytes, rel=0.15)
    sent = sum(collective.bytes for collective in step.found)
    assert sum(c.bytes for c in found.found) == pytest.approx(sent, rel=0.15)


def tiny(topology, batch=64, bandwidth=None, **options):
    config = configs.default()
    shape = dict(width=WIDTH, depth=DEPTH, mlp_dim=MLP, num_heads=HEADS)
    config.model.update(name="ViT-Ti/4", **shape | options)
    config.total.steps = 10
    config.batch_size = batch
    dataset = Dataset(640, 10, (16, 16), (0.5,) * 3, (0.5,) * 3)
    return Analyst(config, dataset, describe_devices(topology), bandwidth)


def layout(data=1, fsdp=1, tensor=1, replica=1, sequence=1, remat="auto", accumulate=1):
    given = dict(replica=replica, data=data, fsdp=fsdp, sequence=sequence, tensor=tensor)
    sizes = {axis: given.get(axis, 1) for axis in AXES}
    return Layout(tuple(sizes.items()), remat, accumulate)


def test_what_blocks_keep_is_counted_by_hand():
    """Section 3.1 in float32: two inputs of norms, their outputs, q, k, v, their weights, the
    heads' output in two orders, and the MLP's hidden values before and after GELU."""
    kept = kept_by(tiny("h100:1x1").run("none"), tiles=False)
    token = 4 * TOKENS * WIDTH  # bytes of one image's tokens
    whole = 2 * token + 3 * token  # inputs of both norms; inputs of qkv, out, fc1
    split = 4 * token + 4 * HEADS * TOKENS**2 + 2 * 4 * TOKENS * MLP
    # Last tokens; patches, and their gradient of zeros; head.
    around = token + 2 * 4 * 16 * 48 + 8 * 4 * WIDTH + 10 * 4 * 10
    assert DEPTH * split <= kept.split <= DEPTH * split + around
    assert DEPTH * whole <= kept.whole <= DEPTH * whole + around
    assert kept.bytes(2) == kept.whole + kept.split / 2


def test_full_remat_keeps_the_input_of_each_block_alone():
    blocks = [kept_by(tiny("h100:1x1", depth=d).run("full"), tiles=False).bytes() for d in (3, 5)]
    assert blocks[1] - blocks[0] == pytest.approx(2 * 4 * TOKENS * WIDTH, rel=1e-3)


def test_arrays_are_padded_to_tiles_of_8_by_128():
    assert padded_size((16, 128)) == 16 * 128
    assert padded_size((16, 197, 197)) == 16 * 197 * 256
    assert padded_size((3, 197, 1024)) == 3 * 200 * 1024
    assert padded_size((5,)) == 5 and padded_size(()) == 1


def test_data_parallelism_sends_the_gradients_once_round():
    """A ring of n devices: 2 (n - 1) / n of the parameters' bytes."""
    found = tiny("v5e:2x4")
    params = sum(leaf.size for leaf in jax.tree.leaves(found.run("none").abstract.params))
    estimate = found.estimate(layout(data=8))
    assert sum(c.bytes for c in estimate.found) == pytest.approx(2 * 7 / 8 * 4 * params, rel=1e-3)
    assert estimate.memory.params == 4 * params
    # Adam's two moments, and counters.
    assert estimate.memory.optimizer == pytest.approx(8 * params, abs=64)
    rows = 8 * (16 * 16 * 3 + 4)
    assert estimate.memory.batch == rows


def test_shards_divide_what_is_large_enough():
    """Kernels of 2**14 elements and more are sharded: those of the blocks, at a width of 256."""
    found = tiny("v5e:2x4", width=256, mlp_dim=512)
    one, two = (found.estimate(layout(data=8 // n, fsdp=n)).memory.params for n in (1, 2))
    kernels = 4 * DEPTH * (4 * 256**2 + 2 * 256 * 512)
    assert one - two == kernels // 2


def test_tensor_parallelism_sums_each_branch_twice():
    """Four all-reduces of the tokens in each block (1909.08053, section 3)."""
    found = tiny("v5e:2x4")
    alone = [c for c in found.estimate(layout(data=4, tensor=2)).found if c.group == 2]
    tokens = 4 * TOKENS * WIDTH * 64 / 4
    assert sum(c.bytes for c in alone) == pytest.approx(DEPTH * 4 * tokens, rel=0.01)


def test_divided_tokens_gather_keys_and_values():
    """Of each block keys and values, whose gradients are summed and scattered; and all gradients
    are summed over the devices with other tokens."""
    found = tiny("v5e:2x4")
    plain = found.estimate(layout(data=4, sequence=2, remat="none"))
    own = 4 * TOKENS * WIDTH * 64 / 8  # bytes of a device's tokens
    pairs = [c for c in plain.found if c.group == 2]
    assert sum(c.bytes for c in pairs if c.kind == "all-gather") == pytest.approx(2 * DEPTH * own)
    scattered = sum(c.bytes for c in pairs if c.kind == "reduce-scatter")
    assert scattered == pytest.approx(2 * DEPTH * own)
    params = sum(leaf.size for leaf in jax.tree.leaves(found.run("none").abstract.params))
    summed = sum(c.bytes for c in plain.found if c.kind == "all-reduce")
    assert summed == pytest.approx(2 * 7 / 8 * 4 * params, rel=1e-3)
    # A device has the pixels of as many images as without the axis, and a part of their tokens.
    alone = found.estimate(layout(data=4, tensor=2, remat="none"))
    assert plain.memory.batch == alone.memory.batch
    with pytest.raises(InputError, match="leaves devices without any of the 17 tokens"):
        tiny("v5e:4x4").estimate(layout(data=1, sequence=16))


def test_fused_attention_holds_no_array_of_tokens_by_tokens():
    """At 1,024 pixels one array of logits of L/16 takes a GiB an image."""
    pp = "decode|resize(1024)|value_range(-1, 1)"
    options = {"batch_size": 256, "data.pp": pp, "model.remat": "full", "parallel.layout": "given"}
    for topology in ("h100:1x8", "v5e:16x16"):
        name = "configs/vit_jft.py:ViT-L/16"
        fused, plain = (
            analyst(name, topology, **options, **{"model.attention": attention}).step()
            for attention in ("auto", "xla")
        )
        images = 256 / fused.run.engine.mesh.size
        logits = 3.5 * images * 16 * 4097**2 * 4
        saved = plain.temporary_bytes - fused.temporary_bytes
        assert 0.9 * logits < saved < 1.2 * logits
        assert fused.temporary_bytes < logits


def test_microbatches_divide_what_is_kept():
    found = tiny("v5e:2x2", batch=4096)
    whole, parts = (found.estimate(layout(data=4, accumulate=n)).memory.temporaries for n in (1, 8))
    images = 1024 * 16 * 16 * 3 * 4
    assert whole / 8 < parts < whole / 4 + images


@pytest.mark.parametrize("nodes, gpus", [(2, 4), (4, 2), (8, 1)])
def test_gradients_cross_the_nodes_once_for_each_share(nodes, gpus):
    """2 (k - 1) / (k m) S between k nodes of m GPUs, 2 (m - 1) / m S within one."""
    found = tiny(f"h100:{nodes}x{gpus}")
    params = sum(leaf.size for leaf in jax.tree.leaves(found.run("none").abstract.params))
    size = 4 * params
    collectives = found.estimate(layout(data=8)).found
    between = sum(c.bytes for c in collectives if c.between_slices)
    within = sum(c.bytes for c in collectives if not c.between_slices)
    assert between == pytest.approx(2 * (nodes - 1) / (nodes * gpus) * size, rel=1e-3)
    assert within == pytest.approx(2 * (gpus - 1) / gpus * size, rel=1e-3)


def test_time_between_nodes_is_that_of_the_network_cards():
    """DGX H100: 400 Gbit/s a GPU; --slice-bandwidth sets another."""
    size = 4 * sum(
        leaf.size for leaf in jax.tree.leaves(tiny("h100:1x1").run("none").abstract.params)
    )
    sent = 2 * 3 / (4 * 2) * size
    for bandwidth in (None, 1e9):
        found = tiny("h100:4x2", bandwidth=bandwidth).estimate(layout(data=8)).roofline
        assert found["between_slices"] == pytest.approx(sent / (bandwidth or 50e9), rel=1e-3)


def test_groups_lie_along_the_axes_of_the_mesh():
    sizes = dict(replica=1, data=2, fsdp=3, sequence=1, tensor=4)
    assert group(sizes, ("tensor",)) == [0, 1, 2, 3]
    assert group(sizes, ("fsdp",)) == [0, 4, 8]
    assert group(sizes, ("data", "tensor")) == [0, 1, 2, 3, 12, 13, 14, 15]


def test_a_plan_without_the_compiler_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_jax.plan.analytic.topology.compiler_found", lambda: False)
    args = ["--config=configs/vit_jft.py:ViT-B/16", "--batch=1024", "--topology=v5e:4x4"]
    status, text = plan(*args)
    assert status == 0
    assert "formulas       nothing was compiled; the compiler for TPUs is not installed" in text
    assert "pip install 'vit_jax[plan]'" in text and "compilation" not in text
    found = json.loads(plan(*args, "--json")[1])
    assert found["analytic"] and found["devices"] == 16 and found["compile_seconds"] == 0
    # Without a loop over blocks, their weights are not all gathered twice.
    assert "of what the layout needs if it gathers weights for each pass;" in text
    assert 0.8 < found["collective_bytes_per_step"] / found["collective_bytes_minimum"] < 1
    found = json.loads(plan(*args, "--json", "--config.model.unroll=1")[1])
    assert found["collective_bytes_per_step"] >= found["collective_bytes_minimum"]


def test_gpus_are_planned_by_nodes():
    layout = "--config.parallel.layout=given"
    status, text = plan("--config=configs/vit_jft.py:ViT-B/16", "--topology=a100:4x8", layout)
    assert status == 0
    assert "32 NVIDIA A100-SXM4-80GB in 4 nodes: engine=pjit data=32" in text
    assert "XLA's compiler for GPUs is a part of JAX's CUDA plugin" in text
    assert "\nwithin nodes" in text and "\nbetween nodes" in text
    assert "ms, between nodes " in text


def test_dtypes_have_their_size():
    half, full = (
        kept_by(tiny("h100:1x1", dtype=dtype).run("none"), tiles=False).split
        for dtype in ("bfloat16", "float32")
    )
    assert jnp.dtype("bfloat16").itemsize * 2 == 4 and half == pytest.approx(full / 2, rel=0.05)
