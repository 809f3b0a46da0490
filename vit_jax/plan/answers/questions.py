"""What a plan is asked besides memory and time."""

import dataclasses
import re

from vit_jax.errors import InputError

MOST = 1e9  # hours, prices, rates: beyond it, a number is a mistake
PARTS = ("chip", "slice", "run")


@dataclasses.dataclass(frozen=True)
class Mtbf:
    """Mean time between failures.

    Attributes:
      hours: mean time between two failures of one part.
      of: the part: a chip, a slice, or the whole run. Failures of parts are independent, and any
        of them stops the run.
    """

    hours: float
    of: str = "chip"

    def seconds(self, *, chips: float, slices: int) -> float:
        """Mean seconds between failures of a run on so many chips and slices."""
        return 3600 * self.hours / dict(chip=chips, slice=slices, run=1)[self.of]


@dataclasses.dataclass(frozen=True)
class Questions:
    """Numbers that the answers start from; None: not asked, or unknown."""

    images_per_core: float | None = None  # images per second that one core of a host prepares
    host_cores: int | None = None  # of each host; None: from the table, where it has the machine
    storage_bandwidth: float | None = None  # bytes/s that one host writes
    copy_bandwidth: float = 10e9  # bytes/s from a host's chips to its memory
    mtbf: Mtbf | None = None
    restart: float = 600.0  # seconds from a failure to the first step after it
    price: float | None = None  # of a chip for an hour
    chip_watts: float | None = None  # None: from the table


def parse_mtbf(text: str) -> Mtbf:
    """Parses "5000", "5000/chip", "100/slice" or "6/run", in hours.

    Raises:
      InputError: it is none of these.
    """
    number, _, part = text.partition("/")
    try:
        hours = float(number)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MOST or (part or "chip") not in PARTS:
        raise InputError(
            f"--mtbf={text}: give hours above 0 and of what: {', '.join(f'/{p}' for p in PARTS)}; "
            "e.g. 50000/chip or 6/run"
        )
    return Mtbf(hours, part or "chip")


def parse_scaling(text: str) -> tuple[int, ...]:
    """Parses "16:4096": numbers of chips, doubled from the first to the last.

    Raises:
      InputError: it is no such range.
    """
    match = re.fullmatch(r"(\d{1,7}):(\d{1,7})", text)
    first, last = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= first <= last or last > 2**20:
        raise InputError(f"--scaling={text}: give the least and the most chips, e.g. 16:4096")
    numbers = [first]
    while 2 * numbers[-1] <= last:
        numbers.append(2 * numbers[-1])
    return tuple(numbers)


@dataclasses.dataclass(frozen=True)
class Offer:
    """Machines to compare, and their price."""

    topology: str  # of one slice
    slices: int = 1
    price: float | None = None  # of a chip for an hour

    def __str__(self) -> str:
        return f"{self.slices}*{self.topology}" if self.slices > 1 else self.topology


def parse_offers(text: str) -> list[Offer]:
    """Parses "v5e:8x8,2*v6e:8x8@2.7": topologies, with numbers of slices and prices.

    Raises:
      InputError: one of them is none.
    """
    return [_parse_offer(part) for part in text.split(",")]


def _parse_offer(text: str) -> Offer:
    match = re.fullmatch(r"(?:(\d{1,4})\*)?([^@*]+:[^@*]+)(?:@([\d.]+))?", text.strip())
    try:
        offer = match and Offer(match[2], int(match[1] or 1), float(match[3]) if match[3] else None)
    except ValueError:
        offer = None
    if not offer or not offer.slices or not 0 <= (offer.price or 0) <= MOST:
        raise InputError(
            f"--compare: {text!r} is no offer; write TOPOLOGY, SLICES*TOPOLOGY or "
            "TOPOLOGY@PRICE, such as 2*v5e:16x16@1.2"
        )
    return offer
