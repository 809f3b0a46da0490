"""The mesh axis `sequence`: a device holds a part of each image's tokens (context parallelism).

Everything but attention acts on tokens one by one. For attention, each device gathers the keys
and values of all tokens, for its own queries. Tokens are padded so that the axis divides them;
keys of padding are hidden, and padding is cut off after the last block.
"""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from vit_jax.errors import InputError
from vit_jax.parallel.axes import BATCH_AXES, SEQUENCE_AXIS

if TYPE_CHECKING:
    from vit_jax.models.config import ModelConfig
    from vit_jax.models.vit_config import ViTConfig

KINDS = ("full", "causal")  # of attention, that the axis divides


def sequence_shards() -> int:
    """The size of the axis in the mesh in use; 1 without a mesh, and inside pmap and shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[SEQUENCE_AXIS] if SEQUENCE_AXIS in mesh.auto_axes else 1


def pad_tokens(x: jax.Array, config: "ViTConfig", *, whole: bool = False) -> jax.Array:
    """Appends tokens of zeros, so that the axis divides them; without the axis, the identity.

    Models that the axis does not suit (a teacher may be one) keep their tokens as they are.

    Args:
      x: (B, N, D).
      config: configuration of the model.
      whole: whether to leave x as it is, for whoever looks at all tokens of every block.
    """
    size = sequence_shards()
    if size == 1 or whole or x.shape[1] != config.num_tokens or _unsuited(config):
        return x
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0)))


def cut_padding(x: jax.Array, tokens: int) -> jax.Array:
    """The first tokens of (B, N, D); every device gets all of them if there is padding."""
    if x.shape[1] <= tokens:
        return x
    axes = tuple(axis for axis in BATCH_AXES if axis in jax.sharding.get_abstract_mesh().auto_axes)
    return lax.with_sharding_constraint(x, PartitionSpec(axes))[:, :tokens]


def check_model(config: "ModelConfig", size: int) -> None:
    """Refuses models whose tokens the axis does not divide.

    Args:
      config: configuration of the model.
      size: size of the axis.

    Raises:
      InputError: names the option that does not suit it.
    """
    from vit_jax.models.vit_config import ViTConfig  # which imports this module

    if size == 1:
        return
    where = f"config.parallel.sequence={size}"
    if not isinstance(config, ViTConfig):
        raise InputError(f"{where} needs a ViT: a ResNet has no tokens")
    if problem := _unsuited(config):
        raise InputError(f"{where} needs {problem}")
    if _empty(config.num_tokens, size):
        fits = [n for n in range(1, size) if not _empty(config.num_tokens, n)]
        raise InputError(
            f"{where} leaves devices without any of the {config.num_tokens} tokens; the nearest "
            f"size that does not is {max(fits)}"
        )


def suits(config: "ViTConfig", size: int) -> bool:
    """Whether a model's tokens can be divided over an axis of that size; see `check_model`."""
    return size == 1 or not (_unsuited(config) or _empty(config.num_tokens, size))


def _unsuited(config: "ViTConfig") -> str:
    """What a model needs for the axis, and does not have; "" if it has all."""
    if config.attention_kind.partition("(")[0] not in KINDS:
        return f"model.attention_kind {' or '.join(map(repr, KINDS))}"
    if config.posemb.partition("(")[0] == "relative":
        return "another model.posemb than 'relative'"
    for name, usual in (
        *(("posemb_where", "stem"), ("position_bias", "none"), ("attention_dropout", 0.0)),
        *(("patch_dropout", 0.0), ("naflex", 0), ("palette", 0)),
    ):
        if getattr(config, name) != usual:
            return f"model.{name} {usual!r}"
    return ""


def _empty(tokens: int, size: int) -> int:
    """Devices that get padding only."""
    return size - math.ceil(tokens / math.ceil(tokens / size))
