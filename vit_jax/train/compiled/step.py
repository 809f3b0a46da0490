"""Saves a run's compiled step, and loads it in place of compiling."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable

from vit_jax.errors import InputError
from vit_jax.options import flatten
from vit_jax.parallel.engines import CompiledStep, WithFrozen
from vit_jax.parallel.mesh import num_slices
from vit_jax.text import first_line, some
from vit_jax.train.batches import abstract_batch
from vit_jax.train.compiled import file
from vit_jax.train.run import Run

# Sections of a config that no training step depends on.
_OTHER = ("log", "checkpoint", "watchdog", "evals", "eval_every")


class LoadedStep:
    """A step whose program was compiled before; `lower` traces it as it is now."""

    def __init__(self, program: jax.stages.Compiled, step: CompiledStep):
        """`step`: the same step, not compiled."""
        self.program, self._step = program, step

    def __call__(self, *args: Any) -> Any:
        return self.program(*args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        return self._step.lower(*args)


def save(path: str, run: Run, lowered: jax.stages.Lowered, compiled: jax.stages.Compiled) -> None:
    """Saves a compiled step with the facts that `load_step` compares.

    Args:
      path: path of the file.
      run: the run of the step.
      lowered: the step as it was traced for `run`.
      compiled: `lowered`, compiled.

    Raises:
      InputError: the step cannot be saved, or the file not be written.
    """
    check_one_program(run, "--save")
    try:
        payload, _, _ = serialize_executable.serialize(compiled)
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise InputError(
            f"--save={path}: this executable cannot be serialized: {first_line(error)}"
        ) from error
    file.write(path, dict(_facts(run), program=_digest(lowered), config=_options(run)), payload)


def load_step(path: str | None, run: Run) -> Run:
    """The run with the step of a file, which must be exactly the run's own.

    The step is traced, which takes seconds, and its program compared with the file's, so that
    every option, fact about the data and line of code that changes the step is noticed.

    Args:
      path: file that `save` wrote; None: the run stays as it is. Loading it can run any code:
        take only files of your own.
      run: the run, before its first step.

    Raises:
      InputError: it is no such file, or of another step.
    """
    if path is None:
        return run
    check_one_program(run, "--compiled")
    stored, payload = file.read(path)
    for name, own in _facts(run).items():
        if stored.get(name) != own:
            raise InputError(
                f"--compiled={path} was compiled for {name} {stored.get(name)!r}, and this run has "
                f"{own!r}: make it again with `vit_jax plan --save`"
            )
    lowered = run.train_step.lower(run.abstract, abstract_batch(run))
    if stored.get("program") != _digest(lowered):
        raise InputError(
            f"--compiled={path} holds another step: {_differences(stored, run)}; make it again "
            "with `vit_jax plan --save`"
        )
    try:
        program = serialize_executable.deserialize_and_load(
            payload,
            lowered.in_tree,
            lowered.out_tree,
            execution_devices=list(run.engine.mesh.devices.flat),
        )
    except Exception as error:  # whatever a runtime of another version raises
        raise InputError(
            f"--compiled={path}: the devices do not take it: {first_line(error)}"
        ) from error
    step: CompiledStep
    if isinstance(run.train_step, WithFrozen):
        step = run.train_step.around(lambda inner: LoadedStep(program, inner))
    else:
        step = LoadedStep(program, run.train_step)
    stages = tuple(dataclasses.replace(stage, train_step=step) for stage in run.stages)
    return dataclasses.replace(run, train_step=step, stages=stages)


def is_loaded(run: Run) -> bool:
    """Whether the run's step comes from a file."""
    step = run.train_step
    return isinstance(step.inner if isinstance(step, WithFrozen) else step, LoadedStep)


def check_one_program(run: Run, flag: str) -> None:
    """Refuses runs whose steps are several programs.

    Raises:
      InputError: config.progressive is in use.
    """
    if len(run.stages) > 1:
        raise InputError(
            f"{flag} holds one program, and config.progressive.sizes needs {len(run.stages)}: "
            f"leave one of them out"
        )


def _facts(run: Run) -> dict[str, Any]:
    """What a program depends on besides its own text; JSON gives it back as it is."""
    devices = list(run.engine.mesh.devices.flat)
    facts = {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "slices": num_slices(devices),
        "processes": len({device.process_index for device in devices}),
        "engine": run.config.parallel.engine,
        "mesh": " ".join(f"{axis}={size}" for axis, size in run.engine.mesh.shape.items()),
        "model": run.model_name,
        "steps": run.total_steps,
    }
    return json.loads(json.dumps(facts))


def _digest(lowered: jax.stages.Lowered) -> str:
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def _options(run: Run) -> dict[str, Any]:
    """The options that may change the step, as JSON gives them back."""
    config = {k: v for k, v in run.config.to_dict().items() if k not in _OTHER}
    return dict(flatten(json.loads(json.dumps(config, default=str))))


def _differences(stored: dict[str, Any], run: Run) -> str:
    """The options that differ, in words."""
    there, here = stored.get("config", {}), _options(run)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if not names:
        return "the code or the facts about the data differ, not the config"
    return some([f"config.{n} {there.get(n)!r} there, {here.get(n)!r} here" for n in names])
