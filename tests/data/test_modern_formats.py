"""AVIF, HEIC and JPEG XL: by content, upright, within the limits, and what they need."""

import builtins
import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax.data import eval_batches, load_images, open_source, parse, train_batches
from vit_jax.data.ops import image_files
from vit_jax.data.ops.headers import av1, jpeg_xl
from vit_jax.errors import InputError

pillow_heif = pytest.importorskip("pillow_heif")
pytest.importorskip("pillow_jxl")
pillow_heif.register_heif_opener()

LOSSLESS = dict(
    AVIF=dict(quality=100, subsampling="4:4:4"),
    HEIF=dict(quality=-1, chroma=444),
    JXL=dict(lossless=True),
)
ENDINGS = dict(AVIF="avif", HEIF="heic", JXL="jxl")


def read(path, pp="", **options):
    return load_images([str(path)], parse(pp), **options)[0]


@pytest.mark.parametrize("format", LOSSLESS)
def test_pixels_are_those_that_were_written(format, photo, encode, tmp_path):
    (tmp_path / "x.jpg").write_bytes(encode(photo, format, **LOSSLESS[format]))
    np.testing.assert_allclose(read(tmp_path / "x.jpg"), photo, atol=4)
    box = read(tmp_path / "x.jpg", "inception_crop(16)")
    assert box.shape == (16, 16, 3)


@pytest.mark.parametrize("format", ["AVIF", "HEIF", "JXL", "TIFF"])
def test_grey_and_alpha(format, encode, tmp_path):
    options = LOSSLESS.get(format, {})
    for mode in ("L", "RGBA"):
        image = Image.effect_noise((20, 12), 60).convert(mode)
        (tmp_path / "x").write_bytes(encode(image, format, **options))
        np.testing.assert_allclose(read(tmp_path / "x"), image.convert("RGB"), atol=4)


def test_an_avif_is_turned_upright(photo, encode, tmp_path):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    (tmp_path / "x").write_bytes(encode(photo, "AVIF", exif=exif, **LOSSLESS["AVIF"]))
    np.testing.assert_allclose(read(tmp_path / "x"), np.rot90(photo, -1), atol=4)


def test_a_jpeg_xl_of_a_jpeg_is_as_the_jpeg(photo, encode, tmp_path):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 8
    (tmp_path / "x.jpg").write_bytes(encode(photo, "JPEG", exif=exif))
    jpeg = Image.open(tmp_path / "x.jpg")
    jpeg.save(tmp_path / "x.jxl", lossless_jpeg=True, exif=exif.tobytes())
    assert b"jbrd" in (tmp_path / "x.jxl").read_bytes()
    np.testing.assert_array_equal(read(tmp_path / "x.jxl"), ImageOps.exif_transpose(jpeg))


def test_exif_does_not_turn_a_jpeg_xl(photo, encode, tmp_path):
    """Its own header says how it is turned (18181-1, annex D), and the decoder does so."""
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    (tmp_path / "x").write_bytes(encode(photo, "JXL", exif=exif.tobytes(), lossless=True))
    np.testing.assert_array_equal(read(tmp_path / "x"), photo)


SIZES = [(1, 1), (8, 256), (64, 64), (60, 40), (120, 100), (300, 2000), (1920, 1080), (3000, 5)]


@pytest.mark.parametrize("options", [{}, dict(use_container=True)], ids=["bare", "container"])
@pytest.mark.parametrize("size", SIZES)
def test_the_size_of_a_jpeg_xl_is_in_its_header(size, options, encode):
    encoded = encode(Image.new("RGB", size), "JXL", effort=1, **options)
    assert encoded.startswith(b"\0\0\0\x0c") == bool(options)
    assert jpeg_xl.count_pixels(encoded) == size[0] * size[1]


@pytest.mark.parametrize("format", LOSSLESS)
def test_the_limit_is_of_pixels(format, encode, tmp_path):
    (tmp_path / "x").write_bytes(encode(Image.new("RGB", (20, 30)), format))
    assert read(tmp_path / "x", max_pixels=600).shape == (30, 20, 3)
    with pytest.raises(InputError, match="x: the image has more pixels than .* = 599"):
        read(tmp_path / "x", max_pixels=599)


def claiming(format, encode, side):
    """A small file whose header says side x side."""
    data = bytearray(encode(Image.new("RGB", (64, 64)), format))
    if format == "JXL":  # 2 bits for 30-bit sides, the height, 3 bits for a square
        bits = 0 | 3 << 1 | (side - 1) << 3 | 1 << 33
        return b"\xff\x0a" + bits.to_bytes(9, "little") + bytes(data[3:])
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", side, side)
    return bytes(data)


@pytest.mark.parametrize("format", LOSSLESS)
def test_claims_of_gigabytes_are_refused(format, encode, tmp_path):
    (tmp_path / "x").write_bytes(claiming(format, encode, 16_000))
    with pytest.raises(InputError, match="x: (the image has more pixels|cannot be read as)"):
        read(tmp_path / "x")


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("size", [(80, 60), (1, 1), (1000, 700)])
def test_the_size_of_an_avif_is_in_its_pictures_too(size, frames, encode):
    """The boxes may claim less than what is decoded, and then scaled to that."""
    image, options = Image.effect_noise(size, 50), {}
    if frames > 1:
        options = dict(save_all=True, append_images=[Image.new("L", size)])
    encoded = encode(image, "AVIF", speed=10, **options)
    assert (encoded[8:12] == b"avis") == (frames > 1)
    assert av1.count_pixels(encoded) == size[0] * size[1]
    place = encoded.index(b"ispe") + 8
    small = encoded[:place] + struct.pack(">II", 1, 1) + encoded[place + 8 :]
    assert image_files.count_pixels(small) >= size[0] * size[1]


@pytest.mark.parametrize("format", LOSSLESS)
def test_damaged_files_are_named(format, photo, encode, tmp_path):
    whole = encode(photo, format)
    for length in (5, 40, len(whole) // 2):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(InputError, match="x: (cannot be read as an image|the image is|holds)"):
            read(tmp_path / "x")


@pytest.mark.parametrize(
    "format, plugin, remedy",
    [
        ("HEIF", "pillow_heif", r"HEIC, which needs pillow-heif: pip install 'vit_jax\[heic\]'"),
        ("JXL", "pillow_jxl", r"JPEG XL, which needs .*: pip install 'vit_jax\[jxl\]'"),
        ("AVIF", "", "AVIF, which Pillow reads from 11.3 on: pip install -U pillow"),
    ],
)
def test_what_a_format_needs(format, plugin, remedy, encode, tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(encode(Image.new("RGB", (16, 16)), format))
    monkeypatch.setitem(sys.modules, plugin or "no such module", None)
    if format == "AVIF":
        monkeypatch.setattr("PIL.features.check", lambda feature: False)
    image_files._can_read.cache_clear()
    with pytest.raises(InputError, match=rf"x\.jpg: the image is {remedy}"):
        read(tmp_path / "x.jpg")
    image_files._can_read.cache_clear()


@pytest.mark.parametrize(
    "brands, kind",
    [
        (b"avif\0\0\0\0mif1avif", "AVIF"),
        (b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"mif1\0\0\0\0mif1heic", "HEIF"),
        (b"heix\0\0\0\0mif1heix", "HEIF"),
        (b"isom\0\0\0\0isomavc1", ""),
    ],
)
def test_brands_tell_avif_from_heic(brands, kind):
    head = struct.pack(">I", len(brands) + 8) + b"ftyp" + brands
    assert image_files._modern(head) == kind
    assert image_files.other_format(head) == ("" if kind else "a video")


@pytest.fixture
def formats(tmp_path, photo, encode):
    """Two classes of pictures in each format, and the same pictures as PNG."""
    for number, (format, ending) in enumerate([*ENDINGS.items(), ("TIFF", "tiff")]):
        for name in ("a", "b"):
            image = photo if name == "a" else photo[::-1]
            encoded = encode(np.roll(image, number * 7, 1), format, **LOSSLESS.get(format, {}))
            same = Image.open(io.BytesIO(encoded)).convert("RGB")
            for root, file, held in (
                ("new", f"{number}.{ending}", encoded),
                ("png", f"{number}.png", encode(same, "PNG")),
            ):
                place = tmp_path / root / name / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(held)
    return tmp_path


def test_training_and_evaluation_are_as_with_png(formats):
    found = []
    for root in ("new", "png"):
        source = open_source(f"folder:{formats / root}", "train")
        assert source.size == 8
        batches = train_batches(source, parse("resize(20)|random_crop(16)"), batch_size=6, seed=0)
        found.append([next(batches) for _ in range(3)])
        batches.close()
        found[-1] += eval_batches(source, parse("resize(16)"), batch_size=5)
    for one, other in zip(*found):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_predict_takes_folders_of_them(formats):
    from vit_jax.evaluate.predict import find_images

    assert len(find_images([str(formats / "new")])) == 8


def test_only_the_plugin_of_the_format_is_loaded(photo, encode, tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(encode(photo, "WEBP"))
    whole = builtins.__import__

    def refuse(name, *args, **options):
        assert name not in ("pillow_heif", "pillow_jxl")
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert read(tmp_path / "x").shape == photo.shape
