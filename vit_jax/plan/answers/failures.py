"""What failures cost, and the interval between checkpoints that loses least.

Failures without notice arrive at random (exponentially distributed times, mean M). A run that
saves after every `interval` seconds of training, each save stopping it for `stall`, and that needs
`restart` seconds after a failure, takes

  M exp(restart / M) (exp((interval + stall) / M) - 1) / interval

seconds for each second of training: the second model of Daly, "A higher order estimate of the
optimum checkpoint interval for restart dumps" (Future Generation Computer Systems 22, 2006). Its
first order in 1 / M is Young, "A first order approximation to the optimum checkpoint interval"
(Communications of the ACM 17, 1974), whose best interval is sqrt(2 stall M).
"""

import math

LARGEST = 500.0  # exponent beyond which a run does not end


def slowdown(*, interval: float, stall: float, restart: float, mtbf: float) -> float:
    """Expected seconds of a run for each second of training; infinite if it never ends.

    Args:
      interval: seconds of training between two checkpoints, above 0.
      stall: seconds for which a checkpoint stops training.
      restart: seconds from a failure to the first step that was not done before it, without the
        steps that are repeated.
      mtbf: mean seconds between failures of the run.
    """
    if max(interval + stall, restart) / mtbf > LARGEST:
        return math.inf
    return mtbf * math.exp(restart / mtbf) * math.expm1((interval + stall) / mtbf) / interval


def best_interval(*, stall: float, mtbf: float) -> float:
    """The interval with the least `slowdown`, in seconds; it does not depend on the restart.

    With x = interval / M, the derivative is 0 where (1 - x) exp(x + stall / M) = 1. The left side
    falls from exp(stall / M) at x = 0 to 0 at x = 1.
    """
    low, high = 0.0, 1.0
    for _ in range(100):
        x = (low + high) / 2
        if math.log1p(-x) + x + stall / mtbf > 0:
            low = x
        else:
            high = x
    return high * mtbf
