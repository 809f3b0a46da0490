"""Which checkpoint of a run others read: the best where the run kept one, else the newest."""

import math
from pathlib import Path
from typing import Any

from vit_jax.checkpoint.damage import DamagedCheckpoint, find_damage
from vit_jax.checkpoint.keep import score
from vit_jax.checkpoint.stored import latest_checkpoint, read_meta, steps_in
from vit_jax.files import expand


def chosen_checkpoint(path: str | Path) -> tuple[Path, str]:
    """The checkpoint to read at a path, and in words why it is not simply the newest.

    Args:
      path: a workdir or its checkpoints/, where the run's `config.checkpoint.best` decides; or a
        checkpoint, which is taken as it is.

    Raises:
      DamagedCheckpoint: the newest checkpoint, or the given one, has changed.
      InputError: there is no checkpoint.
    """
    newest = latest_checkpoint(path)
    if newest == expand(path).absolute():
        return newest, ""
    metric = _best_of(read_meta(newest))
    others = {step: _sound_meta(newest.parent / str(step)) for step in steps_in(newest.parent)}
    sound = {step: meta for step, meta in others.items() if meta is not None}
    give = f"the newest is {newest}"
    if metric:
        scores = {step: score(meta.get("metrics", {}), metric) for step, meta in sound.items()}
        known = [step for step in scores if math.isfinite(scores[step])]
        if known:
            best = max(known, key=lambda step: (scores[step], step))
            value = sound[best]["metrics"][metric]
            other = f"; {give}" if str(best) != newest.name else ""
            return newest.parent / str(best), f"the best by {metric} ({value:.4g}){other}"
    step = int(newest.name)
    if sound and step not in sound:
        return newest.parent / str(max(sound)), f"the newest with finite steps; {give}"
    return newest, ""


def _best_of(meta: dict[str, Any]) -> str:
    """`config.checkpoint.best` of a checkpoint's run."""
    section = meta.get("config", {}).get("checkpoint")
    best = section.get("best") if isinstance(section, dict) else None
    return best if isinstance(best, str) else ""


def _sound_meta(checkpoint: Path) -> dict[str, Any] | None:
    """The metadata; None if the checkpoint is damaged or its steps were not finite."""
    if find_damage(checkpoint) is not None:
        return None
    try:
        meta = read_meta(checkpoint)
    except DamagedCheckpoint:
        return None
    return None if meta.get("bad_steps") else meta
