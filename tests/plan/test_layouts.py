"""The search of layouts, the compiled candidates, and the config that it writes."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import pytest

from tests.plan.planning import plan
from tests.plan.test_analytic import layout, tiny
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.parallel.mesh import mesh_sizes
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.plan.analytic.step import Analyst
from vit_jax.plan.dataset import dataset_of
from vit_jax.plan.layouts import compiled as compiling
from vit_jax.plan.layouts.candidates import (
    COMPILED,
    Candidate,
    compile_best,
    has_two_forms,
    ordered,
    other_form,
    search,
)
from vit_jax.plan.layouts.compiled import Compiler
from vit_jax.plan.layouts.search import MARGIN, best_of_each, policies, rank
from vit_jax.plan.layouts.text import short, table
from vit_jax.plan.layouts.waiting import announced

CONFIG = """
from vit_jax.config import default

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width=256, depth=2, mlp_dim=512, num_heads=4)
    config.total.steps = 100
    config.batch_size = 64
    config.data.update(source="tfds:cifar10", pp="decode|resize(16)|value_range(-1, 1)")
    return config
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_jax.plan.analytic.topology.compiler_found", lambda: False)
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_every_layout_that_the_run_allows_is_ranked():
    """Eight devices: data x fsdp x tensor, two heads, kernels that fsdp must divide."""
    found = rank(tiny("v5e:2x4", width=256, mlp_dim=512))
    meshes = {each.layout.sizes for each in found.fitting}
    expected = {
        tuple(dict(replica=1, data=8 // f // t, fsdp=f, sequence=1, tensor=t).items())
        for t in (1, 2)
        for f in (1, 2, 4, 8)
        if f * t <= 8
    }
    assert meshes == expected
    # A device has 8 tensor rows: microbatches up to that number; two policies of remat.
    assert (
        found.tried
        == len(found.fitting)
        == sum(2 * (4 if dict(mesh)["tensor"] == 1 else 5) for mesh in meshes)
    )
    # Microbatches must save a tenth.
    costs = [
        each.seconds / (1 if each.layout.accumulate == 1 else MARGIN) for each in found.fitting
    ]
    assert all(a <= b + 1e-5 for a, b in zip(costs, costs[1:]))
    assert len(best_of_each(found.fitting)) == len(meshes)


def test_given_options_stay():
    analyst = tiny("v5e:2x4", width=256, mlp_dim=512)
    pinned = {"parallel.fsdp": 4, "model.remat": "full", "parallel.data": -1}
    for each in rank(analyst, pinned).fitting:
        assert (each.layout.mesh["fsdp"], each.layout.remat) == (4, "full")
    assert rank(analyst, {"parallel.fsdp": 3}).tried == 0


def test_what_does_not_fit_is_left_out():
    analyst = tiny("v5e:2x2", batch=4096)
    totals = {each.memory.total for each in rank(analyst).fitting}
    limit = sorted(totals)[len(totals) // 2]
    some = rank(analyst, limit=limit)
    assert {each.memory.total for each in some.fitting} == {
        n for n in totals if n <= MARGIN * limit
    }
    assert some.least.memory.total == min(totals)


def test_slices_are_crossed_by_replica_alone():
    analyst = tiny("v5e:2x2").on(describe_devices("v5e:2x2", 2))
    assert {each.layout.mesh["replica"] for each in rank(analyst).fitting} == {2}


def test_nothing_fits_names_the_smallest_slice_that_would():
    """7B parameters and Adam in float32 are 80 GB and more, so that two v5e chips are too few."""
    analyst = tiny("v5e:2x2", width=4096, depth=40, mlp_dim=16384, num_heads=32)
    with pytest.raises(InputError) as error:
        search(analyst, {}, topology="v5e:2x2", slices=1)
    text = str(error.value)
    assert text.startswith("no layout fits v5e:2x2: ") and "\n" not in text
    name = text.rpartition("--topology=")[2]
    chips = int(name.split(":")[1].split("x")[0]) * int(name.split("x")[1])
    params = sum(leaf.size for leaf in jax.tree.leaves(analyst.run("none").abstract.params))
    assert 12 * params < chips * 16 * 2**30


def answers(tasks, **changes):
    """A compiler that takes a step's number of shards as its time."""

    def run(task):
        config = json.loads(Path(task.config).read_text())
        tasks.append(config)
        seconds = config["parallel"]["fsdp"] / 1000 / (2 if config["model"]["unroll"] == -1 else 1)
        return json.dumps(
            dict(
                fits=True,
                bytes_per_device=dict(total=2**30),
                # The fastest step says the opposite, and does not count.
                roofline=dict(step=1 - seconds, bottleneck="compute"),
                # Nor does "one by one", where "copies beside" is known.
                estimates=dict(per_operation=1 - seconds, copies_beside=seconds),
                collective_bytes_per_step=7,
            )
            | changes
        )

    return run


def candidates(*layouts):
    return [
        Candidate(each.options(), True, 1, 0.5, 0.6, "compute", 1, "formulas") for each in layouts
    ]


def unrolled(options):
    return {"model.unroll": -1}


def test_the_best_are_compiled_and_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "CACHE", tmp_path / "plans")
    analyst, tasks = tiny("v5e:2x4", width=256, mlp_dim=512), []
    compiler = Compiler(analyst.config, analyst.dataset, "v5e:2x4", run=answers(tasks))
    wanted = candidates(layout(fsdp=8), layout(data=4, fsdp=2), layout(data=8))
    found = list(compile_best(wanted, compiler, 2, other=unrolled))
    assert [each.seconds for each in found] == [0.008, 0.002, 0.001]
    assert found[2].options == wanted[1].options | {"model.unroll": -1}
    assert all(each.found_by == COMPILED for each in found) and len(tasks) == 3
    # A second search finds all of them; another version or topology does not.
    assert list(compile_best(wanted, compiler, 2, other=unrolled)) == found and len(tasks) == 3
    other = Compiler(analyst.config, analyst.dataset, "v5e:4x4", run=answers(tasks))
    list(compile_best(wanted, other, 1))
    assert len(tasks) == 4
    monkeypatch.setattr(compiling, "_versions", lambda: {"jax": "1"})
    list(compile_best(wanted, compiler, 1))
    assert len(tasks) == 5


def test_an_interrupted_search_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "CACHE", tmp_path)
    analyst, tasks = tiny("v5e:2x4"), []
    compiler = Compiler(analyst.config, analyst.dataset, "v5e:2x4", run=answers(tasks))
    wanted = candidates(layout(data=8), layout(data=8, accumulate=2))
    next(compile_best(wanted, compiler, 2))
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["fits"]
    list(compile_best(wanted, compiler, 2))
    assert [config["parallel"]["accumulate"] for config in tasks] == [1, 2]


def test_a_compiler_that_fails_ends_no_search(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "CACHE", tmp_path)
    analyst = tiny("v5e:2x4")

    def run(task):
        raise InputError("the compiler failed: out of luck")

    compiler = Compiler(analyst.config, analyst.dataset, "v5e:2x4", run=run)
    assert list(compile_best(candidates(layout(data=8)), compiler, 1, other=unrolled)) == []
    assert "data=8: the compiler failed: out of luck" in caplog.text


def test_a_worker_of_its_own_compiles_for_the_devices_present(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "CACHE", tmp_path)
    analyst = tiny("v5e:2x4")
    options = layout(data=-1).options()
    plan, known = Compiler(analyst.config, analyst.dataset).plan(options)
    assert plan["fits"] and plan["compile_seconds"] > 0 and not known
    with pytest.raises(InputError, match="the compiler failed: .*batch"):
        Compiler(analyst.config, analyst.dataset).plan(options | {"batch_size": 0})


def test_the_other_form_of_a_layout_is_the_one_that_it_does_not_have():
    """A loop where parameters are sharded over fsdp, which has none by default; else none."""
    analyst = tiny("v5e:2x4", width=256, mlp_dim=512)
    other = [other_form(analyst, layout(data=d, fsdp=8 // d).options()) for d in (1, 4, 8)]
    assert other == [{"model.unroll": 1}, {"model.unroll": 1}, {"model.unroll": -1}]
    deep = tiny("v5e:2x4", width=256, mlp_dim=512, depth=25)
    assert other_form(deep, layout(fsdp=8).options()) == {"model.unroll": -1}
    assert other_form(analyst, layout(fsdp=8, remat="full").options()) == {"model.unroll": -1}
    assert has_two_forms(analyst) and not has_two_forms(tiny("v5e:2x4", unroll=3))


def test_compiled_candidates_come_first_and_what_does_not_fit_last():
    a, b, c = candidates(layout(data=8), layout(fsdp=8), layout(data=4, fsdp=2))
    slow = dataclasses.replace(b, found_by=COMPILED, one_by_one_seconds=0.9)
    large = dataclasses.replace(c, found_by=COMPILED, one_by_one_seconds=0.1, fits=False)
    assert ordered([a, large, slow]) == [slow, a, large]
    lines = table([each.document() for each in (slow, large)])
    assert lines[1].split() == ["data=1", "fsdp=8", "0.00", "MiB", "500.0", "ms", "900.0", "ms",
                                "unknown", "compute", "0.00", "MiB", "compiler"]  # fmt: skip
    assert "does not fit" in lines[2]


def test_short_names_leave_defaults_out():
    options = layout(data=4, fsdp=2, remat="full", accumulate=2).options()
    assert short(options) == "data=4 fsdp=2 accumulate=2 remat=full"


def test_the_command_prints_a_table_and_writes_a_config(config_file, tmp_path):
    written = tmp_path / "found.py"
    args = [f"--config={config_file}", "--topology=v5e:2x4", "--batch=128", "--search"]
    status, text = plan(*args, f"--write={written}", "--config.seed=7")
    assert status == 0
    rows = text.splitlines()
    assert rows[0].startswith("devices   8 TPU v5 lite, batch 128")
    assert "fit" in rows[1] and "pip install 'vit_jax[plan]'" in rows[2]
    best = next(row for row in rows if row.startswith("best "))
    flags = best.split()[1:]
    config, same = load_config(str(written)), load_config(str(config_file), flags)
    assert (config.batch_size, config.seed) == (128, 7)
    for name in ("engine", "replica", "data", "fsdp", "tensor", "accumulate"):
        assert config.parallel[name] == same.parallel[name]
    assert config.model.remat == same.model.remat
    assert mesh_sizes(config.parallel, 8)
    found = json.loads(plan(*args, "--json")[1])
    assert found["flags"] == flags and found["layouts_that_fit"] <= found["layouts"]
    steps = [each["one_by_one_seconds"] for each in found["candidates"]]
    assert steps == sorted(steps)


def test_a_search_without_any_layout_is_one_line(config_file, capsys):
    args = [f"--config={config_file}", "--topology=v5e:2x4", "--search"]
    for extra, message in [
        (
            ["--config.parallel.fsdp=3"],
            "no layout is possible on v5e:2x4: config.parallel.fsdp=3 does not divide 8 devices",
        ),
        (
            ["--config.parallel.tensor=0"],
            "no layout is possible on v5e:2x4: config.parallel.tensor=0: sizes must be at least 1",
        ),
        (
            ["--batch=7"],
            "no layout is possible on v5e:2x4: config.batch_size=7 does not divide over 8 devices",
        ),
        (["--batch=8388608", "--config.parallel.accumulate=1"], "no layout fits v5e:2x4"),
    ]:
        assert plan(*args, *extra) == (2, "")
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"vit_jax: {message}")


def test_a_long_compilation_is_announced_and_counted(capsys):
    with announced("compiling the step", every=0.02):
        time.sleep(0.2)
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "compiling the step; this takes from seconds to minutes"
    assert later and all(line == "compiling the step: 0 s so far" for line in later)


def test_long_sequences_are_divided_where_it_pays():
    """64 images on 256 chips: beside four-fold tensor parallelism, tokens can be divided."""
    config = load_config("configs/vit_jft.py:ViT-L/16")
    config.batch_size = 64
    config.data.pp = "decode|resize(2048)|value_range(-1, 1)"
    analyst = Analyst(config, dataset_of(config), describe_devices("v5e:16x16"))
    free = rank(analyst).fitting
    whole = rank(analyst, {"parallel.sequence": 1}).fitting
    assert free[0].layout.mesh["sequence"] > 1 and free[0].seconds < whole[0].seconds
    assert {found.layout.mesh["sequence"] for found in whole} == {1}
    assert {found.layout.mesh["sequence"] for found in free} >= {1, 2, 4, 8, 16}
    given = rank(analyst, {"parallel.sequence": 3}).fitting  # does not divide 256
    assert not given
    config.data.pp = "decode|resize(224)|value_range(-1, 1)"
    analyst = Analyst(config, dataset_of(config), describe_devices("v5e:2x2"))
    assert {found.layout.mesh["sequence"] for found in rank(analyst).fitting} == {1}
    assert rank(analyst, {"parallel.sequence": 2}).fitting


@pytest.mark.parametrize("remat", ["dots", "dots_no_batch", "names"])
def test_any_policy_of_remat_can_be_given(remat):
    found = rank(tiny("v5e:2x4"), {"model.remat": remat}).fitting
    assert found and {each.layout.remat for each in found} == {remat}


def test_the_default_of_remat_is_called_auto():
    """It keeps what its policy keeps: names on TPUs, all on GPUs."""
    for topology, policy in (("v5e:2x4", "names"), ("h100:1x8", "none")):
        found = tiny(topology)
        assert policies(found) == (
            ["auto", "full"] if policy == "names" else ["auto", "names", "full"]
        )
        auto, named = (found.estimate(layout(data=8, remat=name)) for name in ("auto", policy))
        assert auto.memory == named.memory and auto.traffic_bytes == named.traffic_bytes
