"""Rematerialisation: which activations of a block are kept for the backward pass."""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from vit_jax.models.forms.platform import on_tpu

# What policy `names` keeps of a block, besides its input; all else is computed again from these,
# with no other products than that of queries and keys.
SAVED = (
    *("query", "key", "value", "attended"),  # attention's inputs and its output
    *("mean", "deviation"),  # of each token, of layer norms on TPUs
    "middle",  # the tokens between attention and MLP
    "hidden",  # the input of the MLP's activation
    "kept",  # what dropout keeps, but for attention weights
    "branch",  # the input of a LayerScale or of a norm after a branch
)
POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "names": jax.checkpoint_policies.save_only_these_names(*SAVED),
}
CHOICES = ("auto", *POLICIES)


def saved(x: jax.Array, name: str) -> jax.Array:
    """x, which policy `names` keeps for the backward pass; `name` is one of SAVED."""
    assert name in SAVED, name
    return checkpoint_name(x, name)


def resolve(remat: str, *, tpu: bool) -> str:
    """The policy of `model.remat` for a ViT: `auto` is names on TPUs, none elsewhere.

    Compiled for TPU v5e, `names` is the fastest by every estimate of `vit_jax plan`; on CPUs the
    recomputation costs more time than it saves.
    """
    if remat != "auto":
        return remat
    return "names" if tpu else "none"


def policy_in_use(remat: str) -> str:
    """The policy of `model.remat` on the platform that is traced for."""
    return resolve(remat, tpu=on_tpu())


def checkpointed(function: Callable, remat: str, *, looped: bool) -> Callable:
    """A ViT's block as a function, with the policy of `model.remat` for the platform traced for.

    Args:
      function: the block.
      remat: value of `model.remat`.
      looped: whether the program has a loop over blocks. Without one, XLA would merge the
        recomputation with the original, and is told not to.
    """
    policy = policy_in_use(remat)
    if policy == "none":
        return function
    return jax.checkpoint(function, policy=POLICIES[policy], prevent_cse=not looped)
