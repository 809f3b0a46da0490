"""Memory of one device during a training step, by formulas.

The parameters, the optimizer's state and the batch are exact: they are sums over the arrays and
their layout. The temporaries of a step are estimated as the sum of

* what the forward pass of a microbatch keeps for the backward pass (`activations`);
* what the backward pass of one block holds at a time: what remat recomputes of it, and attention's
  weights and their gradient in float32, unless a fused implementation holds none;
* the gradients, laid out like the parameters, twice if they are accumulated;
* the weights of two blocks gathered over fsdp, and of the layers around the blocks, in the dtype
  of the products; and the gradients of the latter before they are scattered; without a loop over
  blocks, a part of all blocks' gathered weights;
* with accumulation, the normalised images of all microbatches, in the dtype of the products;
* the arrays of TPUs' kernel of attention;
* with the mesh axis sequence, which divides all of the tokens' arrays, the keys and values of one
  block that are gathered, and their gradients.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from vit_jax.models.attention.fused.blockwise import BLOCK
from vit_jax.models.forms.platform import unrolled_in_training
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.axes import AXES, BATCH_AXES
from vit_jax.parallel.rules import STACKED, partition_spec, state_shardings
from vit_jax.plan.analytic.activations import Kept, kernel_bytes, padded_size
from vit_jax.plan.compile import local_bytes
from vit_jax.plan.roofline import implementation
from vit_jax.train.batches import abstract_rows
from vit_jax.train.run import Run
from vit_jax.trees import named_leaves

FLOAT32 = 4  # bytes
# Arrays of tokens by tokens in float32, or twice as many in bfloat16, that attention's backward
# pass holds at a time in main memory; fewer, if one of them fits into the memory on the chip.
# Fitted to compiled steps of S/16, B/16, L/16 and H/14 on v5e (tests/plan/compiled.json).
SCORES, SCORES_IF_SMALL = 3.5, 1.0
# Share of the blocks' weights gathered over fsdp that XLA has at a time without a loop over blocks,
# in place of two blocks' in a loop. Fitted to compiled steps of B/16, L/16, H/14 and G/14 on v5e
# with the remat policy names.
HELD_AT_ONCE = 0.5
# Arrays of TPUs' kernel that its backward pass holds at a time: six of a device's own tokens, and
# keys and values; where the axis sequence gathers these, they and their gradients in float32.
KERNEL_OWN, KERNEL_KEYS, KERNEL_GATHERED = 6, 2, 6


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    params: int
    optimizer: int
    ema: int
    teacher: int
    batch: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


def laid_out(tree: Any, params: Any, sizes: Mapping[str, int]) -> Any:
    """A train state's ShapeDtypeStructs with the shardings of a mesh that need not exist.

    Args:
      tree: pytree of ShapeDtypeStructs that contains the parameters.
      params: parameters alone.
      sizes: sizes of the mesh's axes.
    """
    mesh: Any = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    shardings = state_shardings(tree, params, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def replicated(tree: Any, sizes: Mapping[str, int]) -> Any:
    """ShapeDtypeStructs that every device of a mesh holds as a whole, as under pmap."""
    whole = NamedSharding(AbstractMesh(tuple(sizes.values()), tuple(sizes)), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree
    )


def step_memory(
    run: Run,
    state: Any,
    sizes: Mapping[str, int],
    *,
    accumulate: int,
    kept: Kept,
    whole: Kept,
    tiles: bool,
    on_chip: int = 0,
    looped: bool = True,
) -> Memory:
    """Memory of one device for a layout.

    Args:
      run: the run, whatever its own layout.
      state: its state, laid out; see `laid_out`.
      sizes: sizes of the mesh's axes.
      accumulate: number of microbatches.
      kept: what the forward pass keeps.
      whole: what it would keep without remat.
      tiles: whether arrays are padded to the tiles of a TPU.
      on_chip: bytes of memory on the chip that the compiler manages.
      looped: whether the compiled step has a loop over blocks.
    """
    params, ema = local_bytes(state.params), local_bytes(state.ema)
    rows = run.config.batch_size // math.prod(sizes[axis] for axis in BATCH_AXES)
    batch = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in _batch(run, rows))
    tensor, sequence = sizes["tensor"], sizes["sequence"]
    micro = rows / accumulate
    small = micro * _scores(run, tensor, tiles) / sequence <= on_chip
    block = block_bytes(run, kept, whole, tensor, tiles=tiles, small=small)
    temporaries = micro * (kept.bytes(tensor, sequence) + block / sequence)
    if kernel := kernel_bytes(run) if tiles else 0.0:
        keys = KERNEL_GATHERED if sequence > 1 else KERNEL_KEYS
        temporaries += micro * kernel / tensor * (KERNEL_OWN / sequence + keys)
    elif sequence > 1:
        temporaries += micro * 4 * token_bytes(run, tiles) / tensor
    temporaries += params * (2 if accumulate > 1 else 1) + _gathered(
        run, state.params, sizes, looped
    )
    if accumulate > 1:
        pixels = math.prod(run.model_config.input_size) * 3
        temporaries += rows * pixels * jnp.dtype(run.config.model.dtype).itemsize
    return Memory(
        params=params,
        optimizer=local_bytes(state) - params - ema,
        ema=ema,
        teacher=local_bytes(run.teacher.abstract) if run.teacher else 0,
        batch=batch,
        temporaries=round(temporaries),
    )


def block_bytes(
    run: Run, kept: Kept, whole: Kept, tensor: int, *, tiles: bool, small: bool = False
) -> float:
    """Bytes of one example in the backward pass of one block.

    Args:
      run: the run.
      kept, whole: as in `step_memory`.
      tensor: size of the mesh's axis tensor.
      tiles: whether arrays are padded to the tiles of a TPU.
      small: whether an array of tokens by tokens fits into the memory on the chip.
    """
    model = run.model_config
    if not isinstance(model, ViTConfig):
        return 2 * whole.largest  # the gradient of the largest map, and what it is computed from
    recomputed = max(whole.bytes(tensor) - kept.bytes(tensor), 0) / model.depth
    scores = (SCORES_IF_SMALL if small else SCORES) * _scores(run, tensor, tiles)
    tokens = model.prefix_tokens + model.kept_patches
    hidden = _size((tokens, model.mlp_dim), tiles) * jnp.dtype(model.dtype).itemsize / tensor
    return recomputed + max(scores, 2 * hidden)


def _scores(run: Run, tensor: int, tiles: bool) -> float:
    """Bytes of one example's logits of attention in one block, in float32."""
    model = run.model_config
    if not isinstance(model, ViTConfig):
        return 0.0
    tokens = keys = model.prefix_tokens + model.kept_patches
    taken = implementation(model, run.engine.mesh.devices.flat[0])
    if taken != "xla":
        keys = BLOCK if taken == "blockwise" else 0
    return _size((model.num_heads, tokens, keys), tiles) * FLOAT32 / tensor if keys else 0.0


def token_bytes(run: Run, tiles: bool = False) -> int:
    """Bytes of one example's tokens between two blocks; 0 of a model without tokens."""
    model = run.model_config
    if not isinstance(model, ViTConfig):
        return 0
    shape = (model.prefix_tokens + model.kept_patches, model.width)
    return _size(shape, tiles) * jnp.dtype(model.dtype).itemsize


def is_looped(run: Run, sizes: Mapping[str, int], remat: str) -> bool:
    """Whether the step of a layout has a loop over blocks, by `model.unroll`; of a ResNet, True.

    Args:
      run: the run, whatever its own layout.
      sizes: sizes of the mesh's axes.
      remat: policy of remat.
    """
    model = run.model_config
    if not isinstance(model, ViTConfig):
        return True  # the formulas for steps without a loop are about blocks
    platform = run.engine.mesh.devices.flat[0].platform
    unroll, depth = model.unroll, model.depth
    return depth > unrolled_in_training(unroll, depth, platform, remat=remat, fsdp=sizes["fsdp"])


def _gathered(run: Run, params: Any, sizes: Mapping[str, int], looped: bool) -> float:
    """Bytes of weights that are gathered over fsdp, and of gradients before they are scattered."""
    itemsize = jnp.dtype(run.config.model.dtype).itemsize
    total = 0.0
    for name, leaf in named_leaves(params).items():
        spec = partition_spec(name, leaf.shape, {axis: sizes.get(axis, 1) for axis in AXES})
        size = leaf.size / (sizes["tensor"] if "tensor" in spec else 1)
        if re.search(STACKED, name):
            # Cast to the dtype of the products; two blocks at a time if they must be gathered.
            layers = leaf.shape[0]
            at_a_time = 2 / layers if looped else HELD_AT_ONCE
            total += size * itemsize * (at_a_time if "fsdp" in spec else 1)
        elif "fsdp" in spec:
            total += size * (itemsize + FLOAT32)
    return total


def _batch(run: Run, rows: int) -> list[jax.ShapeDtypeStruct]:
    return list(abstract_rows(run, rows).values())


def _size(shape: tuple[int, ...], tiles: bool) -> int:
    return padded_size(shape) if tiles else math.prod(shape)
