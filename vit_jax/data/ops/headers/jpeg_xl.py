"""The size in the header of a JPEG XL file (ISO/IEC 18181-1 and -2), without decoding it."""

from vit_jax.data.ops.headers.bits import Bits
from vit_jax.errors import InputError

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_HEADER = 11  # bytes of the longest size header, with the two in front of it
# Width / height by the three bits that stand for it; 0: the width is written out.
_RATIOS = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def is_jpeg_xl(encoded: bytes) -> bool:
    return encoded.startswith((_CODESTREAM, _CONTAINER))


def count_pixels(encoded: bytes) -> int:
    """The number of pixels that the header of a file claims.

    Raises:
      InputError: the header is cut off, or the container holds no image.
    """
    start = encoded if encoded.startswith(_CODESTREAM) else _codestream(encoded)
    if len(start) < _HEADER or not start.startswith(_CODESTREAM):
        raise InputError("the image is truncated")
    bits = Bits(start[2:_HEADER], lowest_first=True)
    small = bits.take(1)
    height = _side(bits, small)
    across, down = _RATIOS[bits.take(3)]
    width = height * across // down if down else _side(bits, small)
    return width * height


def _side(bits: Bits, small: int) -> int:
    """A height or width: a multiple of 8 up to 256, or a number of 9, 13, 18 or 30 bits."""
    if small:
        return (bits.take(5) + 1) * 8
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


def _codestream(encoded: bytes) -> bytes:
    """The first bytes of the image in a container: of box jxlc, or of boxes jxlp in turn."""
    place, found = 0, b""
    while len(found) < _HEADER and len(encoded) >= place + 8:
        size, kind = int.from_bytes(encoded[place : place + 4]), encoded[place + 4 : place + 8]
        header = 8
        if size == 1:  # the size follows in 8 bytes
            size, header = int.from_bytes(encoded[place + 8 : place + 16]), 16
        if size and size < header:
            break
        stop = place + size if size else len(encoded)
        content = place + header + 4 * (kind == b"jxlp")  # behind the number of the part
        if kind in (b"jxlc", b"jxlp"):
            found += encoded[content : min(stop, content + _HEADER)]
        place = stop
    return found
