"""`vit_jax.load`: a model with its weights from whatever a path holds."""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from vit_jax.checkpoint.damage import DamagedCheckpoint
from vit_jax.checkpoint.stored import Layout, latest_checkpoint, read_meta, read_params
from vit_jax.errors import InputError
from vit_jax.models import create_model, merge, model_config, split
from vit_jax.models.config import ModelConfig
from vit_jax.weights import Weights, refit
from vit_jax.weights.read import read_stored


def load(
    path: str | Path,
    *,
    use_ema: bool = False,
    resample: str | None = None,
    leave_out: Sequence[str] = (),
    **options: Any,
) -> tuple[nnx.Module, Weights]:
    """A model with the weights of a workdir, a checkpoint or a published weight file.

    Args:
      path: a workdir, a checkpoint directory, a weight file or a directory with one, a URL
        that fsspec reads, or a Hugging Face hub id.
      use_ema: take the averaged parameters of a run that keeps them.
      resample: how the position embedding meets another `image_size`; see `resample_posemb`.
      leave_out: patterns of tensor names in a published file to pass over.
      **options: of `create_model`. They say what a published file does not (`num_heads`),
        how to compute (dtype, attention, unroll), or ask for a change: another `image_size`
        resizes the position embedding, another `num_classes` starts a new head.

    Returns:
      The model and what is known about it, without the arrays; `info.report` accounts for
      every tensor.

    Raises:
      InputError: nothing to load there, or weights that do not fit the model.
    """
    weights = read_weights(path, use_ema=use_ema, resample=resample, leave_out=leave_out, **options)
    for line in weights.report:
        logging.getLogger("vit_jax").info("%s", line)
    model = nnx.eval_shape(lambda: create_model(weights.name, **weights.options))
    graphdef, _ = split(model)
    params = jax.tree.map(jnp.asarray, weights.params)
    return merge(graphdef, params), dataclasses.replace(weights, params={})


def run_config(path: str | Path) -> dict[str, Any]:
    """The config of the run that a path of ours belongs to; {} for published weights."""
    own = _own_checkpoint(path)
    return read_meta(own)["config"] if own else {}


def read_weights(
    path: str | Path,
    *,
    use_ema: bool = False,
    layout: Layout | None = None,
    task_params: bool = False,
    resample: str | None = None,
    leave_out: Sequence[str] = (),
    **options: Any,
) -> Weights:
    """Weights of ours or others in one form, ready to be written again; see `load`.

    Args:
      path, use_ema, resample, leave_out, **options: as `load`.
      layout: with it no device and no host holds the whole of a checkpoint of ours; a
        published file is read by each process as a whole.
      task_params: those that only the run's task has are among them.

    Raises:
      InputError: as `load`.
    """
    own = _own_checkpoint(path)
    if own is not None:
        weights = _read_own(own, use_ema, layout, task_params)
    elif use_ema:
        raise InputError(f"{path} is no run of vit_jax: it keeps no averaged parameters")
    else:
        weights = read_stored(path, options, leave_out)
    return refit(weights, resample=resample, **options)


def read_start(path: str | Path, told: Mapping[str, Any]) -> tuple[ModelConfig, Weights | None]:
    """The model that the weights at a path belong to, for a run that begins with them.

    Args:
      path: as `load`.
      told: options of `create_model`, used where a published file does not tell them.

    Returns:
      The model, and the weights if they had to be read: those of a published file.

    Raises:
      InputError: nothing to read there.
    """
    own = _own_checkpoint(path)
    if own is not None:
        return stored_model(own), None
    weights = read_stored(path, told)
    return weights.config, weights


def stored_model(checkpoint: Path) -> ModelConfig:
    """The model of a checkpoint of ours."""
    model = dict(read_meta(checkpoint)["model"])
    return model_config(model.pop("name"), **model)


def _own_checkpoint(path: str | Path) -> Path | None:
    """The checkpoint that a path of ours names; None for published weights.

    Raises:
      InputError: a workdir without a complete checkpoint, or with a damaged one.
    """
    path = Path(path)
    try:
        return latest_checkpoint(path)
    except DamagedCheckpoint:
        raise
    except InputError:
        if (path / "checkpoints").is_dir():
            raise
        return None


def _read_own(checkpoint: Path, use_ema: bool, layout: Layout | None, task_params: bool) -> Weights:
    meta = read_meta(checkpoint)
    name = meta["model"]["name"]
    params = traverse_util.flatten_dict(
        read_params(checkpoint, use_ema=use_ema, layout=layout), sep="/"
    )
    report = [f"{checkpoint}: {name}, all parameters loaded"]
    if not task_params:
        own = _task_params(meta, params)
        params = {path: array for path, array in params.items() if path not in own}
        report += [f"left out, only the task of the run has it: {path}" for path in own]
    return Weights(
        name=name,
        options={key: value for key, value in meta["model"].items() if key != "name"},
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp=meta["pp"],
        labels=meta["labels"],
        multi_label=_has_sigmoid_loss(meta["config"]),
        source=str(checkpoint),
        run_config=meta["config"],
        report=report,
    )


def _has_sigmoid_loss(config: Mapping[str, Any]) -> bool:
    loss = config.get("loss")
    return isinstance(loss, Mapping) and loss.get("name") == "sigmoid"


def _task_params(meta: dict[str, Any], paths: Iterable[str]) -> list[str]:
    """The parameters that only the task of a run has; earlier versions had one such task."""
    earlier = ["masked/.*"] if meta["model"].get("masked") else []
    patterns = meta.get("task", {}).get("own_params", earlier)
    return [path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)]
