"""Finds the process for which the others wait.

All processes take as long over a step, because a step ends with a sum over their gradients. They
differ in what they do before it: the process that spends most on waiting for its own data, or in
Python, begins last. So every process reports what it spends outside the step. A slow chip delays
all processes alike and is not seen here; `config.parallel.check_network` and a profile tell.
"""

import logging

import jax
import numpy as np

from vit_jax.parallel import agree
from vit_jax.train.log.clock import Clock

log = logging.getLogger(__name__)

NOTABLE = 0.1  # share of a step's time from which a lag is worth a warning
_OWN = ("data", "other")  # phases in which a process waits for no other process
_STEP = ("step", "redone")


class Stragglers:
    """Compares the processes between two log steps.

    The times are gathered by a small sum over the devices that is fetched with the step's own
    results, so that training does not wait for it.

    Attributes:
      note: who lagged at the last log step, in words; "" where nobody does.
    """

    def __init__(self, clock: Clock):
        """`clock`: clock of the run."""
        self._clock = clock
        self._last: tuple[int, np.ndarray] | None = None
        self._asked: tuple[int, jax.Array | np.ndarray] | None = None
        self._warned = -1
        self.note = ""

    def ask(self, step: int) -> None:
        """Begins to compare the time since the last call; every process must call it.

        The first call only notes the time: before it, programs are compiled and caches filled.

        Args:
          step: number of steps that have been dispatched.
        """
        if jax.process_count() == 1:
            return
        _, seconds = self._clock.account()
        now = np.array([sum(seconds.get(name, 0.0) for name in _STEP)])
        now = np.append(now, [seconds.get(name, 0.0) for name in _OWN])
        if self._last is not None and step > self._last[0]:
            before, spent = self._last
            self._asked = step, agree.gathered((now - spent) / (step - before))
        self._last = step, now

    def answer(self, step: int) -> dict[str, float]:
        """The metrics of a log step that is done, {} where nothing was asked.

        Returns:
          `straggler/process`; `straggler/lag`, the seconds of a step that it spends on its own
          beyond the median of the other processes; `straggler/data_wait`, its seconds of a step
          waiting for data.
        """
        if self._asked is None or self._asked[0] != step:
            return {}
        found = compare(np.asarray(jax.device_get(self._asked[1]), np.float64))
        self._asked = None
        process, lag = int(found["process"]), found["lag"]
        notable = lag > NOTABLE * found["step"]
        self.note = ""
        if notable:
            self.note = (
                f"process {process} lags: the others wait {lag:.3g} s a step for it, of which it "
                f"waits {min(found['data_wait'], lag):.3g} s for data"
            )
            if process != self._warned and jax.process_index() == 0:
                log.warning("step %d: %s", step, self.note)
        self._warned = process if notable else -1
        return {f"straggler/{name}": found[name] for name in ("process", "lag", "data_wait")}


def compare(seconds: np.ndarray) -> dict[str, float]:
    """Finds the straggler among processes.

    Args:
      seconds: of a step: in the step, waiting for data, in Python; (processes, 3).

    Returns:
      `process`, its `lag` and `data_wait`, and `step`, the mean seconds of a whole step.
    """
    own = seconds[:, 1] + seconds[:, 2]
    process = int(np.argmax(own))
    others = float(np.median(np.delete(own, process)))
    return dict(
        process=float(process),
        lag=float(own[process]) - others,
        data_wait=float(seconds[process, 1]),
        step=float(seconds.sum(1).mean()),
    )
