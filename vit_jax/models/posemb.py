"""Position embeddings (section 3.1, appendix D.4)."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import unknown


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


POSITION_EMBEDDINGS = ("learned", "none")


def create_position_embedding(
    kind: str, num_positions: int, width: int, *, rngs: nnx.Rngs
) -> nnx.Module:
    """A module (B, N, D) -> (B, N, D) that tells tokens where they are.

    Raises:
      InputError: `kind` is none of POSITION_EMBEDDINGS.
    """
    if kind == "learned":
        return LearnedPositionEmbedding(num_positions, width, rngs=rngs)
    if kind == "none":
        return NoPositionEmbedding()
    raise unknown("position embedding", kind, POSITION_EMBEDDINGS)
