"""Reads image files with Pillow, and names the formats that are not read.

Pillow reads GIF, BMP, WebP, TIFF, PGM/PPM and AVIF; HEIC and JPEG XL need its plug-ins. A
file's first bytes tell its format, not its name. This is the only place that hands bytes of a
file to Pillow. It names the formats, because Pillow's other readers include one that starts
Ghostscript.
"""

import functools
import io
import re
import struct
import threading
from typing import Any

import numpy as np

from vit_jax.data.ops.headers import av1, jpeg_xl
from vit_jax.errors import InputError

MAX_PIXELS = 100_000_000  # default limit; 300 MB as uint8 RGB
ORIENTATION = 0x0112  # EXIF tag
_FORMATS = ("GIF", "BMP", "WEBP", "TIFF", "PPM")
_EXIF_FORMATS = ("JPEG", "PNG")
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"
_EXIF = re.compile(rb"Exif\x00\x00|eXIf")
# Start of a JPEG without metadata: a JFIF segment, then its tables (marker, length, number).
_PLAIN = re.compile(rb"\xff\xd8.{2}\x00\x10JFIF\x00.{9}..\x00[\x43\x84]\x00", re.DOTALL)
# What reading a file that is no good image raises.
UNREADABLE = (InputError, OSError, SyntaxError, ValueError, struct.error, EOFError)
_lock = threading.Lock()

# Start of a file -> format that is not read, and the program that converts it.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000 (Pillow reads it)"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 (Pillow reads it)"),
    (b"8BPS", "Photoshop (Pillow reads it)"),
    (b"\x00\x00\x01\x00", "an icon (Pillow reads it)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "HDF5"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file)"),
)
# Brands in the first box of a file of the ISO base media format -> Pillow's name of the format.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIF"),
}
_MISSING = {
    "AVIF": "AVIF, which Pillow reads from 11.3 on: pip install -U pillow",
    "HEIF": "HEIC, which needs pillow-heif: pip install 'vit_jax[heic]'",
    "JXL": "JPEG XL, which needs pillow-jxl-plugin: pip install 'vit_jax[jxl]'",
}
HEAD_BYTES = 64  # enough for `other_format`


def other_format(head: bytes) -> str:
    """The format of a file that is not read, in words; "" if its first bytes do not tell."""
    if not head:
        return "nothing"
    if head[4:8] == b"ftyp" and not _modern(head):
        return "a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "HTML, a page instead of the image"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or XML"
    return next((name for start, name in _OTHERS if head.startswith(start)), "")


def why_unreadable(head: bytes) -> str:
    """Why a file is no image that can be read, by its first bytes."""
    if name := other_format(head):
        return f"holds {name}; convert it to JPEG or PNG"
    return "cannot be read as an image: truncated, damaged or of an unknown format"


def _modern(head: bytes) -> str:
    """Pillow's name of AVIF, HEIC or JPEG XL; "" for other formats."""
    if jpeg_xl.is_jpeg_xl(head):
        return "JXL"
    if head[4:8] != b"ftyp":
        return ""
    # The major brand, then, after a version, compatible ones; "mif1" says no more than HEIF.
    brands = [head[place : place + 4] for place in (8, *range(16, len(head), 4))]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "")


@functools.cache
def _can_read(kind: str) -> bool:
    """Whether this Pillow reads AVIF, HEIF or JXL, with its plug-in where it needs one."""
    from PIL import features

    try:
        if kind == "HEIF":
            import pillow_heif

            pillow_heif.register_heif_opener()
        elif kind == "JXL":
            import pillow_jxl  # noqa: F401 (registers itself)
    except ImportError:
        return False
    return kind != "AVIF" or bool(features.check("avif"))


def _open(encoded: bytes, formats: tuple[str, ...] = _FORMATS) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError("images other than JPEG and PNG need Pillow: pip install pillow") from None
    with _lock:
        if formats is _FORMATS and (kind := _modern(encoded[:HEAD_BYTES])):
            if not _can_read(kind):
                raise InputError(f"the image is {_MISSING[kind]}")
            formats = (kind,)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # data.max_pixels holds here
        try:
            return Image.open(io.BytesIO(encoded), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def count_pixels(encoded: bytes) -> np.int64:
    """The number of pixels that a file's header claims; decodes nothing."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return np.int64(_webp_pixels(encoded))  # Pillow allocates the canvas when it opens one
    if jpeg_xl.is_jpeg_xl(encoded):
        return np.int64(jpeg_xl.count_pixels(encoded))  # the plug-in decodes when it opens one
    with _open(encoded) as image:
        claimed = image.width * image.height
        return np.int64(
            max(claimed, av1.count_pixels(encoded)) if image.format == "AVIF" else claimed
        )


def _webp_pixels(encoded: bytes) -> int:
    kind, data = encoded[12:16], encoded[20:30]
    if len(data) < 10:
        raise InputError("the image is truncated")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[6:10]))
    return width * height


def read(encoded: bytes) -> np.ndarray:
    """The first frame of a file, upright: uint8 (h, w, 3).

    Raises:
      InputError: values that 8 bits cannot stand for.
    """
    from PIL import Image, ImageOps

    with _open(encoded) as image:
        if image.mode[0] in "IF":
            image.load()
            exif = image.getexif()
            grey = Image.fromarray(_upper_bits(np.asarray(image)))
            grey.getexif()[ORIENTATION] = exif.get(ORIENTATION, 1)
            return np.asarray(ImageOps.exif_transpose(grey).convert("RGB"))
        if image.format == "JXL" and not image.jpeg:  # upright already, whatever its EXIF says
            return np.asarray(image.convert("RGB"))
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _upper_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, 32 bits or floats from 0 to 1 as their upper 8 bits: uint8.

    32-bit values that 16 bits can hold are 16-bit values, which is how Pillow stores them.
    """
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # also refuses NaN
            raise InputError(
                f"the image holds floats from {values.min():g} to {values.max():g}; floats must "
                "be from 0 to 1"
            )
        return np.minimum(values * 256, 255).astype(np.uint8)
    if values.dtype.kind == "i" and values.min() >= 0 and values.max() < 2**16:
        values = values.astype(np.uint16)
    # Pillow gives unsigned 32-bit values as signed ones.
    shift = 24 if values.dtype.itemsize == 4 else 8
    return (values.view(f"u{values.dtype.itemsize}") >> shift).astype(np.uint8)


def pixels(encoded: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """What `decode.decode` gives, to the bit, without TensorFlow: uint8 (h, w, 3).

    Returns:
      The image, upright; None for a file of a kind that only TensorFlow reads in its way.

    Raises:
      InputError: it has more than `max_pixels` pixels, or values that 8 bits cannot stand for.
      others of UNREADABLE: no image, or a damaged one.
    """
    if not encoded.startswith(_JPEG) and not encoded.startswith(_PNG):
        _check_pixels(int(count_pixels(encoded)), max_pixels)
        return read(encoded)
    found = (_jpeg if encoded.startswith(_JPEG) else _png)(encoded, max_pixels)
    # A plain JPEG is not searched for EXIF data, see `decode`.
    if found is None or _PLAIN.match(encoded) or not _EXIF.search(encoded):
        return found
    return _upright(found, int(read_orientation(encoded)))


def _jpeg(encoded: bytes, max_pixels: int) -> np.ndarray | None:
    with _open(encoded, ("JPEG",)) as image:
        _check_pixels(image.width * image.height, max_pixels)
        return np.asarray(image.convert("RGB")) if image.mode in ("L", "RGB") else None


def _png(encoded: bytes, max_pixels: int) -> np.ndarray | None:
    """A PNG; None also if it is damaged, as Pillow reads some of those that others refuse."""
    claimed = 0
    if _PNG_END not in encoded:
        return None
    try:
        with _open(encoded, ("PNG",)) as image:
            claimed = image.width * image.height
            if claimed <= max_pixels:
                image.verify()
                with _open(encoded, ("PNG",)) as again:
                    known = again.mode in ("1", "L", "LA", "P", "RGB", "RGBA")
                    return np.asarray(again.convert("RGB")) if known else None
    except UNREADABLE:
        return None
    _check_pixels(claimed, max_pixels)
    return None


def _check_pixels(claimed: int, most: int) -> None:
    if claimed > most:
        raise InputError(too_many_pixels(most))


def too_many_pixels(most: int) -> str:
    """What is said of an image with more pixels."""
    return f"the image has more pixels than data.max_pixels = {most:,}"


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels turned upright by the EXIF orientation, 1 to 8."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image


def read_orientation(encoded: bytes) -> np.int32:
    """The EXIF orientation of a JPEG or PNG, 1 to 8; 1 if it is missing or damaged."""
    try:
        with _open(encoded, _EXIF_FORMATS) as image:
            value = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        value = 1  # the pixels may be good although the EXIF data are damaged
    return np.int32(value if value in range(1, 9) else 1)
