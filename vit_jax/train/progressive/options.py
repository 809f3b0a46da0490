"""`config.progressive`: the sizes of images over a run."""

import dataclasses
import re
from typing import Any

from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.weights.resample import METHODS

Size = tuple[int, int]
_PART = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?(?:@(\d*\.?\d+))?")
FORM = "SIZE@SHARE, ..., SIZE, such as '128@0.4, 160@0.7, 224'"


@dataclasses.dataclass(frozen=True)
class ProgressiveOptions:
    """`config.progressive`."""

    sizes: str = option(
        "",
        "sizes of training images over the run, growing: '128@0.4, 160@0.7, 224' takes 128 pixels "
        "for the first 0.4 of the steps, 160 up to 0.7 of them, then 224, the size of data.pp; "
        'HEIGHTxWIDTH where images are not square; "": one size',
    )
    resample: str = option(
        "bilinear_antialias",
        "interpolation of position embeddings to the grids of smaller images, inside the model; "
        "docs/weights.md lists the methods",
        choices=METHODS,
    )


def parse_sizes(options: Any) -> list[tuple[Size, float]]:
    """Size and the share of the run up to which it is used, the last share 1; [] for one size.

    Args:
      options: `config.progressive`.

    Raises:
      InputError: another form, shares or sizes that do not grow.
    """
    if not options.sizes.strip():
        if options.resample != ProgressiveOptions.resample:
            raise InputError("config.progressive.resample needs config.progressive.sizes")
        return []
    where = f"config.progressive.sizes is {options.sizes!r}"
    found: list[tuple[Size, float]] = []
    *parts, last = options.sizes.split(",")
    for part in (*parts, f"{last.strip()}@1"):
        match = _PART.fullmatch(part.strip())
        if not match or not match[3] or "@" in last:
            raise InputError(f"{where}; write {FORM}, the last without a share")
        size, share = (int(match[1]), int(match[2] or match[1])), float(match[3])
        before, earlier = found[-1] if found else ((0, 0), 0.0)
        if not earlier < share <= 1 or (share == 1 and len(found) < len(parts)):
            raise InputError(f"{where}; shares of the run grow from above 0 to below 1")
        if size == before or any(new < old for new, old in zip(size, before)) or not min(size):
            raise InputError(f"{where}; sizes grow, but {shown(size)} follows {shown(before)}")
        found.append((size, share))
    if len(found) < 2:
        raise InputError(f"{where}; one size alone is that of data.pp: leave it empty")
    return found


def shown(size: Size) -> str:
    """A size as the option has it: "224" for a square, else "224x160"."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def first_steps(sizes: list[tuple[Size, float]], total_steps: int) -> list[tuple[Size, int]]:
    """Size and number of its first step, from 0; sizes that have no step are left out.

    A size whose share is s ends after round(s * total_steps) steps.
    """
    ends = [round(share * total_steps) for _, share in sizes]
    starts = [0, *ends[:-1]]
    return [
        (size, start)
        for (size, _), start, end in zip(sizes, starts, ends)
        if end > start or end == total_steps
    ]
