"""The best layouts of a search, some of them compiled: what `vit_jax plan --search` prints."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.axes import AXES
from vit_jax.plan.analytic.memory import is_looped
from vit_jax.plan.analytic.step import Analyst, Estimate
from vit_jax.plan.compile import memory_of
from vit_jax.plan.layouts.compiled import Compiler
from vit_jax.plan.layouts.search import Ranking, best_of_each, rank, smallest
from vit_jax.plan.layouts.text import short
from vit_jax.plan.layouts.waiting import announced

log = logging.getLogger(__name__)

SHOWN = 8  # candidates
FORMULAS, COMPILED = "formulas", "compiler"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout with its predicted needs."""

    options: dict[str, Any]
    fits: bool
    total_bytes: int
    step_seconds: float | None  # the fastest step; None: unknown
    one_by_one_seconds: float | None  # if no operations overlap but collectives; None: unknown
    bottleneck: str | None
    sent_bytes: int | None
    found_by: str  # FORMULAS or COMPILED
    # As one_by_one_seconds, but copies run beside other operations; None: unknown.
    copies_beside_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """What candidates are ranked by; the fastest step where kernels hide their products."""
        known = (self.copies_beside_seconds, self.one_by_one_seconds, self.step_seconds)
        return next((seconds for seconds in known if seconds is not None), math.inf)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def search(
    analyst: Analyst, pinned: Mapping[str, Any], *, topology: str, slices: int
) -> tuple[Ranking, list[Candidate]]:
    """The layouts that fit by the formulas, the fastest first, one of each mesh.

    Raises:
      InputError: none fits; names the smallest slice of the same chips on which one does.
    """
    ranking = rank(analyst, pinned)
    if not ranking.fitting:
        raise InputError(nothing_fits(analyst, ranking, pinned, topology, slices))
    limit = memory_of(analyst.devices[0])
    best = best_of_each(ranking.fitting)[:SHOWN]
    return ranking, [_of_estimate(each, limit) for each in best]


def compile_best(
    candidates: Sequence[Candidate],
    compiler: Compiler,
    count: int,
    *,
    other: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Iterator[Candidate]:
    """Compiles the first candidates, then the fastest of them with a loop over blocks or without.

    One that the compiler fails on is left out, with a line that says so.

    Args:
      candidates: candidates, the best first.
      compiler: compiler of the run's variants.
      count: number of candidates to compile.
      other: gives the options that a layout has in its other form, see `other_form`; None: it has
        only one.
    """
    done = []
    for number, candidate in enumerate(candidates[:count], start=1):
        found = _compiled(candidate.options, compiler, f"{number} of {min(count, len(candidates))}")
        if found:
            done.append(found)
            yield found
    fitting = [each for each in done if each.fits and each.step_seconds is not None]
    if other and fitting:
        fastest = min(fitting, key=lambda each: each.seconds)
        changed = {**fastest.options, **other(fastest.options)}
        loop = "with a loop" if changed.get("model.unroll") == 1 else "without a loop"
        found = _compiled(changed, compiler, f"the fastest {loop} over blocks")
        if found:
            yield found


def has_two_forms(analyst: Analyst) -> bool:
    """Whether the blocks may be in a loop or not: there are several, and no number is given.

    1 may come from a config that `--write` made, and counts as none.
    """
    model = analyst.run("none").model_config
    return isinstance(model, ViTConfig) and model.depth > 1 and model.unroll in (0, 1)


def other_form(analyst: Analyst, options: Mapping[str, Any]) -> dict[str, Any]:
    """The `model.unroll` that a layout does not have: -1, no loop over blocks, or 1, a loop.

    Args:
      analyst: estimates of the run's layouts.
      options: options of a candidate.
    """
    sizes = {axis: options[f"parallel.{axis}"] for axis in AXES}
    remat = analyst.policy(options["model.remat"])
    return {"model.unroll": -1 if is_looped(analyst.run(remat), sizes, remat) else 1}


def ordered(candidates: Sequence[Candidate]) -> list[Candidate]:
    """What fits first, then what is compiled, then by `Candidate.seconds`.

    A compiled step is slower than the formulas say, or faster; they are not compared.
    """

    def key(each: Candidate) -> tuple[bool, bool, float]:
        return (not each.fits, each.found_by != COMPILED, each.seconds)

    return sorted(candidates, key=key)


def _compiled(options: dict[str, Any], compiler: Compiler, which: str) -> Candidate | None:
    try:
        with announced(f"compiling {which}: {short(options)}"):
            plan, _ = compiler.plan(options)
    except InputError as error:
        log.warning("%s: %s", short(options), error)
        return None
    roofline, estimates = plan["roofline"], plan["estimates"] or {}
    return Candidate(
        options=options,
        fits=plan["fits"],
        total_bytes=plan["bytes_per_device"]["total"],
        step_seconds=roofline["step"] if roofline else None,
        one_by_one_seconds=estimates.get("per_operation"),
        copies_beside_seconds=estimates.get("copies_beside"),
        bottleneck=roofline["bottleneck"] if roofline else None,
        sent_bytes=plan["collective_bytes_per_step"],
        found_by=COMPILED,
    )


def _of_estimate(found: Estimate, limit: int | None) -> Candidate:
    roofline = found.roofline
    return Candidate(
        options=found.layout.options(),
        fits=limit is None or found.memory.total <= limit,
        total_bytes=found.memory.total,
        step_seconds=roofline["step"] if roofline else None,
        one_by_one_seconds=found.one_by_one,
        bottleneck=roofline["bottleneck"] if roofline else None,
        sent_bytes=sum(collective.bytes for collective in found.found),
        found_by=FORMULAS,
    )


def _undivided(analyst: Analyst, pinned: Mapping[str, Any]) -> str:
    """Why the given sizes of the mesh, or the batch, leave no layout."""
    count, names = len(analyst.devices), [f"parallel.{axis}" for axis in AXES]
    given = {name: pinned[name] for name in names if pinned.get(name, -1) != -1}
    text = " ".join(f"config.{name}={size}" for name, size in given.items())
    if any(size < 1 for size in given.values()):
        return f"{text}: sizes must be at least 1, or -1 for the rest"
    if count % math.prod(given.values()):
        return f"{text} does not divide {count} devices"
    batch = analyst.config.batch_size
    return f"config.batch_size={batch} does not divide over {count} devices in any of the ways left"


def nothing_fits(
    analyst: Analyst, ranking: Ranking, pinned: Mapping[str, Any], topology: str, slices: int
) -> str:
    """The line about a search without any layout that fits."""
    count, kind = len(analyst.devices), analyst.devices[0].device_kind
    where = topology or f"{count} {kind}"
    if ranking.least is None:
        why = ranking.refused or _undivided(analyst, pinned)
        return f"no layout is possible on {where}: {why}"
    least = ranking.least
    need = least.memory.total / 2**30
    text = (
        f"no layout fits {where}: {short(least.layout.options())} needs the least, {need:.1f} GiB"
    )
    if not topology:
        return f"{text} a device; take more devices, larger ones or a smaller batch"
    slice_ = smallest(analyst, topology, slices, pinned)
    if slice_ is None:
        return f"{text} a device; it fits no larger slice of these chips either"
    return f"{text} a device; the smallest slice that fits is --topology={slice_}"
