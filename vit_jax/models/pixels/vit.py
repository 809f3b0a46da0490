"""iGPT (Chen et al. 2020): a Transformer on pixels, autoregressive or with hidden pixels."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models import layers
from vit_jax.models.layers import Dense
from vit_jax.models.naflex import Patches
from vit_jax.models.pixels.embedding import PixelEmbedding, Pixels
from vit_jax.models.vit import ViT
from vit_jax.models.vit_config import ViTConfig
from vit_jax.trees import path_name

_MLP_STD = 0.02


class PixelViT(ViT):
    """A ViT whose tokens are pixels; called like a `ViT`, or with `Pixels` instead of images.

    With `model.color_head`, `predictions` also gives the colour of every pixel.
    """

    embedding: PixelEmbedding

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        if config.color_head:
            self.color_head = Dense(
                (config.width,),
                (config.palette,),
                rngs=rngs,
                dtype=jnp.dtype(config.dtype),
                kernel_init=layers.zeros,
                bias=False,
            )
        nnx.update(self.blocks, _published_init(nnx.state(self.blocks), config.depth, rngs))

    def _create_embedding(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        del channels
        return PixelEmbedding(self.config, rngs=rngs)

    def _check_images(self, images: jax.Array | Patches | Pixels) -> None:
        if not isinstance(images, Pixels):
            super()._check_images(images)
        elif images.tokens.shape[1:] != (self.config.num_patches,):
            raise InputError(
                f"the model takes {self.config.num_patches} pixels, got {images.tokens.shape}"
            )

    def predictions(
        self, pixels: Pixels, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Predicts the class of images and the colour of their pixels.

        In an autoregressive model, the colours at place i are predicted from the pixels before i.

        Args:
          pixels: images as numbers of colours.
          keys: (B,) dropout keys, None in evaluation.

        Returns:
          Logits of classes (B, num_classes), or features (B, D) of a model without classes; and
          logits of colours (B, H * W, K) in float32.
        """
        features, encoded, _ = self._features(pixels, keys, False)
        with jax.named_scope("head"):
            colors = self.color_head(encoded).astype(jnp.float32)
            return self._classify(features, encoded), colors

    def colors_at(self, pixels: Pixels, place: jax.Array) -> jax.Array:
        """Logits (B, K) in float32 of the colour at one place, for all images the same."""
        _, encoded, _ = self._features(pixels, None, False)
        return self.color_head(encoded[:, place]).astype(jnp.float32)


def _published_init(blocks: nnx.State, depth: int, rngs: nnx.Rngs) -> nnx.State:
    """The blocks' parameters with the published initialisation where it differs from a ViT's.

    The output projection of attention has the standard deviation 1 / sqrt(D L), the MLPs' layers
    0.02; queries, keys and values have 1 / sqrt(D), as Xavier's.
    """

    def changed(path, leaf):
        name = path_name(path)
        if name.endswith("attention/out/kernel"):
            return leaf * depth**-0.5
        if name.endswith(("mlp/fc1/kernel", "mlp/fc2/kernel", "mlp/gated/kernel")):
            return _MLP_STD * jax.random.normal(rngs.params(), leaf.shape, leaf.dtype)
        return leaf

    pure = jax.tree_util.tree_map_with_path(changed, nnx.to_pure_dict(blocks))
    nnx.replace_by_pure_dict(blocks, pure)
    return blocks
