"""Losses and correctness per example; the caller applies masks and takes means.

Labels are class indices (B,) or rows over classes (B, K): mixed, smoothed or multi-hot.
Everything is computed in float32, whatever the dtype of the logits.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.options import check_section, option
from vit_jax.registry import Registry

# (logits (B, K), target rows (B, K)) -> losses (B,).
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def to_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Labels (B,) of class indices or (B, K) as float32 rows (B, K)."""
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return labels.astype(jnp.float32)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy (B,) in nats of logits (B, K) against target rows (B, K)."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy (B,) in nats of logits (B, K), summed over the K classes.

    The sum, not the mean, is what the paper's pre-training code minimises.
    """
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets).sum(axis=-1)


# Name -> function that takes the arguments in parentheses and returns the loss.
LOSSES: Registry[Callable[..., Loss]] = Registry("loss")


@LOSSES.register("softmax")
def softmax() -> Loss:
    """Softmax cross-entropy."""
    return softmax_cross_entropy


@LOSSES.register("sigmoid")
def sigmoid(threshold: float | None = None, mean: bool = False) -> Loss:
    """Sigmoid cross-entropy, summed over classes.

    Args:
      threshold: targets above it become 1 and others 0, after mixup and label smoothing, so that
        all classes in a mixed image are right (2110.00476); None: targets as they are.
      mean: mean over classes instead of the sum, as in that paper.

    Raises:
      InputError: a threshold outside [0, 1).
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise InputError(f"config.loss.name: threshold is {threshold}; give 0 or more, below 1")

    def loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        if threshold is not None:
            targets = (targets > threshold).astype(jnp.float32)
        total = sigmoid_cross_entropy(logits, targets)
        return total / logits.shape[-1] if mean else total

    return loss


def is_sigmoid(name: str) -> bool:
    """Whether a value of `config.loss.name` is the sigmoid loss, with or without arguments."""
    return name.partition("(")[0].strip() == "sigmoid"


# Name -> function of the numbers of images of all classes, and the arguments in parentheses.
CLASS_WEIGHTS: Registry[Callable[..., np.ndarray]] = Registry("kind of class weights")


@CLASS_WEIGHTS.register("inverse")
def inverse_weights(counts: np.ndarray) -> np.ndarray:
    """images / (classes * count): on average 1 over images."""
    return counts.sum() / (len(counts) * counts)


@CLASS_WEIGHTS.register("effective")
def effective_weights(counts: np.ndarray, beta: float = 0.9999) -> np.ndarray:
    """(1 - beta) / (1 - beta ** count), scaled to a mean of 1 over classes (1901.05555, 3.2)."""
    if not isinstance(beta, (int, float)) or not 0 <= beta < 1:
        raise InputError(f"config.loss.class_weights: beta is {beta!r}; it must be in [0, 1)")
    weights = (1 - beta) / (1 - beta**counts)
    return weights * len(counts) / weights.sum()


def class_weights(options: "LossOptions", counts: Sequence[int]) -> tuple[float, ...] | None:
    """The weight of each class in the training loss; None without `config.loss.class_weights`.

    Classes without images have weight 0 and do not count.

    Args:
      options: `config.loss`.
      counts: number of training images of each class.

    Raises:
      InputError: an unknown kind of weights, or arguments that it does not take.
    """
    if not options.class_weights:
        return None
    where = "config.loss.class_weights"
    name, args, given = spec.parse(options.class_weights, where)
    function = CLASS_WEIGHTS[name]
    numbers = np.asarray(counts, np.float64)
    present = numbers > 0
    spec.check_arguments(function, options.class_weights, where, given=1)
    weights = np.zeros(len(numbers))
    weights[present] = function(numbers[present], *args, **given)
    return tuple(weights.tolist())


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """`config.loss`."""

    name: str = option(
        "softmax",
        "loss: softmax (cross-entropy) or sigmoid (binary cross-entropy, summed over classes; "
        "sigmoid(threshold=0.2, mean=True) makes mixed targets 0 or 1 and takes the mean)",
        choices=LOSSES,
    )
    class_weights: str = option(
        "",
        "weights of classes by their number of training images, for long-tailed data: inverse (1 "
        "/ number, on average 1 over images), or effective(beta=0.9999) (class-balanced loss, "
        'effective number of images, 1901.05555); "": none. Evaluations have no weights',
        choices=lambda: ("", *CLASS_WEIGHTS),
    )
    label_smoothing: float = option(
        0.0,
        "label smoothing: share of each target that is spread evenly over all classes (1512.00567)",
        at_least=0,
        below=1,
    )


def create_loss(options: LossOptions, weights: Sequence[float] | None = None) -> Loss:
    """The loss of `config.loss`: (logits (B, K), labels (B,) or (B, K)) -> losses (B,).

    Args:
      options: `config.loss`.
      weights: result of `class_weights`: each target is multiplied by the weight of its class
        (softmax), or each example's loss by that of its label (sigmoid).

    Raises:
      InputError: an unknown loss, label smoothing outside [0, 1), or class weights for another
        loss.
    """
    check_section(LossOptions, options, "config.loss")
    class_weights(options, (1,))
    chosen: Loss = spec.create(LOSSES, options.name, "config.loss.name")
    name, _, _ = spec.parse(options.name, "config.loss.name")
    if options.class_weights and name not in ("softmax", "sigmoid"):
        raise InputError(
            f"config.loss.class_weights needs config.loss.name 'softmax' or 'sigmoid', not "
            f"{options.name!r}"
        )

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        with jax.named_scope("loss"):
            targets = to_targets(labels, logits.shape[-1])
            smooth = optax.smooth_labels(targets, options.label_smoothing)
            if weights is None:
                return chosen(logits, smooth)
            by_class = jnp.asarray(weights, jnp.float32)
            by_class = jnp.pad(by_class, (0, logits.shape[-1] - len(weights)))
            if name == "softmax":
                return chosen(logits, smooth * by_class)
            return chosen(logits, smooth) * (targets @ by_class)

    return loss


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether one of the k highest logits is a right class: bool (B,).

    Ties go to the lower class index, as in argmax, so that evaluation agrees
    with the predictions. A row with a NaN is never correct. In rows (B, K), an image without any
    class is correct where no logit is above 0, that is where no class has a sigmoid above 1/2.

    Args:
      logits: (B, K).
      labels: (B,) class indices, or (B, K), where every class above zero is right.
      k: number of classes; more than K counts as K.
    """
    # The number of classes before the best right one. A top-k would sort all classes on a TPU.
    classes = jnp.arange(logits.shape[-1])
    labels_are_sets = labels.ndim > 1
    if labels_are_sets:
        right = labels > 0
        nothing = ~right.any(axis=-1)
        none_chosen = (logits <= 0).all(axis=-1)
        labels = jnp.argmax(jnp.where(right, logits, -jnp.inf), axis=-1)
        # Where all right classes have -inf, the first of them.
        first = jnp.argmax(right, axis=-1)
        labels = jnp.where(jnp.take_along_axis(right, labels[:, None], 1)[:, 0], labels, first)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    among = before.sum(axis=-1) < k
    if labels_are_sets:
        among = jnp.where(nothing, none_chosen, among)
    return among & ~jnp.isnan(logits).any(axis=-1)
