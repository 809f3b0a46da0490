"""Losses and correctness, an example at a time: masks and means are the caller's.

Labels are class indices (B,) or rows over classes (B, K): mixed, smoothed or multi-hot.
Everything is computed in float32, whatever the dtype of the logits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vit_jax.errors import InputError, unknown


def to_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Labels (B,) of class indices or (B, K) as float32 rows (B, K)."""
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return labels.astype(jnp.float32)


def smooth(targets: jax.Array, amount: float) -> jax.Array:
    """Label smoothing (1512.00567): `amount` of every target spread evenly over the K classes."""
    return targets * (1 - amount) + amount / targets.shape[-1]


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy (B,) in nats of logits (B, K) against target rows (B, K)."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy (B,) in nats of logits (B, K), summed over the K classes.

    The sum, not the mean, is what the paper's pre-training code minimises.
    """
    logits = logits.astype(jnp.float32)
    chosen = targets * jax.nn.log_sigmoid(logits)
    others = (1 - targets) * jax.nn.log_sigmoid(-logits)
    return -jnp.sum(chosen + others, axis=-1)


LOSSES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}


def create_loss(config: ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loss of `config.loss`: (logits (B, K), labels (B,) or (B, K)) -> losses (B,).

    Raises:
      InputError: an unknown loss, or label smoothing outside [0, 1).
    """
    if config.name not in LOSSES:
        raise unknown("loss", config.name, LOSSES)
    if not 0 <= config.label_smoothing < 1:
        raise InputError(
            f"config.loss.label_smoothing is {config.label_smoothing}; it must be in [0, 1)"
        )

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        with jax.named_scope("loss"):
            targets = to_targets(labels, logits.shape[-1])
            return LOSSES[config.name](logits, smooth(targets, config.label_smoothing))

    return loss


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether one of the k highest logits is a right class: bool (B,).

    Ties go to the lower class index, as in argmax, so that evaluation agrees
    with the predictions. A row with a NaN is never correct.

    Args:
      logits: (B, K).
      labels: (B,) class indices, or (B, K), where every class above zero is right.
      k: more than K counts as K.
    """
    _, top = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    if labels.ndim == 1:
        right = top == labels[:, None]
    else:
        right = jnp.take_along_axis(labels, top, axis=-1) > 0
    return right.any(axis=-1) & ~jnp.isnan(logits).any(axis=-1)
