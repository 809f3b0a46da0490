"""The collectives of a training step, by the layout alone.

They are those of `collectives.minimum`, as records with their groups, so that `roofline` can tell
over which links they go. Where a group spans several slices (or nodes of GPUs), its collective is
one within each slice and one between slices, for which every device has its share.

On TPUs, XLA replaces some collectives by all-reduces, which send twice the bytes
(docs/results/scaling.md; tests/plan/compiled.json has the steps that show it):

* gathers and scatters over all devices of a mesh of MANY or more;
* the reduce-scatter of the head's gradient, though not in every layout;
* the reduce-scatter of the gradients of attention's kernels, cut into THIN or more slices.

It also sums the gradients of blocks over replicas for every microbatch, where once would do.
Without a loop over blocks, it gathers a part of their weights once instead of twice on v5e, none on
v5p and v6e.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from vit_jax.parallel.axes import AXES, BATCH_AXES, SEQUENCE_AXIS
from vit_jax.parallel.hardware import Chip
from vit_jax.parallel.rules import STACKED
from vit_jax.plan.analytic.memory import token_bytes
from vit_jax.plan.collectives import ENTERS_BRANCH, HAS_KEYS, Collective, sent_itemsize
from vit_jax.train.run import Run
from vit_jax.trees import path_name

MANY, THIN = 64, 128  # devices
HEAD = r"(^|/)head/kernel$"
ATTENTION = r"attention/(qkv|out)/kernel$"
# Share of the bytes of gathers within blocks that XLA sends while something is computed: between
# 0.6 and 0.9 in compiled steps. Of all other collectives it overlaps none.
OVERLAPPED = 0.75
# Share of the blocks' weights that are not gathered again for the backward pass without a loop over
# blocks, by chip: 0.72 to 0.77 in compiled steps of L/16, H/14 and G/14 with the policy names.
GATHERED_ONCE = {"TPU v5 lite": 0.72}
# Times that keys and values are gathered over the axis sequence where remat computes them again.
GATHERED_AGAIN = 1.5


@dataclasses.dataclass(frozen=True)
class _Sum:
    """A kind of collective along axes of the mesh."""

    kind: str
    axes: tuple[str, ...]
    overlapped: bool = False


def predict_collectives(
    run: Run,
    params: Any,
    sizes: Mapping[str, int],
    slices: Sequence[int],
    *,
    accumulate: int,
    remat: str,
    tpu: bool,
    chip: Chip | None = None,
    looped: bool = True,
) -> list[Collective]:
    """The collectives of one step.

    Args:
      run: the run, whatever its own layout.
      params: parameters, laid out.
      sizes: sizes of the mesh's axes, in their order.
      slices: number of the slice (or node) of every device, in the order of the mesh.
      accumulate: number of microbatches.
      remat: policy of remat.
      tpu: whether XLA for TPUs compiles the step.
      chip: the chip; None: not known.
      looped: whether the compiled step has a loop over blocks.
    """
    kept = GATHERED_ONCE.get(chip.name, 0.0) if chip and not looped else 0.0
    operands: dict[_Sum, float] = collections.defaultdict(float)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        for key, size in _of_parameter(
            run, path_name(path), leaf, sizes, accumulate, tpu, 1 - kept
        ):
            operands[key] += size
    for key, size in _of_activations(run, params, sizes, remat):
        operands[key] += size
    result: list[Collective] = []
    for key, size in operands.items():
        result += _placed(key, size, sizes, slices)
    return result


def _of_parameter(
    run: Run,
    name: str,
    leaf: Any,
    sizes: Mapping[str, int],
    accumulate: int,
    tpu: bool,
    again: float,
) -> Iterator[tuple[_Sum, float]]:
    """Collectives of one parameter, each with its operand's bytes per step.

    `again` is the share of blocks' weights that the backward pass gathers again.
    """
    spec: PartitionSpec = leaf.sharding.spec
    itemsize = sent_itemsize(name, leaf, run.config.model.dtype)
    size = leaf.size * itemsize / (sizes["tensor"] if "tensor" in spec else 1)
    # Devices with other examples or tokens, each with a part of the gradient's sum.
    batch = tuple(axis for axis in (*BATCH_AXES, SEQUENCE_AXIS) if sizes[axis] > 1)
    parts, blocks = sizes["fsdp"], bool(re.search(STACKED, name))
    sums = accumulate if tpu and blocks else 1
    if "fsdp" not in spec:
        yield _Sum("all-reduce", batch), sums * size
        return
    gathered = size * min(itemsize, 2) / itemsize if tpu else size
    gathers = accumulate * (1 + again if blocks else 1)
    if tpu and parts == math.prod(sizes.values()) >= MANY:
        yield _Sum("all-reduce", ("fsdp",)), gathers * gathered
        yield _Sum("all-reduce", ("fsdp",)), accumulate * size
        return
    hidden = OVERLAPPED if blocks else 0.0
    shard = gathers * gathered / parts
    yield _Sum("all-gather", ("fsdp",), overlapped=True), hidden * shard
    yield _Sum("all-gather", ("fsdp",)), (1 - hidden) * shard
    whole = tpu and (re.search(HEAD, name) or parts >= THIN and re.search(ATTENTION, name))
    kind = "all-reduce" if whole else "reduce-scatter"
    yield _Sum(kind, ("fsdp",)), accumulate * size
    others = tuple(axis for axis in batch if axis != "fsdp")
    yield _Sum("all-reduce", others), sums * size / parts


def _of_activations(
    run: Run, params: Any, sizes: Mapping[str, int], remat: str
) -> Iterator[tuple[_Sum, float]]:
    """Collectives of the tokens of each block.

    tensor sums each branch's output, and its gradient; sequence gathers keys and values, and sums
    and scatters their gradients.
    """
    tensor, sequence = sizes["tensor"], sizes["sequence"]
    rows = run.config.batch_size / (math.prod(sizes.values()) / tensor)
    size = rows * token_bytes(run)  # of one device's tokens
    if not size or tensor == sequence == 1:
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, split = path_name(path), "tensor" in leaf.sharding.spec
        if split and tensor > 1 and re.search(ENTERS_BRANCH, name):
            # `full` repeats the forward pass of a block, up to its last product.
            times = 2.5 if remat == "full" else 2
            yield _Sum("all-reduce", ("tensor",)), times * leaf.shape[0] * size
        if sequence > 1 and re.search(HAS_KEYS, name):
            own = 2 * leaf.shape[0] * size / (tensor if split else 1)  # keys and values
            again = 1 if remat in ("none", "dots") else GATHERED_AGAIN
            yield _Sum("all-gather", (SEQUENCE_AXIS,)), again * own
            yield _Sum("reduce-scatter", (SEQUENCE_AXIS,)), own * sequence


def _placed(
    key: _Sum, size: float, sizes: Mapping[str, int], slices: Sequence[int]
) -> Iterator[Collective]:
    """A collective with its devices, cut into the parts within and between slices."""
    members = group(sizes, key.axes)
    if len(members) == 1 or size < 1:
        return
    crossed = len({slices[member] for member in members})
    inside = [member for member in members if slices[member] == slices[members[0]]]
    if crossed == 1 or len(inside) * crossed != len(members):
        yield _collective(key, size, members, between=crossed > 1)
        return
    m = len(inside)
    # Gathers go between slices first, reductions last: either way with the smaller arrays.
    within, between = (size * crossed, size) if key.kind == "all-gather" else (size, size / m)
    if m > 1:
        yield _collective(key, within, inside, between=False)
    yield _collective(key, between, members[:: max(m, 1)][:crossed], between=True)


def _collective(key: _Sum, size: float, members: Sequence[int], *, between: bool) -> Collective:
    return Collective(
        kind=key.kind,
        operand_bytes=round(size),
        group=len(members),
        times=1,
        source="",
        overlapped=key.overlapped,
        members=tuple(members),
        between_slices=between,
    )


def group(sizes: Mapping[str, int], axes: Sequence[str]) -> list[int]:
    """Positions in the mesh of the first device's group along some axes."""
    places = np.arange(math.prod(sizes.values())).reshape([sizes[axis] for axis in AXES])
    taken = tuple(slice(None) if axis in axes else slice(0, 1) for axis in AXES)
    return places[taken].ravel().tolist()
