"""Sharding rules: parameter path -> PartitionSpec; models carry no sharding metadata."""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.trees import named_leaves, path_name

# The axis that tensor parallelism splits, counted from the end: heads or MLP width.
# The second product of a branch sums over it, so that a branch needs one reduction.
TENSOR_AXES = (
    (r"(qkv|query|query_value|query_key|key_value)/(kernel|bias)$", -2),
    (r"posemb/offsets$", -2),
    (r"attention/relative/(rows|columns)$", -2),
    (r"rotary/frequencies$", -2),
    (r"position_bias/table$", -1),
    (r"attention/(out|value)/kernel$", -3),
    (r"map_head/out/kernel$", -3),
    (r"mlp/(fc1|gated)/(kernel|bias)$", -1),
    (r"mlp/fc2/kernel$", -2),
    # Of LoRA, A where inputs are split, B where outputs are.
    (r"lora/.*/(query|key|value)/b/kernel$", -2),
    (r"lora/.*attention/out/a/kernel$", -3),
    (r"lora/.*mlp/(fc1|gated)/b/kernel$", -1),
    (r"lora/.*mlp/fc2/a/kernel$", -2),
)
# The axis that fsdp splits, counted from the end, if it divides it; other parameters are split
# along their largest axis. A TPU computes the gradients of these kernels with one of their other
# axes along its lanes; scattered along this one, they need no other layout.
FSDP_AXES = (
    (r"attention/qkv/kernel$", -2),
    (r"attention/out/kernel$", -3),
    (r"mlp/fc1/kernel$", -2),
    (r"mlp/gated/kernel$", -3),
)
# Parameters of stacked blocks have a leading layer axis, over which the scan iterates.
STACKED = r"(^|/)blocks/"
# Tensors below this size cost more to gather than they save.
MIN_SHARD_ELEMENTS = 2**14


def partition_spec(
    path: str,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    min_elements: int = MIN_SHARD_ELEMENTS,
) -> PartitionSpec:
    """The layout of one parameter.

    `tensor` splits the axis that its table names; `fsdp` the axis that its table names or, where
    it does not divide that, the largest other axis that it divides. The layer axis of stacked
    blocks is never split.

    Args:
      path: path of the parameter, such as "blocks/attention/qkv/kernel".
      shape: shape of the array.
      sizes: sizes of the mesh axes.
      min_elements: number of elements below which arrays stay replicated over fsdp.
    """
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = sizes.get("tensor", 1), sizes.get("fsdp", 1)
    first = 1 if re.search(STACKED, path) else 0
    for pattern, axis in TENSOR_AXES:
        if re.search(pattern, path) and len(shape) + axis >= first:
            if tensor > 1 and shape[axis] % tensor == 0:
                spec[axis] = "tensor"
            break
    elements = 1
    for size in shape[first:]:
        elements *= size
    if fsdp > 1 and elements >= min_elements:
        free = [
            axis
            for axis in range(first, len(shape))
            if spec[axis] is None and shape[axis] % fsdp == 0
        ]
        named = [len(shape) + axis for pattern, axis in FSDP_AXES if re.search(pattern, path)]
        if best := [axis for axis in named if axis in free] or free:
            spec[max(best, key=lambda axis: (shape[axis], axis))] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def state_shardings(state: Any, params: Any, mesh: Mesh) -> Any:
    """NamedShardings for a whole train state.

    Arrays whose path ends in a parameter's path and that have its shape (optimizer
    moments, EMA) are laid out like that parameter; so are those with one number for each block
    of an axis, where the blocks divide. All others are replicated.

    Args:
      state: pytree of arrays or ShapeDtypeStructs that contains the parameters.
      params: parameters alone.
      mesh: mesh of the run.
    """
    specs = {
        path: (leaf.shape, partition_spec(path, leaf.shape, mesh.shape))
        for path, leaf in named_leaves(params).items()
    }

    def sharding(path, leaf):
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            shape, spec = specs.get("/".join(parts[start:]), (None, None))
            if shape == leaf.shape:
                return NamedSharding(mesh, spec)
            if shape is not None and _in_blocks(leaf.shape, shape):
                whole = [
                    axis if axis and size % mesh.shape[axis] == 0 else None
                    for axis, size in zip(spec, leaf.shape)
                ]
                return NamedSharding(mesh, PartitionSpec(*whole))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def _in_blocks(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether an array has one number for each block of another: of its last axis."""
    return (
        len(shape) == len(whole) > 1
        and shape[:-1] == whole[:-1]
        and 0 < shape[-1] < whole[-1]
        and whole[-1] % shape[-1] == 0
    )


def check_replication(params: Any, mesh: Mesh, tolerance: float) -> None:
    """Refuses a layout that leaves too many parameters replicated over fsdp or tensor.

    fsdp should shard all parameters, tensor those that the table names.

    Args:
      params: pytree of arrays or ShapeDtypeStructs.
      mesh: mesh of the run.
      tolerance: largest share of all parameters that an axis may leave replicated.

    Raises:
      InputError: names the largest parameter that is not sharded.
    """
    sizes = mesh.shape
    leaves = list(named_leaves(params).items())
    total = sum(leaf.size for _, leaf in leaves)
    for axis in ("fsdp", "tensor"):
        meant = [(path, leaf) for path, leaf in leaves if axis == "fsdp" or _is_split(path)]
        if sizes[axis] == 1:
            continue
        if not meant:
            raise InputError(
                f"{axis}={sizes[axis]}: the model has nothing to split so; set it to 1"
            )
        whole = [
            (leaf.size, path, leaf.shape)
            for path, leaf in meant
            if axis not in partition_spec(path, leaf.shape, sizes)
        ]
        share = sum(size for size, _, _ in whole) / max(1, total)
        if share > tolerance:
            size, path, shape = max(whole)
            remedy = f"choose {axis} so that it divides it, or raise the tolerance"
            if axis == "fsdp" and size < MIN_SHARD_ELEMENTS:
                remedy = (
                    f"parameters of fewer than {MIN_SHARD_ELEMENTS:,} numbers are not split; set "
                    "fsdp to 1, as a model this small needs no fsdp"
                )
            raise InputError(
                f"{axis}={sizes[axis]} leaves {share:.0%} of the parameters replicated, more than "
                f"config.parallel.replicated_tolerance={tolerance:g}; the largest is {path} "
                f"{tuple(shape)}: {remedy}"
            )


def _is_split(path: str) -> bool:
    """Whether tensor parallelism should split a parameter."""
    return any(re.search(pattern, path) for pattern, _ in TENSOR_AXES)


def describe(params: Any, mesh: Mesh) -> list[str]:
    """Describes in lines the sharding of parameters and their size on each device.

    Replicated parameters only count in the last line.
    """
    lines, total, local = [], 0, 0
    for name, leaf in named_leaves(params).items():
        spec = partition_spec(name, leaf.shape, mesh.shape)
        parts = 1
        for axis in spec:
            parts *= mesh.shape[axis] if axis else 1
        size = leaf.size * leaf.dtype.itemsize
        total, local = total + size, local + size // parts
        if parts > 1:
            axes = ", ".join(str(axis) for axis in spec)
            lines.append(f"{name:32} {tuple(leaf.shape)!s:24} ({axes}) {size // parts:,} bytes")
    lines.append(f"parameters: {total:,} bytes, {local:,} on each device")
    return lines
