"""The same run on other slices, planned one after the other."""

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.plan.analytic.topology import find_topology
from vit_jax.plan.answers.answer import answer
from vit_jax.plan.answers.questions import Offer, Questions
from vit_jax.plan.compile import Step
from vit_jax.plan.layouts.auto import arrange
from vit_jax.plan.report import describe
from vit_jax.plan.search import Planner
from vit_jax.train.run import Dataset

log = logging.getLogger(__name__)


# (config, facts about the data, topology, slices) -> the step on these machines. It raises
# InputError where it is not possible.
PlanStep = Callable[[ConfigDict, Dataset, str, int], Step]


def plan_step(
    config: ConfigDict,
    dataset: Dataset,
    topology: str,
    slices: int,
    slice_bandwidth: float | None = None,
) -> Step:
    """The step on a topology as `vit_jax plan --topology` gives it: compiled, or by formulas.

    Raises:
      InputError: no such topology, or the config does not fit it.
    """
    found = find_topology(topology, slices)
    config = arrange(config, dataset, found.devices, topology=topology, slices=slices)
    planner = Planner(
        config, dataset, found.devices, analytic=found.analytic, slice_bandwidth=slice_bandwidth
    )
    return planner.compile()


def compare(
    config: ConfigDict,
    dataset: Dataset,
    offers: Sequence[Offer],
    questions: Questions,
    *,
    mfu: float,
    slice_bandwidth: float | None = None,
    step_of: PlanStep | None = None,
) -> Iterator[dict[str, Any]]:
    """Plans a run for each offer; what is not possible says why and ends nothing.

    Args:
      config: config of the run. With several slices, an axis replica of 1 becomes their number.
      dataset: facts about its training data.
      offers: machines.
      questions: as for the run itself; an offer's price wins.
      mfu: assumed MFU.
      slice_bandwidth: bytes/s of one chip to other slices; None: as published.
      step_of: plans one step; None: `plan_step`.

    Yields:
      A row for each offer, see `row`.
    """
    step_of = step_of or functools.partial(plan_step, slice_bandwidth=slice_bandwidth)
    for offer in offers:
        log.info("planning for %s", offer)
        own = copy.deepcopy(config)
        if offer.slices > 1 and own.parallel.replica == 1:
            own.parallel.replica = offer.slices
        asked = questions
        if offer.price is not None:
            asked = dataclasses.replace(questions, price=offer.price)
        try:
            step = step_of(own, dataset, offer.topology, offer.slices)
            plan = describe(step, mfu=mfu, slice_bandwidth=slice_bandwidth)
        except InputError as error:
            yield dict(row(str(offer), None), problem=str(error))
            continue
        except ValueError as error:  # the bandwidth between its slices is not published
            yield dict(row(str(offer), None), problem=f"{error}: --slice-bandwidth")
            continue
        yield row(str(offer), answer(step.run, dataset, plan, asked))


def row(name: str, plan: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the comparison.

    Args:
      name: topology.
      plan: document of `answer`; None: not possible.

    Returns:
      `topology`, `chips`, `fits`, `bytes_per_device`, `step_seconds`, `mfu_bound` (of the fastest
      step), `bottleneck`, `days`, `expected_days` (with failures), `cost`, `energy_kwh`, and
      `problem`, the reason where it is not possible.
    """
    names = ("chips", "fits", "step_seconds", "bottleneck", "days", "expected_days", "cost")
    result: dict[str, Any] = dict(topology=name)
    result |= {key: plan[key] if plan else None for key in (*names, "energy_kwh")}
    result["bytes_per_device"] = plan["bytes_per_device"]["total"] if plan else None
    result["mfu_bound"] = plan["roofline"]["mfu"] if plan and plan["roofline"] else None
    result["problem"] = None
    return result
