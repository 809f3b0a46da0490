"""`config.optimizer`: optimizer, learning rate and parameter averages."""

import dataclasses
from collections.abc import Callable

import jax
import optax

from vit_jax.options import Duration, option
from vit_jax.registry import Registry

# Name -> (options, which parameters are kernels, the arguments in parentheses) -> the
# transformation of gradients into a direction, before learning rate and decoupled decay.
OPTIMIZERS: Registry[Callable[..., optax.GradientTransformation]] = Registry("optimizer")
# Name -> (steps since the peak, steps from there to the end, options) -> share of the peak rate.
SCHEDULES: Registry[Callable[..., jax.Array]] = Registry("schedule")
# How the learning rate goes on after `horizon`.
TAILS = ("constant", "linear", "restart")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """`config.optimizer`. Patterns are regular expressions for whole paths, as "head/.*"."""

    name: str = option(
        "adamw", "optimizer: sgd, adam, adamw, adafactor or lion", choices=OPTIMIZERS
    )
    learning_rate: float = option(1e-3, "peak learning rate, reached after warm-up", at_least=0)
    momentum: float = option(0.9, "momentum of sgd", at_least=0, below=1)
    nesterov: bool = option(False, "use Nesterov momentum in sgd")
    b1: float = option(
        0.9,
        "beta 1 of adam and adamw (decay rate of the first moment) and of lion; momentum of "
        "adafactor",
        at_least=0,
        below=1,
    )
    b2: float = option(
        0.999,
        "beta 2 of adam and adamw (decay rate of the second moment) and of lion (0.99 suits it); "
        "in adafactor the upper limit of that rate",
        at_least=0,
        below=1,
    )
    eps: float = option(1e-8, "epsilon of adam and adamw", at_least=0)
    moment_dtype: str = option(
        "float32",
        "dtype in which the first moment or momentum is stored: float32 or bfloat16",
        choices=("float32", "bfloat16"),
    )
    weight_decay: float = option(
        0.0,
        "weight decay, of kernels only, as in torch.optim under the same name. adamw, adafactor, "
        "lion: p <- p - lr(t) * (update + weight_decay * p). sgd, adam: weight_decay * p is added "
        "to the gradient (L2). The paper's Adam is adamw",
        at_least=0,
    )
    clip_norm: float = option(
        0.0, "largest global norm of the gradient, to which it is clipped; 0: off", at_least=0
    )
    schedule: str = option(
        "cosine",
        "learning rate after warm-up: constant, linear, cosine or rsqrt (inverse square root)",
        choices=SCHEDULES,
    )
    warmup: Duration = option(
        Duration(steps=0), "length of the linear warm-up from 0 to learning_rate"
    )
    cooldown: Duration = option(
        Duration(steps=0), "length of the linear decay to end_value at the end of the run"
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
