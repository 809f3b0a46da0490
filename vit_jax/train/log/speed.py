"""Speed of training between two lines of the log."""

import jax

from vit_jax.parallel import hardware
from vit_jax.train.log.clock import Clock


class Speed:
    """Counts images and FLOPs, and what they took, since the last line."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._peak = hardware.peak_flops(jax.devices()[0])
        self._start()

    def add(self, images: int, flops: float) -> None:
        """Counts a step: its images, and the FLOPs of all devices."""
        self._images += images
        self._flops += flops

    def take(self) -> dict[str, float]:
        """The metrics of the steps since the last call; starts again.

        `train/images_per_second`; `train/data_wait`, the share of the time that steps waited
        for data; `train/mfu`, where the peak of the devices is known.
        """
        seconds = max(self._busy() - self._busy_since, 1e-9)
        values = {
            "train/images_per_second": self._images / seconds,
            "train/data_wait": (self._waited() - self._waited_since) / seconds,
        }
        if self._peak:
            values["train/mfu"] = self._flops / seconds / self._peak / jax.device_count()
        self._start()
        return values

    def _start(self) -> None:
        self._images, self._flops = 0, 0.0
        self._busy_since, self._waited_since = self._busy(), self._waited()

    def _waited(self) -> float:
        return self._clock.seconds.get("data", 0.0)

    def _busy(self) -> float:
        """Seconds spent training: compiling, evaluating and saving do not count."""
        return sum(self._clock.seconds.get(phase, 0.0) for phase in ("data", "step", "redone"))
