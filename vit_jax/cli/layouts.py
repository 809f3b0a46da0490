"""What `vit_jax plan --search` prints and writes."""

import argparse
import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_jax.plan.analytic.step import Analyst
    from vit_jax.plan.analytic.topology import Topology
    from vit_jax.plan.layouts.candidates import Candidate


def run_search(args: argparse.Namespace, analyst: "Analyst", topology: "Topology") -> int:
    """Searches, prints the candidates and the flags of the best; returns the exit status.

    Raises:
      InputError: no layout fits, or the engine has only one.
    """
    from vit_jax.errors import InputError
    from vit_jax.plan.layouts.candidates import (
        compile_best,
        has_two_forms,
        ordered,
        other_form,
        search,
    )
    from vit_jax.plan.layouts.compiled import Compiler
    from vit_jax.plan.layouts.search import FREE
    from vit_jax.plan.layouts.text import table
    from vit_jax.plan.search import as_flags

    engine = analyst.config.parallel.engine
    if engine != "pjit":
        raise InputError(
            f"--search: the engine {engine} has one layout; set config.parallel.engine to pjit, or "
            "plan without --search"
        )
    pinned = {
        name: value
        for name, value in _flat(analyst.config).items()
        if name in FREE and _is_given(name, args.overrides)
    }
    ranking, candidates = search(analyst, pinned, topology=args.topology or "", slices=args.slices)
    compiled: list[Candidate] = []
    if not topology.analytic and args.compile:
        compiler = Compiler(
            analyst.config,
            analyst.dataset,
            args.topology or "",
            args.slices,
            analyst.slice_bandwidth,
        )
        free = has_two_forms(analyst) and not _is_given("model.unroll", args.overrides)
        other = functools.partial(other_form, analyst) if free else None
        compiled = list(compile_best(candidates, compiler, args.compile, other=other))
    taken = [each.options for each in compiled]
    rows = ordered([*compiled, *(each for each in candidates if each.options not in taken)])
    best = rows[0]
    if args.write:
        _write(args, best, analyst)
    if args.json:
        document = dict(
            topology=args.topology,
            devices=len(analyst.devices),
            device=analyst.devices[0].device_kind,
            batch_size=analyst.config.batch_size,
            layouts=ranking.tried,
            layouts_that_fit=len(ranking.fitting),
            analytic=topology.why or None,
            candidates=[each.document() for each in rows],
            flags=as_flags(best.options),
        )
        print(json.dumps(document, indent=2))
        return 0
    count, kind = len(analyst.devices), analyst.devices[0].device_kind
    print(f"devices   {count} {kind}, batch {analyst.config.batch_size:,}")
    print(f"searched  {ranking.tried:,} layouts by formulas; {len(ranking.fitting):,} fit")
    if topology.why:
        print(f"formulas  {topology.why}")
    print("\n".join(["", *table([each.document() for each in rows]), ""]))
    print(f"best      {' '.join(as_flags(best.options))}")
    if args.write:
        print(f"written   {args.write}")
    return 0


def _is_given(name: str, overrides: Sequence[str]) -> bool:
    """Whether the command line sets an option."""
    return any(word.startswith(f"--config.{name}=") for word in overrides)


def _flat(config: Any) -> dict[str, Any]:
    from vit_jax.options import flatten

    return dict(flatten(config.to_dict()))


def _write(args: argparse.Namespace, best: "Candidate", analyst: "Analyst") -> None:
    """Writes the best layout as a config file."""
    from vit_jax.plan.layouts.write import write_config

    step = "an unknown step" if best.step_seconds is None else f"{1000 * best.step_seconds:.1f} ms"
    place = args.topology or f"{len(analyst.devices)} {analyst.devices[0].device_kind}"
    slices = f" in {args.slices} slices" if args.slices > 1 else ""
    batch = [] if args.batch is None else [f"--config.batch_size={args.batch}"]
    write_config(
        args.write,
        base=args.config,
        overrides=[*args.overrides, *batch],
        layout=best.options,
        place=f"{place}{slices}",
        found=f"{step}, {best.total_bytes / 2**30:.2f} GiB a device, by {best.found_by}",
    )
