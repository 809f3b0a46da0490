"""A ViT that predicts the colours of patches hidden from it (section 4.6, appendix B.1.2)."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers
from vit_jax.models.layers import Dense, fold_in, shard_batch
from vit_jax.models.vit import ViT
from vit_jax.models.vit_config import ViTConfig

COLORS = 8**3  # three bits for each of red, green and blue


class MaskedParts(nnx.Module):
    """What pre-training has beyond the encoder; fine-tuning leaves it behind."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (1, 1, config.width), jnp.float32))
        self.head = Dense(
            (config.width,),
            (COLORS,),
            rngs=rngs,
            dtype=jnp.dtype(config.dtype),
            kernel_init=layers.zeros,
        )


class MaskedViT(ViT):
    """A ViT without classifier, with a learnt [mask] embedding and a head on every patch.

    Called as a ViT it gives the features of images from which nothing is hidden.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.masked = MaskedParts(config, rngs=rngs)

    def predict_colors(
        self,
        images: jax.Array,
        source: jax.Array,
        masked: jax.Array,
        *,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Colours of all patches of corrupted images.

        Args:
          images: (B, H, W, 3), normalised as the model's preprocessing says.
          source: (B, P) the patch whose embedding stands in each place; its own, or another's.
          masked: (B, P) where the [mask] embedding stands instead.
          keys: (B,) dropout keys, None in evaluation.

        Returns:
          Logits (B, P, COLORS) in float32.
        """
        with jax.named_scope("embedding"):
            x = shard_batch(self.embedding(images))
            x = jnp.take_along_axis(x, source[..., None], axis=1)
            x = jnp.where(masked[..., None], self.masked.embedding[...].astype(x.dtype), x)
            x = self._sequence(x, fold_in(keys, 0))
        x, _ = self._encode(x, fold_in(keys, 1), False)
        patches = self.norm(x)[:, self.config.prefix_tokens :]
        with jax.named_scope("head"):
            return self.masked.head(patches).astype(jnp.float32)
