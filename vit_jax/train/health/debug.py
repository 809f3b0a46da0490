"""Finds the operation that produces the first numbers that are not finite.

The loss and its gradient are traced without jit, which leaves a flat list of primitive
operations, and run one by one.
"""

import linecache
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend import core

from vit_jax.train.optim import gradient_point
from vit_jax.train.progressive.stages import stage_at
from vit_jax.train.run import Run
from vit_jax.train.state import TrainState
from vit_jax.train.step import make_gradient
from vit_jax.trees import path_name

# Primitives that only wrap a list of operations.
_WRAPPERS = (
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call",
)  # fmt: skip
_PACKAGE = str(Path(__file__).parents[2])


def find_first(function: Callable, *args: Any) -> str:
    """Says in one line where numbers that are not finite first appear.

    Args:
      function: traceable function.
      args: pytrees of arrays on this process's devices.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        if not _finite(leaf):
            return f"the input {path_name(path[1:])} is not finite itself: {_bad(leaf)}"
    with jax.disable_jit():
        closed = jax.make_jaxpr(function)(*args)
        found = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
    if isinstance(found, str):
        return found
    return "one operation after the other, on one device, everything is finite"


def on_one_device(params: Any, batch: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
    """Parameters and a global batch of any engine as whole arrays on one local device."""

    def gather(x: jax.Array) -> np.ndarray:
        whole = x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x) if whole else multihost_utils.process_allgather(x, tiled=True)

    params, batch = jax.tree.map(gather, (params, batch))
    if batch["image"].ndim == 5:  # pmap's have an axis over devices
        batch = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
    return jax.device_put((params, batch), jax.local_devices()[0])


def _run(jaxpr: core.Jaxpr, consts: list[Any], args: list[Any]) -> list[Any] | str:
    """The results of a list of operations, or the line about the first bad one."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        results = _apply(equation, inputs)
        if isinstance(results, str):
            return results
        if all(map(_finite, inputs)) and not all(map(_finite, results)):
            return _describe(equation, inputs, results)
        values.update(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, inputs: list[Any]) -> list[Any] | str:
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if equation.primitive.name in _WRAPPERS and inner is not None:
        if isinstance(inner, core.ClosedJaxpr):
            return _run(inner.jaxpr, inner.consts, inputs)
        return _run(inner, [], inputs)
    results = equation.primitive.bind(*inputs, **equation.params)
    return results if equation.primitive.multiple_results else [results]


def _describe(equation: core.JaxprEqn, inputs: list[Any], results: list[Any]) -> str:
    bad = next(result for result in results if not _finite(result))
    ranges = ", ".join(
        f"{x.dtype}{list(x.shape)} in [{np.min(x):.4g}, {np.max(x):.4g}]"
        for x in map(np.asarray, inputs)
        if x.size and jnp.issubdtype(x.dtype, jnp.floating)
    )
    return f"{equation.primitive.name} at {_line(equation)} gives {_bad(bad)} of {ranges}"


def _line(equation: core.JaxprEqn) -> str:
    """The innermost line of this package that led to an operation."""
    trace = equation.source_info.traceback
    frames: Sequence[Any] = trace.frames if trace else ()
    for frame in frames:
        if frame.file_name.startswith(_PACKAGE) and frame.file_name != __file__:
            code = linecache.getline(frame.file_name, frame.line_num).strip()
            place = Path(frame.file_name).relative_to(Path(_PACKAGE).parent)
            return f"{place}:{frame.line_num}, in {frame.function_name} ({code}),"
    return "an unknown line"


def _bad(x: Any) -> str:
    x = np.asarray(x, np.float32)
    nans, infinities = int(np.isnan(x).sum()), int(np.isinf(x).sum())
    return f"{nans:,} NaN and {infinities:,} infinite of {x.size:,} numbers"


def _finite(x: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(x), jnp.floating) or bool(jnp.isfinite(x).all())


def find_cause(run: Run, state: TrainState, batch: dict[str, jax.Array], step: int) -> str:
    """Describes the first operation of a step whose result is not finite; see `find_first`.

    Args:
      run: the run.
      state: state with which the step begins.
      batch: batch of the step.
      step: number of the step, from 0.
    """
    point = gradient_point(run.config.optimizer, state.params, state.opt_state)
    inputs = on_one_device(point, batch)
    task = stage_at(run.stages, step).task
    if run.teacher:
        task = task.with_frozen(on_one_device(run.teacher.params, batch)[0])
    return find_first(make_gradient(task), *inputs, step)
