"""How the page writes numbers, times and sizes."""

import json
import math


def number(value: float | None) -> str:
    """A number of four digits: 0.0312, 1,234, 3.2e-05; "-" for None."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share in percent."""
    if value is None:
        return "–"
    text = f"{100 * value:.2f}".rstrip("0").rstrip(".")
    return f"{text} %"


def duration(seconds: float | None) -> str:
    """A time in the two largest units."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def size(count: float | None) -> str:
    """Bytes in the largest unit that gives at least 1."""
    if count is None:
        return "–"
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(count, 1024)), len(units) - 1) if count >= 1 else 0
    return f"{count / 1024**power:.4g} {units[power]}"


def value_text(value: object) -> str:
    """The value of an option, as JSON writes it."""
    return json.dumps(value, ensure_ascii=False, default=str)
