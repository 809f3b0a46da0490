"""The Vision Transformer (section 3.1, equations 1 to 4)."""

from typing import Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models import layers
from vit_jax.models.attention.sequence import cut_padding, pad_tokens
from vit_jax.models.block import Intermediates, create_blocks, create_norm
from vit_jax.models.config import feature_channels
from vit_jax.models.forms.kernels import rounded_kernels
from vit_jax.models.forms.platform import unrolled
from vit_jax.models.forms.remat import checkpointed, policy_in_use
from vit_jax.models.heads import AttentionPool, create_classifier
from vit_jax.models.layers import (
    NORMS,
    Dense,
    fold_in,
    kept_tokens,
    shard_batch,
    take_tokens,
)
from vit_jax.models.naflex import (
    PatchEmbedding,
    Patches,
    check_patches,
    own_positions,
    padding_bias,
)
from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.positions.bias import bias_of, sum_of
from vit_jax.models.positions.rotary import rotation_of
from vit_jax.models.resnet import ResNet
from vit_jax.models.vit_config import ViTConfig

Images = jax.Array | Patches | Pixels


class ViT(nnx.Module):
    """Vision Transformer: images (B, H, W, 3) -> logits (B, K) in float32.

    Blocks are stacked: each parameter of `blocks` has a leading layer axis.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        width = config.width
        self.config = config
        channels = 3
        if config.resnet_stages is not None:
            self.stem = ResNet(config, preact=False, rngs=rngs)
            channels = feature_channels(config.resnet_stages, config.resnet_width)
        self.embedding = self._create_embedding(channels, rngs)
        if config.patch_norm:
            self.patch_norm = create_norm(config)
        if config.has_class_token:
            self.cls = nnx.Param(jnp.zeros((1, 1, width), jnp.float32))
        if config.distillation != "none":
            self.dist = nnx.Param(jnp.zeros((1, 1, width), jnp.float32))
        if config.registers:
            init = nnx.initializers.normal(0.02)
            self.registers = nnx.Param(init(rngs.params(), (1, config.registers, width)))
        if config.posemb_where != "layers":
            self.posemb = config.posemb_kind.create(config, rngs)
        if not config.rotary_kind.per_layer:
            self.rotary = config.rotary_kind.create(config, rngs)
        if config.position_bias_kind.shared:
            self.position_bias = config.position_bias_kind.create(config, rngs)
        if config.norm_pre:
            self.norm_pre = create_norm(config)
        self.blocks = create_blocks(config, rngs)
        if config.final_norm:
            # In float32: what follows is cheap.
            self.norm = NORMS[config.norm](width, eps=config.norm_eps, dtype=jnp.float32)
        if config.head == "map":
            self.map_head = AttentionPool(
                width,
                config.map_heads or config.num_heads,
                config.map_mlp_dim or config.mlp_dim,
                rngs=rngs,
                dtype=dtype,
                gelu=config.gelu,
                norm=config.norm,
                norm_eps=config.norm_eps,
            )
        if config.projection:
            init = nnx.initializers.lecun_normal()
            self.projection = Dense(
                (config.pooled_width,),
                (config.projection,),
                rngs=rngs,
                kernel_init=init,
                bias=False,
            )
        if config.pre_logits:
            init = nnx.initializers.lecun_normal()
            self.pre_logits = Dense(
                (config.pooled_width,), (config.pre_logits,), rngs=rngs, kernel_init=init
            )
        if config.num_classes:
            self.head = create_classifier(config, config.feature_width, rngs)
            if config.distillation == "head":
                self.head_dist = create_classifier(config, width, rngs)

    def _create_embedding(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        """What makes tokens of images, or of the stem's output, with so many channels."""
        config = self.config
        dtype, bias = jnp.dtype(config.dtype), config.patch_bias
        return PatchEmbedding(
            config.patch_size, channels, config.width, rngs=rngs, dtype=dtype, bias=bias
        )

    @overload
    def __call__(
        self,
        images: Images,
        *,
        keys: jax.Array | None = None,
        return_intermediates: Literal[False] = False,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        images: Images,
        *,
        keys: jax.Array | None = None,
        return_intermediates: Literal[True],
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def __call__(
        self,
        images: Images,
        *,
        keys: jax.Array | None = None,
        return_intermediates: bool = False,
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          images: (B, H, W, 3), normalised as the model's preprocessing says; `Patches` for a
            model with `naflex`.
          keys: (B,) one JAX random key per example turns dropout and stochastic
            depth on; None: evaluation.
          return_intermediates: also return a dict with `embedding` (B, N, D),
            `block{i:02}/attention` (B, heads, N, N), `block{i:02}/output` (B, N, D),
            `encoded` (B, N, D) after the last norm and `pre_logits` (B, width), the input
            of the head. Tokens are in the order class, distillation, registers, patches by
            row. Hybrids add the stem's `root` and `stage{i}` (B, h, w, C). Axial blocks have
            `block{i:02}/row/attention` and `block{i:02}/column/attention`. With `keys`, patch
            dropout leaves fewer tokens.

        Returns:
          Logits (B, num_classes) in float32; features (B, width) where num_classes is 0.

        Raises:
          InputError: images of another shape than the model's.
        """
        features, encoded, out = self._features(images, keys, return_intermediates)
        with jax.named_scope("head"):
            logits = self._classify(features, encoded)
        if not return_intermediates:
            return logits
        return logits, dict(out, encoded=encoded, pre_logits=features)

    def outputs(
        self, images: jax.Array | Patches, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """What distillation trains; arguments as `__call__`, for a model with classes.

        Returns:
          Logits (B, K) of the head; those of the distillation token's head, None without one; and
          the head's input (B, width).
        """
        features, encoded, _ = self._features(images, keys, False)
        has_token = self.config.distillation == "head"
        return self.head(features), self._token_logits(encoded) if has_token else None, features

    def layer_features(self, images: Images) -> jax.Array:
        """Features (B, L + 1, D) of every layer, for probes: of each block's input and the last.

        Tokens are normed by the first norm of the block that takes them, the last ones by the
        final norm; then pooled as for the model's head, with the mean in place of a map head
        (iGPT, Chen et al. 2020, section 2.4: the mean). For head "token_gap" D is twice the width.
        """
        _, _, out = self._features(images, None, False, probed=True)
        return jnp.stack(
            [*(out[f"block{i:02}/pooled"] for i in range(self.config.depth)), out["pooled"]], axis=1
        )

    def _features(
        self,
        images: Images,
        keys: jax.Array | None,
        return_intermediates: bool,
        *,
        probed: bool = False,
    ) -> tuple[jax.Array, jax.Array, Intermediates]:
        """Pooled features (B, width), encoded tokens (B, N, D), and what lies before them."""
        config = self.config
        self._check_images(images)
        grid = images.grid if isinstance(images, Patches) else None
        padding = (
            padding_bias(images, config.prefix_tokens) if isinstance(images, Patches) else None
        )
        stem: Intermediates = {}
        if config.resnet_stages is not None and not isinstance(images, Patches | Pixels):
            with jax.named_scope("stem"):
                images, stem = self.stem(images)
        with jax.named_scope("embedding"):
            patches = shard_batch(self.embedding(images))
            if config.patch_norm:
                patches = self.patch_norm(patches)
            embedded = self._sequence(patches, fold_in(keys, 0), grid)
            kept = self._kept(fold_in(keys, 2))
            if kept is not None:
                embedded = shard_batch(take_tokens(embedded, kept))
        keys = fold_in(keys, 1)
        x, blocks = self._encode(embedded, keys, return_intermediates, padding, kept, probed=probed)
        norm_first = config.final_norm and not config.pool_then_norm
        encoded = self.norm(x) if norm_first else x
        if probed:
            blocks["pooled"] = self._pool_tokens(encoded, padding)
        with jax.named_scope("head"):
            features = self._pool(encoded, padding)
            if config.pool_then_norm:
                features = self.norm(features)
            features = features.astype(jnp.float32)
            if config.projection:
                features = self.projection(features)
            if config.pre_logits:
                features = jnp.tanh(self.pre_logits(features))
        return features, encoded, dict(**stem, embedding=embedded, **blocks)

    def _check_images(self, images: Images) -> None:
        config = self.config
        if bool(config.naflex) != isinstance(images, Patches):
            takes = "Patches (vit_jax.models.naflex)" if config.naflex else "an array of images"
            raise InputError(f"the model takes {takes}, got {type(images).__name__}")
        if isinstance(images, Patches):
            check_patches(images, config.naflex, config.patch_size)
        elif not isinstance(images, Pixels) and images.shape[1:] != (*config.image_size, 3):
            raise InputError(
                f"the model takes images of shape (batch, {config.image_size[0]}, "
                f"{config.image_size[1]}, 3), got {images.shape}"
            )

    def _sequence(
        self, patches: jax.Array, keys: jax.Array | None, grid: jax.Array | None = None
    ) -> jax.Array:
        """The rest of equation 1: prefix tokens, position embedding; then dropout, `norm_pre`."""
        batch = patches.shape[0]  # in an exported program a symbol, for which len() fails
        prefix = [
            jnp.broadcast_to(token[...].astype(patches.dtype), (batch, *token.shape[1:]))
            for token in self._prefix()
        ]
        x = jnp.concatenate([*prefix, patches], axis=1)
        if grid is not None:
            x = x + own_positions(self.posemb, self.config, grid).astype(x.dtype)
        elif self.config.posemb_where == "stem":
            x = self.posemb(x)
        x = layers.dropout(x, self.config.dropout, keys)
        return self.norm_pre(x) if self.config.norm_pre else x

    def _kept(self, keys: jax.Array | None) -> jax.Array | None:
        """Places (B, n) of the tokens that patch dropout keeps; None: all."""
        config = self.config
        if keys is None or config.kept_patches == config.num_patches:
            return None
        return kept_tokens(keys, config.prefix_tokens, config.num_patches, config.kept_patches)

    def _prefix(self) -> list[nnx.Param]:
        """The learnt tokens before the patches, in their order."""
        config = self.config
        tokens = []
        if config.has_class_token:
            tokens.append(self.cls)
        if config.distillation != "none":
            tokens.append(self.dist)
        if config.registers:
            tokens.append(self.registers)
        return tokens

    def _encode(
        self,
        x: jax.Array,
        keys: jax.Array | None,
        return_intermediates: bool,
        padding: jax.Array | None = None,
        kept: jax.Array | None = None,
        *,
        probed: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scans the blocks; (B, N, D) -> (B, N, D) and the blocks' intermediates by name.

        With `probed`, there is `pooled` among them; see `layer_features`.
        `kept` (B, N) are the places of x among all tokens; None: x has all of them.
        """
        config = self.config
        graphdef, params = nnx.split(self.blocks)
        params = rounded_kernels(self.blocks, params)
        # What all blocks share is computed once, outside of the loop over blocks.
        own_rotary = config.rotary_kind.per_layer
        shared_rotation = None
        if not own_rotary:
            shared_rotation = rotation_of(self.rotary, fold_in(keys, config.depth), kept)
        own_bias = not config.position_bias_kind.shared
        shared_bias = padding
        if padding is None and not own_bias:
            shared_bias = bias_of(self.position_bias, kept)

        def apply_block(x, layer):
            block_params, index, drop_rate = layer
            block = nnx.merge(graphdef, block_params)
            posemb = block.posemb if config.posemb_where == "layers" else self.posemb
            if config.posemb_where != "stem":
                x = posemb(x)
            fixed = bias_of(block.position_bias, kept) if own_bias else shared_bias
            own = fold_in(keys, index)
            pooled = {}
            if probed:
                pooled["pooled"] = self._pool_tokens(block.normed(x), padding)
            x, outputs = block(
                x,
                drop_rate=drop_rate,
                bias=posemb.bias if fixed is None else sum_of(posemb.bias, fixed),
                rotation=rotation_of(block.rotary, own, kept) if own_rotary else shared_rotation,
                keys=own,
                return_weights=return_intermediates,
                **(dict(layer=index) if config.kind.by_layer else {}),
            )
            return x, outputs | pooled

        unroll = unrolled(config.unroll, config.depth, remat=policy_in_use(config.remat))
        apply_block = checkpointed(apply_block, config.remat, looped=unroll < config.depth)
        drop_rates = jnp.linspace(0.0, config.stochastic_depth, config.depth)
        x, outputs = jax.lax.scan(
            apply_block,
            pad_tokens(x, config, whole=return_intermediates or probed),
            (params, jnp.arange(config.depth), drop_rates),
            unroll=unroll,
        )
        return cut_padding(x, config.num_tokens), {
            f"block{i:02}/{name}": stacked[i]
            for i in range(config.depth)
            for name, stacked in outputs.items()
        }

    def _pool(self, encoded: jax.Array, padding: jax.Array | None) -> jax.Array:
        """(B, N, D) -> (B, D), or (B, 2D) for token_gap; padding (B, 1, 1, N) is left out."""
        if self.config.head != "map":
            return self._pool_tokens(encoded, padding)
        first = 0 if self.config.pool_prefix else self.config.prefix_tokens
        padding = None if padding is None else padding[..., first:]
        return self.map_head(encoded[:, first:], bias=padding)

    def _pool_tokens(self, encoded: jax.Array, padding: jax.Array | None) -> jax.Array:
        """`_pool` without parameters: the mean for a map head."""
        head = self.config.head
        if head == "token":
            return encoded[:, 0]
        first = 0 if self.config.pool_prefix else self.config.prefix_tokens
        patches = encoded[:, first:]
        padding = None if padding is None else padding[..., first:]
        if padding is None:
            mean = patches.mean(axis=1, dtype=jnp.float32)
        else:
            present = padding[:, 0, 0, :, None] == 0
            mean = patches.mean(axis=1, dtype=jnp.float32, where=present)
        if head == "token_gap":
            return jnp.concatenate([encoded[:, 0], mean], axis=-1)
        return mean

    def _classify(self, features: jax.Array, encoded: jax.Array) -> jax.Array:
        """(B, width) -> (B, K): the head, averaged with the distillation token's (2012.12877)."""
        if not self.config.num_classes:
            return features
        logits = self.head(features)
        if self.config.distillation == "head":
            logits = (logits + self._token_logits(encoded)) / 2
        return logits

    def _token_logits(self, encoded: jax.Array) -> jax.Array:
        """The logits (B, K) of the distillation token's head."""
        return self.head_dist(encoded[:, 1].astype(jnp.float32))
