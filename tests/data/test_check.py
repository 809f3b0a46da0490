"""What `vit_jax data` finds wrong, against counts of the files themselves."""

import collections
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main
from vit_jax.data import check, open_source


@pytest.fixture
def pets(tmp_path):
    """A folder with every fault: copies, a class of one image, a truncated file."""
    rng = np.random.default_rng(0)

    def draw(path, height):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, 30, 3), np.uint8)).save(path)

    root = tmp_path / "pets"
    for split, count in (("train", 70), ("val", 4)):
        for name in ("cat", "dog"):
            for i in range(count):
                draw(root / split / name / f"{i:03}.png", 20 + i)
    draw(root / "train" / "owl" / "0.png", 20)
    for i in range(3):
        shutil.copy(root / "train/cat/001.png", root / f"train/cat/copy{i}.png")
    shutil.copy(root / "train/cat/002.png", root / "train/dog/relabelled.png")
    shutil.copy(root / "train/dog/005.png", root / "val/dog/leaked.png")
    damaged = root / "train/dog/069.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return root


def files_of(root, split):
    return sorted(path.read_bytes() for path in (root / split).rglob("*.png"))


def table(root):
    """The same images as a CSV file."""
    paths = sorted(root.glob("*/*/*.png"))
    rows = [f"{p.relative_to(root)},{p.parent.name},{p.parent.parent.name}" for p in paths]
    (root / "pets.csv").write_text("\n".join(["path,label,split", *rows]))
    return f"csv:{root}/pets.csv"


def parquet(root):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (root / "hub").mkdir()
    for split in ("train", "val"):
        paths = sorted((root / split).rglob("*.png"))
        columns = dict(
            image=[path.read_bytes() for path in paths], label=[p.parent.name for p in paths]
        )
        pq.write_table(pa.table(columns), root / "hub" / f"{split}-00000-of-00001.parquet")
    return f"hf:{root}/hub"


@pytest.mark.parametrize("kind", ["folder", "csv", "hf", "mix"])
def test_faults_are_those_of_the_files(pets, kind):
    spec = dict(folder=lambda: f"folder:{pets}", csv=lambda: table(pets), hf=lambda: parquet(pets))
    spec = spec["folder"]() if kind == "mix" else spec[kind]()
    train, val = (
        open_source(f"mix:{spec}*1" if kind == "mix" else spec, split) for split in ("train", "val")
    )
    faults = check.Faults(train, bytes_per_example=1000, every=True)
    found = faults.of_training()
    counts = collections.Counter(files_of(pets, "train"))
    assert found["duplicates"]["images"] == sum(counts.values()) - len(counts) == 4
    if kind != "mix":  # whose labels are in the payload
        assert found["duplicates"]["other_labels"] == 1
        assert found["classes_with_one_image"] == dict(classes=1, first=["owl"])
    assert found["unreadable"]["images"] == 1
    sizes = sorted(
        Image.open(path).size[::-1]
        for path in (pets / "train").rglob("*.png")
        if path != pets / "train/dog/069.png"
    )
    expected = dict(smallest=sizes[0], median=sizes[len(sizes) // 2], largest=sizes[-1])
    assert found["image_sizes"] == {name: list(size) for name, size in expected.items()}
    leaked = faults.of_evaluation(val)["same_as_training"]
    assert leaked["images"] == len(set(files_of(pets, "val")) & set(counts)) == 1
    if kind in ("folder", "csv"):
        assert [name.rpartition("/")[2] for name in leaked["first"]] == ["005.png", "leaked.png"]


def test_large_data_are_read_only_when_asked(pets, monkeypatch):
    train = open_source(f"folder:{pets}", "train")
    monkeypatch.setattr(check, "CHEAP_BYTES", 1000)
    found = check.Faults(train, bytes_per_example=1000, every=False).of_training()
    assert found["duplicates"].startswith("not looked for")
    assert "classes_with_one_image" in found  # known without reading


def test_nothing_is_reported_of_good_data():
    train, test = open_source("digits", "train[:80%]"), open_source("digits", "train[80%:]")
    faults = check.Faults(train, bytes_per_example=64, every=True)
    assert faults.of_training() == {} and faults.of_evaluation(test) == {}


def test_a_missing_file_is_named_and_progress_reaches_the_end(pets):
    train = open_source(f"folder:{pets}", "train")
    (pets / "train/cat/003.png").unlink()
    seen = []
    content = check.read_content(
        train, decode=True, threads=3, on_progress=lambda done, of: seen.append((done, of))
    )
    assert content.unreadable == 2
    assert any("003.png: No such file" in problem for problem in content.problems)
    assert seen[-1] == (train.size, train.size) and seen == sorted(seen)


def test_the_command(pets, capsys):
    args = ["data", "--config=configs/finetune.py:ViT-Ti/16,pets", "--seconds=0.1", "--json"]
    args += [f"--config.data.source=folder:{pets}", "--config.data.split=train"]
    args += ["--config.evals.test.split=val", "--config.batch_size=8", "--check"]
    assert main(args) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["duplicates"]["images"] == 4 and found["unreadable"]["of"] == 145
    assert found["evals"]["test"]["same_as_training"]["images"] == 1
    assert "145 of 145 images checked" in output.err


def test_faults_are_printed_although_training_would_end(pets, capsys):
    for path in (pets / "train/cat").glob("*.png"):
        path.write_bytes(path.read_bytes()[:300])
    args = ["data", "--config=configs/finetune.py:ViT-Ti/16,pets", "--seconds=0.1"]
    args += [f"--config.data.source=folder:{pets}", "--config.data.split=train"]
    args += ["--config.evals.test.split=val", "--config.batch_size=64", "--check"]
    assert main(args) == 2
    assert "unreadable:" in (output := capsys.readouterr()).out
    assert "more than data.max_unreadable" in output.err
