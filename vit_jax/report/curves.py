"""Curves of metrics over steps, as the coordinates, ticks and texts of charts."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from vit_jax.report.run import Run
from vit_jax.report.words import number, percent

Point = tuple[float, float]
WIDTH, HEIGHT = 1000, 400  # of a chart's coordinates; the page stretches them
MOST = 600  # points of a curve that are drawn
SMOOTHED = 60  # curves of at least this many points are smoothed


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      label: run and metric, as far as they tell curves apart.
      color: number of its colour.
      dash: number of its dash pattern.
      path: its line in SVG's words, smoothed where it has many points.
      raw: the line as it was measured, "" where `path` is that.
      points: (step, value) of what is drawn, for the page's script.
      dots: (x, y) of curves of so few points that a line alone would not show them.
    """

    label: str
    color: int
    dash: int
    path: str
    raw: str
    points: list[Point]
    dots: list[Point]


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place from 0 to 1, and its text."""

    place: float
    text: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over the same steps.

    Attributes:
      title: what it shows.
      about: the curves in words, for readers who do not see them.
      series: curves.
      x, y: ticks.
      first, last: smallest and largest step.
      style: how values are written: "percent" or "number".
      log: whether values lie on a logarithmic axis.
      compares: whether the page is about several runs, so that a single curve has to be named.
    """

    title: str
    about: str
    series: list[Series]
    x: list[Tick]
    y: list[Tick]
    first: int
    last: int
    style: str
    log: bool
    compares: bool


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of chart: its title, the metrics that it takes, and its value axis."""

    title: str
    takes: Callable[[str], bool]
    percent: bool = False
    from_zero: bool = False
    may_log: bool = False
    smooth: bool = False


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _is_evaluated(name: str) -> bool:
    return name.startswith("eval/")


SHARES = ("top1", "top5", "accuracy", "mean_average_precision", "real", "knn", "linear")
KINDS = (
    _Kind(
        "Loss",
        lambda n: n == "train/loss" or (_is_evaluated(n) and _last(n) == "loss"),
        may_log=True,
        smooth=True,
    ),
    _Kind(
        "Accuracy (top-1)",
        lambda n: _last(n) in ("top1", "accuracy") and n.startswith(("eval/", "train/")),
        percent=True,
    ),
    _Kind("Learning rate", lambda n: n == "train/learning_rate", from_zero=True),
    _Kind("Images per second", lambda n: n == "train/images_per_second", from_zero=True),
    _Kind(
        "Gradient norm", lambda n: n == "train/grad_norm", may_log=True, smooth=True, from_zero=True
    ),
    _Kind("Model FLOPs utilisation", lambda n: n == "train/mfu", percent=True, from_zero=True),
    _Kind("Accuracy (top-5)", lambda n: _is_evaluated(n) and _last(n) == "top5", percent=True),
)


def is_share(name: str) -> bool:
    """Whether a metric is a share, which is written in percent."""
    return _last(name) in SHARES or _last(name).endswith(("_shot", "accuracy"))


def charts(runs: Sequence[Run]) -> list[Chart]:
    """The charts of one or several runs; metrics without any value have none."""
    found = [chart for kind in KINDS if (chart := _chart(kind, runs))]
    names = dict.fromkeys(name for run in runs for name in run.names())
    shown = {name for name in names for kind in KINDS if kind.takes(name)}
    for name in names:
        if _is_evaluated(name) and name not in shown and _last(name) != "examples":
            kind = _Kind(name.removeprefix("eval/"), name.__eq__, percent=is_share(name))
            if chart := _chart(kind, runs):
                found.append(chart)
    return found


def _chart(kind: _Kind, runs: Sequence[Run]) -> Chart | None:
    curves: list[tuple[int, str, list[Point]]] = [
        (place, name, [(float(step), value) for step, value in run.curve(name)])
        for place, run in enumerate(runs)
        for name in run.names()
        if kind.takes(name)
    ]
    curves = [curve for curve in curves if curve[2]]
    if not curves:
        return None
    names = list(dict.fromkeys(name for _, name, _ in curves))
    values = [value for _, _, points in curves for _, value in points]
    low, high = min(values), max(values)
    log = kind.may_log and low > 0 and high > 30 * low
    y = log_ticks(low, high) if log else ticks(min(low, 0.0) if kind.from_zero else low, high)
    if kind.percent and low >= 0 and high <= 1:  # shares: no axis beyond 0 and 100%
        y = [tick for tick in y if 0 <= tick <= 1]
    first = min(points[0][0] for _, _, points in curves)
    last = max(points[-1][0] for _, _, points in curves)
    write = percent if kind.percent else number
    many = len(runs) > 1

    def place(point: Point) -> Point:
        step, value = point
        x = (step - first) / ((last - first) or 1)
        return x * WIDTH, (1 - position(value, y[0], y[-1], log)) * HEIGHT

    series, words = [], []
    for run, name, points in curves:
        label = _label(runs[run], name, many, len(names) > 1)
        smooth = kind.smooth and len(points) >= SMOOTHED and name.startswith("train/")
        thin = thinned(points, MOST)
        line = thinned(smoothed(points), MOST) if smooth else thin
        series.append(
            Series(
                label=label,
                color=run % 8 if many else names.index(name) % 8,
                dash=names.index(name) % 4 if many else 0,
                path=svg_path([place(point) for point in line]),
                raw=svg_path([place(point) for point in thin]) if smooth else "",
                points=[(step, float(f"{value:.5g}")) for step, value in line],
                dots=[place(point) for point in points] if len(points) <= 12 else [],
            )
        )
        words.append(
            f"{label or kind.title}: {write(points[0][1])} at step {points[0][0]:,.0f}, "
            f"{write(points[-1][1])} at step {points[-1][0]:,.0f}"
        )
    return Chart(
        title=kind.title,
        about="; ".join(words),
        series=series,
        x=[
            Tick((step - first) / ((last - first) or 1), f"{step:,.0f}")
            for step in ticks(first, last)
            if first <= step <= last
        ],
        y=[Tick(position(value, y[0], y[-1], log), write(value)) for value in y],
        first=int(first),
        last=int(last),
        style="percent" if kind.percent else "number",
        log=log,
        compares=many,
    )


def _label(run: Run, name: str, many: bool, several: bool) -> str:
    short = name.removeprefix("eval/") if _is_evaluated(name) else name
    if many:
        return f"{run.name}: {short}" if several else run.name
    return short


def position(value: float, low: float, high: float, log: bool) -> float:
    """The place of a value on an axis, from 0 to 1."""
    if log:
        value, low, high = (math.log(each) for each in (value, low, high))
    return (value - low) / ((high - low) or 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` steps of equal size."""
    if not high > low:
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around a range; of many, powers of ten alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = max(tick for tick in every if tick <= low * 1.000001)
    above = [tick for tick in every if tick >= high * 0.999999]
    return [tick for tick in every if below <= tick <= (min(above) if above else every[-1])]


def smoothed(points: Sequence[Point], share: float = 0.04) -> list[Point]:
    """An exponential moving average over about `share` of the points, without bias at the start."""
    keep = 1 - 1 / max(1.0, share * len(points))
    total = weight = 0.0
    found = []
    for step, value in points:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        found.append((step, total / weight))
    return found


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: the first, the last, and the extremes of equal stretches."""
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept = [points[0]]
    for start in range(1, len(points) - 1, size):
        stretch = points[start : min(start + size, len(points) - 1)]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]


def svg_path(points: Sequence[Point]) -> str:
    """A line through points in the words of SVG's path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
