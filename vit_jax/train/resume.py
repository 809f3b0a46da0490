"""A run that is started again: it may be done already, or have another length now."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import schema
from vit_jax.durations import in_steps
from vit_jax.errors import InputError
from vit_jax.parallel.agree import from_first
from vit_jax.train.optim import create_schedule
from vit_jax.train.run import Run
from vit_jax.train.workdir import Summary

log = logging.getLogger(__name__)


def check_length(run: Run, workdir: Path, step: int) -> None:
    """Refuses a run that is shorter than what it has done.

    Raises:
      InputError: the newest checkpoint is beyond `config.total`.
    """
    if step > run.total_steps:
        raise InputError(
            f"config.total is {run.total_steps} steps, but the run in {workdir} has done {step}; "
            "give a larger total, or another --workdir"
        )


def finished_summary(
    run: Run, workdir: Path, step: int, stopped: bool = False
) -> dict[str, Any] | None:
    """The summary of a run that is done, with a line in the log; None if there is work left.

    Args:
      run: the run.
      workdir: workdir of the run.
      step: step of its newest checkpoint.
      stopped: whether early stopping ended it there.
    """
    path = workdir / "summary.json"

    def read() -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):  # written again
            return schema.check(schema.parse(path.read_bytes()), Summary)
        return None

    if (step != run.total_steps and not stopped) or not (summary := from_first(read)):
        return None
    log.info(
        "the run in %s is done already (step %d of %d%s); its summary is in %s; "
        "a larger %s goes on",
        *(workdir, step, run.total_steps, ", by early stopping" if stopped else "", path),
        "config.checkpoint.patience" if stopped else "config.total",
    )
    return summary


def announce_schedule(run: Run, workdir: Path, step: int, skipped: jax.Array, size: int) -> None:
    """Warns if the learning rate continues on another course, as the run's length has changed.

    Args:
      run: the run.
      workdir: workdir of the run, with the config of its earlier start.
      step: step from which it goes on.
      skipped: number of skipped updates so far.
      size: number of training examples.
    """
    told = from_first(lambda: _stored(workdir))
    if not step or told is None:
        return
    update = step - int(jax.device_get(skipped))
    try:
        before, total = _earlier(run, told, size)
        old, planned = float(before(update - 1)), float(before(update))
    except (InputError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return  # a damaged config.json, which is replaced now
    new = float(run.schedule(jax.numpy.asarray(update)))
    if np.isclose(planned, new, rtol=1e-3, atol=0):
        return
    text = (
        f"the run's length was {total} steps and is {run.total_steps} now: the learning rate of "
        f"step {step} was {old:.3g}, that of step {step + 1} is {new:.3g}"
    )
    if in_steps(run.config.optimizer.horizon, name="", batch_size=1, train_size=1) is None:
        text += (
            f"; to keep the schedule up to its end: --config.optimizer.horizon.steps={total} "
            "and --config.optimizer.tail=constant, linear (a cooldown) or restart, from "
            "--config.optimizer.tail_value=0.1 of the peak"
        )
    log.warning("%s", text)


def _stored(workdir: Path) -> dict[str, Any] | None:
    """The sections of config.json that decide the schedule; None where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stored = json.loads((workdir / "config.json").read_bytes())
        return {name: stored.get(name) for name in ("total", "optimizer")}
    return None


def _earlier(run: Run, stored: dict[str, Any], size: int) -> tuple[Any, int]:
    """The schedule of the earlier start, and its number of steps.

    Raises:
      Exception: of several types, where an option has another type or is missing.
    """
    config = ConfigDict(run.config.optimizer.to_dict())
    for name in ("horizon", "tail", "tail_value"):
        if name in stored["optimizer"]:
            value = stored["optimizer"][name]
            config[name] = ConfigDict(value) if isinstance(value, dict) else value
    about: dict[str, int] = dict(batch_size=run.config.batch_size, train_size=size)
    total = in_steps(ConfigDict(stored["total"]), name="total", **about)
    if not total:
        raise ValueError("no length")
    return create_schedule(config, total, **about), total
