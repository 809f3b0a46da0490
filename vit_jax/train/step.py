"""The training step: a pure function, the same under every engine.

With `axis_name` None, arrays are global and means are over the global batch, which
XLA turns into collectives (pjit). With a name, arrays are one device's part and
means over that axis are explicit (pmap).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from vit_jax.models.forms.platform import training_form
from vit_jax.models.layers import shard_batch
from vit_jax.tasks import Batch, Metrics, Task
from vit_jax.train.log import histograms
from vit_jax.train.optim import (
    OptimizerOptions,
    ascend,
    gradient_point,
    trained_tree,
    update_ema,
)
from vit_jax.train.optim.frozen import keep_trained
from vit_jax.train.state import TrainState
from vit_jax.weights.adapters.lora import merge


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes the training step: (state, batch) -> (state, metrics).

    A task that needs arrays that are not trained takes them as a third argument; see `Task.frozen`.

    The batch holds `image` uint8 (B, H, W, 3), `label` (B,) or (B, K), and, if flipping is left
    to the device, `flip` bool (B,), True for images to flip.
    Metrics are scalars of the global batch: loss, grad_norm, learning_rate, and counts of
    skipped steps; and `finite_gradients`, bool (leaves of params,). With `config.log.histograms`
    there is also `histograms`, see `log.histograms.count`; they are zero at steps without.
    A step whose loss or gradient is not finite changes nothing but the counters, nor does one after
    which a scalar of the optimizer's state would not be finite: of Prodigy it is the estimated
    rate, and all later updates would be NaN. A parameter that an update would make overflow keeps
    its value.
    """
    config = task.setting.config
    gradient = make_gradient(task, axis_name)

    def step(state: TrainState, batch: Batch, frozen: Any = None) -> tuple[TrainState, Metrics]:
        point = gradient_point(config.optimizer, state.params, state.opt_state)
        loss, grads = gradient(point, batch, state.step, frozen)
        if config.optimizer.sam_rho:
            with jax.named_scope("sharpness"):
                point = ascend(config.optimizer, point, grads)
            _, grads = gradient(point, batch, state.step, frozen)
        with jax.named_scope("optimizer"):
            squares = jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)])
            grad_norm = jnp.sqrt(squares.sum())
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            new = _update(state, loss, grads, finite, optimizer, config.optimizer)
        metrics: dict[str, Any] = dict(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=schedule(state.step - state.skipped),
            skipped=new.skipped,
            skipped_in_a_row=new.skipped_in_a_row,
            finite_gradients=jnp.isfinite(squares),
        )
        if every := config.log.histograms:
            with jax.named_scope("histograms"):
                metrics["histograms"] = _histograms(new, grads, every)
        return new, metrics

    return step


def _histograms(state: TrainState, grads: Any, every: int) -> dict[str, jax.Array]:
    """Histograms of parameters after the step and of its gradient, counted at every `every`th."""

    def counted() -> dict[str, jax.Array]:
        return histograms.count("parameters", state.params) | histograms.count("gradients", grads)

    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(counted))
    return lax.cond(state.step % every == 0, counted, lambda: empty)


def make_gradient(task: Task, axis_name: str | None = None) -> Callable[..., tuple[jax.Array, Any]]:
    """Makes (params, batch, step number) -> mean loss of the global batch and its gradient.

    The gradient of frozen parameters is zero, and is not computed. An adapter is merged into the
    model's kernels before the forward pass. A fourth argument are the arrays of `Task.frozen`.
    """
    config = task.setting.config

    def gradient(
        params: Any, batch: Batch, step: jax.Array, frozen: Any = None
    ) -> tuple[jax.Array, Any]:
        given = task if frozen is None else task.with_frozen(frozen)

        key = jax.random.fold_in(jax.random.key(config.seed), step)
        inputs = given.at(step).inputs(batch, key, axis_name)
        leaves, structure = jax.tree.flatten(params)
        trained = jax.tree.leaves(trained_tree(config.optimizer, params))

        def whole(own: list[jax.Array], others: Callable[[jax.Array], jax.Array]) -> Any:
            left = iter(own)
            parts = [
                others(leaf) if mask is False else next(left) for mask, leaf in zip(trained, leaves)
            ]
            return jax.tree.unflatten(structure, parts)

        def mean_loss(own: list[jax.Array], inputs: Any) -> jax.Array:
            merged = merge(whole(own, lambda leaf: leaf), config.lora.alpha)
            with training_form():
                return given.losses(given.model(merged), inputs, axis_name).mean()

        own = [leaf for mask, leaf in zip(trained, leaves) if mask is not False]
        loss_and_grads = _accumulate(
            jax.value_and_grad(mean_loss), own, inputs, config.parallel.accumulate
        )
        if axis_name:
            loss_and_grads = lax.pmean(loss_and_grads, axis_name)
        loss, grads = loss_and_grads
        grads = whole(grads, jnp.zeros_like)
        kept = [keep_trained(mask, grad) for mask, grad in zip(trained, jax.tree.leaves(grads))]
        return loss, jax.tree.unflatten(structure, kept)

    return gradient


def _accumulate(grad_fn: Callable, params: Any, inputs: Any, parts: int) -> tuple[jax.Array, Any]:
    """Loss and gradient averaged over `parts` microbatches, one after the other."""
    if parts == 1:
        return grad_fn(params, inputs)

    def cut(x):
        # Microbatch j takes rows j, j + parts, ...: each device keeps its own rows.
        x = x.reshape(len(x) // parts, parts, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0)

    def body(total, microbatch):
        microbatch = jax.tree.map(shard_batch, microbatch)
        return jax.tree.map(jnp.add, total, grad_fn(params, microbatch)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = lax.scan(body, zeros, jax.tree.map(cut, inputs))
    return jax.tree.map(lambda x: x / parts, total)


def _update(
    state: TrainState,
    loss: jax.Array,
    grads: Any,
    finite: jax.Array,
    optimizer: optax.GradientTransformationExtraArgs,
    options: OptimizerOptions,
) -> TrainState:
    """Applies the gradient, or leaves everything as it is if that or a scalar is not finite.

    A parameter that the update would take out of the range of its dtype keeps its value. This
    is decided element by element: a decision about all parameters would have the optimizer
    write them and read them once more. The check of an element needs only what the update of that
    element has computed, so that XLA joins both in one pass over memory.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
    for old, new in zip(*map(jax.tree.leaves, (state.opt_state, opt_state)), strict=True):
        if new.ndim == 0 and jnp.issubdtype(new.dtype, jnp.floating):
            finite &= jnp.isfinite(new) | ~jnp.isfinite(old)

    def unless_overflowing(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite & jnp.isfinite(new), new, old)

    def if_finite(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    params = optax.apply_updates(state.params, updates)
    params = jax.tree.map(unless_overflowing, params, state.params)
    opt_state = jax.tree.map(if_finite, opt_state, state.opt_state)
    ema = state.ema
    if options.ema_decay:
        number = state.step - state.skipped
        ema = update_ema(ema, params, options.ema_decay, number, options.ema_warmup)
        ema = jax.tree.map(if_finite, ema, state.ema)
    failed = 1 - finite.astype(jnp.int32)
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + failed,
        skipped_in_a_row=(state.skipped_in_a_row + failed) * failed,
    )
