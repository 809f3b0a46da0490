"""Pooling of encoded tokens into one vector per image (section 3.1, appendix D.3)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vit_jax.models import layers
from vit_jax.models.attention.self_attention import attend
from vit_jax.models.layers import NORMS, Dense, unstack
from vit_jax.models.mlp import Mlp

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

# The class token; the mean of the patches; attention pooling of the patches; class token and
# mean, concatenated (DINOv2). Registers are discarded (2309.16588).
HEADS = ("token", "gap", "map", "token_gap")


class AttentionPool(nnx.Module):
    """Multi-head attention pooling (MAP, 2106.04560): a learnt probe attends to all tokens."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        gelu: str = "tanh",
        norm: str = "layer",
        norm_eps: float = 1e-6,
    ):
        head_width = width // num_heads
        probe_init = nnx.initializers.xavier_uniform()
        self.probe = nnx.Param(probe_init(rngs.params(), (1, 1, width), jnp.float32))
        self.query = Dense((width,), (num_heads, head_width), rngs=rngs, dtype=dtype)
        self.key_value = Dense(
            (width,), (2, num_heads, head_width), groups=1, rngs=rngs, dtype=dtype
        )
        self.out = Dense((num_heads, head_width), (width,), rngs=rngs, dtype=dtype)
        self.norm = NORMS[norm](width, eps=norm_eps, dtype=dtype)
        self.mlp = Mlp(width, mlp_dim, rngs=rngs, dtype=dtype, gelu=gelu)

    def __call__(self, x: jax.Array, *, bias: jax.Array | None = None) -> jax.Array:
        """(B, N, D) -> (B, D).

        Args:
          x: tokens.
          bias: added to the attention logits, broadcastable to (B, H, 1, N).
        """
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        key, value = unstack(self.key_value(x), 2)
        pooled = self.out(attend(self.query(probe), key, value, bias=bias)[0])
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]


def create_classifier(config: "ViTConfig", inputs: int, rngs: nnx.Rngs) -> Dense:
    """The zero-initialised linear layer that gives logits."""
    return Dense(
        (inputs,),
        (config.num_classes,),
        rngs=rngs,
        kernel_init=layers.zeros,
        bias=config.classifier_bias,
        bias_init=nnx.initializers.constant(config.head_bias),
    )
