"""Answers about one run, beside its plan."""

import math
from typing import Any

import jax

from vit_jax.parallel import hardware
from vit_jax.plan.answers.checkpoints import checkpoint
from vit_jax.plan.answers.cost import cost, energy
from vit_jax.plan.answers.data_input import needed
from vit_jax.plan.answers.failures import best_interval, slowdown
from vit_jax.plan.answers.machines import chip_watts, host_cores, num_hosts
from vit_jax.plan.answers.questions import Questions
from vit_jax.plan.report import SECONDS_PER_DAY
from vit_jax.train.batches import abstract_rows
from vit_jax.train.run import Dataset, Run, steps_of


def answer(
    run: Run, dataset: Dataset, plan: dict[str, Any], questions: Questions
) -> dict[str, Any]:
    """The plan with its answers.

    Args:
      run: the run that was planned.
      dataset: facts about its training data.
      plan: document of `report.describe`.
      questions: what is asked.

    Returns:
      The plan with `chips`, `hosts`, `bottleneck`, `bound_by_input`, and the documents `input`,
      `checkpoint`, `failures`, and the numbers `expected_days`, `cost`, `energy_kwh`; None where
      the chip's speed is unknown or nothing was asked. `step_seconds`, `days` and `tpu_core_days`
      include waiting for the input.
    """
    devices = list(run.engine.mesh.devices.flat)
    chip = hardware.find_chip(devices[0].device_kind)
    chips = len(devices) / (chip.devices if chip else 1)
    hosts = num_hosts(devices)
    found = plan | dict(chips=chips, hosts=hosts)
    found |= _input(run, found, questions)
    found["checkpoint"] = _checkpoint(run, dataset, found, questions)
    found |= _failures(found, questions)
    days = found["expected_days"] or found["days"]
    found["cost"] = found["energy_kwh"] = None
    if days is not None and math.isfinite(days):
        watts = questions.chip_watts or chip_watts(found["device"])
        if questions.price is not None:
            found["cost"] = cost(price=questions.price, chips=chips, days=days)
        if watts is not None:
            found["energy_kwh"] = energy(watts=watts, chips=chips, days=days)
    return found


def _input(run: Run, plan: dict[str, Any], questions: Questions) -> dict[str, Any]:
    """What the data must deliver, and the run's time with it."""
    bound = plan["roofline"]["bottleneck"] if plan["roofline"] else None
    result = dict(input=None, bound_by_input=False, bottleneck=bound)
    if plan["step_seconds"] is None:
        return result
    devices = list(run.engine.mesh.devices.flat)
    cores = host_cores(devices) if questions.host_cores is None else questions.host_cores
    fields = abstract_rows(run, 1).values()
    asked = needed(
        batch_size=run.config.batch_size,
        bytes_per_image=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in fields),
        step_seconds=plan["step_seconds"],
        readers=min(plan["hosts"], run.engine.batch_shards),
        images_per_core=questions.images_per_core,
        host_cores=cores,
    )
    result["input"] = asked
    slowest = asked["step_seconds"]
    if slowest is not None and slowest > plan["step_seconds"]:
        longer = slowest / plan["step_seconds"]
        result |= dict(bound_by_input=True, bottleneck="input", step_seconds=slowest)
        result["days"] = plan["days"] * longer
        if plan["tpu_core_days"] is not None:
            result["tpu_core_days"] = plan["tpu_core_days"] * longer
    return result


def _checkpoint(
    run: Run, dataset: Dataset, plan: dict[str, Any], questions: Questions
) -> dict[str, Any]:
    """The run's checkpoints at the interval of its config."""
    options = run.config.checkpoint
    every = steps_of(options.every, "checkpoint.every", run.config, dataset)
    seconds = plan["step_seconds"]
    return checkpoint(
        state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract)),
        hosts=plan["hosts"],
        copy_bandwidth=questions.copy_bandwidth,
        storage_bandwidth=questions.storage_bandwidth,
        minutes=None if every is not None else options.minutes,
        every_seconds=every * seconds if every and seconds else None,
    )


def _failures(plan: dict[str, Any], questions: Questions) -> dict[str, Any]:
    """Expected days with failures, at the config's interval and at the best one."""
    result: dict[str, Any] = dict(failures=None, expected_days=None)
    if questions.mtbf is None or plan["days"] is None:
        return result
    saved = plan["checkpoint"]
    mtbf = questions.mtbf.seconds(chips=plan["chips"], slices=plan["slices"])
    write = saved["write_seconds"] or 0.0
    # A checkpoint counts when it is written: until then a failure repeats the interval before it.
    restart = questions.restart + write
    training = plan["days"] * SECONDS_PER_DAY
    interval = min(saved["interval_seconds"] or training, training)
    # Below the time of writing, each save would wait for the one before.
    best = max(best_interval(stall=saved["copy_seconds"], mtbf=mtbf), write)
    slow = slowdown(interval=interval, stall=saved["stall_seconds"], restart=restart, mtbf=mtbf)
    least = slowdown(interval=best, stall=saved["copy_seconds"], restart=restart, mtbf=mtbf)
    result["failures"] = dict(
        mtbf_seconds=mtbf,
        restart_seconds=restart,
        expected=None if math.isinf(slow) else training * slow / mtbf,
        goodput=1 / slow,
        best_interval_seconds=best,
        best_goodput=1 / least,
        best_days=None if math.isinf(least) else plan["days"] * least,
    )
    result["expected_days"] = None if math.isinf(slow) else plan["days"] * slow
    return result
