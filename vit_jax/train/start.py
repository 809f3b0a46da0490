"""Where a run's state comes from: its own newest checkpoint, `init_from`, or a fresh start."""

import logging
from pathlib import Path
from typing import Any

import jax

from vit_jax import data, models
from vit_jax.checkpoint.load import read
from vit_jax.checkpoint.manager import Checkpoints, read_meta
from vit_jax.train.run import Run
from vit_jax.train.state import TrainState
from vit_jax.weights import transfer

log = logging.getLogger(__name__)


def first_state(
    run: Run, checkpoints: Checkpoints, source: Any
) -> tuple[int, TrainState, dict[str, Any]]:
    """The state to start from: the newest good checkpoint, `init_from`, or a fresh one.

    Args:
      run: the run.
      checkpoints: its own.
      source: its training data.

    Returns:
      How many steps led to the state, the state, and what the checkpoint knows of itself,
      {} where there was none.

    Raises:
      InputError: a checkpoint that does not fit the config or the data; none that is good.
    """
    found = checkpoints.restore_newest(run.abstract.items())
    if found is None:
        return 0, _new_state(run, checkpoints.directory.parent), {}
    step, items = found
    meta = read_meta(checkpoints.directory / str(step))
    since = f"step {step} of the run in {checkpoints.directory.parent}"
    data.check_unchanged(source, meta["data"]["fingerprint"], since)
    return step, TrainState.from_items(items), meta


def _new_state(run: Run, workdir: Path) -> TrainState:
    """A fresh state, or one that begins with `init_from`; the workdir's init_from.txt says how."""
    state = run.engine.init(run.create)
    if not run.config.init_from:
        return state
    loaded, report = pretrained(run)
    if jax.process_index() == 0:
        (workdir / "init_from.txt").write_text("\n".join(report) + "\n")
    params = transfer.replace(state.params, loaded)
    ema = None if state.ema is None else transfer.replace(state.ema, loaded)
    return state.replace(params=params, ema=ema)


def pretrained(run: Run) -> tuple[dict[str, Any], list[str]]:
    """Path -> array of what `config.init_from` gives to the model, and what became of it all."""
    config = run.config
    engine = run.engine

    def layout(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        # Position embeddings may have to be resized, which happens on every host.
        whole = "posemb" in path.split("/")
        return engine.replicated if whole else engine.parameter_sharding(path, shape)

    params, info = read(config.init_from, use_ema=config.init_ema, layout=layout)
    loaded, report = transfer.transfer(
        params,
        run.abstract.params,
        source_config=models.model_config(info.name, **info.options),
        target_config=run.model_config,
        skip=config.init_skip,
        method=config.init_resample,
    )
    transfer.check_finite(loaded, config.init_from)
    report += transfer.other_normalization(info.pp, run.task.setting.mean, run.task.setting.std)
    for line in report:
        log.info("%s", line)
    return loaded, [*info.report, *report]
