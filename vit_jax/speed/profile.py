"""The time of a compiled step by part of the model, from a profiler's trace.

Parts of the model are named scopes (`jax.named_scope`), which the compiled program keeps with
each instruction; the trace says when instructions ran. An instruction that fuses several parts
counts for the part of its result.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.speed.benchmark import WARM_UP, create_case, step_ends

# The outermost of these scopes decides; instructions without one count as "other": residual
# connections, position embeddings, pixels.
PARTS = ("stem", "embedding", "attention", "mlp", "norm", "head", "loss", "optimizer")
OTHER = "other"
TRACED_STEPS = 3
# Instructions that contain others, which the trace has too.
CONTAINERS = ("while", "conditional", "call")
# CUDA graphs hide which instruction a kernel belongs to.
GPU_OPTIONS = {"xla_gpu_enable_command_buffer": ""}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\([^=]*\)|\S+) ([\w-]+)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_MODULE = re.compile(r"HloModule ([\w.-]+)")


def profile(config: ConfigDict, mode: str, directory: str) -> dict[str, Any]:
    """Traces a few steps of a config.

    Args:
      config: config of the run; see `benchmark.run_config`.
      mode: train or infer.
      directory: folder for the trace, which TensorBoard and Perfetto can read.

    Returns:
      `directory`; `step_ms`, the mean of the traced steps; `parts`, a list of {`part`,
      `forward_ms`, `backward_ms`} in the order of PARTS, the time for which devices were busy
      with each. Operations that ran at the same time count in full.

    Raises:
      InputError: the config is wrong, or the device's trace names no operations.
    """
    options = GPU_OPTIONS if jax.default_backend() == "gpu" else None
    case = create_case(config, mode, compiler_options=options)
    outputs = case.outputs(WARM_UP + TRACED_STEPS)
    for _ in range(WARM_UP):
        jax.block_until_ready(next(outputs))
    tracing = jax.profiler.ProfileOptions()
    tracing.python_tracer_level = 0
    with jax.profiler.trace(directory, profiler_options=tracing):
        ends = list(step_ends(outputs))
    text = case.compiled.as_text()
    named = _MODULE.search(text)
    module = named[1] if named else ""
    spent = by_part(text, busy_seconds(newest_trace(Path(directory)), module))
    if not spent:
        raise InputError(f"the trace of {jax.devices()[0].device_kind} names no operations")
    devices = len(case.run.engine.mesh.local_devices)

    def milliseconds(part: str, backward: bool) -> float:
        return 1000 * spent[part, backward] / (TRACED_STEPS * devices)

    return dict(
        directory=directory,
        step_ms=1000 * (ends[-1] - ends[0]) / (TRACED_STEPS - 1),
        parts=[
            dict(
                part=part,
                forward_ms=milliseconds(part, False),
                backward_ms=milliseconds(part, True),
            )
            for part in (*PARTS, OTHER)
            if (part, False) in spent or (part, True) in spent
        ],
    )


def newest_trace(directory: Path) -> Path:
    """The trace that was written last into a directory."""
    return max(directory.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def busy_seconds(path: Path, module: str) -> dict[str, float]:
    """Seconds that each HLO instruction of a module took in a trace, all devices together."""
    seconds: dict[str, float] = defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        lines = list(plane.lines)
        # TPUs also show steps and modules, which contain the operations.
        if any(line.name == "XLA Ops" for line in lines):
            lines = [line for line in lines if line.name == "XLA Ops"]
        for name, nanoseconds in _instructions(lines, module):
            seconds[name] += nanoseconds / 1e9
    return seconds


def _instructions(lines: list[Any], module: str) -> Iterator[tuple[str, float]]:
    """(instruction, nanoseconds) of every execution in a plane of the trace."""
    events = [event for line in lines for event in line.events]
    handed_on: dict[int, tuple[str, float]] = {}  # work that a CPU continues in other threads
    for event in sorted(events, key=lambda event: event.start_ns):
        stats = dict(event.stats)
        name = stats.get("hlo_op")
        if name and stats.get("hlo_module", module) == module:
            if "_p" in stats:
                handed_on[stats["_p"]] = (name, event.start_ns)
            else:
                yield name, event.duration_ns
        elif event.name.startswith("end: ") and stats.get("_c") in handed_on:
            name, start = handed_on.pop(stats["_c"])
            yield name, event.start_ns - start


def by_part(text: str, seconds: Mapping[str, float]) -> dict[tuple[str, bool], float]:
    """Seconds of each (part, whether of the backward pass).

    Args:
      text: text of the compiled module.
      seconds: seconds of its instructions, by name.
    """
    spent: dict[tuple[str, bool], float] = defaultdict(float)
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match and match[1] in seconds and match[2] not in CONTAINERS:
            op_name = _OP_NAME.search(line)
            spent[part_of(op_name[1] if op_name else "")] += seconds[match[1]]
    return spent


def part_of(op_name: str) -> tuple[str, bool]:
    """The part of an instruction, and whether it is of the backward pass, from JAX's op name.

    "jit(step)/transpose(jvp(mlp))/dot_general" -> ("mlp", True).
    """
    words = re.findall(r"\w+", op_name)
    part = next((word for word in words if word in PARTS), OTHER)
    return part, "transpose(" in op_name
