"""What a workdir holds, read for the page: also of runs that failed, or whose files are damaged."""

import dataclasses
import fcntl
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ml_collections import ConfigDict

from vit_jax import jsonl, options, schema
from vit_jax.checkpoint.choose import chosen_checkpoint
from vit_jax.checkpoint.damage import find_damage
from vit_jax.checkpoint.stored import Metadata, read_meta, steps_in
from vit_jax.durations import in_steps
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.train.config import completed, default, every_option
from vit_jax.train.log import goodput
from vit_jax.train.log.metrics import Line

Values = Mapping[str, float | None]
FINISHED, RUNNING, STOPPED, FAILED, EMPTY = "finished", "running", "stopped", "failed", "not begun"


class Time(TypedDict):
    """`goodput` in summary.json."""

    share: NotRequired[float]
    wall: NotRequired[float]


class Summary(TypedDict):
    """The keys of summary.json that the page shows."""

    model: NotRequired[str]
    params: NotRequired[int]
    trained_params: NotRequired[int]
    peak_memory_bytes: NotRequired[int]
    steps: NotRequired[int]
    metrics: NotRequired[dict[str, float | None]]
    wall_seconds: NotRequired[float]
    goodput: NotRequired[Time]
    devices: NotRequired[str]
    jax: NotRequired[str]
    versions: NotRequired[dict[str, str]]


class BadStep(TypedDict):
    """An entry of non_finite.json."""

    step: int


class BadSteps(TypedDict):
    """non_finite.json."""

    steps: list[BadStep]


@dataclasses.dataclass(frozen=True)
class Changed:
    """An option whose value is not the default.

    Attributes:
      name: full name.
      value: value of the run.
      default: default value.
      meaning: meaning in a few words; "" of an option that no version here has.
    """

    name: str
    value: Any
    default: Any
    meaning: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its workdir tells it; what cannot be read is empty and named in `notes`.

    Attributes:
      workdir: path as the user gave it.
      name: last part of the path; `distinct` makes it tell runs apart.
      status: one of FINISHED, RUNNING, STOPPED, FAILED, EMPTY.
      reason: why the run is in that state, in a line; "" where there is no more to say.
      step: the last step that is known.
      total: steps of the whole run; None if unknown.
      config: full name -> value of every option.
      metrics: lines of metrics.jsonl, by step.
      starts: the last line of goodput.jsonl of each start.
      summary: summary.json.
      steps: steps of the checkpoints.
      checkpoint: the checkpoint that `predict` would take; None if there is none.
      choice: why it is that one.
      meta: metadata of that checkpoint.
      notes: what is missing or damaged, a line each.
    """

    workdir: str
    name: str
    status: str
    reason: str
    step: int
    total: int | None
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    summary: Summary
    steps: list[int]
    checkpoint: Path | None
    choice: str
    meta: Metadata
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """Class names by number; [] if unknown."""
        return self.meta.get("labels", [])

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, without values that are not finite."""
        pairs = ((line["step"], line.get(name)) for line in self.metrics)
        return [(step, float(value)) for step, value in pairs if isinstance(value, (int, float))]

    def names(self) -> list[str]:
        """The names of all metrics, in the order in which they were first logged.

        Top-5 of at most five classes, which is always 100%, is left out.
        """
        found = dict.fromkeys(name for line in self.metrics for name in line)
        empty = "/top5" if 0 < len(self.labels) <= 5 else "step"
        return [name for name in found if name != "step" and not name.endswith(empty)]

    def changed(self) -> list[Changed]:
        """The options that differ from the default, by name."""
        usual = usual_config()
        meanings = {one.name: one.meaning for one in every_option()}
        found = []
        for name, value in sorted(self.config.items()):
            old = usual.get(name)
            if name in usual and same(value, old):
                continue
            if name.startswith("evals."):
                _, entry, rest = name.split(".", 2) if name.count(".") > 1 else (name, "", "")
                kind = self.config.get(f"evals.{entry}.type", "classification")
                old = evaluation_defaults().get((str(kind), rest))
                if same(value, old) or (rest == "type" and value == "classification"):
                    continue
                meaning = meanings.get(f"evals.NAME[{kind}].{rest}", "")
            else:
                meaning = meanings.get(name, "")
            found.append(Changed(name, value, old, meaning))
        return found


def usual_config() -> dict[str, Any]:
    """Full name -> default of every option, where the model's are those of its class."""
    return completed(dict(options.flatten(default().to_dict())))


def evaluation_defaults() -> dict[tuple[str, str], Any]:
    """(type of evaluation, option) -> default."""
    found = {}
    for one in every_option():
        kind, _, name = one.name.removeprefix("evals.NAME[").partition("].")
        if name:
            found[kind, name] = one.default
    return found


def same(value: Any, other: Any) -> bool:
    """Whether two values of an option are equal; JSON has lists in place of tuples."""
    value, other = (list(each) if isinstance(each, tuple) else each for each in (value, other))
    return bool(value == other)


def read_run(workdir: str) -> Run:
    """Reads a workdir.

    Args:
      workdir: workdir of a run, whatever became of it.

    Raises:
      InputError: it is no folder, or holds nothing of a run.
    """
    path = expand(workdir)
    names = ("config.json", "metrics.jsonl", "summary.json", "goodput.jsonl", "checkpoints")
    try:
        if not path.is_dir():
            missing = "is no folder" if path.exists() else "does not exist"
            raise InputError(f"{workdir} {missing}; give the --workdir of a run")
        present = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read {workdir}: {error.strerror}") from error
    if not present.intersection(names):
        raise InputError(f"{workdir} holds no run: none of {', '.join(names)} is there")
    notes: list[str] = []
    config = dict(options.flatten(_document(path / "config.json", dict, notes)))
    summary: Summary = _document(path / "summary.json", Summary, [])
    if (path / "summary.json").exists() and not summary:
        notes.append("summary.json is damaged; its facts are missing here")
    metrics = _lines(path / "metrics.jsonl", notes, Line, dict[str, float | None])
    starts = _lines(path / "goodput.jsonl", notes, goodput.Line)
    starts = list({line["start"]: line for line in starts}.values())
    steps = steps_in(path / "checkpoints")
    notes += [
        f"checkpoint {step} is damaged: {problem}"
        for step in steps
        if (problem := find_damage(path / "checkpoints" / str(step)))
    ]
    checkpoint, choice, meta = _chosen(path, bool(steps), notes)
    last = [line["step"] for line in (*metrics[-1:], *starts[-1:])]
    step = max([*last, *steps, summary.get("steps", 0)])
    total = _total(config, meta)
    status, reason = _status(path, summary, step, total)
    return Run(
        workdir=workdir,
        name=path.absolute().name or workdir,
        status=status,
        reason=reason,
        step=step,
        total=total,
        config=completed(config) if config else {},
        metrics=metrics,
        starts=starts,
        summary=summary,
        steps=steps,
        checkpoint=checkpoint,
        choice=choice,
        meta=meta,
        notes=notes,
    )


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs with names of as many parts of their paths as tell them apart.

    A workdir that was given twice keeps the same name.
    """
    parts = [expand(run.workdir).absolute().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, names)]


def _document(path: Path, kind: Any, notes: list[str]) -> Any:
    """A JSON file of the workdir; {} where it is missing or damaged, which is noted."""
    try:
        return schema.check(schema.parse(path.read_bytes()), kind)
    except FileNotFoundError:
        notes.append(f"{path.name} is missing")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
    except ValueError as error:
        notes.append(f"{path.name} is damaged: {error}")
    return {}


def _lines(path: Path, notes: list[str], *kinds: Any) -> list[dict[str, Any]]:
    try:
        lines = jsonl.read(path, *kinds)
        whole = path.read_bytes().count(b"\n") if path.is_file() else 0
    except (InputError, OSError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return []
    if not path.exists():
        notes.append(f"{path.name} is missing")
    elif len(lines) < whole:
        notes.append(f"{path.name}: {whole - len(lines)} of {whole} lines are damaged, left out")
    return lines


def _chosen(path: Path, any_there: bool, notes: list[str]) -> tuple[Path | None, str, Metadata]:
    """The checkpoint that others read, why, and its metadata."""
    if not any_there:
        notes.append("there is no checkpoint yet")
        return None, "", {}
    try:
        checkpoint, why = chosen_checkpoint(path)
        return checkpoint, why, cast(Metadata, read_meta(checkpoint))
    except InputError as error:
        notes.append(f"no checkpoint can be used: {error}")
        return None, "", {}


def _total(config: Mapping[str, Any], meta: Metadata) -> int | None:
    """The run's length in steps, from its config and the number of its images."""
    size = meta.get("data", {}).get("fingerprint", {}).get("size", 0)
    units = {unit: config.get(f"total.{unit}") for unit in ("steps", "epochs", "examples")}
    batch_size = config.get("batch_size")
    if not isinstance(batch_size, int) or not isinstance(size, int):
        return None
    if units["epochs"] is not None and not size:
        return None
    try:
        return in_steps(
            ConfigDict(units), name="total", batch_size=max(batch_size, 1), train_size=size
        )
    except (InputError, TypeError, ArithmeticError):
        return None


def _status(path: Path, summary: Summary, step: int, total: int | None) -> tuple[str, str]:
    if under_way(path):
        return RUNNING, "a process trains in this workdir now; the page shows it up to now"
    if summary and not (total and step < total):
        return FINISHED, ""
    if summary:
        return FINISHED, f"early stopping ended it at step {step:,} of {total:,}"
    if (bad := _last_bad_step(path / "non_finite.json")) is not None and bad >= step:
        return FAILED, f"steps up to {bad:,} were not finite; non_finite.json in the workdir has it"
    if not step:
        return EMPTY, "no step was recorded"
    whole = f" of {total:,}" if total else ""
    return STOPPED, f"the last record is of step {step:,}{whole}; the command below goes on"


def _last_bad_step(path: Path) -> int | None:
    """The last step of the report of `train.health.bad_steps`; None if there is none."""
    steps = _document(path, BadSteps, []).get("steps", [])
    return steps[-1]["step"] if steps else None


def under_way(path: Path) -> bool:
    """Whether a process holds the lock of a workdir."""
    try:
        with open(path / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def best(curve: list[tuple[int, float]], larger: bool) -> tuple[int, float]:
    """The (step, value) of the best value; the last of equal ones."""
    sign = 1 if larger else -1
    return max(curve, key=lambda pair: (sign * pair[1], pair[0]))


def is_larger_better(metric: str) -> bool:
    """Whether a larger value of an evaluation's metric is better."""
    last = metric.rpartition("/")[2]
    return not (last.startswith("loss") or last in ("ece", "error") or last.endswith("_error"))


def finite(value: object) -> float | None:
    """A number, or None for anything else."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None
