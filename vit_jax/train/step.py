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

from vit_jax.models.layers import shard_batch
from vit_jax.tasks import Batch, Metrics, Task
from vit_jax.train.optim import update_ema
from vit_jax.train.state import TrainState


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes the training step: (state, batch) -> (state, metrics).

    A task that needs arrays that are not trained takes them as a third argument; see `Task.frozen`.

    The batch holds `image` uint8 (B, H, W, 3), `label` (B,) or (B, K), and, if flipping is left
    to the device, `flip` bool (B,), True for images to flip.
    Metrics are scalars of the global batch: loss, grad_norm, learning_rate, and counts of
    skipped steps; and `finite_gradients`, bool (leaves of params,).
    A step whose loss or gradient is not finite changes nothing but the counters. A parameter
    that an update would make overflow keeps its value.
    """
    config = task.setting.config
    gradient = make_gradient(task, axis_name)

    def step(state: TrainState, batch: Batch, frozen: Any = None) -> tuple[TrainState, Metrics]:
        loss, grads = gradient(state.params, batch, state.step, frozen)
        with jax.named_scope("optimizer"):
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


def make_gradient(task: Task, axis_name: str | None = None) -> Callable[..., tuple[jax.Array, Any]]:
    """Makes (params, batch, step number) -> mean loss of the global batch and its gradient.

    A fourth argument are the arrays of `Task.frozen`.
    """
    config = task.setting.config

    def gradient(
        params: Any, batch: Batch, step: jax.Array, frozen: Any = None
    ) -> tuple[jax.Array, Any]:
        own = task if frozen is None else task.with_frozen(frozen)

        def mean_loss(params, inputs):
            return own.losses(own.model(params), inputs, axis_name).mean()

        key = jax.random.fold_in(jax.random.key(config.seed), step)
        inputs = own.inputs(batch, key, axis_name)
        loss_and_grads = _accumulate(
            jax.value_and_grad(mean_loss), params, inputs, config.parallel.accumulate
        )
        return lax.pmean(loss_and_grads, axis_name) if axis_name else loss_and_grads

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
    grads: Any,
    finite: jax.Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """Applies the gradient, or leaves everything as it is where that is not finite.

    A parameter that the update would take out of the range of its dtype keeps its value. This
    is decided element by element: a decision about all parameters would have the optimizer
    write them and read them once more.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)

    def unless_overflowing(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite & jnp.isfinite(new), new, old)

    def if_finite(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    params = optax.apply_updates(state.params, updates)
    params = jax.tree.map(unless_overflowing, params, state.params)
    opt_state = jax.tree.map(if_finite, opt_state, state.opt_state)
    ema = state.ema
    if ema_decay:
        ema = update_ema(ema, params, ema_decay, state.step - state.skipped)
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
