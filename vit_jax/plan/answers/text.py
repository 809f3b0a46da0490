"""Answers as lines of text."""

from collections.abc import Iterable, Sequence
from typing import Any

from vit_jax.text import count, printable

GB = 1e9


def rows(plan: dict[str, Any], config_name: str = "FILE") -> list[tuple[str, str]]:
    """The answers of a plan as named rows.

    Args:
      plan: document of `answer`.
      config_name: the config as the user gave it, for the command that measures the input.
    """
    found = []
    if plan["input"]:
        found += _input(plan["input"], plan["bound_by_input"], config_name)
    found.append(("checkpoint", _checkpoint(plan["checkpoint"])))
    if plan["failures"]:
        found += _failures(plan["failures"], plan["expected_days"])
    if plan["cost"] is not None:
        found.append(("cost", f"{plan['cost']:,.0f} for {plan['chips']:,.0f} chips"))
    if plan["energy_kwh"] is not None:
        found.append(("energy", f"{plan['energy_kwh']:,.0f} kWh of the chips at their full power"))
    return found


def _input(asked: dict[str, Any], bound: bool, config_name: str) -> list[tuple[str, str]]:
    each, rate = asked["images_per_second_per_host"], asked["bytes_per_second_per_host"]
    hosts = count(asked["hosts"], "host")
    text = (
        f"{asked['images_per_second']:,.0f} images/s, {asked['bytes_per_second'] / GB:.3g} GB/s; "
        f"of each of {hosts} {each:,.0f} images/s, {rate / GB:.3g} GB/s"
    )
    cores, there = asked["cores_per_host"], asked["host_cores"]
    if cores is None:
        measure = f"vit_jax data --config={printable(config_name)}"
        cpus = (
            "cores unknown: give --images-per-core=N, which "
            f"`{measure}` measures on this machine as images per core"
        )
    elif there is None:
        cpus = f"{cores:,} a host; give --host-cores=N, those that it has"
    else:
        cpus = f"{cores:,} of {there:,} a host"
        if bound:
            cpus += f", too few: a step takes {1000 * asked['step_seconds']:.3g} ms"
    return [("input", text), ("input cores", cpus)]


def _checkpoint(saved: dict[str, Any]) -> str:
    parts = [f"{saved['bytes'] / GB:.3g} GB"]
    if saved["write_seconds"] is not None:
        parts.append(f"written in {duration(saved['write_seconds'])} beside training")
    wait = f"training waits {duration(saved['stall_seconds'])}"
    if saved["interval_seconds"] is None:
        parts.append(f"{wait} for the only one, at the end")
    else:
        every = duration(saved["interval_seconds"])
        parts.append(f"{wait} every {every}, {saved['stall_share']:.2%} of the time")
    return ", ".join(parts)


def _failures(found: dict[str, Any], days: float | None) -> list[tuple[str, str]]:
    every = duration(found["mtbf_seconds"])
    if days is None:
        text = f"one every {every}: the run never ends at this interval between checkpoints"
    else:
        text = (
            f"one every {every}, {found['expected']:.3g} in the run: {days:.3g} days, "
            f"a goodput of {found['goodput']:.1%}"
        )
    minutes = found["best_interval_seconds"] / 60
    best = f"--config.checkpoint.minutes={minutes:.3g}: "
    if found["best_days"] is None:
        best += "even so the run never ends"
    else:
        best += f"{found['best_days']:.3g} days, a goodput of {found['best_goodput']:.1%}"
    return [("failures", text), ("best interval", best)]


def duration(seconds: float) -> str:
    """A time with a fitting unit."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


COMPARED = ("slices", "chips", "fits", "step", "MFU bound", "bottleneck", "days", "cost")


def compared(found: Iterable[dict[str, Any]]) -> list[str]:
    """A comparison as a table."""
    cells = [COMPARED]
    problems = []
    for one in found:
        if one["problem"]:
            problems.append(f"{one['topology']}: {one['problem']}")
            continue
        days = one["expected_days"] or one["days"]
        cells.append(
            (
                one["topology"],
                f"{one['chips']:,.0f}",
                "yes" if one["fits"] else "no",
                _number(one["step_seconds"], "{:.3g} ms", 1000),
                _number(one["mfu_bound"], "{:.0%}"),
                plain(one["bottleneck"]),
                _number(days, "{:.3g}"),
                _number(one["cost"], "{:,.0f}"),
            )
        )
    return [*table(cells), *problems]


CURVE = ("chips", "slices", "layout", "compute", "network", "between", "step", "days", "efficiency",
         "limited by")  # fmt: skip


def curve(points: Iterable[dict[str, Any]]) -> list[str]:
    """A scaling curve as a table."""
    cells = [CURVE]
    for point in points:
        layout = point["layout"] or {}
        spread = " ".join(f"{axis}={size}" for axis, size in layout.items() if size > 1)
        cells.append(
            (
                f"{point['chips']:,}",
                f"{point['slices']:,}",
                spread or "-",
                _number(point["compute"], "{:.3g} ms", 1000),
                _number(point["network"], "{:.3g} ms", 1000),
                _number(point["between_slices"], "{:.3g} ms", 1000),
                _number(point["step_seconds"], "{:.3g} ms", 1000),
                _number(point["days"], "{:.3g}"),
                _number(point["efficiency"], "{:.0%}"),
                plain(point["limit"]),
            )
        )
    return table(cells)


def plain(term: str | None) -> str:
    """A bottleneck in words."""
    return "unknown" if term is None else term.replace("_", " ")


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "-" if value is None else form.format(scale * value)
