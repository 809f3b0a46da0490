"""Features of a model's layers: pooled, as tokens, or as maps for dense tasks.

Layers are named as `return_intermediates` names them: "block00", "block01", ... are the outputs
of a ViT's blocks, "root", "stage1", "stage2", ... the maps of a ResNet or of a hybrid's stem.
Indices count blocks, in a ResNet stages.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError, unknown
from vit_jax.models.config import ModelConfig
from vit_jax.models.naflex import Patches
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.models.vit_config import ViTConfig

POOLS = ("head", "cls", "mean", "tokens", "grid")
LEVELS = 4  # maps of a ViT's pyramid

Layers: TypeAlias = int | str | Sequence[int | str]


def counted_layers(config: ModelConfig) -> list[str]:
    """Names of the layers that indices count: the blocks of a ViT, the stages of a ResNet."""
    if isinstance(config, ViTConfig):
        return [f"block{i:02}" for i in range(config.depth)]
    return [f"stage{i + 1}" for i in range(len(config.stages))]


def maps_of_stem(config: ModelConfig) -> list[str]:
    """Names of the maps of a ResNet, or of a hybrid's stem."""
    if config.resnet_stages is None:
        return []
    return ["root", *(f"stage{i + 1}" for i in range(len(config.stages)))]


def named_layers(config: ModelConfig, layers: Layers) -> list[str]:
    """Names of layers.

    Args:
      config: configuration of the model.
      layers: an index, also from the end (-1); a name; "last", "all"; or several of the former.

    Raises:
      InputError: no such layer, or none.
    """
    counted = counted_layers(config)
    if layers == "all":
        return counted
    several = [layers] if isinstance(layers, int | str) else list(layers)
    if not several:
        raise InputError("layers names no layer; give an index, 'last' or 'all'")
    return [_named(config, layer, counted) for layer in several]


def _named(config: ModelConfig, layer: int | str, counted: list[str]) -> str:
    known = dict.fromkeys([*maps_of_stem(config), *counted])
    if isinstance(layer, str):
        name = counted[-1] if layer == "last" else layer
        if name not in known:
            raise unknown("layer", layer, ["last", "all", *known])
        return name
    if isinstance(layer, bool) or not -len(counted) <= layer < len(counted):
        raise InputError(
            f"layer {layer}: the model has {len(counted)}; give 0 to {len(counted) - 1}, or -1 "
            "for the last"
        )
    return counted[layer]


def features(
    model: ViT | BiT,
    images: jax.Array | Patches,
    layers: Layers = "last",
    *,
    pool: str = "head",
    norm: bool = False,
) -> list[jax.Array]:
    """Features of chosen layers; a traced function.

    Args:
      model: the model.
      images: what the model takes.
      layers: see `named_layers`.
      pool: one of POOLS:
        "head": input of the classifier (B, width), of the last layer only;
        "cls": the class token (B, D);
        "mean": mean over the patches or positions, without the tokens before them (B, D);
        "tokens": all tokens in their order (B, N, D), of a map its positions by row;
        "grid": patches where they lie in the image (B, rows, columns, D).
      norm: whether to apply the model's last norm. Without it, features are the outputs of the
        blocks as they are.

    Returns:
      An array in float32 for each layer.

    Raises:
      InputError: the model has no such layer, token or norm.
    """
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    config = model.config
    names = named_layers(config, layers)
    if isinstance(model, ViT):
        _, out = model(images, return_intermediates=True)
    elif isinstance(images, Patches):
        raise InputError("a ResNet takes an array of images, not Patches")
    else:
        _, out = model(images, return_intermediates=True)
    if pool == "head":
        if names != [counted_layers(config)[-1]] or norm:
            raise InputError(
                "pool 'head' is the input of the classifier: it has no other layer than 'last' and "
                "no option norm; give pool='cls', 'mean', 'tokens' or 'grid'"
            )
        return [out["pre_logits"]]
    found = []
    for name in names:
        if name.startswith("block"):
            assert isinstance(model, ViT)
            found.append(_of_tokens(model, images, out[f"{name}/output"], pool, norm))
        else:
            value = _normed_map(model, out[name], name) if norm else out[name]
            found.append(_of_map(value.astype(jnp.float32), name, pool))
    return found


def pyramid(
    model: ViT | BiT,
    images: jax.Array | Patches,
    layers: Layers | None = None,
    *,
    norm: bool = False,
) -> dict[str, jax.Array]:
    """Maps (B, rows, columns, channels) in float32 of several layers by name; traced.

    Args:
      model: the model.
      images: what the model takes.
      layers: see `named_layers`; None: the stages of a ResNet; the stages of a hybrid's stem and
        its last block; of a ViT, whose maps are all of one size, four blocks evenly spaced up to
        the last, as for segmentation in BEiT (2106.08254, appendix).
      norm: see `features`.

    Raises:
      InputError: see `features`.
    """
    config = model.config
    chosen = default_levels(config) if layers is None else named_layers(config, layers)
    maps = features(model, images, chosen, pool="grid", norm=norm)
    return dict(zip(chosen, maps, strict=True))


def default_levels(config: ModelConfig) -> list[str]:
    """The layers of a pyramid that names none."""
    counted, stem = counted_layers(config), maps_of_stem(config)
    if not isinstance(config, ViTConfig):
        return counted
    if stem:
        return [*stem[1:], counted[-1]]
    levels = min(LEVELS, len(counted))
    return [counted[(i + 1) * len(counted) // levels - 1] for i in range(levels)]


def _of_tokens(
    model: ViT, images: jax.Array | Patches, tokens: jax.Array, pool: str, norm: bool
) -> jax.Array:
    """What `pool` makes of the tokens (B, N, D) after a block."""
    config = model.config
    prefix = config.prefix_tokens
    norm_mean = norm and config.pool_then_norm
    if norm and not config.final_norm:
        raise InputError("norm=True: the model has no last norm; leave norm out")
    if norm_mean and pool != "mean":
        raise InputError(
            "norm=True: the model's last norm is for the mean of the tokens (pool_then_norm); give "
            "pool='mean', or leave norm out"
        )
    if norm and not norm_mean:
        tokens = model.norm(tokens)
    tokens = tokens.astype(jnp.float32)
    if pool == "tokens":
        return tokens
    if pool == "cls":
        if not config.has_class_token:
            raise InputError("pool 'cls': the model has no class token; give pool='mean'")
        return tokens[:, 0]
    patches = tokens[:, prefix:]
    if pool == "grid":
        if isinstance(images, Patches):
            raise InputError(
                "pool 'grid': images of a NaFlex model have grids of their own; give pool='tokens' "
                f"and cut row i of the batch with grid[i], after {prefix} tokens before the patches"
            )
        return patches.reshape(len(patches), *config.grid, -1)
    where = images.mask[..., None] if isinstance(images, Patches) else None
    mean = patches.mean(axis=1, where=where)
    return model.norm(mean) if norm_mean else mean


def _of_map(x: jax.Array, name: str, pool: str) -> jax.Array:
    """What `pool` makes of a map (B, h, w, C)."""
    if pool == "cls":
        raise InputError(f"pool 'cls': {name} is a map without class token; give pool='mean'")
    if pool == "mean":
        return x.mean((1, 2))
    return x if pool == "grid" else x.reshape(len(x), -1, x.shape[-1])


def _normed_map(model: ViT | BiT, x: jax.Array, name: str) -> jax.Array:
    """The last map after the norm and ReLU at the end of a ResNet with pre-activation."""
    if isinstance(model, BiT) and model.config.preact and name == counted_layers(model.config)[-1]:
        return nnx.relu(model.resnet.norm(x))
    raise InputError(f"norm=True: the model has no norm after {name}; leave norm out")
