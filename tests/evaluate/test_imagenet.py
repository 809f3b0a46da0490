"""ReaL, ImageNet-v2 and ObjectNet on files of their form and the predictions of a small model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.cli.main import main
from vit_jax.data import load_images, parse
from vit_jax.errors import InputError
from vit_jax.evaluate.imagenet import objectnet_classes, score
from vit_jax.evaluate.stored import evaluate_protocol

COUNT = 12


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def top(workdir, pictures, tmp_path_factory):
    """The five classes that the model finds most probable for each picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    model, info = vit_jax.load(workdir)
    images = load_images([str(folder / f"{i}.png") for i in range(COUNT)], parse(info.pp))
    logits = np.asarray(model(jnp.asarray(images / 127.5 - 1, jnp.float32)))
    return np.argsort(-logits, axis=1)[:, :5]


def write(folder, name, picture):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name)


def test_real_counts_images_with_labels(workdir, pictures, top, tmp_path):
    """The first four pictures right, four among the first five, two wrong, two without labels."""
    labels = [[int(t[0]), 999] for t in top[:4]] + [[int(t[3])] for t in top[4:8]] + [[998]] * 2
    path = tmp_path / "real.json"
    path.write_text(json.dumps([*labels, [], []]))
    for i, picture in enumerate(pictures):
        # PNG data, whatever the name says: JPEG would change the pixels.
        folder = tmp_path / "val" / ("n01440764" if i % 3 else "n01443537")
        write(folder, "picture.png", picture)
        (folder / "picture.png").rename(folder / f"ILSVRC2012_val_{i + 1:08}.JPEG")
    source = f"folder:{tmp_path / 'val'}"
    done = []

    def watch(total):
        done.append(total)
        return done.append

    result = evaluate_protocol(
        str(workdir), "real", source=source, split="all", labels=str(path), batch_size=8,
        watch=watch,
    )  # fmt: skip
    assert done == [10, 8, 2]
    assert (result["examples"], result["left_out"]) == (10, 2)
    assert result["top1"] == pytest.approx(0.4) and result["top5"] == pytest.approx(0.8)

    path.write_text(json.dumps(labels))
    with pytest.raises(InputError, match="no labels for ILSVRC2012_val_000000(11|12).JPEG"):
        evaluate_protocol(str(workdir), "real", source=source, split="all", labels=str(path))
    path.write_text(json.dumps([[1000]] * 12))
    with pytest.raises(InputError, match=r"\[1000\] is no list of classes"):
        evaluate_protocol(str(workdir), "real", source=source, split="all", labels=str(path))


def test_v2_reads_folders_by_their_number(workdir, pictures, top, tmp_path):
    """Folders in alphabetical order are not in that of their numbers."""
    for i, picture in enumerate(pictures):
        right = int(top[i, 0])
        write(tmp_path / str(right if i < 9 else (right + 500) % 1000), f"{i}.png", picture)
    result = evaluate_protocol(str(workdir), "v2", source=f"folder:{tmp_path}")
    assert result["examples"] == COUNT and result["top1"] == pytest.approx(9 / 12)
    assert result["split"] == "all"
    write(tmp_path / "cat", "0.png", pictures[0])
    with pytest.raises(InputError, match="a class 'cat'"):
        evaluate_protocol(str(workdir), "v2", source=f"folder:{tmp_path}")


@pytest.fixture
def objectnet(pictures, top, tmp_path):
    """ObjectNet's files: three objects, of which `mug` is one class, `pen` two, `soap` none."""
    mug, pen = int(top[0, 0]), int(top[1, 0])
    mappings = tmp_path / "mappings"
    mappings.mkdir()
    # Numbers of classes and lines of names differ, as in the published files.
    lines = {index: (7 * index + 3) % 1000 for index in range(1000)}
    names = [""] * 1000
    for index, line in lines.items():
        names[line] = f"thing {index}, other name"
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(names) + "\n")
    documents = dict(
        folder_to_objectnet_label=dict(mug="Mug", pen="Pen", soap="Bar of soap"),
        objectnet_to_imagenet_1k={
            "Mug": f"thing {mug}, other name",
            "Pen": f"thing {pen}, other name; thing 77, other name",
        },
        pytorch_to_imagenet_2012_id={str(index): line for index, line in lines.items()},
    )
    for name, document in documents.items():
        (mappings / f"{name}.json").write_text(json.dumps(document))
    for i, picture in enumerate(pictures):
        framed = np.empty((24, 28, 3), np.uint8)
        framed[:] = (255, 0, 0)
        framed[2:-2, 2:-2] = picture
        write(tmp_path / "images" / ("mug", "pen", "soap")[i // 4], f"{i}.png", framed)
    return tmp_path, dict(mug=[mug], pen=[pen, 77], soap=[])


def test_objectnet_without_its_frame_and_other_objects(workdir, top, objectnet):
    folder, classes = objectnet
    assert objectnet_classes(f"{folder}/mappings") == classes
    result = evaluate_protocol(
        str(workdir), "objectnet", source=f"folder:{folder}/images", labels=f"{folder}/mappings"
    )
    right = [top[i, 0] in classes["mug" if i < 4 else "pen"] for i in range(8)]
    assert right[0]
    assert result["top1"] == pytest.approx(np.mean(right))
    assert (result["examples"], result["left_out"]) == (8, 4)


@pytest.fixture(scope="module")
def flipped(workdir, pictures, tmp_path_factory):
    """The ten classes that are most probable on average over a picture and its mirror image."""
    folder = tmp_path_factory.mktemp("flipped")
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    model, info = vit_jax.load(workdir)
    images = load_images([str(folder / f"{i}.png") for i in range(COUNT)], parse(info.pp))
    normalized = jnp.asarray(images / 127.5 - 1, jnp.float32)
    views = [np.asarray(model(view)) for view in (normalized, normalized[:, :, ::-1])]
    logits = np.asarray(views, np.float64)
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.argsort(-(exponents / exponents.sum(-1, keepdims=True)).mean(0), axis=1)[:, :10]


def evaluate(capfd, workdir, *words):
    capfd.readouterr()
    assert main(["evaluate", f"--checkpoint={workdir}", "--json", *words]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("protocol", ["real", "v2", "objectnet"])
def test_views_at_test_time_by_the_command(
    protocol, workdir, pictures, top, flipped, objectnet, tmp_path, capfd
):
    """Labels are the fifth class by both views, which one view alone does not always find."""
    words, fifth = [f"--protocol={protocol}"], flipped[:, 4]
    if protocol == "objectnet":
        folder, classes = objectnet
        words += [f"--source=folder:{folder}/images", f"--labels={folder}/mappings"]
        right = [classes["mug" if i < 4 else "pen"] for i in range(8)]
    else:
        right = [[int(label)] for label in fifth]
        for i, picture in enumerate(pictures):
            name = "n01440764" if protocol == "real" else str(fifth[i])
            write(tmp_path / "all" / name, "picture.png", picture)  # as above
            (tmp_path / "all" / name / "picture.png").rename(
                tmp_path / "all" / name / f"ILSVRC2012_val_{i + 1:08}.JPEG"
            )
        words += [f"--source=folder:{tmp_path}/all"]
        if protocol == "real":
            (tmp_path / "real.json").write_text(json.dumps(right))
            words += [f"--labels={tmp_path}/real.json", "--split=all"]
        assert any(label not in own for label, own in zip(fifth, top))
    found = evaluate(capfd, workdir, *words, "--tta=flip")
    for name, count in (("top1", 1), ("top5", 5)):
        hits = [bool(set(own[:count]) & set(classes)) for own, classes in zip(flipped, right)]
        assert found[name] == pytest.approx(np.mean(hits)), name
    if protocol != "objectnet":
        assert found["top5"] == 1 > evaluate(capfd, workdir, *words)["top5"]


def test_objectnet_mappings_that_do_not_fit(workdir, objectnet):
    folder, _ = objectnet
    names = folder / "mappings" / "imagenet_to_label_2012_v2"
    names.write_text(names.read_text()[:5000])
    with pytest.raises(InputError, match="do not fit each other"):
        objectnet_classes(f"{folder}/mappings")
    names.unlink()
    with pytest.raises(InputError, match="imagenet_to_label_2012_v2 cannot be read"):
        objectnet_classes(f"{folder}/mappings")


def test_the_score():
    targets = np.zeros((4, 10), bool)
    targets[0, [3, 4]] = targets[1, 9] = targets[2, 0] = True
    top = np.array([[4, 0, 1, 2, 5], [0, 1, 2, 3, 9], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]])
    expected = dict(top1=1 / 3, top5=2 / 3, examples=3, left_out=1)
    assert score(top, targets) == pytest.approx(expected)


@pytest.mark.parametrize(
    "protocol, options, message",
    [
        ("rael", {}, "did you mean 'real'"),
        ("real", {}, "real.json of https://github.com/google-research/reassessed-imagenet"),
        ("objectnet", {}, "https://objectnet.dev: give labels=PATH"),
        ("v2", {}, "needs source, where"),
    ],
)
def test_what_is_missing_is_named(workdir, protocol, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_protocol(str(workdir), protocol, source=None, **options)
