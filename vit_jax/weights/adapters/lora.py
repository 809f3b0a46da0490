"""LoRA (2106.09685): frozen kernels with trained low-rank updates, W + alpha / rank * A B.

The update of a kernel is two parameters of its own, A and B, under "lora/" in the parameters of a
run: "lora/blocks/attention/query/a/kernel" (layers, inputs, rank) and ".../b/kernel" (layers,
rank, outputs). The training step adds their products to the kernels before the forward pass
(`merge`); the model sees kernels alone. Therefore every kind of block, rematerialisation, scan,
sharding and engine works as without LoRA, and optimizer, averages and checkpoints treat A and B
like other parameters.

Cost of a step, for each adapted kernel of I inputs and O outputs: the products A B and, backwards,
two of the same size (3 I O rank multiply-accumulates, no matter how large the batch is), one more
copy of the kernel and of its gradient in float32, and the weight gradient, which full training
computes as well. Keeping the products apart, (x A) B, would save the latter, but would need each
layer to be changed. Dropout of x before A (peft's `lora_dropout`) cannot be expressed.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from vit_jax.errors import InputError, unknown
from vit_jax.options import option

LORA = "lora"
QKV = ("query", "key", "value")
# Target -> pattern of the kernels' paths.
TARGETS = {
    **dict.fromkeys(QKV, r"blocks/(?:.*/)?attention/qkv"),
    "out": r"blocks/(?:.*/)?attention/out",
    "fc1": r"blocks/(?:.*/)?mlp/(?:fc1|gated)",
    "fc2": r"blocks/(?:.*/)?mlp/fc2",
}


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """`config.lora`."""

    rank: int = option(
        0,
        "rank of the trained updates of frozen kernels (LoRA, 2106.09685); adapter and head are "
        "trained, all else is frozen, unless optimizer.train says otherwise; 0: off",
        at_least=0,
    )
    alpha: float = option(16.0, "updates are scaled by alpha / rank", above=0)
    targets: tuple[str, ...] = option(
        ("query", "value"), "projections that are adapted: query, key, value, out, fc1, fc2"
    )


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A trained adapter.

    Attributes:
      alpha: its updates are alpha / rank * A B.
      pairs: module, such as "blocks/attention/query" -> A (layers, *inputs, rank) and
        B (layers, rank, *outputs).
    """

    alpha: float
    pairs: dict[str, tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An adapted kernel, or one of query, key and value of a packed kernel.

    Attributes:
      module: path of its A and B below "lora/", such as "blocks/attention/query".
      kernel: path of the kernel, such as "blocks/attention/qkv/kernel".
      part: index in the packed kernel (layers, inputs, 3, heads, head width); None: the whole.
      inputs, outputs: shapes of the kernel's inputs and outputs in one layer.
      layers: number of layers.
    """

    module: str
    kernel: str
    part: int | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layers: int


def adapted(shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]) -> list[Adapted]:
    """The kernels of a model that targets name, in the order of their paths.

    Args:
      shapes: path -> shape of the model's parameters.
      targets: names in `TARGETS`.

    Raises:
      InputError: no targets, an unknown one, or one that the model lacks.
    """
    where = "config.lora.targets"
    if not targets:
        raise InputError(f"{where} is empty; name some of {', '.join(TARGETS)}")
    found = []
    for target in targets:
        if target not in TARGETS:
            raise unknown(where, str(target), TARGETS)
        paths = [path for path in shapes if re.fullmatch(f"{TARGETS[target]}/kernel", path)]
        if not paths:
            raise InputError(
                f"{where}: the model has no {target!r} in Transformer blocks; LoRA adapts ViTs"
            )
        found += [_adapted(path, shapes[path], target) for path in paths]
    if len(set(targets)) < len(targets):
        raise InputError(f"{where} {targets} names a projection twice")
    return sorted(found, key=lambda one: one.module)


def _adapted(kernel: str, shape: tuple[int, ...], target: str) -> Adapted:
    module = kernel.removesuffix("/kernel")
    if target in QKV:
        module = f"{module.removesuffix('/qkv')}/{target}"
        return Adapted(module, kernel, QKV.index(target), shape[1:2], shape[3:], shape[0])
    inputs = 2 if target == "out" else 1
    return Adapted(module, kernel, None, shape[1 : 1 + inputs], shape[1 + inputs :], shape[0])


def add_lora(params: Any, options: LoraOptions, seed: int) -> Any:
    """The parameters with a fresh adapter, whose update is zero; traceable.

    A is drawn as peft does (kaiming_uniform with a = sqrt(5)): uniformly within
    1 / sqrt(inputs). B is zero.

    Args:
      params: nested dict of the model's parameters, stacked by layer.
      options: `config.lora`; rank 0 leaves the parameters as they are.
      seed: seed of A.

    Raises:
      InputError: as `adapted`.
    """
    if not options.rank:
        return params
    shapes = {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    key = jax.random.key(seed)
    leaves = {}
    for one in adapted(shapes, tuple(options.targets)):
        bound = math.prod(one.inputs) ** -0.5
        own = jax.random.fold_in(key, zlib.crc32(one.module.encode()))
        a = (one.layers, *one.inputs, options.rank)
        b = (one.layers, options.rank, *one.outputs)
        leaves[f"{one.module}/a/kernel"] = jax.random.uniform(own, a, jnp.float32, -bound, bound)
        leaves[f"{one.module}/b/kernel"] = jnp.zeros(b, jnp.float32)
    return {**params, LORA: traverse_util.unflatten_dict(leaves, sep="/")}


def merge(params: Any, alpha: float) -> Any:
    """The model's parameters with the adapter's updates added; traceable.

    Args:
      params: nested dict, with or without "lora".
      alpha: `config.lora.alpha`.
    """
    if LORA not in params:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    parts: dict[str, dict[int | None, jax.Array]] = {}
    for module, (a, b) in pairs(params[LORA]).items():
        kernel, part = kernel_of(module)
        parts.setdefault(kernel, {})[part] = update(a, b, alpha)
    for kernel, updates in parts.items():
        if None in updates:
            flat[kernel] = flat[kernel] + updates[None]
            continue
        zeros = jnp.zeros_like(next(iter(updates.values())))
        flat[kernel] = flat[kernel] + jnp.stack([updates.get(i, zeros) for i in range(3)], axis=2)
    kept = {path: leaf for path, leaf in flat.items() if not path.startswith(f"{LORA}/")}
    return traverse_util.unflatten_dict(kept, sep="/")


def pairs(lora: Any) -> dict[str, tuple[Any, Any]]:
    """Module -> (A, B) of an adapter's nested dict."""
    flat = traverse_util.flatten_dict(lora, sep="/")
    modules = sorted(
        {path.removesuffix("/a/kernel") for path in flat if path.endswith("/a/kernel")}
    )
    return {module: (flat[f"{module}/a/kernel"], flat[f"{module}/b/kernel"]) for module in modules}


def kernel_of(module: str) -> tuple[str, int | None]:
    """The path of the kernel that a module updates, and the index if it is packed."""
    parent, _, last = module.rpartition("/")
    if last in QKV:
        return f"{parent}/qkv/kernel", QKV.index(last)
    return f"{module}/kernel", None


def update(a: jax.Array, b: jax.Array, alpha: float) -> jax.Array:
    """alpha / rank * A B; (L, *inputs, r), (L, r, *outputs) -> (L, *inputs, *outputs)."""
    inputs, outputs = "ij"[: a.ndim - 2], "op"[: b.ndim - 2]
    product = jnp.einsum(
        f"l{inputs}r,lr{outputs}->l{inputs}{outputs}", a, b, precision=lax.Precision.HIGHEST
    )
    return alpha / a.shape[-1] * product
