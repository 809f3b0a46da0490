"""The training state: all that a run carries from step to step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx


@flax.struct.dataclass
class TrainState:
    """A pytree; with its config it determines the rest of the run."""

    step: jax.Array  # int32: batches consumed
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    ema: Any  # averages of params, None where config.optimizer.ema_decay is 0
    skipped: jax.Array  # int32: steps whose update was not finite, all in all
    skipped_in_a_row: jax.Array  # int32

    def items(self) -> dict[str, Any]:
        """The state as the items of a checkpoint (see vit_jax.checkpoint.manager)."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        params, ema = fields.pop("params"), fields.pop("ema")
        items = dict(params=params, train=fields)
        return items if ema is None else dict(items, ema=ema)

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """The inverse of `items`."""
        return cls(params=items["params"], ema=items.get("ema"), **items["train"])


def create_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=zero,
        skipped_in_a_row=zero,
    )


def init_params(create_model: Callable[[nnx.Rngs], nnx.Module], seed: int) -> Any:
    """Fresh parameters as a nested dict; traceable, so that they can be created sharded."""
    return nnx.to_pure_dict(nnx.state(create_model(nnx.Rngs(seed)), nnx.Param))
