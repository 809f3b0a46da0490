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


def test_broken_files_are_counted_and_end_no_measurement(pets, capfd):
    for path in (pets / "train/cat").glob("*.png"):
        path.write_bytes(path.read_bytes()[:300])
    args = ["data", "--config=configs/finetune.py:ViT-Ti/16,pets", "--seconds=0.1"]
    args += [f"--config.data.source=folder:{pets}", "--config.data.split=train"]
    args += ["--config.evals.test.split=val", "--config.batch_size=64", "--check"]
    capfd.readouterr()
    assert main(args) == 0
    out, err = capfd.readouterr()
    assert "unreadable: " in out and "images per second:" in out
    assert "so that training ends, by data.max_unreadable = 0.01" in out
    assert "library" not in err.lower() and "jpeg_mem" not in err


def test_a_folder_with_damaged_files_in_both_splits(folder, tmp_path, capfd):
    """Without --check: a sample of each split is decoded; libjpeg's own lines are left out."""
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "photos" / split)
        for number in (1, 2):
            path = tmp_path / "photos" / split / "cat" / f"{number}.jpg"
            path.write_bytes(path.read_bytes()[: 300 * number])
    shutil.copy(*(tmp_path / "photos" / split / "dog" / "0.jpg" for split in ("train", "val")))
    capfd.readouterr()
    assert main(["data", str(tmp_path / "photos"), "--seconds=0.3"]) == 0
    out, err = capfd.readouterr()
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert "cat 10, dog 10" in lines["images by class"]
    assert "images 2, of 20" in lines["unreadable"]
    assert "unreadable (images 2, of 20" in lines["evaluation test"]
    assert "copies of training images (images " in out and "same_as" not in out
    assert "Improper call" not in err and "Premature end" not in err


@pytest.mark.parametrize(
    "images, words",
    [
        ({"cat": 1}, "has 1 image in split 'train' and no split for evaluation"),
        ({"cat": 1, "dog": 1}, "has 2 images in split 'train' and no split for evaluation"),
    ],
)
def test_very_little_data(images, words, folder, tmp_path, capsys):
    for name, count in images.items():
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(count):
            shutil.copy(folder / name / f"{number}.jpg", tmp_path / "few" / name)
    assert main(["data", str(tmp_path / "few"), "--seconds=0.1"]) == 2
    assert words in capsys.readouterr().err
