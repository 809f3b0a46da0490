"""Compiles one step in a process of its own: a task from standard input, its plan to the output.

python -m vit_jax.plan.layouts.worker < task.json
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from vit_jax.config_files import stored_config
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class CompileTask:
    """A step to compile.

    Attributes:
      config: path of a config.json.
      topology: topology of one slice; "": the devices present.
      slices: number of slices.
      slice_bandwidth: see `report.describe`.
      dataset: fields of `Dataset`.
    """

    config: str
    topology: str
    slices: int
    slice_bandwidth: float | None
    dataset: dict[str, Any]


def main() -> int:
    """Prints the plan as JSON; 2 and a line if the config is wrong."""
    task = CompileTask(**json.load(sys.stdin))
    from vit_jax.parallel.distributed import make_cpu_devices
    from vit_jax.plan.compile import compile_step, topology_devices
    from vit_jax.plan.report import describe
    from vit_jax.train.run import Dataset

    try:
        config = stored_config(Path(task.config))
        if not task.topology:
            make_cpu_devices(config.parallel.cpu_devices)
        devices = topology_devices(task.topology, task.slices) if task.topology else None
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in task.dataset.items()
        }
        step = compile_step(config, Dataset(**fields), devices)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(describe(step, mfu=1.0, slice_bandwidth=task.slice_bandwidth)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
