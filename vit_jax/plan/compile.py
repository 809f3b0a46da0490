"""Compiles a training step without running it, for devices that need not be present."""

import dataclasses
import importlib.util
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.parallel import hardware
from vit_jax.parallel.distributed import suited_devices
from vit_jax.parallel.engines import create_engine
from vit_jax.plan.collectives import Collective, find_collectives
from vit_jax.plan.cycles import Operation, find_operations
from vit_jax.plan.hlo import Module
from vit_jax.plan.traffic import memory_traffic
from vit_jax.train.batches import abstract_batch
from vit_jax.train.run import Dataset, Run, prepare
from vit_jax.train.start import starting_weights

log = logging.getLogger(__name__)

# Without these, libtpu queries the machine's metadata and looks for a process that has the TPUs.
WITHOUT_TPUS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5e-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MAX_SLICES = 1024  # far more than anybody has; each device costs memory here
# XLA's two messages when memory is too small: for everything, or for temporaries alone.
_TOO_MUCH = re.compile(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm")
_TOO_TEMPORARY = re.compile(
    r"temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled training step; bytes are of one device."""

    run: Run
    params_bytes: int
    optimizer_bytes: int
    ema_bytes: int
    batch_bytes: int  # inputs, and the padding that layouts add to all arguments
    temporary_bytes: int  # activations, gradients, code: all that does not outlive the step
    limit_bytes: int | None  # memory of the device, None where unknown
    fits: bool
    found: tuple[Collective, ...] | None  # None: not compiled, or not understood
    traffic_bytes: int | None  # to and from main memory; None as for `found`
    operations: tuple[Operation, ...] | None  # without collectives; None as for `found`
    compile_seconds: float
    teacher_bytes: int = 0  # parameters of the teacher, in distillation
    analytic: bool = False  # whether formulas predict this, and nothing was compiled
    one_by_one: float | None = None  # seconds, of formulas; see `cycles.predict`

    @property
    def total_bytes(self) -> int:
        """Memory that one device needs."""
        state = self.params_bytes + self.optimizer_bytes + self.ema_bytes + self.teacher_bytes
        return state + self.batch_bytes + self.temporary_bytes

    def memory(self) -> dict[str, Any]:
        """The memory of one device and the time of compiling, for JSON."""
        return dict(
            bytes_per_device=dict(
                params=self.params_bytes,
                optimizer=self.optimizer_bytes,
                ema=self.ema_bytes,
                teacher=self.teacher_bytes,
                batch=self.batch_bytes,
                temporaries=self.temporary_bytes,
                total=self.total_bytes,
            ),
            memory_per_device=self.limit_bytes,
            fits=self.fits,
            compile_seconds=round(self.compile_seconds, 1),
        )


def compiler_found() -> bool:
    """Whether the compiler for TPUs is installed."""
    spec = importlib.util.find_spec("libtpu")
    return spec is not None and spec.origin is not None


def topology_devices(name: str, slices: int = 1) -> list[jax.Device]:
    """Devices of a TPU topology such as "v5e:16x16", for compilation only.

    Args:
      name: topology of a slice.
      slices: number of slices, between which there is only the data-centre network.

    Raises:
      InputError: no such topology, or the compiler is not installed.
    """
    check_slice_count(slices)
    if not compiler_found():
        raise InputError(
            "compiling for TPUs needs their compiler: pip install 'vit_jax[plan]'; "
            "without --topology the devices present are planned for"
        )
    _check_pod(name)
    for variable, value in WITHOUT_TPUS.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options: dict[str, Any] = dict(num_slices=slices) if slices > 1 else {}
    generation, _, shape = name.partition(":")
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as JAX shows v4
    if re.fullmatch(r"1(x1)*", shape):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise InputError(f"no TPU topology {name!r}, write e.g. v5e:16x16 ({reason})") from error


def check_slice_count(slices: int) -> None:
    """Refuses numbers of slices below 1 and above MAX_SLICES."""
    if not 1 <= slices <= MAX_SLICES:
        raise InputError(f"--slices={slices}: give a number from 1 to {MAX_SLICES}")


def _check_pod(name: str) -> None:
    """Refuses topologies larger than a pod, with which the compiler would abort the process."""
    generation, _, shape = name.partition(":")
    known = hardware.TPUS.get(generation)
    sides = [int(side) for side in shape.split("x") if side.isdigit()]
    if known is None or not sides:
        return
    if max(sides) > max(known.pod) or math.prod(sides) > math.prod(known.pod):
        size = "x".join(map(str, known.pod))
        raise InputError(f"no TPU topology {name!r}: a whole {generation} pod has {size} chips")


# Called with the run, and with its step as it was traced and as it was compiled.
Keep = Callable[[Run, jax.stages.Lowered, jax.stages.Compiled], None]


def compile_step(
    config: ConfigDict,
    dataset: Dataset,
    devices: Sequence[jax.Device] | None = None,
    keep: Keep | None = None,
) -> Step:
    """Compiles the training step of a config.

    Args:
      config: config of the run.
      dataset: facts about its training data.
      devices: devices to compile for; None: those present.
      keep: see `compile_run`.

    Raises:
      InputError: the config is wrong.
    """
    devices = devices or suited_devices(config.parallel, config.batch_size)
    engine = create_engine(config.parallel, devices)
    hosts = {device.process_index for device in engine.mesh.devices.flat}
    if config.parallel.engine == "pmap" and len(hosts) > 1:
        raise InputError(
            f"config.parallel.engine=pmap compiles for one host, not for {len(hosts)}: plan with "
            "--config.parallel.engine=pjit, whose data parallelism sends the same"
        )
    # A plan needs no weights; if init_from does not exist, the model has its default options.
    known = expand(config.init_from).exists() and starting_weights(config, "")
    return compile_run(prepare(config, dataset, engine, known.model if known else None), keep)


def compile_run(run: Run, keep: Keep | None = None) -> Step:
    """Compiles the training step of a run that is prepared.

    Args:
      run: the run.
      keep: function that is given the compiled step; not called if it does not fit.
    """
    state = run.abstract
    params, ema = local_bytes(state.params), local_bytes(state.ema)
    optimizer = local_bytes(state) - params - ema
    teacher = local_bytes(run.teacher.abstract) if run.teacher else 0
    kept = params + optimizer + ema + teacher
    limit: int | None
    start = time.perf_counter()
    try:
        lowered = run.train_step.lower(state, abstract_batch(run))
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        total, limit = _what_did_not_fit(error, kept)
        batch, fits, found, traffic, operations = 0, False, None, None, None
    else:
        memory: Any = compiled.memory_analysis()
        arguments = memory.argument_size_in_bytes
        new = memory.output_size_in_bytes - memory.alias_size_in_bytes
        total = arguments + new + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
        batch = arguments - kept
        limit = memory_of(run.engine.mesh.devices.flat[0])
        fits = limit is None or total <= limit
        found, traffic, operations = _read(compiled)
        if keep and fits:
            keep(run, lowered, compiled)
    return Step(
        run=run,
        params_bytes=params,
        optimizer_bytes=optimizer,
        ema_bytes=ema,
        batch_bytes=batch,
        temporary_bytes=total - kept - batch,
        limit_bytes=limit,
        fits=fits,
        found=found,
        traffic_bytes=traffic,
        operations=operations,
        compile_seconds=time.perf_counter() - start,
        teacher_bytes=teacher,
    )


def local_bytes(tree: Any) -> int:
    """Bytes that one device holds of a pytree of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def memory_of(device: jax.Device) -> int | None:
    """Memory of a device in bytes, None if unknown; CPU devices share the machine's memory."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return machine // jax.local_device_count("cpu")
    if chip := hardware.find_chip(device.device_kind):
        return int(chip.memory_bytes / chip.devices)
    try:
        return device.memory_stats()["bytes_limit"]  # of one that is present
    except (jax.errors.JaxRuntimeError, AttributeError, TypeError, KeyError):
        return None


def _read(
    compiled: jax.stages.Compiled,
) -> tuple[tuple[Collective, ...] | None, int | None, tuple[Operation, ...] | None]:
    """Collectives, memory traffic and operations; None if the compiled text cannot be parsed."""
    try:
        module = Module(compiled.as_text() or "")
        found, traffic = tuple(find_collectives(module)), memory_traffic(module)
        return found, traffic, tuple(find_operations(module))
    except ValueError as error:
        log.warning("collectives and memory traffic are not counted: %s", error)
        return None, None, None


def _what_did_not_fit(error: jax.errors.JaxRuntimeError, kept: int) -> tuple[int, int]:
    """Bytes that a device would need, and bytes that it has; other errors are raised again."""
    for pattern, base in ((_TOO_MUCH, 0), (_TOO_TEMPORARY, kept)):
        if match := pattern.search(str(error)):
            used, limit = (_bytes(text) for text in match.groups())
            return base + used, limit
    raise error


def _bytes(text: str) -> int:
    """The bytes of a size such as "1.5G"."""
    return int(float(text[:-1]) * 2 ** (10 * ("KMGT".index(text[-1]) + 1)))
