"""The arrays that a training step keeps from its forward pass for its backward pass.

They are read from the traced step, with its policy of remat, so that every model, task and option
is counted by its own code. Nothing is compiled.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp

from vit_jax.models.vit_config import ViTConfig
from vit_jax.plan.roofline import implementation
from vit_jax.train.batches import abstract_rows
from vit_jax.train.run import Run
from vit_jax.weights.adapters.lora import merge

ROWS = 16  # examples with which the step is traced; memory is linear in them
TILE = (8, 128)  # a TPU's memory holds the last two axes in tiles


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes of one example that wait for the backward pass.

    Attributes:
      whole: bytes that every device of a tensor axis holds.
      split: bytes that tensor parallelism divides, such as attention weights.
      largest: bytes of the largest array that one iteration of the scan over blocks keeps.
      keys: the part of `split` that is keys and values as TPUs' kernel takes them. The mesh axis
        sequence, which divides all else, gathers them.
    """

    whole: float
    split: float
    largest: float
    keys: float = 0.0

    def bytes(self, tensor: int = 1, sequence: int = 1) -> float:
        """Bytes of one example on one device, which has a part of its tokens."""
        own = self.whole + (self.split - self.keys) / tensor
        return own / sequence + self.keys / tensor


def kept_by(run: Run, *, tiles: bool) -> Kept:
    """What the backward pass of a run's step needs of the forward pass, for each example.

    Args:
      run: the run; its layout plays no role.
      tiles: whether arrays are padded to the tiles of a TPU.
    """
    few, many = (_residuals(run, rows) for rows in (ROWS, 2 * ROWS))
    sizes, heads = _split_sizes(run), _kernel_heads(run)
    whole = split = largest = keys = 0.0
    # What does not grow with the batch, such as weights cast to bfloat16, is counted elsewhere.
    for one, two in itertools.zip_longest(few, many, fillvalue=_NOTHING):
        more = (_bytes(two, tiles) - _bytes(one, tiles)) / ROWS
        if two.shape[-2:] == heads:
            more *= _up(heads[1], TILE[1]) / heads[1]
        if more <= 0:
            continue
        if any(size in sizes for size in two.shape[2:]):
            split += more
            # Two of the four such arrays; the others are queries and the heads' output.
            keys += more / 2 if two.shape[-3:] == _kernel_shape(run) else 0.0
        else:
            whole += more
        layers = run.model_config.depth if isinstance(run.model_config, ViTConfig) else 1
        largest = max(largest, more / layers)
    return Kept(whole, split, largest, keys)


_NOTHING = jax.ShapeDtypeStruct((0,), jnp.float32)


def _residuals(run: Run, rows: int) -> list[jax.ShapeDtypeStruct]:
    """The arrays of the traced step that its backward pass reads, for so many examples."""
    task = run.task
    frozen = run.teacher.abstract if run.teacher else None

    def backward(params: Any, batch: Any, key: jax.Array, step: jax.Array, frozen: Any) -> Any:
        given = task if frozen is None else task.with_frozen(frozen)
        inputs = given.at(step).inputs(batch, key, None)

        def loss(params: Any) -> jax.Array:
            merged = merge(params, run.config.lora.alpha)
            return given.losses(given.model(merged), inputs, None).mean()

        return jax.vjp(loss, params)[1]

    plain: Callable[[Any], Any] = functools.partial(jax.tree.map, _without_layout)
    # The mesh says for which kind of device the model is traced.
    with jax.sharding.use_abstract_mesh(run.engine.mesh.abstract_mesh):
        found = jax.eval_shape(
            backward,
            plain(run.abstract.params),
            plain(abstract_rows(run, rows)),
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((), jnp.int32),
            plain(frozen),
        )
    return jax.tree.leaves(found)


def _without_layout(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _split_sizes(run: Run) -> tuple[int, ...]:
    """Sizes of the axes that tensor parallelism splits: heads and the MLP's hidden width."""
    model = run.model_config
    return (model.num_heads, model.mlp_dim) if isinstance(model, ViTConfig) else ()


def _kernel_heads(run: Run) -> tuple[int, int]:
    """Number and width of heads of queries, keys and values for the kernel of TPUs, or (0, 0).

    It takes each head's width as the last axis of the tiles, which is padded.
    """
    model = run.model_config
    if not isinstance(model, ViTConfig):
        return 0, 0
    taken = implementation(model, run.engine.mesh.devices.flat[0])
    return (model.num_heads, model.width // model.num_heads) if taken == "splash" else (0, 0)


def _kernel_shape(run: Run) -> tuple[int, ...]:
    """Heads, tokens and width of one example's queries as TPUs' kernel takes them, or (0, 0, 0)."""
    heads, width = _kernel_heads(run)
    if not heads:
        return 0, 0, 0
    from vit_jax.models.attention.fused.splash import block_size  # imports Pallas

    model = cast(ViTConfig, run.model_config)
    tokens = model.prefix_tokens + model.kept_patches
    return heads, _up(tokens, block_size(tokens)), _up(width, TILE[1])


def kernel_bytes(run: Run) -> float:
    """Bytes of one example's queries, keys or values in one block, as TPUs' kernel takes them.

    0 where another implementation computes attention.
    """
    return math.prod(_kernel_shape(run)) * jnp.dtype(run.config.model.dtype).itemsize


def _bytes(leaf: jax.ShapeDtypeStruct, tiles: bool) -> int:
    itemsize = 0 if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize
    size = padded_size(leaf.shape) if tiles else math.prod(leaf.shape)
    return size * itemsize


def padded_size(shape: Iterable[int]) -> int:
    """Elements of an array with two axes padded to TILE: those two that need the least padding.

    The compiler chooses the order of axes in memory, and so which two are last.
    """
    shape = tuple(shape)
    least: float = min(
        (
            _up(row, TILE[0]) / row * _up(column, TILE[1]) / column
            for row, column in itertools.permutations(shape, 2)
            if row and column
        ),
        default=1.0,
    )
    return round(math.prod(shape) * least)


def _up(size: int, unit: int) -> int:
    """A size, rounded up to a multiple."""
    return -(-size // unit) * unit
