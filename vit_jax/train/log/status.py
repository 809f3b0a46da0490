"""The state of a run, for display: a line of text, or what the live display draws."""

import dataclasses
import time
from collections.abc import Mapping

from vit_jax.checkpoint.keep import score


@dataclasses.dataclass
class Evaluated:
    """Results of one entry of `config.evals`.

    Attributes:
      step: step of the last evaluation.
      last: metric -> value of the last evaluation.
      best_step: step of the best evaluation.
      best: value of `metric` there.
      metric: metric by which the best is chosen.
    """

    step: int
    last: dict[str, float]
    best_step: int
    best: float
    metric: str


@dataclasses.dataclass
class Status:
    """The newest state of a run.

    Attributes:
      stage: what is done now, such as "compiling the training step"; "": steps.
      since: `time.monotonic()` at the begin of the stage.
      step, total: steps done, and steps of the run.
      metrics: newest metrics by name, as in metrics.jsonl.
      memory: bytes in use on the first device, or of the process on CPUs; 0: unknown.
      memory_limit: bytes that the device has; 0: unknown.
      evaluations: results by the name of the evaluation.
      best_by: `config.checkpoint.best`, or "".
    """

    stage: str = ""
    since: float = dataclasses.field(default_factory=time.monotonic)
    step: int = 0
    total: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: int = 0
    memory_limit: int = 0
    evaluations: dict[str, Evaluated] = dataclasses.field(default_factory=dict)
    best_by: str = ""
    _end: float | None = None  # time.monotonic() at which the run will be done

    def left(self, seconds: float) -> None:
        """Notes the time that the run still needs."""
        self._end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float | None:
        """The time that the run still needs; None: unknown yet."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def evaluated(self, step: int, values: Mapping[str, float | None]) -> None:
        """Notes results of evaluations, named eval/<name>/<metric>; other values are left out."""
        found: dict[str, dict[str, float]] = {}
        for full, value in values.items():
            kind, _, rest = full.partition("/")
            name, _, metric = rest.partition("/")
            if kind == "eval" and metric and value is not None:
                found.setdefault(name, {})[metric] = value
        for name, last in found.items():
            before = self.evaluations.get(name)
            metric = before.metric if before else self._metric(name, last)
            value = last.get(metric, float("nan"))
            new = Evaluated(step, last, step, value, metric)
            if before and score({metric: before.best}, metric) > score({metric: value}, metric):
                new.best_step, new.best = before.best_step, before.best
            self.evaluations[name] = new

    def _metric(self, name: str, last: dict[str, float]) -> str:
        """The metric that tells the best evaluation."""
        chosen = self.best_by.removeprefix(f"eval/{name}/")
        if chosen in last:
            return chosen
        usual = [metric for metric in last if metric not in ("examples", "loss")]
        return "top1" if "top1" in last else next(iter(usual), "loss")

    def line(self) -> str:
        """The state in one line."""
        if self.stage:
            return f"{self.stage}: {duration(time.monotonic() - self.since)} so far"
        loss, _, speed, mfu, _, _ = self.numbers()
        parts = [f"step {self.step}/{self.total}", *filter(None, (loss, speed, mfu))]
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)

    def numbers(self) -> list[str]:
        """Loss, learning rate, speed, MFU, wait for data and memory: "" for those not known."""
        metrics = self.metrics
        memory = f"memory {size(self.memory)}" if self.memory else ""
        if memory and self.memory_limit:
            memory += f" of {size(self.memory_limit)}"
        return [
            _shown(metrics, "train/loss", "loss {:.4f}"),
            _shown(metrics, "train/learning_rate", "learning rate {:.3g}"),
            _shown(metrics, "train/images_per_second", "{:,.0f} images/s"),
            _shown(metrics, "train/mfu", "MFU {:.1%}"),
            _shown(metrics, "train/data_wait", "data wait {:.0%}"),
            memory,
        ]


def _shown(metrics: dict[str, float], name: str, form: str) -> str:
    return form.format(metrics[name]) if name in metrics else ""


def duration(seconds: float) -> str:
    """Seconds as "1h02m" or "2m03s"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def size(number: int) -> str:
    """Bytes in GiB."""
    return f"{number / 2**30:.2f} GiB"
