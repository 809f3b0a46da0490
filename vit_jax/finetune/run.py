"""A fine-tuning run, as `vit_jax finetune` and `vit_jax.finetune` make it."""

import dataclasses
import logging
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config_files import PREFIX, load_config
from vit_jax.data.sources.opening import as_source, kind_of
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.finetune.begun import begun_in
from vit_jax.finetune.config import TOLD, Wanted
from vit_jax.finetune.outcome import outcome
from vit_jax.finetune.sweep import sweep as run_sweep
from vit_jax.schema import check_given, path_given
from vit_jax.text import shown
from vit_jax.train.log.progress import shown_log

log = logging.getLogger("vit_jax.finetune")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A fine-tuning run that is ready to begin."""

    config: ConfigDict
    workdir: str


def finetune(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    workdir: str | os.PathLike[str] = "",
    epochs: float | None = None,
    image_size: int | None = None,
    method: str = "full",
    sweep: bool = False,
    jobs: int = 1,
    overrides: Mapping[str, object] | Sequence[str] = (),
) -> dict[str, Any]:
    """Fine-tunes weights; `vit_jax.finetune` is the same, with an example."""
    from vit_jax.train.loop import train

    started = time.monotonic()
    weights, data, workdir = (
        path_given(value, name)
        for name, value in dict(weights=weights, data=data, workdir=workdir).items()
    )
    check_given(epochs, "epochs", float, optional=True)
    check_given(image_size, "image_size", int, optional=True)
    check_given(method, "method", str)
    check_given(sweep, "sweep", bool)
    check_given(jobs, "jobs", int)
    with shown_log():
        run = prepare(
            weights,
            data,
            workdir=workdir,
            epochs=epochs,
            image_size=image_size,
            method=method,
            sweep=sweep,
            jobs=jobs,
            overrides=as_overrides(overrides),
        )
        summary = train(run.config, run.workdir, started=started)
        return dict(summary, outcome=outcome(run.workdir))


def prepare(
    weights: str,
    data: str,
    *,
    workdir: str = "",
    epochs: float | None = None,
    image_size: int | None = None,
    method: str = "full",
    sweep: bool = False,
    jobs: int = 1,
    overrides: Sequence[str] = (),
) -> Prepared:
    """Chooses everything that is not given; with `sweep`, by short runs, which are done here.

    The `vit_jax train` command that does the same is logged.

    Args:
      weights, data, workdir, epochs, image_size, method, sweep, jobs: see `vit_jax.finetune`.
      overrides: "--config.OPTION=VALUE" each.

    Raises:
      InputError: wrong values, weights or images that cannot be read.
      Preempted: the sweep was stopped.
    """
    try:
        source = as_source(data)
    except InputError as error:
        if kind_of(weights) and not _is_model(weights):
            raise InputError(f"{error}; the weights come first, then the data") from None
        raise
    words = {word: word.removeprefix(PREFIX).partition("=") for word in overrides}
    told = {name: text for name, _, text in words.values() if name.startswith(TOLD)}
    overrides = given = [word for word, (name, _, _) in words.items() if name not in told]
    wanted = Wanted(weights, source, epochs, image_size, method=method, told=told)
    Wanted.parse(wanted.argument())  # which checks the values
    workdir = workdir or default_workdir(weights, source)
    if sweep:
        found = run_sweep(wanted, workdir, overrides, jobs=jobs)
        wanted, overrides = found.wanted, [*found.overrides, *overrides]
    if begun_in(workdir) and "," not in workdir:
        wanted = dataclasses.replace(wanted, resume=workdir)
    overrides = [*overrides, *warmup_of(overrides, method)]
    spec = f"configs/images.py:{wanted.argument()}"
    command = ["vit_jax", "train", f"--config={spec}", f"--workdir={workdir}", *overrides]
    log.info("this is %s", shlex.join(command))
    config = load_config(spec, overrides)
    for word in given:
        log.info("%s: as given", word)
    return Prepared(config, workdir)


def warmup_of(overrides: Sequence[str], method: str) -> list[str]:
    """The warm-up that goes with a length given as an override: a tenth of it.

    Nothing if no length is given, if a warm-up is given, too, or if the method has none. The rule
    of `choices` knows no length but the one that it chooses.
    """
    given = dict(word.removeprefix(PREFIX).partition("=")[::2] for word in overrides)
    if method == "probe" or any(name.startswith("optimizer.warmup") for name in given):
        return []
    for unit in ("steps", "examples", "epochs"):
        # Another text is refused with the config.
        if re.fullmatch(r"\d+(\.\d+)?", text := given.get(f"total.{unit}", "")):
            tenth = float(text) / 10 if unit == "epochs" else round(float(text) / 10)
            return [f"{PREFIX}optimizer.warmup.{unit}={tenth}"]
    return []


def _is_model(path: str) -> bool:
    """Whether a path that exists is a weight file, or a folder that holds a run or weights."""
    place = expand(path)
    named = [place / "config.json", place / "checkpoints", *place.glob("*.safetensors")]
    return place.suffix == ".npz" or any(one.exists() for one in named)


def as_overrides(overrides: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Overrides as "--config.OPTION=VALUE", from a dict or from texts with or without --config."""
    if isinstance(overrides, Mapping):
        return [f"{PREFIX}{name}={value}" for name, value in overrides.items()]
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise InputError(
            f"overrides is {shown(overrides)}; give a dict such as {{'batch_size': 16}}, or a list "
            "of texts"
        )
    for text in overrides:
        check_given(text, "overrides", str)
    return [PREFIX + text.removeprefix(PREFIX) for text in overrides]


def default_workdir(weights: str, source: str) -> str:
    """workdirs/WEIGHTS-DATA, from the last part of each; the kind of source is left out."""
    words = (weights, source.partition(":")[2] or source)
    parts = (re.sub(r"[^\w.-]+", "-", Path(text).name).strip("-.") for text in words)
    return os.path.join("workdirs", "-".join(parts))
