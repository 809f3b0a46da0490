"""Attention by the Pallas kernel for TPUs that comes with JAX (splash attention).

The kernel holds blocks of logits in the chip's own memory, and leaves out the blocks of pairs
that a mask hides. Tokens are padded to blocks, heads to the 128 lanes of the chip.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128
LARGEST_BLOCK = 1024
# Places of queries (Q, 1) and of keys (1, K) -> whether a query sees a key, bool (Q, K).
Seen = Callable[[np.ndarray, np.ndarray], np.ndarray]


class TokenMask(masks.Mask):
    """The pairs of tokens that attend to each other, computed part by part.

    Keys of padding are hidden. Queries of padding, whose results are cut off, see the first key.

    Args:
      queries, keys: numbers of queries and keys with their padding.
      length: number of keys without padding.
      seen: see `Seen`; equal functions give equal masks. None: all keys are seen.
      own: number of queries without padding.
    """

    def __init__(self, queries: int, keys: int, length: int, seen: Seen | None, own: int):
        self.facts = (queries, keys, length, seen, own)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.facts[:2]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        queries, keys, length, seen, own = self.facts
        rows = np.arange(queries)[part[0]][:, None]
        columns = np.arange(keys)[part[1]][None]
        found = np.broadcast_to(columns < length, (rows.size, columns.size))
        if seen is None:
            return found
        return np.where(rows < own, found & seen(rows, columns), columns == 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenMask) and self.facts == other.facts

    def __hash__(self) -> int:
        return hash(self.facts)


def causal(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A query sees the keys up to its own place."""
    return keys <= queries


def block_size(length: int) -> int:
    """Tokens of a block: of the sizes that the kernel takes, the one with the least work.

    Work is counted as pairs of padded tokens, with one more row of lanes for each block.
    """

    def work(size: int) -> float:
        padded = -(-length // size) * size
        return padded**2 * (1 + LANES / size)

    return min(range(LANES, LARGEST_BLOCK + 1, LANES), key=work)


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    seen: Seen | None = None,
    length: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v over the keys that are seen.

    Args:
      query, key, value: (B, Q, H, d), (B, K, H, d) and (B, K, H, d), of one device.
      seen: see `Seen`; a module's function, or another one that compares by what it does. Each
        query sees a key. None: all.
      length: number of keys that are seen at all, from the first on; None: all.
      interpret: whether to run the kernel without a TPU, slowly.

    Returns:
      (B, Q, H, d).
    """
    (_, queries, heads, width), keys = query.shape, key.shape[1]
    length = keys if length is None else min(length, keys)
    blocks = block_size(queries), block_size(keys)
    query = query * width**-0.5
    query, key, value = (
        jnp.pad(
            x.transpose(0, 2, 1, 3),
            ((0, 0), (0, 0), (0, -x.shape[1] % size), (0, -width % LANES)),
        )
        for x, size in ((query, blocks[0]), (key, blocks[1]), (value, blocks[1]))
    )
    padded = query.shape[2], key.shape[2]
    kernel = _kernel(heads, padded, length, queries, seen, blocks, interpret)
    y = jax.vmap(kernel)(query, key, value)
    assert isinstance(y, jax.Array)  # without the residuals
    return y.transpose(0, 2, 1, 3)[:, :queries, :, :width]


def _kernel(
    heads: int,
    padded: tuple[int, int],
    length: int,
    queries: int,
    seen: Seen | None,
    blocks: tuple[int, int],
    interpret: bool,
) -> kernels.SplashAttentionKernel:
    mask = TokenMask(*padded, length, seen, queries)
    of_queries, of_keys = blocks
    sizes = kernels.BlockSizes(
        block_q=of_queries,
        block_kv=of_keys,
        block_kv_compute=of_keys,
        block_q_dkv=of_queries,
        block_kv_dkv=of_keys,
        block_kv_dkv_compute=of_keys,
        block_q_dq=of_queries,
        block_kv_dq=of_keys,
    )
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
