"""Speed of a model's compiled step on synthetic data that stay on the devices.

The timed step is the one of a run: the training step with its optimizer, clipping and
metrics, or the forward pass from uint8 pixels to logits. Steps overlap as in a run, so that
the time of a step is the time between the ends of two.
"""

import dataclasses
import functools
import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax.config import default, duration
from vit_jax.errors import InputError, unknown
from vit_jax.models import flops
from vit_jax.models.layers import DTYPES, shard_batch
from vit_jax.models.variants import model_config
from vit_jax.parallel import hardware
from vit_jax.plan.compile import memory_of
from vit_jax.tasks import Task
from vit_jax.train.batches import abstract_batch
from vit_jax.train.config import DEFAULT_MODEL
from vit_jax.train.run import Dataset, Run, prepare
from vit_jax.train.state import TrainState
from vit_jax.weights.adapters.lora import merge

log = logging.getLogger(__name__)

MODES = ("train", "infer")
# ImageNet; the size of images is that of the model.
DATASET = Dataset(1_281_167, 1000, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WARM_UP = 2  # steps after compilation that are not timed
IN_FLIGHT = 2  # steps dispatched ahead of the oldest unfinished one, as in training


class OutOfMemory(InputError):
    """The devices have no room for the batch."""


@dataclasses.dataclass
class Case:
    """A step ready to run."""

    run: Run
    mode: str
    compiled: Any  # jax.stages.Compiled
    compile_seconds: float  # tracing included
    carry: Any  # the training state, or the parameters
    batch: dict[str, jax.Array]

    def outputs(self, count: int) -> Iterator[Any]:
        """Dispatches `count` more steps; yields an output of each, ready when the step ends."""
        for _ in range(count):
            if self.mode == "train":
                self.carry, output = self.compiled(self.carry, self.batch)
            else:
                output = self.compiled(self.carry, self.batch)
            yield output


def run_config(
    model: str,
    *,
    batch_size: int,
    image_size: int | None = None,
    dtype: str | None = None,
    unroll: int = 0,
) -> ConfigDict:
    """The config of a run for benchmarks: AdamW with weight decay, warm-up and clipping.

    Args:
      model: name, as listed by `vit_jax models`.
      batch_size: batch size over all devices.
      image_size: size of images in pixels; None: the model's own, 224 (iGPT: 32).
      dtype: dtype of matrix products; None: bfloat16, on CPUs float32.
      unroll: value of config.model.unroll.

    Raises:
      InputError: no such dtype, or a size below 1.
    """
    dtype = dtype or default_dtype()
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    for name, value in (("batch size", batch_size), ("image size", image_size)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: give at least 1")
    config = default()
    config.batch_size = batch_size
    config.total = duration(steps=100_000)
    config.model.name = model
    config.model.image_size = image_size or model_config(model).image_size[0]
    config.model.dtype = dtype
    config.model.unroll = unroll
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = duration(steps=10_000)
    config.optimizer.clip_norm = 1.0
    return config


def default_dtype() -> str:
    """The default dtype of matrix products: float32 on CPUs, else bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def create_case(
    config: ConfigDict, mode: str, *, compiler_options: dict[str, Any] | None = None
) -> Case:
    """Compiles the step of a config and puts its inputs on the devices.

    Args:
      config: config of the run; its data are not opened, images have the size of the model.
      mode: train or infer.
      compiler_options: options for XLA.

    Raises:
      InputError: the config is wrong.
      OutOfMemory: the step does not fit.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    run = prepare(config, DATASET)
    try:
        return _create_case(run, mode, compiler_options)
    except jax.errors.JaxRuntimeError as error:
        raise _out_of_memory(config, error) from error


def _create_case(run: Run, mode: str, compiler_options: dict[str, Any] | None) -> Case:
    engine, batch_size = run.engine, run.config.batch_size
    if mode == "train":
        step, carry = run.train_step, run.abstract
    else:
        step = engine.compile_eval(functools.partial(make_infer_step, run.task))
        carry = run.abstract.params
    batch = abstract_batch(run)
    start = time.perf_counter()
    compiled = step.lower(carry, batch).compile(compiler_options)
    compile_seconds = time.perf_counter() - start
    needed, room = _bytes(compiled), memory_of(run.engine.mesh.devices.flat[0])
    if room and needed > room:
        raise OutOfMemory(f"{_name(run.config)} takes {needed:,} bytes of {room:,} on each device")
    if mode == "train":
        carry = engine.init(run.create)
    else:
        # XLA does not compute the unused parts of the state.
        def create() -> TrainState:
            return dataclasses.replace(run.create(), opt_state=(), ema=None)

        carry = engine.init(create).params
    rng = np.random.default_rng(0)
    rows = len(engine.rows(batch_size))
    arrays = dict(
        image=rng.integers(0, 256, (rows, *run.model_config.input_size, 3), np.uint8),
        label=rng.integers(0, DATASET.num_classes, (rows,), np.int32),
    )
    arrays = {name: arrays[name] for name in run.task.batch_fields}
    return Case(run, mode, compiled, compile_seconds, carry, engine.put_batch(arrays, batch_size))


def make_infer_step(
    task: Task, axis_name: str | None = None
) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
    """Makes (params, batch) -> logits (B, K) of the batch's uint8 images."""
    del axis_name  # examples are independent

    def step(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        images = task.normalize(shard_batch(batch["image"]))
        return task.model(merge(params, task.setting.config.lora.alpha))(images)

    return step


def benchmark(config: ConfigDict, mode: str, *, steps: int = 20) -> dict[str, Any]:
    """Times the step of a config.

    Args:
      config: config of the run; see `run_config`.
      mode: train or infer.
      steps: number of steps to time, at least 1.

    Returns:
      The document that `vit_jax benchmark --json` prints. Speeds are those of the median step,
      `step_ms_spread` holds the 10th and 90th percentile, `mfu` is null if the device's peak
      speed is unknown, and `peak_bytes` is per device.

    Raises:
      InputError: the config is wrong.
      OutOfMemory: the step does not fit.
    """
    if steps < 1:
        raise InputError(f"steps {steps}: give at least 1")
    case = create_case(config, mode)
    try:
        seconds = time_steps(case, steps)
    except jax.errors.JaxRuntimeError as error:
        raise _out_of_memory(config, error) from error
    return describe(case, seconds)


def time_steps(case: Case, steps: int) -> list[float]:
    """Seconds of each of `steps` steps, after WARM_UP others."""
    ends = list(step_ends(case.outputs(WARM_UP + steps)))[WARM_UP - 1 :]
    return [after - before for before, after in zip(ends, ends[1:])]


def step_ends(outputs: Iterator[Any]) -> Iterator[float]:
    """Yields the time at which each step ended, with as many in flight as in training."""
    waiting: list[Any] = []
    for output in outputs:
        waiting.append(output)
        if len(waiting) == IN_FLIGHT:
            jax.block_until_ready(waiting.pop(0))
            yield time.perf_counter()
    for output in waiting:
        jax.block_until_ready(output)
        yield time.perf_counter()


def describe(case: Case, seconds: Sequence[float]) -> dict[str, Any]:
    """The results of a case, given the seconds of its steps; see `benchmark`."""
    run, devices = case.run, case.run.engine.mesh.devices
    batch_size, device = run.config.batch_size, devices.flat[0]
    median = statistics.median(seconds)
    speed = batch_size / median
    forward = flops.forward_flops(run.model_config)
    per_image = run.train_flops() if case.mode == "train" else forward
    peak = hardware.peak_flops(device)
    return dict(
        model=run.model_name,
        mode=case.mode,
        batch_size=batch_size,
        image_size=list(run.model_config.image_size),
        dtype=run.model_config.dtype,
        device=device.device_kind,
        devices=devices.size,
        steps=len(seconds),
        images_per_second=speed,
        images_per_second_per_device=speed / devices.size,
        step_ms=1000 * median,
        step_ms_spread=[1000 * x for x in np.percentile(seconds, [10, 90])],
        flops_per_image=per_image,
        mfu=speed * per_image / (peak * devices.size) if peak else None,
        compile_seconds=case.compile_seconds,
        peak_bytes=_peak_bytes(case.compiled, device),
        params=sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params)),
        jax=jax.__version__,
    )


def sweep(config: ConfigDict, mode: str, *, steps: int = 20) -> dict[str, Any]:
    """Doubles the batch size, from the config's on, until it is slower or does not fit.

    Returns:
      `benchmark` of the fastest batch, with `sweep`: the results of all batches, in order; one
      that does not fit has `images_per_second` null.
    """
    best, tried = None, []
    while True:
        size = config.batch_size
        try:
            result = benchmark(config, mode, steps=steps)
        except OutOfMemory as error:
            if best is None:
                raise
            tried.append(dict(batch_size=size, images_per_second=None, step_ms=None))
            log.info("batch %d does not fit: %s", size, error)
            break
        tried.append({key: result[key] for key in ("batch_size", "images_per_second", "step_ms")})
        log.info("batch %d: %.1f images/s", size, result["images_per_second"])
        if best and result["images_per_second"] <= best["images_per_second"]:
            break
        best = result
        gc.collect()  # frees the buffers of the last case before the next one is made
        config.batch_size = 2 * size
    return dict(best, sweep=tried)


def _bytes(compiled: Any) -> int:
    """Bytes that one device needs for a compiled step, its arguments included."""
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + new + memory.temp_size_in_bytes


def _peak_bytes(compiled: Any, device: jax.Device) -> int:
    """The device's peak memory in bytes or, if it does not report it, what the step needs."""
    stats = device.memory_stats() or {}
    return stats.get("peak_bytes_in_use", _bytes(compiled))


def _out_of_memory(config: ConfigDict, error: jax.errors.JaxRuntimeError) -> Exception:
    if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error).lower():
        return error
    return OutOfMemory(f"{_name(config)} does not fit: {str(error).splitlines()[0]}")


def _name(config: ConfigDict) -> str:
    return f"{config.model.name or DEFAULT_MODEL} at batch {config.batch_size}"
