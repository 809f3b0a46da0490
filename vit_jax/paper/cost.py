"""What the runs behind a table cell cost on a slice, and which data they read."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.paper.queue import Work
from vit_jax.paper.results import recipes_behind, summary
from vit_jax.paper.runs import Run
from vit_jax.paper.tables import Key
from vit_jax.parallel import hardware
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.plan.dataset import known_facts
from vit_jax.tasks import create_task
from vit_jax.train.batches import patches_of
from vit_jax.train.run import Dataset, configure_model, steps_of

SECONDS_PER_HOUR = 3600
# Options that change what a run learns and not what it costs.
_FREE = ("--config.seed=", "--config.optimizer.learning_rate=")


@dataclasses.dataclass(frozen=True)
class Slice:
    """Accelerators on which runs are priced.

    Attributes:
      name: such as "v5e:16x16".
      chips: number of chips.
      chip: one of them.
      mfu: assumed model FLOPs utilisation.
    """

    name: str
    chips: int
    chip: hardware.Chip
    mfu: float

    def hours(self, flops: float) -> float:
        """Time that all chips need for so many FLOPs."""
        return flops / (self.chips * self.chip.bf16_flops * self.mfu) / SECONDS_PER_HOUR


def find_slice(name: str, mfu: float) -> Slice:
    """The machines of a topology such as "v5e:16x16" or "h100:8x8".

    Raises:
      InputError: there is no such topology.
    """
    devices = describe_devices(name)
    chip = hardware.find_chip(devices[0].device_kind)
    assert chip is not None, name  # all topologies' chips are in the table
    return Slice(name, len(devices) // chip.devices, chip, mfu)


def missing_runs(number: int, key: Key, folder: Path, scale: str) -> list[Run]:
    """All runs that a cell still needs, each once: what they start from, choices, seeds.

    Which of the choices the final runs take is not known before, and costs the same.
    """
    found: dict[str, Run] = {}
    for recipe in recipes_behind(number, key, scale):
        for run in (*(run for _, run in recipe.choices), *recipe.runs):
            step: Run | None = run
            while step is not None:
                found.setdefault(step.workdir, step)
                step = step.start
    return [run for run in found.values() if not _done(run, folder)]


def _done(run: Work, folder: Path) -> bool:
    """Whether a run is finished; one of a recipe with choices may have another learning rate."""
    try:
        return summary(run, folder) is not None
    except InputError:
        return (folder / run.workdir / "summary.json").exists()


def add(document: dict[str, Any], folder: Path, on: Slice | None) -> None:
    """Adds to a table's document what its missing runs cost.

    Each cell gets `cost`, see `cost`, or None where nothing is missing; the table gets `cost`
    of all missing runs, and `topology` and `mfu`.

    Args:
      document: see `results.document`.
      folder: folder of all runs.
      on: slice on which the runs are priced; None: FLOPs alone.
    """
    number, scale = document["table"], document["scale"]
    every: dict[str, Run] = {}
    for cell in document["cells"]:
        cell["cost"] = None
        if cell["command"]:
            missing = missing_runs(number, (cell["row"], cell["column"]), folder, scale)
            every |= {run.workdir: run for run in missing}
            cell["cost"] = cost(missing, on)
    document["topology"], document["mfu"] = (on.name, on.mfu) if on else (None, None)
    document["cost"] = cost(every.values(), on) if every else None


def cost(runs: Iterable[Run], on: Slice | None) -> dict[str, Any]:
    """The cost of runs, for JSON.

    Returns:
      `runs`, their number; `pretraining_runs`, those that others start from; `flops`, without
      evaluations; `chip_hours` and `hours` on the slice, at its MFU (None without a slice);
      `data`, the sources read.
    """
    runs = list(runs)
    total = sum(run_flops(run) for run in runs)
    hours = on.hours(total) if on else None
    return dict(
        runs=len(runs),
        pretraining_runs=sum(run.start is None for run in runs),
        flops=total,
        chip_hours=hours * on.chips if on and hours else None,
        hours=hours,
        data=list(dict.fromkeys(source for run in runs for source in run_data(run))),
    )


def run_flops(run: Run) -> int:
    """FLOPs of a run's training, forward and backward, without recomputation and evaluations."""
    return _config_flops(run.config, tuple(o for o in run.overrides if not o.startswith(_FREE)))


def run_data(run: Run) -> list[str]:
    """The sources that a run trains on and evaluates on."""
    config = _config(run.config, tuple(o for o in run.overrides if not o.startswith(_FREE)))
    others = (entry.get("source") for entry in config.evals.values())
    return [config.data.source, *(source for source in others if source)]


@functools.cache
def _config(spec: str, overrides: tuple[str, ...]) -> ConfigDict:
    return load_config(spec, overrides)


@functools.cache
def _config_flops(spec: str, overrides: tuple[str, ...]) -> int:
    config = _config(spec, overrides)
    size, classes = known_facts(config.data) or (0, 1)
    pp = data.parse(config.data.pp)
    dataset = Dataset(size, classes, pp.image_size, pp.mean, pp.std, patches_of(pp))
    task = create_task(config)
    steps = steps_of(config.total, "total", config, dataset) or 0
    flops = task.train_flops(configure_model(config, dataset, task), None)
    return steps * config.batch_size * flops
