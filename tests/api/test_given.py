"""Images in any form give what their file gives; predictions of them."""

import functools
import http.server
import io
import os
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax import data
from vit_jax.data import open_source
from vit_jax.errors import InputError

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (21, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def loaded(run):
    return vit_jax.load(run)


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def test_every_form_of_an_image_gives_the_same(loaded, tmp_path):
    model, info = loaded
    path = tmp_path / "image.png"
    path.write_bytes(png(PIXELS))
    pp = data.parse(info.pp)
    expected = data.load_images([str(path)], pp) / 127.5 - 1
    alpha = np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)
    forms = [path, str(path), path.read_bytes(), Image.open(path), PIXELS, alpha, PIXELS[None],
             Image.fromarray(alpha), jnp.asarray(PIXELS)]  # fmt: skip
    for form in forms:
        found = info.preprocess(form)
        assert found.shape == (1, 16, 16, 3) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    together = info.preprocess([path, PIXELS, Image.fromarray(PIXELS)])
    np.testing.assert_allclose(together, np.repeat(expected, 3, axis=0), atol=1e-6)
    assert info.preprocess(together) is together  # as the model takes them
    assert model(together).shape == (3, 10)


def test_grey_is_three_equal_channels(loaded):
    _, info = loaded
    grey = PIXELS[..., 0]
    colour = np.repeat(grey[..., None], 3, axis=-1)
    for form in (grey, grey[..., None], Image.fromarray(grey), png(grey)):
        np.testing.assert_array_equal(info.preprocess(form), info.preprocess(colour))
    sixteen = grey.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(
        info.preprocess(Image.fromarray(sixteen)), info.preprocess(png(sixteen))
    )


def test_palettes_and_orientation(loaded, tmp_path):
    _, info = loaded
    few = np.zeros((9, 14), np.uint8)
    few[:4] = 1
    picture = Image.fromarray(few).convert("P")
    picture.putpalette([10, 200, 30, 250, 20, 90])
    picture.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        info.preprocess(picture), info.preprocess(tmp_path / "palette.png")
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=turned)
    upright = info.preprocess(np.rot90(PIXELS, -1))
    np.testing.assert_array_equal(info.preprocess(Image.open(tmp_path / "turned.png")), upright)
    np.testing.assert_array_equal(info.preprocess(tmp_path / "turned.png"), upright)


@pytest.mark.parametrize(
    "image, message",
    [
        (PIXELS / 255.0, "image 0 is an array of float64; give uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "without a pixel"),
        ("nowhere.png", "nowhere.png: [Nn]o such file"),
        (b"GIF", "image 0: cannot be read"),
        (3.5, "of type float"),
        (Image.new("F", (4, 4)), "mode F"),
        ([], "no images"),
        (np.zeros((2, 9, 16, 3), np.float32), r"floats of shape \(2, 9, 16, 3\).*takes \(batch, "),
        (np.zeros((2, 16, 16, 1), np.float32), r"\(2, 16, 16, 1\).*uint8"),
    ],
)
def test_what_is_no_image_is_refused(loaded, image, message):
    with pytest.raises(InputError, match=message):
        loaded[1].preprocess(image)
    with pytest.raises(InputError):
        vit_jax.predict(loaded, image)


def test_the_limit_on_pixels_holds_for_arrays(loaded):
    info = loaded[1]
    run_config = dict(info.run_config, data=dict(info.run_config["data"], max_pixels=100))
    small = type(info)(**vars(info) | dict(run_config=run_config))
    with pytest.raises(InputError, match="more pixels than data.max_pixels = 100"):
        small.preprocess(PIXELS)


def test_predict_gives_the_softmax_of_the_logits(run, loaded, tmp_path):
    model, info = loaded
    for i in range(3):
        Image.fromarray(np.roll(PIXELS, i, 0)).save(tmp_path / f"{i}.png")
    arrays = [np.roll(PIXELS, i, 0) for i in range(3)]
    logits = np.asarray(model(info.preprocess(arrays)), np.float64)
    right = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for images in (arrays, np.stack(arrays), tmp_path, str(tmp_path / "*.png")):
        found = vit_jax.predict((model, info), images, topk=10, batch_size=2)
        rows = np.zeros((3, 10))
        for row, each in zip(rows, found, strict=True):
            for top in each["top"]:
                row[top["index"]] = top["probability"]
                assert top["label"] == str(top["index"])
            values = [top["probability"] for top in each["top"]]
            assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(rows, right, atol=1e-5)
    assert [each["path"] for each in found] == [str(tmp_path / f"{i}.png") for i in range(3)]
    assert vit_jax.predict(run, arrays, topk=10)[1]["path"] == "image 1"


def test_predict_refuses_wrong_values(run, loaded, tmp_path):
    for arguments, message in (
        ((loaded, PIXELS, dict(topk=0)), "topk is 0"),
        ((loaded, PIXELS, dict(batch_size=0)), "batch size is 0"),
        ((loaded, PIXELS, dict(use_ema=True)), "give weights by their path"),
        ((tmp_path / "none", PIXELS, {}), "none"),
        ((loaded, str(tmp_path / "*.png"), {}), "matches no file"),
        ((vit_jax.load(run, num_classes=0), PIXELS, {}), "has no classes"),
    ):
        weights, images, options = arguments
        with pytest.raises(InputError, match=message):
            vit_jax.predict(weights, images, **options)


def test_evaluate_counts_what_predict_says(run, loaded):
    split = "train[90%:]"
    held_out = open_source("digits", split)
    images = list(held_out.images[..., 0])
    found = vit_jax.predict(loaded, images, topk=1, batch_size=64)
    right = [each["top"][0]["index"] == label for each, label in zip(found, held_out.targets)]
    result = vit_jax.evaluate(run, source="digits", split=split, batch_size=64)
    assert result["examples"] == len(images) > 100
    assert result["top1"] == pytest.approx(np.mean(right))


def test_iterators_addresses_and_memory(loaded, tmp_path):
    _, info = loaded
    file = tmp_path / "image.png"
    file.write_bytes(png(PIXELS))
    expected = info.preprocess([file, file])
    np.testing.assert_array_equal(info.preprocess(each for each in (file, file)), expected)
    np.testing.assert_array_equal(info.preprocess(memoryview(png(PIXELS))), expected[:1])
    folder = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        np.testing.assert_array_equal(info.preprocess(f"{host}/image.png"), expected[:1])
        assert vit_jax.predict(loaded, f"{host}/image.png")[0]["path"] == f"{host}/image.png"
        with pytest.raises(InputError, match=r"none.png: cannot be read: the server answers 404"):
            info.preprocess(f"{host}/none.png")
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_damaged_and_closed_pillow_images_are_refused(loaded):
    closed = Image.open(io.BytesIO(png(PIXELS)))
    closed.close()
    damaged = Image.open(io.BytesIO(png(PIXELS)[:300]))
    for image in (closed, damaged):
        with pytest.raises(InputError, match="image 0 is a Pillow image that cannot be read"):
            loaded[1].preprocess(image)


def test_a_model_without_its_record_is_no_weights(loaded):
    for weights in (loaded[0], list(loaded), None):
        with pytest.raises(InputError, match=r"give a path, or the \(model, info\) of load"):
            vit_jax.predict(weights, PIXELS)


def test_an_image_that_cannot_be_read_is_one_error_without_logs(run, tmp_path):
    """JAX sets TF_CPP_MIN_LOG_LEVEL=1, with which TensorFlow logs the error and its stack."""
    (tmp_path / "page.jpg").write_text("<html>")
    code = (
        "import jax, vit_jax\n"
        f"try: vit_jax.predict({str(run)!r}, {str(tmp_path / 'page.jpg')!r})\n"
        "except vit_jax.InputError: pass\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
