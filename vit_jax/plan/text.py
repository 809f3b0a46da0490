"""A plan as lines of text."""

from typing import Any

GIB = 2**30


def lines(plan: dict[str, Any]) -> list[str]:
    """The plan as lines of text."""
    height, width = plan["image_size"]
    spread = " ".join(f"{name}={value}" for name, value in plan["layout"].items())
    slices = f" in {plan['slices']} {_part(plan)}s" if plan["slices"] > 1 else ""
    rows = [
        ("run", f"{plan['model']} at {height}x{width}, batch {plan['batch_size']:,}"),
        ("devices", f"{plan['devices']} {plan['device']}{slices}: {spread}"),
        ("parameters", f"{plan['params']:,}"),
        ("FLOPs", f"{plan['flops_per_image']:.3g} an image, {plan['flops_per_run']:.3g} the run"),
        *_attention(plan["attention_saved"]),
        ("length", f"{plan['steps']:,} steps, {plan['images']:,} images"),
        ("memory", _memory(plan)),
        *_network(plan),
        _source(plan),
        ("fastest step", _roofline(plan)),
        *_estimates(plan["estimates"]),
        ("time", _time(plan)),
    ]
    if plan["tpu_core_days"] is not None or plan["paper_tpu_v3_core_days"]:
        rows.append(("TPU-core-days", _core_days(plan)))
    return [row(*each) for each in rows]


def _part(plan: dict[str, Any]) -> str:
    """The name of what has a fast network inside."""
    return "node" if plan["device"].startswith("NVIDIA") else "slice"


def _source(plan: dict[str, Any]) -> tuple[str, str]:
    """The row about where the numbers come from."""
    if plan["analytic"]:
        return "formulas", f"nothing was compiled; {plan['why_analytic']}"
    return "compilation", f"{plan['compile_seconds']:.0f} s"


def _attention(saved: float | None) -> list[tuple[str, str]]:
    """The row about an attention kind that is not full attention."""
    if saved is None:
        return []
    if saved < 0.005:
        return [("attention", "model.attention_kind saves no FLOPs against full attention")]
    return [("attention", f"{saved:.0%} fewer FLOPs in the blocks than with full attention")]


def row(name: str, text: str) -> str:
    return f"{name:14} {text}"


def suggestion(attempt: dict[str, Any]) -> tuple[str, str]:
    verdict = "fits" if attempt["fits"] else "does not fit"
    text = f"{' '.join(attempt['flags'])}: {binary(attempt['total_bytes'])}, {verdict}"
    return "suggestion" if attempt["fits"] else "tried", text


def _memory(plan: dict[str, Any]) -> str:
    parts = plan["bytes_per_device"]
    listed = ", ".join(f"{name} {binary(size)}" for name, size in parts.items() if size)
    limit = plan["memory_per_device"]
    of = f" of {binary(limit)}" if limit else ""
    return f"{listed}{of} a device: {'fits' if plan['fits'] else 'does not fit'}"


def _network(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows about what is sent: within slices and, where there are several, between them."""
    sent, least = plan["collective_bytes_per_step"], plan["collective_bytes_minimum"]
    hidden, kinds = plan["collective_bytes_overlapped"], plan["collectives"]
    if plan["slices"] == 1:
        return [("collectives", _sent(kinds, sent, least, hidden))]
    prefix = "collective_bytes_between_slices"
    outside = plan["collectives_between_slices"]
    outside_sent, outside_least = plan[prefix], plan[f"{prefix}_minimum"]
    outside_hidden = plan[f"{prefix}_overlapped"]
    if sent is not None:
        kinds = {kind: size - outside.get(kind, 0) for kind, size in kinds.items()}
        kinds = {kind: size for kind, size in kinds.items() if size}
        sent, hidden = sent - outside_sent, hidden - outside_hidden
    return [
        (f"within {_part(plan)}s", _sent(kinds, sent, least - outside_least, hidden)),
        (f"between {_part(plan)}s", _sent(outside, outside_sent, outside_least, outside_hidden)),
    ]


def _sent(kinds: dict[str, int] | None, total: int | None, least: int, hidden: int | None) -> str:
    if kinds is None or total is None or hidden is None:
        return f"unknown, at least {binary(least)} a step from each device"
    text = ", ".join(f"{kind} {binary(size)}" for kind, size in kinds.items())
    if not least:
        return f"{text or 'none'} a step from each device"
    each = " if it gathers weights for each pass" if total < 0.98 * least else ""
    return (
        f"{text} a step from each device, {total / least:.2f} of what the layout needs{each}; "
        f"{hidden / max(total, 1):.0%} while something is computed"
    )


def _roofline(plan: dict[str, Any]) -> str:
    found = plan["roofline"]
    if found is None:
        return "unknown"
    terms = ["compute", "memory", "network"]
    if plan["slices"] > 1:
        terms.append("between_slices")
    parts = ", ".join(f"{_plain(plan, name)} {1000 * found[name]:.1f} ms" for name in terms)
    return (
        f"{1000 * found['step']:.1f} ms, an MFU of {found['mfu']:.0%}, bound by "
        f"{_plain(plan, found['bottleneck'])} ({parts} at the chip's full speed)"
    )


def _estimates(estimates: dict[str, float | None] | None) -> list[tuple[str, str]]:
    """The rows of the estimates beside the roofline, those that there are."""
    rows = []
    for name, key, meaning in (
        ("one by one", "per_operation", "if each operation runs at its own bound, none beside it"),
        ("copies beside", "copies_beside", "the same, but copies run beside other operations"),
        ("XLA's estimate", "compiler", "by its cost model: ranks variants, predicts no time"),
    ):
        seconds = estimates[key] if estimates else None
        if seconds is not None:
            rows.append((name, f"{1000 * seconds:.1f} ms a step {meaning}"))
    return rows


def _plain(plan: dict[str, Any], term: str) -> str:
    return f"between {_part(plan)}s" if term == "between_slices" else term


def _time(plan: dict[str, Any]) -> str:
    if plan["days"] is None:
        return f"unknown: no peak speed known for {plan['device']}"
    step = f"{1000 * plan['step_seconds']:.0f} ms a step"
    speed = f"an MFU of {plan['mfu']:.0%}"
    if plan["bound_by_roofline"]:
        speed = f"the fastest step, slower than {speed}"
    if plan["bound_by_input"]:
        speed = "the speed of the input"
    return f"{plan['days']:.3g} days at {speed}, {step}"


def _core_days(plan: dict[str, Any]) -> str:
    text = f"{plan['tpu_v3_core_days']:,.0f} on TPU v3 at that MFU"
    if plan["tpu_core_days"] is not None and plan["device"] != "TPU v3":
        text = f"{plan['tpu_core_days']:,.0f} here, {text}"
    if paper := plan["paper_tpu_v3_core_days"]:
        text += f"; the paper's {paper:,} make an MFU of {plan['paper_mfu']:.0%}"
    return text


def binary(size: float) -> str:
    """Bytes as GiB, or MiB where that is less than a hundredth."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"
