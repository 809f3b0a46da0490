"""`vit_jax predict`: what it reads, what it prints, what it writes."""

import csv
import http.server
import io
import json
import os
import re
import sys
import threading
import tracemalloc

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.datasets import load_digits

import vit_jax
from vit_jax import create_model, data
from vit_jax.checkpoint.load import load
from vit_jax.cli.main import main
from vit_jax.cli.progress import Progress
from vit_jax.errors import InputError
from vit_jax.figures import attention
from vit_jax.figures.overlay import check_attention
from vit_jax.models import model_config
from vit_jax.weights import Weights, write

LABELS = ["cat", "dog", "fox", "gnu"]
OPTIONS = dict(width=8, depth=2, mlp_dim=8, num_heads=2, image_size=16, num_classes=4)
PP = "decode|resize(16, method='nearest')|value_range(-1, 1)"
rng = np.random.default_rng(0)


def save(folder, name, **options):
    """A weight file of a model with random parameters."""
    model = create_model(name, **options)
    params = jax.tree.map(
        lambda leaf: np.asarray(rng.normal(0, 0.5, leaf.shape), np.float32),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    )
    labels = LABELS if options["num_classes"] else []
    info = Weights(name=name, options=options, params=params, pp=PP, labels=labels)
    file = folder / "weights.npz"
    write(info, file)
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights"), "ViT-Ti/4", **OPTIONS)


@pytest.fixture(scope="module")
def sigmoid(weights, tmp_path_factory):
    """The same weights of a model that gives each class a probability of its own."""
    folder = tmp_path_factory.mktemp("sigmoid")
    about = json.loads((weights.parent / "weights.npz.json").read_text())
    (folder / "weights.npz").write_bytes(weights.read_bytes())
    (folder / "weights.npz.json").write_text(json.dumps(about | dict(multi_label=True)))
    return folder / "weights.npz"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five images; the third is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"no image")
    return folder


def good(photos):
    return [str(photos / f"{i}.png") for i in (0, 1, 3, 4)]


def run(capsys, *words):
    status = main([str(word) for word in ("predict", *words)])
    out, err = capsys.readouterr()
    return status, out, err


def logits_of(weights, paths):
    """Logits of the model in the weights, from pixels that Pillow reads."""
    model, _ = load(str(weights))
    images = []
    for path in paths:
        picture = Image.open(path)
        rows, columns = ((np.arange(16) + 0.5) * side / 16 for side in picture.size[::-1])
        images.append(np.asarray(picture)[rows.astype(int)][:, columns.astype(int)])
    out = model(np.float32(np.stack(images)) / 127.5 - 1, return_intermediates=True)
    return np.float64(out[0]), {name: np.asarray(value) for name, value in out[1].items()}


def test_json_csv_and_lines_say_the_same(weights, photos, capsys):
    status, out, err = run(capsys, f"--checkpoint={weights}", photos, "--json", "--topk=2")
    found = json.loads(out)
    assert status == 2 and err.count("2.png: cannot be read as an image") == 1
    assert [os.path.basename(one["path"]) for one in found] == [f"{i}.png" for i in range(5)]
    assert found[2]["top"] == [] and "2.png: cannot be read" in found[2]["error"]
    logits, _ = logits_of(weights, good(photos))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for one, row in zip([found[i] for i in (0, 1, 3, 4)], expected):
        order = np.argsort(-row)[:2]
        assert [top["index"] for top in one["top"]] == order.tolist()
        assert [top["label"] for top in one["top"]] == [LABELS[i] for i in order]
        sure = [top["probability"] for top in one["top"]]
        np.testing.assert_allclose(sure, row[order], rtol=1e-4)

    status, out, _ = run(capsys, f"--checkpoint={weights}", photos, "--csv", "--topk=2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 2 and len(rows) == 4 * 2 + 1
    for one in found:
        own = [row for row in rows if row["path"] == one["path"]]
        if "error" in one:
            assert [row["error"] for row in own] == [one["error"]] and own[0]["rank"] == ""
            continue
        assert [row["rank"] for row in own] == ["1", "2"]
        assert [row["label"] for row in own] == [top["label"] for top in one["top"]]
        for row, top in zip(own, one["top"]):
            assert float(row["probability"]) == pytest.approx(top["probability"], rel=1e-5)

    status, out, _ = run(capsys, f"--checkpoint={weights}", photos, "--topk=2")
    assert out.splitlines() == [
        f"{one['path']}: "
        + ", ".join(f"{top['label']} {top['probability']:.1%}" for top in one["top"])
        for one in found
        if "error" not in one
    ]


def test_a_table_and_progress_on_a_terminal(weights, photos, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    status, out, err = run(capsys, f"--checkpoint={weights}", photos, "--topk=2")
    head, *rows = out.splitlines()
    assert status == 2 and head.split() == ["image", "class", "probability"] and len(rows) == 8
    assert [row.split()[0].endswith(".png") for row in rows] == [True, False] * 4
    assert all(len(row) <= 60 for row in rows)
    assert "\r\x1b[K1 of 5 images\r" in err
    screen = [re.sub(r".*\r\x1b\[K", "", line) for line in err.split("\n")]
    assert len(screen) == 2 and screen[0].startswith("vit_jax: ") and screen[1] == ""


def test_progress_tells_speed_and_time(capsys, monkeypatch):
    clock = iter([100.0, 100.0, 100.0, 160.0, 160.0])
    monkeypatch.setattr("vit_jax.cli.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(5000)
    progress.advance(100)
    progress.advance(1200)
    progress.close()
    drawn = capsys.readouterr().err.split("\r\x1b[K")
    assert drawn == ["", "100 of 5,000 images\r", "1,300 of 5,000 images, 20/s, 3:05 left\r", ""]


def test_no_progress_without_a_terminal(weights, photos, capsys):
    _, _, err = run(capsys, f"--checkpoint={weights}", *good(photos))
    assert err == ""


def test_a_threshold_lists_every_class_above_it(sigmoid, weights, photos, capsys):
    paths = good(photos)
    logits, _ = logits_of(sigmoid, paths)
    own = 1 / (1 + np.exp(-logits))
    level = float(np.median(own))
    words = [*paths, "--json", f"--threshold={level}"]
    _, out, _ = run(capsys, f"--checkpoint={sigmoid}", *words)
    assert (own >= level).sum() == 8
    for one, row in zip(json.loads(out), own):
        assert {top["index"] for top in one["top"]} == set(np.flatnonzero(row >= level))
        found = {top["index"]: top["probability"] for top in one["top"]}
        np.testing.assert_allclose(list(found.values()), row[list(found)], rtol=1e-4)
    _, out, _ = run(capsys, f"--checkpoint={sigmoid}", *words, "--topk=1")
    assert all(len(one["top"]) <= 1 for one in json.loads(out))
    _, out, _ = run(capsys, f"--checkpoint={weights}", *paths, "--threshold=0.9999")
    assert out.splitlines() == [f"{path}: no class at 0.9999 or above" for path in paths]


class Server(http.server.BaseHTTPRequestHandler):
    image = b""

    def do_GET(self):
        answers = {"/cat.png?size=1": (200, self.image), "/page": (200, b"<html>no image</html>")}
        status, body = answers.get(self.path, (404, b"nothing"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(photos, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Server, "image", (photos / "0.png").read_bytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_addresses(weights, photos, server, capsys):
    import fsspec

    with fsspec.open("memory://bucket/1.png", "wb") as file:
        file.write((photos / "1.png").read_bytes())
    files = [str(photos / f"{i}.png") for i in range(3)]
    names = [f"{server}/cat.png?size=1", files[0], f"{server}/none.png", f"{server}/page",
             "memory://bucket/1.png", files[1], "nothing://bucket/1.png", files[2],
             "http://127.0.0.1:1/x.png"]  # fmt: skip
    status, out, err = run(capsys, f"--checkpoint={weights}", *names, "--json")
    found = json.loads(out)
    assert status == 2 and [one["path"] for one in found] == names
    assert found[0]["top"] == found[1]["top"] != found[4]["top"] == found[5]["top"]
    for place, reason in (
        (2, "none.png: cannot be read: the server answers 404 Not Found"),
        (3, "page: holds HTML, a page instead of the image; convert it"),
        (6, "nothing://bucket/1.png: "),
        (7, "2.png: cannot be read as an image"),
        (8, "http://127.0.0.1:1/x.png: cannot be read: Connection refused"),
    ):
        assert reason in found[place]["error"]
    *lines, last = err.splitlines()
    assert len(lines) == 5 and last == "vit_jax: 5 of 9 images cannot be read"


def test_names_from_standard_input(weights, photos, capsys, monkeypatch):
    paths = good(photos)
    lines = "\n".join([paths[1], "", f"{photos}/missing.png", paths[0] + "\r", paths[1]])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    status, out, err = run(capsys, f"--checkpoint={weights}", "-", paths[3], "--json")
    found = json.loads(out)
    assert [one["path"] for one in found] == [paths[1], f"{photos}/missing.png", paths[0], paths[3]]
    assert status == 2 and "missing.png: no such file" in found[1]["error"]
    status, out, err = run(capsys, f"--checkpoint={weights}", paths[1], f"{photos}/missing.png")
    assert status == 2 and "1.png: " in out and "missing.png: no such file" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    status, out, err = run(capsys, f"--checkpoint={weights}", "-")
    assert status == 2 and out == "" and "standard input names no image" in err


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_embeddings_are_the_input_of_the_head(ending, weights, photos, tmp_path, capsys):
    file = tmp_path / f"features.{ending}"
    words = [photos, f"--embeddings={file}", "--batch-size=2", "--json"]
    status, out, _ = run(capsys, f"--checkpoint={weights}", *words)
    assert status == 2
    paths, rows = read_embeddings(file)
    assert paths == good(photos)
    _, seen = logits_of(weights, paths)
    np.testing.assert_allclose(rows, seen["pre_logits"], rtol=1e-4, atol=1e-5)
    alone = run(capsys, f"--checkpoint={weights}", photos, "--json")[1]
    for one, other in zip(json.loads(out), json.loads(alone)):
        assert [top["index"] for top in one["top"]] == [top["index"] for top in other["top"]]
    assert os.listdir(tmp_path) == [file.name]


def read_embeddings(file):
    if file.suffix == ".npz":
        with np.load(file) as found:
            assert set(found) == {"paths", "embeddings"}
            return found["paths"].tolist(), found["embeddings"]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return table["path"].to_pylist(), np.array(table["embedding"].to_pylist())


def test_a_model_without_classes_has_embeddings_alone(photos, tmp_path, capsys):
    bare = save(tmp_path, "ViT-Ti/4", **OPTIONS | dict(num_classes=0))
    path = good(photos)[0]
    status, out, err = run(capsys, f"--checkpoint={bare}", path)
    assert status == 2 and out == "" and "has no classes; give --embeddings=FILE" in err
    status, _, err = run(capsys, f"--checkpoint={bare}", path, f"--embeddings={tmp_path}/e.npz",
                         "--threshold=0.5")  # fmt: skip
    assert status == 2 and "--threshold is of classes" in err
    status, out, _ = run(capsys, f"--checkpoint={bare}", path, f"--embeddings={tmp_path}/e.npz")
    assert status == 0 and out == ""
    _, rows = read_embeddings(tmp_path / "e.npz")
    np.testing.assert_allclose(rows, logits_of(bare, [path])[0], rtol=1e-4, atol=1e-5)


def test_attention_maps(weights, photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "more").mkdir()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "more" / "0.png")
    words = [photos, tmp_path / "more", f"--attention-map={tmp_path}/maps", "--json"]
    status, out, _ = run(capsys, f"--checkpoint={weights}", *words)
    found = json.loads(out)
    assert status == 2 and "attention_map" not in found[2]
    written = [os.path.basename(one["attention_map"]) for one in found if "error" not in one]
    assert written == ["0.png", "1.png", "3.png", "4.png", "0-2.png"]
    assert sorted(os.listdir(tmp_path / "maps")) == sorted(written)

    # Beside attention rollout by hand: brightest where the class token takes most from.
    path = good(photos)[1]
    _, seen = logits_of(weights, [path])
    flow = np.eye(17)
    for i in range(2):
        mixed = seen[f"block{i:02}/attention"][0].mean(0) + np.eye(17)
        flow = mixed / mixed.sum(-1, keepdims=True) @ flow
    expected = flow[0, 1:].reshape(4, 4)
    np.testing.assert_allclose(
        attention.rollout_map(
            attention.rollout(np.stack([seen[f"block{i:02}/attention"][0] for i in range(2)])),
            (4, 4), 1, class_token=True,
        ),
        expected, rtol=1e-4,
    )  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "maps" / "1.png"), np.float64)
    assert picture.shape[0] == 224 and picture.shape[2] == 3
    left, right = picture[:, :224], picture[:, -224:]
    tile = np.asarray(Image.open(path))
    assert (left[7, 7] == tile[0, 0]).all()  # the image itself, enlarged
    colours = (right - 0.4 * left) / 0.6  # of "inferno": brighter is more
    means = colours.sum(-1).reshape(4, 56, 4, 56).mean((1, 3))
    assert np.corrcoef(means.ravel(), expected.ravel())[0, 1] > 0.8
    assert means.argmax() == expected.argmax()


def test_what_has_no_attention_is_refused_by_name(photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = save(tmp_path, "BiT-R50x1", image_size=16, num_classes=4, resnet_stages=(1,))
    words = [*good(photos), f"--attention-map={tmp_path}/maps"]
    status, out, err = run(capsys, f"--checkpoint={file}", *words)
    assert status == 2 and out == "" and "weights.npz is a ResNet: it has no attention" in err
    assert not (tmp_path / "maps").exists()
    small = dict(width=8, depth=1, mlp_dim=8, num_heads=2, num_classes=4)
    for config, reason in (
        (model_config("Axial-ViT-B/16", image_size=32, **small), "is not among all patches"),
        (model_config("ViT-B/16", image_size=32, naflex=4, **small), "images of any size"),
    ):
        with pytest.raises(InputError, match=reason):
            check_attention(config, "x")


def test_wrong_input_is_refused_before_the_work(weights, photos, tmp_path, capsys, monkeypatch):
    path = good(photos)[0]
    maps, file = f"--attention-map={tmp_path}/maps", f"--embeddings={tmp_path}/e.npz"
    for words, reason in (
        ((path, "--json", "--csv"), "--json or --csv, not both"),
        ((path, "--threshold=1.5"), "1.5 is out of range; give a number from 0, at most 1"),
        ((path, "--topk=0"), "0 is too small"),
        ((path, f"--embeddings={tmp_path}/e.txt"), "must end in .npz or .parquet"),
        ((path, maps, "--tta=flip"), "--attention-map is of one view"),
        ((path, file, "--tta=ten_crop"), "--embeddings is of one view"),
    ):
        status, out, err = run(capsys, f"--checkpoint={weights}", *words)
        assert status == 2 and out == "" and reason in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = run(capsys, f"--checkpoint={weights}", path, maps)
    assert status == 2 and "pip install 'vit_jax[figures]'" in err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    file = f"--embeddings={tmp_path}/e.parquet"
    status, _, err = run(capsys, f"--checkpoint={weights}", path, file)
    assert status == 2 and "pip install 'vit_jax[datasets]'" in err
    assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_the_number_of_images(weights, tmp_path, capsys):
    """2,000 images of 16 x 16 take 1.5 MB; batches of 16 at a time, 12 kB each."""
    encoded = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(encoded, "PNG")
    for i in range(2000):
        (tmp_path / f"{i:04}.png").write_bytes(encoded.getvalue())
    from vit_jax.evaluate.predict import Predictor

    predictor = Predictor(*load(str(weights)), batch_size=16)
    paths = data.find_images([str(tmp_path)])
    assert len(paths) == 2000

    def peak(count):
        tracemalloc.start()
        for one in predictor.predictions(paths[:count]):
            assert one.error is None
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(64)
    few, many = peak(200), peak(2000)
    assert many - few < 2**19, (few, many)


def test_other_dtypes_predict_the_same_classes(tmp_path, capfd):
    """The model that comes with the package, on scikit-learn's digits drawn as pictures."""
    digits = load_digits().images[:40]
    paths = []
    for i, digit in enumerate(digits):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray((digit * 15).astype(np.uint8)).resize((28, 28)).save(paths[-1])
    rows = {}
    for dtype in ("float32", "bfloat16", "int8"):
        arguments = ["--checkpoint=vit_jax/fashion-mnist", f"--dtype={dtype}", "--topk=10"]
        assert main(["predict", *arguments, *paths, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        tops = [sorted(each["top"], key=lambda top: top["index"]) for each in found]
        rows[dtype] = np.array([[top["probability"] for top in each] for each in tops])
    for dtype in ("bfloat16", "int8"):
        difference = abs(rows[dtype] - rows["float32"])
        assert difference.max() > 0 and difference.mean() < 0.01
        assert (rows[dtype].argmax(1) == rows["float32"].argmax(1)).mean() >= 0.9
    assert main(["predict", "--checkpoint=vit_jax/fashion-mnist", "--dtype=int4", paths[0]]) == 2
    error = capfd.readouterr().err
    assert "unknown dtype 'int4'" in error and "int8" in error


@pytest.mark.parametrize(
    "words, hint",
    [
        (["{run}", "x.jpg"], "name the model by --checkpoint={run}"),
        (["x.jpg", "w.safetensors"], "name the model by --checkpoint=w.safetensors"),
        (["x.jpg"], "name the model by --checkpoint=MODEL"),
        (["--checkpoint=x.jpg", "{run}"], "--checkpoint=x.jpg is an image; --checkpoint names"),
        (["--checkpoint=vit_jax/fashion-mnist", "{run}"], "which holds a run or a model"),
    ],
)
def test_a_model_and_images_in_each_others_place(words, hint, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert main(["predict", *(word.format(run=run) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint.format(run=run) in line


def test_weights_and_data_in_each_others_place(tmp_path, capsys):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert main(["finetune", str(tmp_path / "photos"), "vit_jax/fashion-mnist"]) == 2
    assert "; the weights come first, then the data" in capsys.readouterr().err
    with pytest.raises(InputError, match="x.jpg is an image, not a model; give the weights first"):
        vit_jax.predict("x.jpg", "vit_jax/fashion-mnist")
