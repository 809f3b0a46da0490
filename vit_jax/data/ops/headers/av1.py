"""The size that the AV1 data in an AVIF file have, whatever its boxes claim.

libavif takes an image's size from a box (ISO/IEC 23008-12) and scales the decoded picture to it;
memory is taken for the size in the sequence headers of AV1 itself (AV1 specification, 5.5).
"""

from collections.abc import Iterator

from vit_jax.data.ops.headers.bits import Bits
from vit_jax.errors import InputError

_INSIDE = (b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl")  # boxes that hold boxes
_SEQUENCE = 1  # type of an OBU
_DEPTH = 8
_LONGEST = 128  # bytes of a sequence header that are read
_MOST = 100_000  # places that are looked at


def count_pixels(encoded: bytes) -> int:
    """The largest number of pixels that a sequence header in the file claims; 0: there is none."""
    found, seen = 0, set[int]()
    try:
        for start in _starts(encoded):
            for header in _sequence_headers(encoded, start, seen):
                found = max(found, _pixels(header))
    except (InputError, IndexError):
        pass  # damaged: the decoder will say so
    return found


def _boxes(data: bytes, start: int, stop: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of all boxes, also within others."""
    while start + 8 <= stop:
        size, kind, content = (
            int.from_bytes(data[start : start + 4]),
            data[start + 4 : start + 8],
            8,
        )
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16]), 16
        end = min(start + size, stop) if size else stop
        if size and size < content:
            return
        yield kind, start + content, end
        if kind in _INSIDE and depth < _DEPTH:
            skip = 4 if kind == b"meta" else 0  # version and flags
            yield from _boxes(data, start + content + skip, end, depth + 1)
        start = end


def _starts(data: bytes) -> Iterator[int]:
    """Places at which AV1 data begin: of each item, and of each chunk of a track."""
    boxes = list(_boxes(data, 0, len(data)))
    held = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    for kind, start, end in boxes:
        if kind in (b"stco", b"co64"):
            width = 4 if kind == b"stco" else 8
            count = min(int.from_bytes(data[start + 4 : start + 8]), (end - start) // width, _MOST)
            for place in range(start + 8, start + 8 + count * width, width):
                yield int.from_bytes(data[place : place + width])
        elif kind == b"iloc":
            yield from _items(data[start:end], held)


def _items(box: bytes, held: int) -> Iterator[int]:
    """Where the extents of items begin; `held` is the place of box idat."""
    bits = Bits(box, lowest_first=False)
    version, _ = bits.take(8), bits.take(24)
    offset, length, base, index = (8 * bits.take(4) for _ in range(4))
    for _ in range(min(bits.take(16 if version < 2 else 32), _MOST)):
        bits.take(16 if version < 2 else 32)
        method = bits.take(16) & 15 if version else 0
        bits.take(16)
        first = bits.take(base) + (held if method == 1 else 0)
        for _ in range(bits.take(16)):
            bits.take(index if version else 0)
            yield first + bits.take(offset)
            bits.take(length)


def _sequence_headers(data: bytes, place: int, seen: set[int]) -> Iterator[bytes]:
    """The sequence headers among the units (OBUs) from a place on, up to one that was `seen`."""
    while place not in seen:
        seen.add(place)
        if place >= len(data) or data[place] & 0x80 or not data[place] & 2:
            return  # no unit, or one without a size
        kind, start = data[place] >> 3 & 15, place + 1 + (data[place] >> 2 & 1)
        size = 0
        for number in range(8):
            byte = data[start + number]
            size |= (byte & 0x7F) << 7 * number
            if not byte & 0x80:
                break
        start += number + 1
        if kind == _SEQUENCE:
            yield data[start : start + min(size, _LONGEST)]
        place = start + size


def _pixels(header: bytes) -> int:
    """Width times height in a sequence header."""
    take = Bits(header, lowest_first=False).take
    take(4)  # profile, still picture
    if take(1):  # reduced header
        take(5)
    else:
        delays = 0
        if take(1):  # timing
            take(64)
            if take(1):
                zeros = 0
                while not take(1):
                    zeros += 1
                take(zeros)
            if take(1):  # decoder model
                delays = take(5) + 1
                take(42)
        late = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if delays and take(1):
                take(2 * delays + 1)
            if late and take(1):
                take(4)
    across, down = take(4) + 1, take(4) + 1
    return (take(across) + 1) * (take(down) + 1)
