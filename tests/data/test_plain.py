"""Images read without TensorFlow are those that it gives, to the bit."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import image_batches, parse
from vit_jax.data.batches import graph
from vit_jax.data.ops import image_files
from vit_jax.data.sources.source import FileSource
from vit_jax.errors import InputError

NONE = np.zeros((0, 2), np.uint32)
PLAIN = (
    "resize(24)",
    "resize((37, 101))",
    "resize((91, 33))",
    "resize(24, antialias=True)",
    "resize_small(41, method='bicubic', antialias=True)|central_crop(32)",
    "resize_small(33, method='bilinear', antialias=True, truncate=True)|central_crop(31, "
    "nearest=True)|pad(2)",
    "resize_small(70, method='bilinear')|central_crop((50, 40))",
    "resize_small(40)|central_crop(32)",
    "resize((24, 57), method='area')",
    "inception_crop(28)",
)


def by_tensorflow(path, preprocess, max_pixels=image_files.MAX_PIXELS):
    return graph.reader(FileSource.of_paths([str(path)], max_pixels), preprocess)(0, NONE)["image"]


def read(path, preprocess, max_pixels=image_files.MAX_PIXELS):
    ((_, images),) = image_batches([str(path)], preprocess, 1, max_pixels)
    return images[0]


def files(photo, encode):
    """Name -> bytes of image files of many kinds."""
    image, exif = Image.fromarray(photo), Image.Exif()
    exif[image_files.ORIENTATION] = 6
    alpha = np.random.default_rng(0).integers(0, 256, photo.shape[:2], np.uint8)
    found = {
        "plain.jpg": encode(image, "JPEG"),
        "444.jpg": encode(image, "JPEG", subsampling=0, quality=97),
        "422.jpg": encode(image, "JPEG", subsampling=1),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "comment.jpg": encode(image, "JPEG", comment=b"Exif\x00\x00"),
        "rgba.png": encode(np.dstack([photo, alpha]), "PNG"),
        "rgb.png": encode(image, "PNG"),
        "grey.png": encode(image.convert("L"), "PNG"),
        "la.png": encode(image.convert("LA"), "PNG"),
        "bits.png": encode(image.convert("1"), "PNG"),
        "palette.png": encode(image.quantize(11), "PNG"),
        "transparent.png": encode(image.quantize(32), "PNG", transparency=3),
        "key.png": encode(image, "PNG", transparency=(1, 2, 3)),
        "turned.png": encode(image, "PNG", exif=exif),
        "picture.gif": encode(image.quantize(64), "GIF"),
        "picture.webp": encode(image, "WEBP", exif=exif),
        "picture.bmp": encode(image, "BMP"),
        "picture.tiff": encode(image, "TIFF"),
    }
    for value in range(1, 9):
        exif[image_files.ORIENTATION] = value
        found[f"turned{value}.jpg"] = encode(image, "JPEG", exif=exif)
    return found


def test_files_of_every_kind(photo, encode, tmp_path):
    for name, content in files(photo, encode).items():
        (tmp_path / name).write_bytes(content)
        found = image_files.pixels(content)
        assert found is not None, name
        np.testing.assert_array_equal(
            found, by_tensorflow(tmp_path / name, parse("decode")), err_msg=name
        )


@pytest.mark.parametrize("text", PLAIN)
def test_operations(text, encode, tmp_path):
    preprocess = parse(text).deterministic()
    assert preprocess.has_plain
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(60, 90), (91, 33), (24, 24), (203, 77), (1, 5)]):
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        (tmp_path / f"{i}.png").write_bytes(encode(image, "PNG"))
        expected = by_tensorflow(tmp_path / f"{i}.png", preprocess)
        np.testing.assert_array_equal(read(tmp_path / f"{i}.png", preprocess), expected)


@pytest.mark.parametrize(
    "text", ["resize(30, method='bicubic')", "resize(30, method='nearest')", "crop_border(2)"]
)
def test_tensorflow_does_what_only_it_does(text, photo, encode, tmp_path):
    preprocess = parse(text)
    assert not preprocess.has_plain
    (tmp_path / "x.png").write_bytes(encode(photo, "PNG"))
    expected = by_tensorflow(tmp_path / "x.png", preprocess)
    np.testing.assert_array_equal(read(tmp_path / "x.png", preprocess), expected)


def test_files_that_tensorflow_reads_in_its_way(photo, encode, tmp_path):
    image = Image.fromarray(photo)
    for name, content in {
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "sixteen.png": encode(Image.fromarray(photo[..., 0].astype(np.uint16) * 257), "PNG"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert image_files.pixels(content) is None
        expected = by_tensorflow(tmp_path / name, parse("resize(24)"))
        np.testing.assert_array_equal(read(tmp_path / name, parse("resize(24)")), expected)


def test_damaged_files_are_refused_as_by_tensorflow(photo, encode, tmp_path):
    jpeg, png = encode(photo, "JPEG"), encode(photo, "PNG")
    rng = np.random.default_rng(1)
    contents = [b"", b"nothing", b"%PDF-1.4", b"<html>"]
    contents += [whole[: len(whole) - cut] for whole in (jpeg, png) for cut in (1, 3, 9, 40, 700)]
    for whole in (jpeg, png):
        for _ in range(12):
            place = int(rng.integers(3, len(whole)))
            contents.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    refused = 0
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        told = []
        for function in (by_tensorflow, read):
            try:
                told.append(function(tmp_path / f"{number}.jpg", parse("decode")).tolist())
            except InputError as error:
                told.append(str(error))
        assert told[0] == told[1], number
        refused += isinstance(told[0], str)
    assert 12 < refused < len(contents)


def test_other_refusals_are_those_of_tensorflow(photo, encode, tmp_path):
    (tmp_path / "x.png").write_bytes(encode(photo, "PNG"))
    (tmp_path / "x.jpg").write_bytes(encode(photo, "JPEG"))
    long = np.zeros((1, 60_000, 3), np.uint8)
    (tmp_path / "long.png").write_bytes(encode(long, "PNG"))
    for name, text, limit in (
        ("x.png", "resize(8)", 100),
        ("x.jpg", "resize(8)", 100),
        ("x.png", "central_crop(61)", 10_000),
        ("none.png", "resize(8)", 100),
        ("long.png", "resize_small(64, method='bilinear', antialias=True)", 10**6),
    ):
        told = []
        for function in (by_tensorflow, read):
            with pytest.raises(InputError) as caught:
                function(tmp_path / name, parse(text), limit)
            told.append(str(caught.value))
        assert told[0] == told[1]


def test_prediction_does_not_import_tensorflow(tmp_path, photo, encode):
    (tmp_path / "x.jpg").write_bytes(encode(photo, "JPEG"))
    code = (
        "import sys; from vit_jax.cli.main import main\n"
        f"assert main(['predict', '--checkpoint=vit_jax/fashion-mnist', {str(tmp_path)!r}]) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
