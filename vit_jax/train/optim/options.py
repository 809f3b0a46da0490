"""`config.optimizer`: optimizer, learning rate and parameter averages."""

import abc
import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

from vit_jax import spec
from vit_jax.errors import InputError, unknown
from vit_jax.options import Duration, check_section, option
from vit_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the trainer adds to an optimizer's direction.

    Attributes:
      decay: adds weight_decay * p to the updates of kernels; () without weight decay.
      factors: multiplies updates by each parameter's factor of the learning rate.
      rate: multiplies updates by -lr(t).
      schedule: update number (from 0) -> learning rate.
    """

    decay: tuple[optax.GradientTransformation, ...]
    factors: optax.GradientTransformation
    rate: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Whole:
    """An optimizer with an order of its own: the steps from gradients to changes of parameters."""

    build: Callable[[Parts], list[optax.GradientTransformation]]


Direction: TypeAlias = optax.GradientTransformation | Whole


class OptimizerKind(abc.ABC):
    """An optimizer with its arguments in parentheses: a frozen dataclass in `OPTIMIZERS`."""

    @abc.abstractmethod
    def create(self, config: "OptimizerOptions", kernels: Any) -> Direction:
        """Creates the optimizer.

        Args:
          config: `config.optimizer`.
          kernels: tree that marks which parameters are kernels.

        Returns:
          A transformation of gradients into a direction, before decoupled weight decay and
          learning rate; or a `Whole`.
        """


# Name -> class; or (options, which parameters are kernels, the arguments in parentheses) -> the
# transformation of gradients into a direction, before learning rate and decoupled decay.
OPTIMIZERS: Registry[type[OptimizerKind] | Callable[..., Direction]] = Registry(
    "optimizer",
    "vit_jax.train.optim.directions.elementwise",
    "vit_jax.train.optim.directions.contrib",
    "vit_jax.train.optim.directions.free",
    "vit_jax.train.optim.directions.muon",
)
# Name -> (steps since the peak, steps from there to the end, options) -> share of the peak rate.
SCHEDULES: Registry[Callable[..., jax.Array]] = Registry("schedule")
# Name -> frozen dataclass of the arguments in parentheses; see `averages.EmaWarmup`.
EMA_WARMUPS: Registry[type] = Registry("EMA warm-up")
# How the learning rate goes on after `horizon`.
TAILS = ("constant", "linear", "restart")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """`config.optimizer`. Patterns are regular expressions for whole paths, as "head/.*"."""

    name: str = option(
        "adamw",
        "optimizer: sgd, rmsprop, adam, adamw, nadamw, radam, adopt, ademamix, lion, adafactor, "
        "lamb, lars, muon, prodigy or schedule_free; some take options in parentheses, as "
        "muon(ns_steps=6)",
        choices=OPTIMIZERS,
    )
    learning_rate: float = option(1e-3, "peak learning rate, reached after warm-up", at_least=0)
    momentum: float = option(0.9, "momentum of sgd and lars", at_least=0, below=1)
    nesterov: bool = option(False, "use Nesterov momentum in sgd")
    b1: float = option(
        0.9,
        "beta 1 of adam and its relatives (decay rate of the first moment), lion and prodigy; "
        "momentum of adafactor",
        at_least=0,
        below=1,
    )
    b2: float = option(
        0.999,
        "beta 2 of adam and its relatives (decay rate of the second moment), prodigy and lion "
        "(0.99 suits it); in adafactor the upper limit of that rate",
        at_least=0,
        below=1,
    )
    eps: float = option(1e-8, "epsilon of adam and its relatives, and of rmsprop", at_least=0)
    moment_dtype: str = option(
        "float32",
        "dtype in which the first moment or momentum is stored: float32, bfloat16 or 8bit "
        "(block-wise, 2110.02861)",
        choices=("float32", "bfloat16", "8bit"),
    )
    second_moment_dtype: str = option(
        "float32",
        "dtype in which adam, adamw, nadamw and lamb store the second moment: float32, bfloat16 "
        "(rounded at random) or 8bit (block-wise, 2110.02861)",
        choices=("float32", "bfloat16", "8bit"),
    )
    weight_decay: float = option(
        0.0,
        "weight decay, of kernels only: p <- p - lr(t) * (update + weight_decay * p). sgd, "
        "rmsprop, adam and lars add weight_decay * p to the gradient (L2); lamb adds it before its "
        "trust ratio. The paper's Adam is adamw",
        at_least=0,
    )
    clip_norm: float = option(
        0.0, "largest global norm of the gradient, to which it is clipped; 0: off", at_least=0
    )
    clip_value: float = option(
        0.0,
        "largest absolute value of an element of the gradient, to which it is clipped; 0: off",
        at_least=0,
    )
    clip_adaptive: float = option(
        0.0,
        "adaptive gradient clipping (AGC, 2102.06171): largest norm of a unit's gradient, as a "
        "share of the norm of its parameters; the classifier is left out; 0: off; published: 0.01",
        at_least=0,
    )
    schedule: str = option(
        "cosine",
        "learning rate after warm-up: constant, linear, cosine or rsqrt (inverse square root)",
        choices=SCHEDULES,
    )
    warmup: Duration = option(
        Duration(steps=0),
        "length of the linear warm-up from 0 to learning_rate; a tenth of the run where warm-up "
        "and cooldown do not fit into it",
    )
    cooldown: Duration = option(
        Duration(steps=0),
        "length of the linear decay to end_value at the end of the run; likewise",
    )
    horizon: Duration = option(
        Duration(),
        "length of the schedule, where that is not the length of the run, as for a run that is "
        "lengthened after its end; the steps after it follow `tail`",
        effect="course",
    )
    tail: str = option(
        "constant",
        "learning rate after `horizon`: constant; linear, down to end_value at the end of the run; "
        "restart, the schedule once more without warm-up",
        effect="course",
        choices=TAILS,
    )
    tail_value: float | None = option(
        None,
        "learning rate with which `tail` begins, as a share of learning_rate; None: the schedule's "
        "last value; for restart, 1",
        effect="course",
        at_least=0,
    )
    end_value: float = option(
        0.0,
        "final learning rate of linear, cosine and the cooldown, as a share of learning_rate",
        at_least=0,
    )
    rsqrt_timescale: int = option(
        10_000,
        "for schedule rsqrt: number of steps after warm-up in which the learning rate falls by a "
        "factor of sqrt(2)",
        above=0,
    )
    multipliers: tuple[tuple[str, float], ...] = option(
        (),
        "(pattern, factor) pairs: the learning rate is multiplied by the factor for parameters "
        "whose whole path matches the regular expression; the first match counts",
    )
    layer_decay: float = option(
        1.0,
        "layer-wise decay of the learning rate (2106.08254): factor from each block to the one "
        "before it; embeddings have the smallest rate, the head the full one; 1: off; published "
        "for fine-tuning: 0.65 to 0.75",
        above=0,
    )
    layer_decay_min: float = option(
        0.0, "smallest factor that layer_decay gives", at_least=0, below=1
    )
    freeze: tuple[str, ...] = option(
        (), "regular expressions for whole parameter paths: these parameters are not trained"
    )
    train: tuple[str, ...] = option(
        (),
        "regular expressions for whole parameter paths: only these parameters are trained; (): "
        "all, or with config.lora the adapter and the head",
    )
    freeze_blocks: int = option(
        0,
        "number of first blocks that are not trained, nor are the patch embedding, its tokens "
        "and the position embeddings; 0: off",
        at_least=0,
    )
    ema_decay: float = option(
        0.0,
        "decay rate of the moving average (EMA, Polyak) of the parameters; 0: no average; the "
        "paper's: 0.9999",
        at_least=0,
        below=1,
    )
    ema_warmup: str = option(
        "corrected",
        "start of the moving average: corrected (as Adam's moments: the initial parameters weigh "
        "nothing); none; power(inv_gamma=1.0, power=0.6667), as timm's; tensorflow, the decay rate "
        "at most (1 + step) / (10 + step)",
        choices=EMA_WARMUPS,
    )
    sam_rho: float = option(
        0.0,
        "sharpness-aware minimisation (SAM, 2010.01412): radius, in the norm of all parameters, at "
        "which the gradient is taken once more; each step costs two; 0: off; published: 0.05 to "
        "0.2",
        at_least=0,
    )


def arguments(registry: Registry[Any], text: str, where: str) -> Any:
    """An object of a registered dataclass, from a text such as "muon(ns_steps=6)".

    Args:
      registry: registry of frozen dataclasses with fields made by `option`.
      text: name, with or without options in parentheses.
      where: name of the option in messages.

    Raises:
      InputError: an unknown name or option, or a value of another type or out of range.
    """
    name, args, given = spec.parse(text, where)
    kind = registry[name]
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    if args:
        raise InputError(f"{where} {text!r}: give options by name, such as {name}(x=1)")
    for field, value in given.items():
        if field not in fields:
            raise unknown(f"option of {where}={name}; option", field, fields or ["none"])
        if not spec.fits(value, hints[field]):
            expected = str(hints[field]).removeprefix("<class '").removesuffix("'>")
            raise InputError(f"{where}={name}: {field} is {value!r}; it must be {expected}")
    made = kind(**given)
    check_section(kind, made, f"{where}={name}")
    return made
