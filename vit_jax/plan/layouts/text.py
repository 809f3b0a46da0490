"""The table of a search."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.plan.text import binary

HEAD = ("layout", "memory", "step", "one by one", "copies beside", "bound by", "sent", "found by")


def short(options: Mapping[str, Any]) -> str:
    """A layout in a few words: "data=16 fsdp=16 remat=full", without what has its default."""
    plain = {
        "layout": "given",
        "replica": 1,
        "fsdp": 1,
        "sequence": 1,
        "tensor": 1,
        "accumulate": 1,
        "remat": "auto",
        "unroll": 0,
    }
    words = []
    for name, value in options.items():
        last = name.rpartition(".")[2]
        if last != "engine" and plain.get(last) != value:
            words.append(f"{last}={value}")
    return " ".join(words)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The candidates as lines of text, columns aligned.

    Args:
      rows: candidates as in the JSON document of `vit_jax plan --search`.
    """
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells
    ]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    fits = "" if row["fits"] else ", does not fit"
    return (
        short(row["options"]),
        f"{binary(row['total_bytes'])}{fits}",
        _ms(row["step_seconds"]),
        _ms(row["one_by_one_seconds"]),
        _ms(row["copies_beside_seconds"]),
        (row["bottleneck"] or "unknown").replace("_", " "),
        "unknown" if row["sent_bytes"] is None else binary(row["sent_bytes"]),
        row["found_by"],
    )


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{1000 * seconds:.1f} ms" if seconds >= 0.001 else f"{1000 * seconds:.3f} ms"
