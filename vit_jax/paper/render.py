"""Tables as Markdown and as plots (figures 3 and 5)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError
from vit_jax.paper.tables import Printed, table
from vit_jax.text import reason

# Images in the data sets of table 5.
IMAGES = {"ImageNet": 1.28e6, "ImageNet-21k": 14.2e6, "JFT": 303e6}


def markdown(document: dict[str, Any], most: int | None = 2) -> str:
    """The table with cells "paper : ours", and below it the commands that fill empty ones.

    Args:
      document: see `results.document`; costs are printed where `cost.add` has added them.
      most: the largest number of commands; None: all.
    """
    printed = table(document["table"]).cells
    shown = {}
    for cell in document["cells"]:
        key = cell["row"], cell["column"]
        shown[key] = f"{_paper(printed.get(key))} : {_ours(cell, printed.get(key))}"
    columns = _unique(column for _, column in shown)
    scale = ", at small scale" if document["scale"] == "small" else ""
    lines = [
        f"Table {document['table']}. {document['title']}{scale}",
        *(f"Stand-ins: {stand_in}" for stand_in in document["stand_ins"]),
        "",
        "| paper : ours | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in _unique(row for row, _ in shown):
        cells = " | ".join(shown.get((row, column), "") for column in columns)
        lines.append(f"| {row} | {cells} |")
    return "\n".join([*lines, *_what_fills(document, most)])


def _what_fills(document: dict[str, Any], most: int | None) -> list[str]:
    """The commands of the first `most` empty cells, None: of all, and what they cost."""
    empty = {cell["command"]: cell.get("cost") for cell in document["cells"] if cell["command"]}
    if not empty:
        return []
    lines = ["", "Empty cells are filled by"]
    for command, cost in list(empty.items())[:most]:
        lines.append(f"  {command}")
        if cost:
            lines.append(f"      {_cost(cost, document)}; reads {', '.join(cost['data'])}")
    left = len(empty) - (len(empty) if most is None else most)
    if left > 0:
        lines.append(
            f"and {left} more (--commands lists them); without --row and --column, all at once."
        )
    if document.get("cost") and len(empty) > 1:
        lines.append(f"All of them: {_cost(document['cost'], document)}.")
    return lines


def _cost(cost: dict[str, Any], document: dict[str, Any]) -> str:
    """Such as "8 runs, 1 of them pre-training: 66 EFLOPs, 0.9 hours on v5e:16x16 (MFU 40%)"."""
    runs = "1 run" if cost["runs"] == 1 else f"{cost['runs']:,} runs"
    pretraining = cost["pretraining_runs"]
    if pretraining and pretraining < cost["runs"]:
        runs += f", {pretraining:,} of them pre-training"
    power = next(power for power in (18, 15, 12) if cost["flops"] >= 10**power or power == 12)
    unit = {18: "EFLOPs", 15: "PFLOPs", 12: "TFLOPs"}[power]
    text = f"{runs}: {_short(cost['flops'] / 10**power)} {unit}"
    if cost["hours"] is None:
        return text
    where = f"on {document['topology']} (MFU {document['mfu']:.0%})"
    return f"{text}, {_short(cost['hours'])} hours {where}"


def _short(value: float) -> str:
    """A number with two digits, or all before the decimal point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _paper(printed: Printed | None) -> str:
    return printed.text.replace("+-", " ± ") if printed else "-"


def _ours(cell: dict[str, Any], printed: Printed | None) -> str:
    """A value as text: one from runs has the paper's number of decimals, a computed one its own."""
    value, std = cell["ours"], cell["ours_std"]
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if cell["runs"]:
        digits = printed.decimals if printed else 2
        return f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if std is not None else "")
    return f"{value:g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def check_plot(number: int) -> None:
    """Raises InputError if a table has no plot."""
    if number not in (5, 6):
        raise InputError(f"table {number} has no plot; 5 (figure 3) and 6 (5) have")


def plot(document: dict[str, Any], file: Path) -> None:
    """Figure 3 (table 5) or figure 5 (table 6) as PNG: the paper's points and ours.

    Raises:
      InputError: another table, matplotlib is missing, or the file cannot be written.
    """
    check_plot(document["table"])
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("plots want matplotlib: pip install 'vit_jax[figures]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for who, style in (("paper", dict(linestyle="--", alpha=0.5)), ("ours", dict(linestyle="-"))):
        for i, (name, points) in enumerate(_series(document, who).items()):
            x, y = zip(*sorted(points))
            axes.plot(x, y, marker="o", color=f"C{i}", label=f"{name} ({who})", **style)
    axes.set_xscale("log")
    axes.set_xlabel(
        "images in pre-training" if document["table"] == 5 else "exaFLOPs of pre-training"
    )
    axes.set_ylabel("ImageNet top-1 [%]")
    axes.legend(fontsize=8)
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {file}: {reason(error)}") from error
    finally:
        pyplot.close(figure)


def _series(document: dict[str, Any], who: str) -> dict[str, list[tuple[float, float]]]:
    """Name of a curve -> its points (x, ImageNet top-1)."""
    values = {
        (cell["row"], cell["column"]): cell[who]
        for cell in document["cells"]
        if cell[who] is not None
    }
    series: dict[str, list[tuple[float, float]]] = {}
    for (row, column), value in values.items():
        if document["table"] == 5 and row.endswith(": ImageNet"):
            series.setdefault(column, []).append((IMAGES[row.split(": ")[0]], value))
        elif document["table"] == 6 and column == "ImageNet":
            family = {"V": "ViT", "B": "ResNet", "R": "hybrid"}[row[0]]
            series.setdefault(family, []).append((values[row, "exaFLOPs"], value))
    return series
