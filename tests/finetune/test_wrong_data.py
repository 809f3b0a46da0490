"""Data that cannot be fine-tuned on: one line, exit status 2, and the workdir stays free."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vit_jax.cli.main import main
from vit_jax.config_files import load_config

WEIGHTS = "vit_jax/fashion-mnist"
TEACHER = ["--config.task=distill", f"--config.distill.teacher={WEIGHTS}"]


def encoded(number):
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of many kinds, all of them wrong but good.parquet and shards/0.tar."""
    place = tmp_path_factory.mktemp("data")
    images, labels = [encoded(i) for i in range(24)], ["ab"[i % 2] for i in range(24)]
    for number, image in enumerate(images):
        (place / f"{number}.jpg").write_bytes(image)
    rows = [f"{i}.jpg,{label},{'val' if i > 15 else 'train'}" for i, label in enumerate(labels)]
    head = "path,label,split"
    (place / "new.csv").write_text("\n".join([head, *rows, "3.jpg,c,val"]))
    (place / "blank.csv").write_text("\n".join([head, *rows, "3.jpg,,val"]))
    (place / "gone.csv").write_text("\n".join([head, *rows, "nowhere.jpg,a,val"]))
    (place / "rows.csv").write_text(f"{head}\n")
    (place / "column.csv").write_text("path\n0.jpg\n")
    pq.write_table(pa.table(dict(image=images, label=labels)), place / "good.parquet")
    pq.write_table(pa.table(dict(x=[1, 2], y=["a", "b"])), place / "other.parquet")
    pq.write_table(pa.table(dict(image=[0.5, 1.5], label=[0, 1])), place / "numbers.parquet")
    whole = (place / "good.parquet").read_bytes()
    (place / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (place / "two").mkdir()
    shutil.copy(place / "good.parquet", place / "two/train-0.parquet")
    shutil.copy(place / "other.parquet", place / "two/train-1.parquet")
    (place / "shards").mkdir()
    with tarfile.open(place / "shards/0.tar", "w") as tar:
        for number, image in enumerate(images):
            for ending, content in (("jpg", image), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (place / "shards/1.tar").write_bytes(b"rubbish" * 1000)
    (place / "cut.tar").write_bytes((place / "shards/0.tar").read_bytes()[:9000])
    shutil.copytree(place / "shards", place / "named")
    (place / "named/1.tar").unlink()
    (place / "named/classes.txt").write_text("only\n")
    return place


@pytest.mark.parametrize(
    "words, message",
    [
        (["new.csv"], "new.csv line 26 has the class 'c', which is not among the 2 classes"),
        (["blank.csv"], "blank.csv line 26 has no label"),
        (
            ["gone.csv"],
            "gone.csv line 26: nowhere.jpg: no such file; paths begin at the table",
        ),
        (["rows.csv"], "has no rows below its first line"),
        (["column.csv"], "column.csv has no column label, class, target or labels"),
        (["other.parquet"], "has no column of images; its columns are x (int64), y (string)"),
        (["numbers.parquet"], "has no column of images"),
        (["cut.parquet"], "cut.parquet: cannot be read as parquet"),
        (["parquet:two/*.parquet"], "two/train-1.parquet has no column of images"),
        (["cut.tar"], "cut.tar: truncated"),
        (["wds:shards/*.tar"], "shards/1.tar: no tar file"),
        (["wds:named/*.tar"], "label '1' is neither a class that classes.txt"),
        (["good.parquet", *TEACHER], "config.distill.teacher has no class 'a'"),
        (["good.parquet", "--config.task=distill"], "needs config.distill.teacher"),
    ],
)
def test_wrong_data_are_one_line(words, message, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["finetune", WEIGHTS, *words, "--workdir=run", "--quiet"]
    assert main([*words, "--config.log.tensorboard=False"]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert sum(line.startswith("vit_jax: ") for line in err.splitlines()) == 1
    assert not os.path.exists("run")


def test_one_class_is_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for number in range(12):
        Path("one/cat").mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{number}.jpg", "one/cat")
    assert main(["finetune", WEIGHTS, "one", "--workdir=run", "--quiet"]) == 2
    assert "folder:one has 1 class; a classifier needs at least two" in capsys.readouterr().err
    assert not os.path.exists("run")


def test_few_images_for_evaluation_are_warned_of(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    caplog.set_level("WARNING", logger="vit_jax")
    load_config(f"configs/images.py:{WEIGHTS},parquet:good.parquet")
    assert "only 2 images are for evaluation: each is 50 points of accuracy" in caplog.text
