"""Prints the results of `vit_jax evaluate`."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax.jsonl import finite
from vit_jax.text import printable

Result = dict[str, Any]
SHOWN = 20  # classes that are printed; --json prints all
PAIRS = 5  # of classes that are printed
ERRORS = 5  # that are printed
MOST_PAIRS = 100  # with --json


def as_json(result: Result) -> Result:
    """The results without the confusion matrix, a million numbers for ImageNet's classes.

    Of the pairs of confused classes the most frequent `MOST_PAIRS` stay.
    """
    kept = {name: value for name, value in finite(result).items() if name != "confusion"}
    if "confused" in kept:
        kept["confused"] = kept["confused"][:MOST_PAIRS]
    return kept


def as_text(result: Result) -> str:
    """The results in lines; names may hold anything and have to be escaped."""
    return "\n".join([_first_line(result), *_precisions(result), *_details(result)])


def _first_line(result: Result) -> str:
    where = printable(f"{result['source']} ({result['split']})")
    shown = []
    few = 0 < len(result.get("class_accuracy", ())) <= 5  # of which top-5 is always 100%
    for name, label in (("top1", "top-1"), ("top5", "top-5")):
        if name in result and not (few and name == "top5"):
            shown.append(f"{label} {result[name]:.2%}")
    if "loss" in result:
        shown.append(f"loss {result['loss']:.4f}")
    if "bits_per_dim" in result:
        shown.append(f"{result['bits_per_dim']:.4f} bits per dimension")
    if "mean_average_precision" in result:
        shown.append(f"mean average precision {result['mean_average_precision']:.2%}")
    left_out = f"; {result['left_out']:,} without a label" if result.get("left_out") else ""
    return f"{', '.join(shown)} on {result['examples']:,} examples of {where}{left_out}"


def _precisions(result: Result) -> Iterator[str]:
    for name, value in list(result.get("average_precision", {}).items())[:SHOWN]:
        yield f"  {printable(name)}: " + ("no image has it" if value is None else f"{value:.2%}")


def _details(result: Result) -> Iterator[str]:
    if "class_accuracy" not in result:
        return
    bins = len(result["calibration"])
    yield f"expected calibration error {result['ece']:.2%} ({bins} bins)"
    known = [(share, name) for name, share in result["class_accuracy"].items() if share is not None]
    known.sort(key=lambda pair: pair[0])
    left = len(known) - SHOWN
    yield "accuracy by class, the lowest first" + (
        f" ({SHOWN} of {len(known):,}; --json has all):" if left > 0 else ":"
    )
    for share, name in known[:SHOWN]:
        yield f"  {printable(name)}: {share:.2%} of {result['class_examples'][name]:,}"
    if result["confused"]:
        yield "confused most often:"
    for pair in result["confused"][:PAIRS]:
        yield (
            f"  {printable(pair['label'])} taken for {printable(pair['predicted'])}: "
            f"{pair['count']:,} ({pair['share']:.1%} of its images)"
        )
    if result["worst"]:
        yield "worst errors:"
    for error in result["worst"][:ERRORS]:
        sure, loss = (_number(error[name]) for name in ("probability", "loss"))
        yield (
            f"  {printable(error['image'])}: {printable(error['label'])} taken for "
            f"{printable(error['predicted'])} with probability {sure}, loss {loss}"
        )


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3f}"


def confusion_csv(matrix: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix as CSV: a row a class, a column a predicted class, with their names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = [printable(name) for name in names]
    writer.writerow(["class \\ predicted", *shown])
    writer.writerows([name, *row] for name, row in zip(shown, matrix.tolist()))
    return text.getvalue()
