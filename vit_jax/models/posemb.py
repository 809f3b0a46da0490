"""Position embeddings (section 3.1, appendix D.4)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.errors import InputError, unknown


class LearnedPositionEmbedding(nnx.Module):
    """One learnt vector per token position: the paper's 1-D embedding, N(0, 0.02)."""

    def __init__(self, num_positions: int, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (1, num_positions, width), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N, D) with the embedding added."""
        return tokens + self.embedding[...].astype(tokens.dtype)


class NoPositionEmbedding(nnx.Module):
    """Leaves the tokens as they are: a bag of patches (table 8, first row)."""

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return tokens


def sincos_2d(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed sines and cosines of a patch's column and row (2104.02057, 2205.01580).

    A quarter of the features each holds sin(x w), cos(x w), sin(y w) and cos(y w),
    at frequencies w that fall geometrically from 1 to 1 / temperature.

    Args:
      grid: (rows, columns).
      width: D, divisible by 4.
      temperature: inverse of the lowest frequency.

    Returns:
      (rows * columns, D) in float32.
    """
    frequencies = temperature ** -np.linspace(0, 1, width // 4)
    y, x = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[: grid[0], : grid[1]])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1, dtype=np.float32)


class SinCos2dPositionEmbedding(nnx.Module):
    """`sincos_2d` on patches; tokens before them (class, registers) get none."""

    def __init__(self, grid: tuple[int, int], width: int):
        if width % 4:
            raise InputError(f"posemb 'sincos2d' wants a width divisible by 4, not {width}")
        self.grid = grid
        self.width = width

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N, D); the last rows * columns tokens are the patches."""
        embedding = sincos_2d(self.grid, self.width)
        before = tokens.shape[1] - len(embedding)
        return tokens + jnp.asarray(np.pad(embedding, ((before, 0), (0, 0))), tokens.dtype)


POSITION_EMBEDDINGS = ("learned", "sincos2d", "none")


def create_position_embedding(
    kind: str, grid: tuple[int, int], slots: int, width: int, *, rngs: nnx.Rngs
) -> nnx.Module:
    """A module (B, N, D) -> (B, N, D) that tells tokens where they are.

    Args:
      kind: one of POSITION_EMBEDDINGS.
      grid: of patches, (rows, columns).
      slots: how many tokens before the patches have a position of their own.
      width: D.
      rngs: random streams of the initialisation.

    Raises:
      InputError: an unknown kind, or one that does not suit the width.
    """
    if kind == "learned":
        return LearnedPositionEmbedding(slots + grid[0] * grid[1], width, rngs=rngs)
    if kind == "sincos2d":
        return SinCos2dPositionEmbedding(grid, width)
    if kind == "none":
        return NoPositionEmbedding()
    raise unknown("position embedding", kind, POSITION_EMBEDDINGS)
