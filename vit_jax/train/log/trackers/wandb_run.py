"""Weights & Biases."""

import dataclasses
import netrc
import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from vit_jax.errors import InputError
from vit_jax.train.log.trackers.tracker import TRACKERS, Histogram, Memory, Start, Tracker, Writer

if TYPE_CHECKING:
    pass

MODES = ("online", "offline")


@TRACKERS.register("wandb")
@dataclasses.dataclass(frozen=True)
class Wandb(Tracker):
    """A run at Weights & Biases; `wandb sync WORKDIR/wandb/offline-run-*` sends an offline one.

    Attributes:
      project: project of the run.
      name: name of the run; "": name of the workdir.
      entity: user or team; "": the default of the account.
      mode: online or offline; "": WANDB_MODE, or online without it.
    """

    title = "Weights & Biases"
    package = "wandb"
    project: str = "vit_jax"
    name: str = ""
    entity: str = ""
    mode: str = ""

    def check(self) -> None:
        """Refuses a missing package, an unknown mode, and online runs without a key."""
        super().check()
        mode = self.chosen_mode()
        if mode not in MODES:
            raise InputError(
                f"config.log.trackers: wandb has no mode {mode!r}; give one of {', '.join(MODES)}"
            )
        if mode == "online" and not _has_key():
            raise InputError(
                "config.log.trackers: wandb has no key on this machine; `wandb login` stores one, "
                "or write wandb(mode='offline')"
            )

    def chosen_mode(self) -> str:
        """The mode, from the option or the environment."""
        return self.mode or os.environ.get("WANDB_MODE") or "online"

    def open(self, start: Start) -> Writer:
        """Begins the run, or goes on with that of an earlier start."""
        return _WandbRun(self, start)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class _WandbRun(Writer):
    def __init__(self, options: Wandb, start: Start):
        import wandb

        self._memory = Memory(start.workdir, "wandb")
        self._memory.id = self._memory.id or uuid.uuid4().hex[:12]
        self._memory.note(0)
        mode = options.chosen_mode()
        self._run: wandb.Run = wandb.init(
            project=options.project,
            name=options.name or start.workdir.name,
            entity=options.entity or None,
            id=self._memory.id,
            resume=None if mode == "offline" else "allow",
            dir=str(start.workdir),
            mode="offline" if mode == "offline" else "online",
            config=dict(start.options),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._memory.fresh(step):
            self._memory.note(step)
            self._run.log(values, step=step)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        import wandb

        if self._memory.fresh(step):
            self._run.log({name: [wandb.Image(image) for image in images]}, step=step)

    def histograms(self, step: int, found: dict[str, Histogram]) -> None:
        import wandb

        if self._memory.fresh(step):
            shown = {}
            for name, histogram in found.items():
                lower = 2 * histogram.limits[0] - histogram.limits[1]
                edges = np.concatenate([[lower], histogram.limits])
                counts = histogram.counts
                shown[name] = wandb.Histogram(np_histogram=(counts.tolist(), edges.tolist()))
            self._run.log(shown, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
