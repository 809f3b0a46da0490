"""The training and the evaluation step: pure functions, the same under every engine.

With `axis_name` None arrays are global and means are over the global batch, which
XLA turns into collectives (pjit). With a name arrays are one device's part and
means over that axis are explicit (pmap).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from ml_collections import ConfigDict

from vit_jax.models.layers import shard_batch
from vit_jax.train.losses import create_loss, to_targets, top_k_correct
from vit_jax.train.mixup import Mix, create_mix
from vit_jax.train.optim import update_ema
from vit_jax.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a step computes, apart from the arrays it is given."""

    graphdef: nnx.GraphDef
    num_classes: int
    mean: tuple[float, float, float]  # of pixels / 255
    std: tuple[float, float, float]
    config: ConfigDict

    def normalize(self, images: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> float32, as the model expects it."""
        scaled = images.astype(jnp.float32) / 255.0
        return (scaled - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    @property
    def has_dropout(self) -> bool:
        """Whether the model draws random numbers in training."""
        model = self.config.model
        return max(model.dropout, model.attention_dropout, model.stochastic_depth) > 0


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """(state, batch) -> (state, metrics).

    The batch holds `image` uint8 (B, H, W, 3) and `label` (B,) or (B, K).
    Metrics are scalars of the global batch: loss, grad_norm, learning_rate, and counts of
    skipped steps; and `finite_gradients`, bool (leaves of params,).
    A step whose loss or gradient is not finite, or whose update would make a parameter
    overflow, changes nothing but the counters.
    """
    config = task.config
    gradient = make_gradient(task, axis_name)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, grads = gradient(state.params, batch, state.step)
        squares = jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)])
        grad_norm = jnp.sqrt(squares.sum())
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = _update(state, grads, finite, optimizer, config.optimizer.ema_decay)
        metrics = dict(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=schedule(state.step - state.skipped),
            skipped=new.skipped,
            skipped_in_a_row=new.skipped_in_a_row,
            finite_gradients=jnp.isfinite(squares),
        )
        return new, metrics

    return step


def make_gradient(
    task: Task, axis_name: str | None = None
) -> Callable[[Any, Batch, jax.Array], tuple[jax.Array, Any]]:
    """(params, batch, number of the step) -> mean loss of the global batch and its gradient."""
    config = task.config
    loss_fn = create_loss(config.loss)
    mix = create_mix(config.mixup)

    def mean_loss(params, images, targets, keys):
        logits = nnx.merge(task.graphdef, params)(images, keys=keys)
        return loss_fn(logits, targets).mean()

    def gradient(params: Any, batch: Batch, step: jax.Array) -> tuple[jax.Array, Any]:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        inputs = _prepare(task, mix, batch, key, axis_name)
        loss_and_grads = _accumulate(
            jax.value_and_grad(mean_loss), params, inputs, config.parallel.accumulate
        )
        return lax.pmean(loss_and_grads, axis_name) if axis_name else loss_and_grads

    return gradient


def _prepare(
    task: Task, mix: Mix | None, batch: Batch, key: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Images normalised and mixed, labels as rows, a dropout key per example."""
    images = task.normalize(shard_batch(batch["image"]))
    targets = to_targets(batch["label"], task.num_classes)
    mix_key, dropout_key = jax.random.split(key)
    if mix:
        images, targets = mix(images, targets, key=mix_key, axis_name=axis_name)
    keys = None
    if task.has_dropout:
        # Positions in the global batch: the same keys under every mesh and engine.
        positions = jnp.arange(len(images))
        if axis_name:
            positions += lax.axis_index(axis_name) * len(images)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(dropout_key, positions)
    return images, targets, keys


def _accumulate(grad_fn: Callable, params: Any, inputs: Any, parts: int) -> tuple[jax.Array, Any]:
    """Loss and gradient averaged over `parts` microbatches, one after the other."""
    if parts == 1:
        return grad_fn(params, *inputs)

    def cut(x):
        # Microbatch j takes rows j, j + parts, ...: each device keeps its own rows.
        x = x.reshape(len(x) // parts, parts, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0)

    def body(total, microbatch):
        microbatch = jax.tree.map(shard_batch, microbatch)
        return jax.tree.map(jnp.add, total, grad_fn(params, *microbatch)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = lax.scan(body, zeros, jax.tree.map(cut, inputs))
    return jax.tree.map(lambda x: x / parts, total)


def _update(
    state: TrainState,
    grads: Any,
    finite: jax.Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """Applies the gradient, or leaves everything as it is where that is not finite."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    for leaf in jax.tree.leaves(params):
        finite &= jnp.isfinite(leaf).all()
    ema = state.ema
    if ema_decay:
        ema = update_ema(ema, params, ema_decay, state.step - state.skipped)
    params, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, ema),
        (state.params, state.opt_state, state.ema),
    )
    failed = 1 - finite.astype(jnp.int32)
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + failed,
        skipped_in_a_row=(state.skipped_in_a_row + failed) * failed,
    )


def make_eval_step(task: Task, axis_name: str | None = None) -> Callable[[Any, Batch], Metrics]:
    """(params, batch) -> sums over the global batch's examples whose `mask` is set.

    Sums are of loss, top1, top5 (counts of correct examples) and examples.
    """
    loss_fn = create_loss(task.config.loss)

    def step(params: Any, batch: Batch) -> Metrics:
        images = task.normalize(shard_batch(batch["image"]))
        logits = nnx.merge(task.graphdef, params)(images)
        rows = dict(
            loss=loss_fn(logits, batch["label"]),
            top1=top_k_correct(logits, batch["label"], 1),
            top5=top_k_correct(logits, batch["label"], 5),
            examples=jnp.ones(len(images)),
        )
        sums = {name: jnp.where(batch["mask"], row, 0).sum() for name, row in rows.items()}
        return lax.psum(sums, axis_name) if axis_name else sums

    return step
