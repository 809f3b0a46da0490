"""Bytes between a device and its main memory in one step, by formulas.

What is kept for the backward pass is written and read. Everything else that the blocks compute
passes through main memory too, as far as it does not fit into the memory on the chip. The weights,
their gradients and the optimizer's state are read and written.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.hardware import Chip
from vit_jax.parallel.rules import STACKED
from vit_jax.plan.analytic.activations import Kept, kernel_bytes
from vit_jax.plan.analytic.memory import Memory
from vit_jax.plan.analytic.network import MANY
from vit_jax.train.run import Run
from vit_jax.trees import named_leaves

# Fitted to compiled steps of S/16, B/16, L/16 and H/14 on v5e (tests/plan/compiled.json), which
# these formulas meet to a fifth.
KEPT = 1  # times that what is kept passes, beside PASSING
PASSING = 10.4  # bytes that pass, without memory on the chip, for each that is kept without remat
AT_ONCE = 7.8  # bytes of a block of which half pass, for each byte of memory on the chip
# Times that an array of queries of TPUs' kernel, padded as it takes them, passes without memory on
# the chip, for all that is computed of queries, keys, values and their gradients: of a device's own
# tokens, and of the keys and values that the axis sequence gathers. Half of it passes where the
# array fills a quarter of that memory. Fitted to L/16 at 1,024 and 2,048 pixels.
KERNEL, GATHERED, KERNEL_AT_ONCE = 66, 29, 0.25
# Share of what passes for the second time, by policy of remat.
REPEATED = {"none": 0.0, "dots": 0.1, "names": 0.09, "dots_no_batch": 0.35, "full": 0.5}
# Over all of a few chips, XLA for TPUs sends weights round in pieces while it multiplies them, so
# that each product passes several times. Times the traffic, of one compiled step (fsdp=16 of 16).
IN_PIECES, FEW = 2.4, 8
# Share of the activations' and weights' traffic whose time no product hides, where operations run
# one by one: from 0.3 to 0.55 in compiled steps of L/16, H/14 and G/14.
ALONE = 0.42
# Share of what passes on GPUs, whose caches the compiler does not manage: an assumption.
ON_GPUS = 0.8


def predict_traffic(
    run: Run,
    params: Any,
    sizes: Mapping[str, int],
    memory: Memory,
    *,
    accumulate: int,
    kept: Kept,
    whole: Kept,
    working: float,
    remat: str,
    chip: Chip,
) -> int:
    """Bytes that one device reads and writes in a step.

    Args:
      run: the run, whatever its own layout.
      params: parameters, laid out.
      sizes: sizes of the mesh's axes.
      memory: memory of the device.
      accumulate: number of microbatches.
      kept, whole: as in `memory.step_memory`.
      working: bytes of one example in a block's backward pass without remat; see
        `memory.block_bytes`.
      remat: policy of remat.
      chip: the chip.
    """
    shards = 1
    for axis, size in sizes.items():
        shards *= size if axis != "tensor" else 1
    rows, tensor, sequence = run.config.batch_size / shards, sizes["tensor"], sizes["sequence"]
    block = rows / accumulate * working
    outside = ON_GPUS
    if chip.on_chip:
        outside = _outside(block / (AT_ONCE * chip.on_chip))
    passing = PASSING * outside * (1 + REPEATED[remat]) * whole.bytes(tensor)
    activations = KEPT * kept.bytes(tensor, sequence) * sequence + passing
    if (kernel := kernel_bytes(run) / tensor) and chip.on_chip:
        own = rows / accumulate * kernel / (KERNEL_AT_ONCE * chip.on_chip)
        passes = KERNEL * _outside(own)
        if sequence > 1:
            passes += GATHERED * sequence * _outside(sequence * own)
        activations += passes * kernel * _layers(run)
    passing = rows * activations + _weights(run, params, sizes, accumulate, memory)
    if chip.on_chip and FEW <= sizes["fsdp"] == math.prod(sizes.values()) < MANY:
        passing *= IN_PIECES
    return round(passing + state_traffic(memory))


def state_traffic(memory: Memory) -> int:
    """Bytes of the optimizer's pass over the state: nothing is multiplied in the meantime.

    A gradient is written, summed in place, read for its norm, and read by the optimizer.
    """
    return 2 * (memory.params + memory.optimizer + memory.ema) + 5 * memory.params


def unhidden_traffic(traffic: int, memory: Memory) -> float:
    """Bytes of a step's traffic whose time is added to that of the products."""
    state = state_traffic(memory)
    return state + ALONE * max(0, traffic - state)


def _outside(filled: float) -> float:
    """The share that passes, by what is computed at a time over what the chip holds."""
    return filled**1.5 / (1 + filled**1.5)


def _layers(run: Run) -> int:
    return run.model_config.depth if isinstance(run.model_config, ViTConfig) else 0


def _weights(
    run: Run, params: Any, sizes: Mapping[str, int], accumulate: int, memory: Memory
) -> float:
    """Bytes of weights in the dtype of the products, written once and read for each product."""
    itemsize = jnp.dtype(run.config.model.dtype).itemsize
    total = 0.0
    for name, leaf in named_leaves(params).items():
        size = leaf.size * itemsize / (sizes["tensor"] if "tensor" in leaf.sharding.spec else 1)
        gathered = 2 if "fsdp" in leaf.sharding.spec and re.search(STACKED, name) else 1
        total += size * (gathered + 3)
    return accumulate * total + (2 * accumulate * memory.params if accumulate > 1 else 0)
