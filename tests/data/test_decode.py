import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax.data._tf import tf
from vit_jax.data.ops import decode, image_files

_decode = tf.function(decode.decode, input_signature=[tf.TensorSpec([], tf.string)])


def read(encoded: bytes) -> np.ndarray:
    return _decode(encoded).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats_give_the_pixels(format, mode, photo, encode):
    image = Image.fromarray(photo).convert(mode)
    options = dict(lossless=True) if format == "WEBP" else {}
    if format == "GIF" and mode == "RGB":
        image = image.quantize(64)
    np.testing.assert_array_equal(
        read(encode(image, format, **options)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_as_pillow_reads_it(mode, photo, encode):
    encoded = encode(Image.fromarray(photo).convert(mode), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(read(encoded), expected)


def test_cmyk_jpeg_becomes_rgb(photo, encode):
    encoded = encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95)
    assert difference(read(encoded), photo) < 3
    box = decode.decode_box(tf.constant(encoded), lambda shape: tf.constant([3, 5, 20, 30]))
    assert difference(box.numpy(), photo[3:23, 5:35]) < 4


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied(value, photo, encode):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = value
    encoded = encode(photo, "JPEG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    np.testing.assert_array_equal(read(encoded), upright)
    box = decode.decode_box(tf.constant(encoded), lambda shape: tf.constant([3, 5, 20, 30]))
    # Chroma at the edges, and the faster transform.
    assert difference(box.numpy(), upright[3:23, 5:35]) < 2


@pytest.mark.parametrize(
    "plain, options",
    [
        (True, {}),
        (True, dict(quality=95, subsampling=0)),
        (True, dict(progressive=True)),
        (False, dict(exif=b"Exif\x00\x00")),
        (False, dict(icc_profile=b"profile")),
        (False, dict(comment=b"any")),
    ],
)
def test_jpegs_without_metadata_take_the_quick_way(plain, options, photo, encode):
    """Only they: behind other segments there may be EXIF data."""
    for image in (Image.fromarray(photo), Image.fromarray(photo).convert("L")):
        encoded = encode(image, "JPEG", **options)
        assert bool(decode._is_plain(tf.constant(encoded))) == plain


def test_damaged_exif_is_ignored(photo, encode):
    encoded = encode(photo, "JPEG", exif=b"Exif\x00\x00rubbish")
    assert read(encoded).shape == photo.shape


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_orientation_of_other_formats(format, photo, encode):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    encoded = encode(photo, format, exif=exif, **(dict(lossless=True) if format == "WEBP" else {}))
    np.testing.assert_array_equal(read(encoded), np.rot90(photo, -1))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_orientation_behind_a_large_colour_profile(format, photo, encode):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    profile = np.random.default_rng(0).bytes(200_000)
    plain = encode(photo, format, icc_profile=profile)
    turned = encode(photo, format, icc_profile=profile, exif=exif)
    if format == "JPEG":  # Pillow writes EXIF data first
        start = turned.index(b"Exif") - 4
        length = int.from_bytes(turned[start + 2 : start + 4], "big") + 2
        tables = plain.index(b"\xff\xdb\x00\x43\x00", plain.rindex(b"ICC_PROFILE"))
        turned = plain[:tables] + turned[start : start + length] + plain[tables:]
    assert turned.index(b"eXIf" if format == "PNG" else b"Exif") > 10_000
    np.testing.assert_array_equal(read(turned), np.rot90(read(plain), -1))


def test_sixteen_bits_keep_the_upper_eight(encode):
    values = np.linspace(0, 65535, 300).astype(np.uint16).reshape(15, 20)
    found = read(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(found, np.repeat(values[..., None], 3, 2) / 257, atol=1)


def test_sixteen_bit_colours():
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)  # 7x5, 16 bits, RGB
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    encoded += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_allclose(read(encoded), values / 257, atol=1)


@pytest.mark.parametrize("options", [{}, dict(transparency=3)])
def test_palette_png(options, photo, encode):
    image = Image.fromarray(photo).quantize(32)
    encoded = encode(image, "PNG", **options)
    np.testing.assert_array_equal(read(encoded), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_dropped(format, photo, encode):
    opaque = np.full(photo.shape[:2], 255, np.uint8)
    opaque[:30] = 100
    image = Image.fromarray(np.dstack([photo, opaque]))
    options = dict(lossless=True) if format == "WEBP" else {}
    np.testing.assert_array_equal(read(encode(image, format, **options)), photo)


def test_grey_with_alpha(photo, encode):
    image = Image.fromarray(photo).convert("LA")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read(encode(image, "PNG")), expected)


def test_black_and_white(encode):
    pattern = np.indices((9, 10)).sum(0) % 2 == 0
    found = read(encode(Image.fromarray(pattern), "PNG"))
    np.testing.assert_array_equal(found[..., 0], pattern * 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_one_pixel(format, encode):
    found = read(encode(np.full((1, 1, 3), 200, np.uint8), format))
    assert found.shape == (1, 1, 3)
    assert np.abs(found.astype(int) - 200).max() <= 3


def test_animations_give_their_first_frame(photo, encode):
    frames = [Image.fromarray(photo).quantize(32), Image.new("RGB", (90, 60)).quantize(2)]
    for format, options in (("GIF", {}), ("WEBP", dict(lossless=True))):
        encoded = encode(
            frames[0].convert("RGB") if format == "WEBP" else frames[0], format,
            save_all=True, append_images=frames[1:], **options,
        )  # fmt: skip
        np.testing.assert_array_equal(read(encoded), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_truncated_files_are_errors(format, photo, encode):
    encoded = encode(photo, format)
    with pytest.raises(tf.errors.OpError):
        read(encoded[: len(encoded) // 2])


@pytest.mark.parametrize("rubbish", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_rubbish_is_an_error(rubbish):
    with pytest.raises(tf.errors.OpError):
        read(rubbish)
