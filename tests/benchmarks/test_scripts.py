"""Smoke tests: the scripts of benchmarks/ run, at sizes that say nothing about speed."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import pytest
from PIL import Image

from tests.finetune.conftest import photos_in_splits, pretrained  # noqa: F401
from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.paper import queue
from vit_jax.paper.results import load_run_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    environment = dict(os.environ, XLA_FLAGS=os.environ["QUICK_XLA_FLAGS"])
    return subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *map(str, arguments)],
        cwd=BENCHMARKS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def count(name):
    config = models.model_config(name, num_classes=1000, image_size=224)
    _, params = models.abstract(lambda rngs: models.build_model(config, rngs))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["ViT-Ti/16", "ViT-S/16"])
def test_peers_are_the_same_network(name):
    pytest.importorskip("torch")
    side_by_side = load("side_by_side")
    network = side_by_side.PlainTorch(name, "infer", 1, "float32", False)
    assert sum(p.numel() for p in network.network.parameters()) == count(name)


def test_the_best_batch_of_a_contestant():
    side_by_side = load("side_by_side")

    class Fake:
        def __init__(self, batch):
            if batch > 128:
                raise RuntimeError("CUDA out of memory")

        def run(self, steps):
            """Takes no time at all whatever the batch: the largest is the fastest."""

    side_by_side.time = type("Clock", (), dict(perf_counter=iter(range(100)).__next__))
    assert side_by_side.best_batch(Fake, {}) == 128


@pytest.mark.slow
def test_smoke_of_side_by_side(tmp_path):
    pytest.importorskip("torch")
    result = run(
        "side_by_side", "--models", "ViT-Ti/16", "--modes", "train", "--rounds", 1, "--steps", 1,
        "--batch", 1, "--peers", "plain PyTorch", "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    (row,) = found["rows"]
    assert row["ours"] > 0 and row["theirs"] > 0 and row["ratio"] > 0
    assert "| ViT-Ti/16 | train | 1 |" in result.stdout


@pytest.mark.slow
def test_smoke_of_local_attention(tmp_path):
    """Every kind, or the reason why there is none; above the limit nothing runs."""
    file = tmp_path / "found.json"
    sizes = ["--grids", 4, 8, "--width", 16, "--heads", 2, "--rounds", 1, "--json", file]
    result = run("local_attention", *sizes, "--kinds", "full", "window(7)", "block(8)")
    assert result.returncode == 0, result.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["tokens"] for row in rows] == [17] * 3 + [65] * 3
    assert rows[3]["keys_per_query"] == rows[5]["keys_per_query"] == 65
    assert 1 < rows[4]["keys_per_query"] < 65 and rows[4]["both_ms"] > 0
    problem = rows[2]["problem"]
    assert "larger than the grid of 4x4" in problem and problem in result.stdout
    assert "| `window(7)` | " in result.stdout
    script = load("local_attention")
    row = script.measure("full", 4, width=8, heads=1, batch=1, rounds=1, limit=0.0)
    assert "above --limit-gib" in row["both_problem"] and "both_ms" not in row


@pytest.mark.slow
def test_smoke_of_local_attention_on_a_topology():
    """The plain block's products, forward and twice backward, and its logits."""
    pytest.importorskip("libtpu")
    script = load("local_attention")
    sizes = dict(width=256, heads=2, batch=8)
    rows = [
        script.compile_for("v5e:2x2", kind, side, **sizes)
        for kind, side in (("full", 14), ("sparse(pattern='fixed') @ splash", 14), ("block(9)", 8))
    ]
    assert rows[0]["traffic_bytes"] > 0 and rows[0]["per_operation_ms"] > 0
    assert rows[1]["per_operation_ms"] is None  # of the kernel
    assert "larger than the grid" in rows[2]["problem"]
    assert "| `full` | 197 | " in script.report_compiled(rows)


@pytest.mark.slow
def test_smoke_of_attention():
    result = run("attention", "--batch", 1, "--heads", 1, "--lengths", 5, "--rounds", 1, "--json")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)["rows"]
    assert row["found"]["xla"]["largest_difference"] < 1e-5
    assert {"problem"} == set(row["found"]["cudnn"])  # there is no GPU here


@pytest.mark.slow
def test_smoke_of_loop_overhead():
    result = run("loop_overhead", "--rounds", 1, "--warm-up", 2, "--steps", 3, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert all(ms > 0 for times in found["step_ms"].values() for ms in times)


@pytest.mark.slow
def test_smoke_of_prediction():
    result = run(
        "prediction", "--model", "ViT-Ti/32", "--batch", 2, "--batches", 1, "--rounds", 1, "--json"
    )
    assert result.returncode == 0, result.stderr
    inputs = {"compiled step", "arrays", "JPEG files", "arrays, bfloat16", "arrays, int8"}
    found = json.loads(result.stdout)
    assert set(found["share"]) == inputs | {"decoding", "step, then decoding"}
    share = found["share"]
    both = 1 / (1 / share["decoding"] + 1)
    assert share["step, then decoding"] == pytest.approx(both)
    assert found["files_share_of_both"] == pytest.approx(share["JPEG files"] / both)


@pytest.mark.slow
def test_smoke_of_startup():
    result = run("startup", "--model", "ViT-Ti/32", "--depths", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["starts"]
    assert found["first_seconds"] > 0 and found["second_seconds"] > 0


def test_a_small_study_is_what_its_runs_say(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    small_scale = load("small_scale")
    best, done = {"token": "4.5e-3", "gap": "2e-3", "map": "6.8e-3"}, []

    def execute(run, folder, cores):
        config = load_run_config(run, folder)
        rate = f"{config.optimizer.learning_rate:g}"
        top1 = 0.9 if rate == f"{float(best[config.model.head or 'token']):g}" else 0.8
        top1 += 0.01 * config.seed
        workdir = folder / run.workdir
        workdir.mkdir(parents=True)
        write_atomic(workdir / "summary.json", json.dumps(dict(metrics={"eval/test/top1": top1})))
        done.append(run.workdir)

    monkeypatch.setattr(queue, "_execute", execute)
    arguments = [f"--workdir={tmp_path}/runs", f"--output={tmp_path}/results"]
    monkeypatch.setattr(sys, "argv", ["small_scale.py", "pooling", *arguments])
    small_scale.main()
    # Three heads: five rates and five seeds, and three long runs.
    assert len(done) == len(set(done)) == 3 * (5 + 5 + 3)
    found = json.loads((tmp_path / "results/pooling.json").read_text())
    for point in found["points"]:
        if point["curve"] == "480,000 examples":
            assert point["values"] == pytest.approx([80, 81, 82]) and not point["chosen"]
            continue
        assert point["values"] == pytest.approx([90, 91, 92, 93, 94]) and point["runs"] == 5
        assert (point["mean"], point["std"]) == pytest.approx((92, 2.5**0.5))
        assert point["chosen"].endswith(f"learning_rate={best[point['point']]}")
        assert all(point["chosen"] in command for command in point["commands"])
    row = "| token | 92.00 ± 1.58 (learning_rate=4.5e-3) | 81.00 ± 1.00 |"
    assert row in capsys.readouterr().out
    assert (tmp_path / "results/pooling.png").stat().st_size > 1000
    before = {(point["curve"], point["point"]): point for point in found["points"]}
    # Only some points; the others stay, with the machine that they were measured on.
    arguments = [f"--workdir={tmp_path}/others", arguments[1], "--points", "map", "gap"]
    monkeypatch.setattr(sys, "argv", ["small_scale.py", "pooling", *arguments])
    done.clear()
    small_scale.main()
    assert len(done) == 2 * (5 + 5 + 3) and "pooling/map" in done[0]
    found = json.loads((tmp_path / "results/pooling.json").read_text())
    assert [point["point"] for point in found["points"]] == [
        p for p in ("token", "gap", "map") for _ in "12"
    ]
    for point in found["points"]:
        kept = point.pop("hardware", None), point.pop("date", None), point.pop("versions", None)
        if point["point"] == "token":
            assert all(kept) and point == before[point["curve"], "token"]
        else:
            assert not any(kept) and "/others/" in point["commands"][0]
    # What they lack, as commands.
    capsys.readouterr()
    monkeypatch.setattr(
        sys, "argv", ["small_scale.py", "--list", "pooling", *arguments[:1], "--points", "token"]
    )
    small_scale.main()
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 5 + 3 and all(
        "model.head=token" in line or "lengths" in line for line in listed
    )
    monkeypatch.setattr(sys, "argv", ["small_scale.py", "pooling", "--points", "gan"])
    with pytest.raises(InputError, match="point 'gan'.*gap"):
        small_scale.main()
    monkeypatch.setattr(sys, "argv", ["small_scale.py", "--list", "--points", "gap"])
    with pytest.raises(InputError, match="name it"):
        small_scale.main()


def test_a_learning_curve_is_that_of_the_metrics(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCHMARKS)
    learning_curve = load("learning_curve")
    workdir = tmp_path / "run"
    arguments = ["learning_curve.py", str(workdir), "curve", "--command=vit_jax train"]
    monkeypatch.setattr(sys, "argv", [*arguments, f"--output={tmp_path}"])
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(dict(batch_size=10)))
    with pytest.raises(InputError, match="summary.json: no such file; the run is not finished"):
        learning_curve.main()
    (workdir / "summary.json").write_text(
        json.dumps(dict(wall_seconds=6.0, seconds=dict(step=5.0)))
    )
    lines = [{"step": 10, "train/loss": 2.0, "train/grad_norm": 1.0}]
    lines.append({"step": 20, "train/loss": 1.0, "eval/test/top1": 0.9})
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    learning_curve.main()
    found = json.loads((tmp_path / "curve.json").read_text())
    assert found["curve"] == [{"step": 10, "train/loss": 2.0}, lines[1]]
    assert (found["seconds"], found["command"]) == ({"step": 5.0}, "vit_jax train")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def emoji_package(path, vendor):
    """A package as npm has it: two pictures, one of them half transparent, and one without."""
    entries = [
        dict(image="a.png", category="Food & Drink"),
        dict(image="b.png", category="Flags"),
        dict(image="missing.png", category="Flags"),
    ]
    files = {"package/emoji.json": json.dumps(entries).encode()}
    for name in "ab":
        file = io.BytesIO()
        Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(file, "PNG")
        files[f"package/img/{vendor}/64/{name}.png"] = file.getvalue()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_emoji_become_folders_of_classes(tmp_path):
    packages = tmp_path / "emoji-packages"
    packages.mkdir()
    for vendor in ("apple", "twitter"):
        emoji_package(packages / f"emoji-datasource-{vendor}-15.1.2.tgz", vendor)
    script = load("emoji")
    assert script.main([str(tmp_path / "emoji"), "--train=apple", "--test=twitter"]) == 0
    found = sorted(str(p.relative_to(tmp_path / "emoji")) for p in tmp_path.glob("emoji/*/*/*"))
    assert found == [
        "train/Flags/apple-b.png",
        "train/Food-Drink/apple-a.png",
        "val/Flags/twitter-b.png",
        "val/Food-Drink/twitter-a.png",
    ]
    with Image.open(tmp_path / "emoji" / found[0]) as picture:
        assert picture.getpixel((0, 0)) == (255, 127, 127)  # half red, half white
    with pytest.raises(InputError, match="unknown vendor 'nokia'"):
        script.package("nokia", packages)


def test_rows_of_fine_tuning(pretrained, photos_in_splits, tmp_path):  # noqa: F811
    output = tmp_path / "rows.json"
    done = run(
        "finetuning", pretrained, f"folder:{photos_in_splits}", "--only=head", "--seeds=1",
        "--epochs=1", f"--workdir={tmp_path / 'runs'}", f"--output={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(output.read_text())
    assert row["name"] == "head" and len(row["each"]) == 1
    assert row["trained_params"] == 3 * 16 + 3 and "--method=head" in row["command"]
    assert "| head | " in done.stdout
    assert run("finetuning", pretrained, "digits", "--only=haed").returncode == 2
