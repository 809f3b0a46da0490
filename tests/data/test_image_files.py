"""Formats, unusual values, and files that claim more than memory holds."""

import io
import json
import logging
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import eval_batches, load_images, open_source, parse, train_batches
from vit_jax.data.ops import image_files
from vit_jax.errors import InputError

RAMP = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))


def read(path, pp="", **options):
    return load_images([str(path)], parse(pp), **options)[0]


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def claiming(format: str, side: int) -> bytes:
    """A small file whose header says side x side."""
    if format == "PNG":
        return png(side, side)
    if format == "PPM":
        return b"P5 %d %d 255\n" % (side, side) + bytes(100)
    buffer = io.BytesIO()
    options = dict(lossless=True) if format == "WEBP" else {}
    Image.new("RGB", (16, 16)).save(buffer, format, **options)
    data = bytearray(buffer.getvalue())
    if format == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
        place = data.index(b",\0\0\0\0") + 5
        data[place : place + 4] = struct.pack("<HH", side, side)
    elif format == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif format == "WEBP":  # a canvas in front of the lossless image
        canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (side - 1).to_bytes(3, "little") * 2
        data = bytearray(b"RIFF" + struct.pack("<I", len(data) + 10) + b"WEBP" + canvas) + data[12:]
    elif format == "TIFF":
        for tag in (256, 257):  # width, height
            place = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[place : place + 4] = struct.pack("<I", side)
    return bytes(data)


@pytest.mark.parametrize("name", ["x.tif", "x.pgm"])
def test_sixteen_bits_as_tiff_and_pgm_are_as_the_png(name, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    Image.fromarray(RAMP).save(tmp_path / name)
    expected = read(tmp_path / "x.png")
    assert abs(expected.mean() - 127.5) < 0.5
    np.testing.assert_array_equal(read(tmp_path / name), expected)


@pytest.mark.parametrize(
    "values",
    [RAMP.astype(np.int32), (RAMP / 65536).astype(np.float32)],
    ids=["32 bits", "floats"],
)
def test_other_greys_are_as_the_png(values, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), read(tmp_path / "x.png"))


def test_full_32_bits_keep_the_upper_eight(tmp_path):
    wide = (RAMP.astype(np.uint32) << 16).view(np.int32)
    Image.fromarray(wide).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read(tmp_path / "x.tif")[..., 0], RAMP >> 8)


@pytest.mark.parametrize("low, high", [(0, 255), (-1, 1), (0, np.nan)])
def test_floats_beyond_one_are_refused(low, high, tmp_path):
    Image.fromarray(np.array([[low, high]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: the image holds floats from .* from 0 to 1"):
        read(tmp_path / "x.tif")


def test_a_sixteen_bit_tiff_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    Image.fromarray(RAMP).save(tmp_path / "x.tif", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "x.tif")[..., 0], np.rot90(RAMP >> 8, -1))


def test_colours_of_sixteen_bits_in_a_ppm(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")
    (tmp_path / "x.ppm").write_bytes(b"P6 7 5 65535\n" + values.tobytes())
    np.testing.assert_allclose(read(tmp_path / "x.ppm"), values / 257, atol=1)


def test_no_other_program_is_started(tmp_path, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.png").write_text(text)
    with pytest.raises(InputError, match="photo.png: holds PostScript; convert it"):
        read(tmp_path / "photo.png")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "head, named",
    [
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n <html><body>404", "HTML"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"", "nothing"),
        (b"rubbish", "cannot be read as an image"),
    ],
)
def test_other_formats_are_named(head, named, tmp_path):
    (tmp_path / "a.jpg").write_bytes(head)
    with pytest.raises(InputError, match=rf"a\.jpg: .*{named}"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA", "PCX", "JPEG2000"])
def test_formats_that_are_not_meant_are_refused(format, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", format)
    with pytest.raises(InputError):
        read(tmp_path / "x.png")


FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_is_of_pixels(format, tmp_path):
    options = dict(lossless=True) if format == "WEBP" else {}
    Image.new("RGB", (20, 30)).save(tmp_path / "x", format, **options)
    assert read(tmp_path / "x", max_pixels=600).shape == (30, 20, 3)
    with pytest.raises(InputError, match="x: the image has more pixels than .* = 599"):
        read(tmp_path / "x", max_pixels=599)
    if format == "WEBP":
        Image.new("RGB", (20, 30)).save(tmp_path / "x", format, lossless=False)
        assert read(tmp_path / "x", max_pixels=600).shape == (30, 20, 3)
        with pytest.raises(InputError, match="max_pixels"):
            read(tmp_path / "x", max_pixels=599)


def test_pillow_keeps_its_own_limit(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("RGB", (20, 30)).save(tmp_path / "x.bmp")
    read(tmp_path / "x.bmp")
    assert before == Image.MAX_IMAGE_PIXELS


_CHILD = """
import json, resource, sys
from vit_jax.data import load_images, parse
from vit_jax.errors import InputError
folder, pp = sys.argv[1:3]
load_images([f"{folder}/small.png"], parse(pp)), load_images([f"{folder}/small.bmp"], parse(pp))
before, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for name in sys.argv[3:]:
    try:
        load_images([f"{folder}/{name}"], parse(pp))
        said[name] = ""
    except InputError as error:
        said[name] = str(error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(dict(said=said, grown_mb=(after - before) / 1024)))
"""


def in_a_process(folder, pp, names):
    """What is said of each file, and how much the peak memory of the process grew, in MB."""
    for name in ("small.png", "small.bmp"):
        Image.new("RGB", (16, 16)).save(folder / name)
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CHILD), str(folder), pp, *names],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(found.stdout.splitlines()[-1])
    return result["said"], result["grown_mb"]


@pytest.mark.parametrize("pp", ["resize(16)", "inception_crop(16)"])
def test_claims_of_gigabytes_take_no_memory(pp, tmp_path):
    sides = dict(JPEG=12_000, PNG=20_000, WEBP=16_000)
    for format in FORMATS:
        (tmp_path / format).write_bytes(claiming(format, sides.get(format, 30_000)))
    said, grown = in_a_process(tmp_path, pp, FORMATS)
    for format in FORMATS:
        assert f"{format}: the image has more pixels than data.max_pixels" in said[format]
    assert grown < 100  # the PNG alone would take 1200 MB


def test_a_long_image_is_not_enlarged_to_gigabytes(tmp_path):
    Image.new("L", (20_000, 1)).save(tmp_path / "thin.png")
    said, grown = in_a_process(tmp_path, "resize_small(256)|central_crop(224)", ["thin.png"])
    assert "thin.png: the image is too long for resize_small(256)" in said["thin.png"]
    assert grown < 100  # floats of 256 x 5,120,000 pixels would take 15 GB


def test_shrinking_a_large_image_is_not_limited(tmp_path):
    (tmp_path / "large.png").write_bytes(png(8000, 8000))
    assert read(tmp_path / "large.png", "resize_small(7000)|resize(4)").shape == (4, 4, 3)


@pytest.fixture
def with_a_large_one(folder):
    """The folder's second cat has more pixels than the others."""
    Image.new("RGB", (300, 300)).save(folder / "cat" / "1.jpg")
    return open_source(f"folder:{folder}", "train", max_pixels=80_000)


def test_training_replaces_images_beyond_the_limit(with_a_large_one, caplog):
    caplog.set_level(logging.WARNING)
    batches = train_batches(with_a_large_one, parse("resize(8)"), batch_size=20, seed=0)
    assert 1 not in next(batches)["index"] and batches.skipped == 1
    batches.close()
    assert "cat/1.jpg: the image has more pixels than data.max_pixels = 80,000" in caplog.text


def test_evaluation_refuses_images_beyond_the_limit(with_a_large_one):
    with pytest.raises(InputError, match=r"cat/1\.jpg: the image has more pixels"):
        list(eval_batches(with_a_large_one, parse("resize(8)"), batch_size=20))
