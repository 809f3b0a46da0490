"""The commands on real images, and what they say to wrong input."""

import ast
import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.cli.commands.weights import models
from vit_jax.cli.evaluations import as_text
from vit_jax.cli.main import main

TINY = [
    "--config.model.width=32",
    "--config.model.depth=2",
    "--config.model.mlp_dim=64",
    "--config.model.num_heads=2",
    "--config.batch_size=16",
    "--config.log.tensorboard=False",
]
PRETRAIN = ["train", "--config=configs/quickstart.py:pretrain", *TINY]
SHORT = ["--config.total.epochs=None", "--config.total.steps=4",
         "--config.optimizer.warmup.epochs=None"]  # fmt: skip


def run(capfd, *argv):
    """Exit status, standard output, the last line of standard error."""
    status = main([str(word) for word in argv])
    out, err = capfd.readouterr()
    return status, out, (err.strip().splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Crops of three photographs, a class each, as JPEG files."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, photo in dict(china=china, coffee=data.coffee(), flower=flower).items():
        (root / name).mkdir()
        for i in range(12):
            y, x = rng.integers(0, photo.shape[0] - 200), rng.integers(0, photo.shape[1] - 300)
            Image.fromarray(photo[y : y + 200, x : x + 300]).save(root / name / f"{i}.jpg")
    return root


def test_train_evaluate_predict_on_a_folder_of_jpegs(photographs, tmp_path, capfd):
    workdir = tmp_path / "run"
    status, out, _ = run(
        capfd, *PRETRAIN, *SHORT, f"--workdir={workdir}", "--json",
        f"--config.data.source=folder:{photographs}",
        "--config.data.pp=decode|inception_crop(32)|flip_lr|value_range(-1, 1)",
        "--config.model.patch_size=8",
        "--config.total.steps=40",
    )  # fmt: skip
    summary = json.loads(out)
    assert status == 0 and summary["steps"] == 40

    status, out, _ = run(capfd, "evaluate", f"--checkpoint={workdir}", "--json")
    result = json.loads(out)
    assert status == 0 and set(result) >= {"top1", "top5", "loss", "examples"}
    assert result["examples"] == summary["metrics"]["eval/test/examples"] == 7
    assert result["top1"] == pytest.approx(summary["metrics"]["eval/test/top1"])
    assert result["loss"] == pytest.approx(summary["metrics"]["eval/test/loss"], rel=1e-5)

    files = [photographs / "china" / "0.jpg", photographs / "flower" / "3.jpg"]
    status, out, _ = run(capfd, "predict", f"--checkpoint={workdir}", *files, "--topk=2", "--json")
    results = json.loads(out)
    assert status == 0 and [r["path"] for r in results] == [str(f) for f in files]
    for r in results:
        assert len(r["top"]) == 2
        assert {top["label"] for top in r["top"]} <= {"china", "coffee", "flower"}
        assert r["top"][0]["probability"] >= r["top"][1]["probability"] > 0


def test_models_prints_the_papers_counts(capfd):
    status, out, _ = run(capfd, "models", "ViT-*/16", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["ViT-B/16"]["params"] == 86_567_656
    assert round(rows["ViT-L/16"]["macs"] / 1e9, 3) == 61.555
    assert rows["ViT-S/16"]["image_size"] == 224


def test_an_evaluation_of_pixels_shows_their_bits():
    found = dict(top1=0.5, loss=1.0, bits_per_dim=0.4809, examples=3, source="x", split="test")
    assert "loss 1.0000, 0.4809 bits per dimension on 3 examples of x (test)" in as_text(found)


def test_the_kept_sizes_of_models_are_what_they_have():
    remedy = "write vit_jax/models/sizes.tsv anew: SIZES.write_text(sizes())"
    assert models.SIZES.read_text() == models.sizes(), remedy


def test_data_shows_what_a_config_reads(photographs, tmp_path, capfd):
    sheet = tmp_path / "sheet.png"
    status, out, _ = run(
        capfd, "data", "--config=configs/quickstart.py:pretrain", "--json", "--seconds=0.1",
        f"--config.data.source=folder:{photographs}", f"--sheet={sheet}",
        "--config.data.pp=inception_crop(64)|flip_lr", "--config.batch_size=8",
    )  # fmt: skip
    summary = json.loads(out)
    assert status == 0
    assert (summary["examples"], summary["classes"]) == (29, 3)  # train[:80%] of 36
    assert summary["label_names"] == ["china", "coffee", "flower"]
    assert summary["evals"]["test"]["examples"] == 7  # the rest
    assert summary["images_per_second"] > 0 and summary["images"] == 45 * 29 // 8 * 8 + 8
    assert Image.open(sheet).size == (8 * 130, 16 + 4 * 130)


WRONG = {
    "unknown command": (["trian"], "did you mean 'train'"),
    "unknown flag": ([*PRETRAIN, "--workdri=x"], "--workdir"),
    "missing config": (["train", "--config=configs/quickstrat.py", "--workdir=x"], "quickstart.py"),
    "config argument": (["train", "--config=configs/quickstart.py:finetun", "--workdir=x"],
                        "did you mean 'finetune'"),
    "unknown option": (["--config.optimizer.learning_rat=1"], "optimizer.learning_rate"),
    "option elsewhere": (["--config.learning_rate=1"], "optimizer.learning_rate"),
    "type": (["--config.batch_size=many"], "--config.batch_size=many"),
    "model": (["--config.model.name=ViT-C/16"], "unknown model 'ViT-C/16'"),
    "operation": (["--config.data.pp=inception_crp(16)"], "inception_crop"),
    "argument": (["--config.data.pp=inception_crop(16, sz=2)"], "sz"),
    "source": (["--config.data.source=digit"], "did you mean 'digits'"),
    "folder": (["--config.data.source=folder:/nowhere"], "/nowhere"),
    "patch": (["--config.model.patch_size=5"], "not divisible by the patch size 5; use 15 or 20"),
    "classes": (["--config.model.num_classes=7"], "num_classes is 7"),
    "batch": (["--config.batch_size=12"], "the nearest that does is"),
    "mesh": (["--config.parallel.fsdp=3"], "fsdp=3"),
    "engine": (["--config.parallel.engine=pjti"], "did you mean 'pjit'"),
    "init_from": (["--config.init_from=/nowhere"], "/nowhere"),
    "bucket": (["--workdir=gs://bucket/run"], "mount the bucket"),
    "optimizer": (["--config.optimizer.name=adamm"], "adam"),
    "batch below one": (["--config.batch_size=-1"], "batch_size is -1; it must be at least 1"),
    "no microbatch": (["--config.parallel.accumulate=0"], "accumulate is 0; it must be at least 1"),
    "seed": (["--config.seed=-1"], "config.seed is -1; it must be at least 0"),
    "size": (["--config.total.examples=1e99"], "total.examples"),
    "threads": (["--config.data.threads=-1"], "config.data.threads is -1"),
    "endless": (["--config.optimizer.learning_rate=1e999"], "learning_rate is inf"),
    "stages": (["--config.model.name=R50+ViT-B/16", "--config.model.resnet_stages=3"],
               "model.resnet_stages is 3; give the units of each stage"),
    "multipliers": (["--config.optimizer.multipliers=3"], "3 is no (pattern, factor above 0)"),
    "no share of heads": (["--config.parallel.tensor=4", "--config.batch_size=16"], "tensor=4"),
    "best": (["--config.checkpoint.best=eval/tset/top1"], "did you mean 'eval/test/top1'"),
    "sheet": (["data", "--config=configs/quickstart.py:pretrain", "--sheet=/nowhere/x.png"],
              "/nowhere/x.png: cannot be written: No such file"),
    "seconds": (["data", "--config=configs/quickstart.py:pretrain", "--seconds=0"], "--seconds=0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(case, tmp_path, capfd):
    argv, hint = WRONG[case]
    if argv[0].startswith(("--config.", "--workdir")):
        argv = [*PRETRAIN, *SHORT, f"--workdir={tmp_path / 'run'}", *argv]
    status, out, last = run(capfd, *argv)
    assert status == 2 and out == ""
    assert last.startswith("vit_jax: ") and hint in last
    assert not (tmp_path / "run" / "checkpoints" / "4").exists()


def test_predict_refuses_what_is_no_image_and_no_checkpoint(tmp_path, capfd):
    status, _, last = run(capfd, "predict", "--checkpoint=/nowhere", __file__)
    assert status == 2 and "/nowhere does not exist" in last
    status, _, last = run(capfd, "evaluate", f"--checkpoint={tmp_path}")
    assert status == 2 and "holds no" in last


def test_a_folder_of_the_same_name_is_not_what_runs(tmp_path):
    """In a checkout of something else, say; the command starts itself again for huge pages."""
    (tmp_path / "vit_jax").mkdir()
    (tmp_path / "vit_jax" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [Path(sys.executable).parent / "vit_jax", "models", "ViT-B/16"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "86,567,656" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_plan_is_for_the_devices_of_the_config():
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax", "plan", "--config=configs/quickstart.py:pretrain",
         "--config.parallel.cpu_devices=2", "--json"],
        env=dict(os.environ, XLA_FLAGS=os.environ["QUICK_XLA_FLAGS"]),
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--learning_rate=0.1"], "did you mean '--config.optimizer.learning_rate=0.1'"),
        (["--batch-size", "32"], "did you mean '--config.batch_size'"),
        (["--wrokdir=x"], "did you mean '--workdir'"),
        (
            ["--config.batch_size", "32"],
            "'32' after --config.batch_size; write --config.batch_size=32",
        ),
    ],
)
def test_an_argument_that_is_an_option_is_named(words, message, capsys):
    assert main(["train", "--config=configs/quickstart.py", "--workdir=x", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["tables", "1"], ["config"], ["--help"]])
def test_a_reader_that_closes_early_is_no_error(words):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "vit_jax", *words],
            env=environment,
            stdout=closed,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [["tables", "1"], ["config", "--json"], ["--help"]])
def test_standard_output_on_a_full_disk_is_one_line(words):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vit_jax", *words],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    message = "vit_jax: cannot write standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_no_help_text_is_written_twice():
    """An argument that several commands share is declared once, in cli/arguments.py."""
    places = collections.defaultdict(list)
    for file in sorted((Path(vit_jax.__file__).parent / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
                    places[keyword.value.value].append(file.name)
    assert len(places) > 50
    assert {text: found for text, found in places.items() if len(found) > 1} == {}
