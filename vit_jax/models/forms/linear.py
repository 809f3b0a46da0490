"""Linear functions whose transpose is written out, for derivatives of any order and mode."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]
# (residuals, inputs) -> outputs, linear in the inputs.
Linear = Callable[[Arrays, Arrays], Arrays]
# (residuals, cotangents of the outputs) -> cotangents of the inputs.
Transpose = Callable[[Arrays, Arrays], Arrays]


def linear(
    function: Linear, transpose: Transpose, residuals: Arrays, inputs: Arrays
) -> list[jax.Array]:
    """function(residuals, inputs), whose transpose is `transpose`.

    Called in the rule of a `jax.custom_jvp`, it gives reverse mode a derivative of one's own, as
    `jax.custom_vjp` does. Unlike there, forward mode works too, and derivatives of higher order:
    they differentiate `function` and `transpose` as they are written.

    Args:
      function: the derivative, linear in its second argument.
      transpose: its transpose with respect to the second argument.
      residuals: arrays that are kept for the backward pass.
      inputs: tangents.
    """
    return _linear.bind(
        *residuals, *inputs, function=function, transpose=transpose, count=len(residuals)
    )


_linear = Primitive("linear_with_transpose")
_linear.multiple_results = True


@_linear.def_impl
def _run(*args: jax.Array, function: Linear, transpose: Transpose, count: int) -> list[jax.Array]:
    del transpose
    return list(function(args[:count], args[count:]))


@_linear.def_abstract_eval
def _shapes(*args: Any, function: Linear, transpose: Transpose, count: int) -> list[Any]:
    del transpose
    return list(jax.make_jaxpr(function)(args[:count], args[count:]).out_avals)


def _jvp(primals: Any, tangents: Any, **options: Any) -> Any:
    tangents = map(ad.instantiate_zeros, tangents)
    return jax.jvp(lambda *args: _run(*args, **options), tuple(primals), tuple(tangents))


def _transpose(
    cotangents: Any, *args: Any, function: Linear, transpose: Transpose, count: int
) -> list[Any]:
    del function
    cotangents = [ad.instantiate_zeros(each) for each in cotangents]
    found = transpose(args[:count], cotangents)
    inputs = zip(args[count:], found, strict=True)
    return [None] * count + [each if ad.is_undefined_primal(x) else None for x, each in inputs]


def _batch(args: Any, axes: Any, **options: Any) -> Any:
    outputs = jax.vmap(lambda *args: _run(*args, **options), axes)(*args)
    return outputs, [0] * len(outputs)


ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
