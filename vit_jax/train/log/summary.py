"""Descriptions of a run: in checkpoints, in the log at the start, in summary.json."""

import dataclasses
import json
import logging
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vit_jax import __version__, data, jsonl
from vit_jax.errors import NotSavedError
from vit_jax.files import write_atomic
from vit_jax.text import count, reason
from vit_jax.train.log.clock import Clock
from vit_jax.train.log.goodput import Goodput
from vit_jax.train.log.memory import peak_memory
from vit_jax.train.optim import count_trained
from vit_jax.train.run import Run

log = logging.getLogger(__name__)


def describe(run: Run, source: Any, pp: Any) -> dict[str, Any]:
    """The metadata of a checkpoint: model, task, preprocessing, labels, data, config."""
    taught = dict(teacher=run.teacher.describe()) if run.teacher else {}
    return taught | dict(
        model=dict(name=run.model_name, **dataclasses.asdict(run.model_config)),
        task=dict(name=run.config.task, own_params=list(run.task.own_params)),
        pp=_evaluation_pp(run, pp),
        labels=list(source.label_names),
        data=dict(name=source.name, split=source.split, fingerprint=source.fingerprint()),
        config=run.config.to_dict(),
    )


def _evaluation_pp(run: Run, pp: Any) -> str:
    """Preprocessing for use after training: that of the first evaluation, if there is one."""
    plain = [
        entry.pp
        for _, entry in sorted(run.config.evals.items())
        if entry.get("type", "classification") == "classification"
    ]
    own = plain[0] if plain else ""
    return str(data.parse(own) if own else pp.deterministic())


def _devices(run: Run) -> str:
    devices = run.engine.mesh.devices
    return count(devices.size, f"{devices.flat[0].device_kind} device")


def announce(run: Run, source: Any, step: int) -> None:
    """Logs the model, the data, the step from which training starts, and the layout."""
    start = f"going on from step {step}" if step else "from the start"
    log.info(
        f"{run.model_name}, {num_params(run):,} parameters, "
        f"{count(source.size, 'image')} of {source.name}, "
        f"{count(run.total_steps, 'step')} of {run.config.batch_size} on "
        f"{_devices(run)}, {start}"
    )
    for line in run.engine.describe(run.abstract.params):
        log.info("%s", line)


def write_summary(
    run: Run,
    step: int,
    workdir: Path,
    last: dict[str, float],
    clock: Clock,
    goodput: Goodput,
) -> dict[str, Any]:
    """Writes summary.json, with the run's last step and metrics and its time, and returns it.

    The model card, README.md, is written beside it; see `report.card`.

    `trained_params` of its `params` parameters are trained; a LoRA adapter counts among both.

    Raises:
      NotSavedError: it cannot be written; the run's state is saved.
    """
    summary = dict(
        model=run.model_name,
        params=num_params(run),
        trained_params=count_trained(run.config.optimizer, run.abstract.params),
        peak_memory_bytes=peak_memory(),
        steps=step,
        metrics=jsonl.finite(last),
        seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        wall_seconds=round(clock.total(), 3),
        goodput=goodput.summary(),
        devices=f"{run.engine.mesh.devices.size} x {jax.devices()[0].device_kind}",
        jax=jax.__version__,
        versions=versions(),
    )
    if jax.process_index() == 0:
        path = workdir / "summary.json"
        try:
            write_atomic(path, json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            raise NotSavedError(
                f"cannot write {path}: {reason(error)}; the run is done and its state saved: "
                "the same command writes it"
            ) from error
        from vit_jax.report.card import write_card  # not needed before the end

        write_card(workdir, num_params(run))
    log.info(
        f"{step:,} steps done, {summary['trained_params']:,} of {summary['params']:,} parameters "
        f"trained, {peak_memory() / 2**30:.2f} GiB of memory at most"
    )
    return summary


def versions() -> dict[str, str]:
    """Name -> version of this package, Python, the system and the libraries that compute."""
    found = dict(vit_jax=__version__, python=platform.python_version())
    found |= {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return found | dict(system=f"{platform.system()} {platform.machine()}")


def num_params(run: Run) -> int:
    """The number of parameters of the model."""
    return sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params))
