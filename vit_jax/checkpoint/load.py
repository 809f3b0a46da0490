"""`vit_jax.load`: a model with its weights, from a checkpoint or a published file."""

import dataclasses
import functools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from vit_jax.checkpoint.choose import chosen_checkpoint
from vit_jax.checkpoint.damage import DamagedCheckpoint
from vit_jax.checkpoint.loaded import Loaded
from vit_jax.checkpoint.stored import USE, Layout, damaged, read_meta, read_params
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models import abstract, build_model, merge, model_config
from vit_jax.models.config import ModelConfig
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.schema import check_given, path_given
from vit_jax.text import shown
from vit_jax.weights import Weights, refit
from vit_jax.weights.adapters import lora
from vit_jax.weights.adapters.lora import Adapter
from vit_jax.weights.read import read_stored


def load(
    path: str | Path,
    *,
    use_ema: bool = False,
    resample: str | None = None,
    leave_out: Sequence[str] = (),
    adapter: str | Path = "",
    **options: Any,
) -> tuple[ViT | BiT, Loaded]:
    """Loads a model with the weights of a workdir, a checkpoint or a published weight file.

    Args:
      path: a workdir (its best checkpoint if the run kept one, else its newest), a checkpoint
        directory, a weight file or a directory with one, a URL that fsspec reads, or a Hugging
        Face hub id.
      use_ema: whether to load the averaged parameters, of a run with `ema_decay` or of another
        program's training checkpoint.
      resample: method for resizing the position embedding; see `resample_posemb`.
      leave_out: patterns of tensor names in a published file to ignore.
      adapter: folder of a LoRA adapter, as peft writes it, that is merged into the weights; its
        head, if it has one, takes the place of theirs.
      **options: options of `create_model`: those missing from a published file (`num_heads`),
        those of the computation (dtype, attention, unroll), and changes: another `image_size`
        resizes the position embedding, another `num_classes` initialises a new head.

    Returns:
      The model, and its `Loaded` record: preprocessing, labels, and what can be asked of the
      model; `info.report` accounts for every tensor.

    Raises:
      InputError: there are no weights at `path`, or they do not fit the model.

    Example:
        >>> model, info = vit_jax.load("workdirs/digits")  # the run of the example of `train`
        >>> info.name, info.labels[:3], model.config.num_classes
        ('ViT-Ti/4', ['0', '1', '2'], 10)
        >>> model, info = vit_jax.load("workdirs/digits", num_classes=3)  # with a new head
        >>> model.config.num_classes
        3
    """
    check_given(use_ema, "use_ema", bool)
    check_given(resample, "resample", str, optional=True)
    if isinstance(leave_out, str) or not isinstance(leave_out, Sequence):
        raise InputError(f"leave_out is {shown(leave_out)}; give a list of patterns")
    weights = read_weights(
        path_given(path, "path"),
        use_ema=use_ema,
        resample=resample,
        leave_out=leave_out,
        adapter=path_given(adapter, "adapter"),
        **options,
    )
    for line in weights.report:
        logging.getLogger("vit_jax").info("%s", line)
    graphdef, _ = abstract(lambda rngs: build_model(weights.config, rngs))
    params = jax.tree.map(jnp.asarray, weights.params)
    model = merge(graphdef, params)
    assert isinstance(model, ViT | BiT)
    record = {field.name: getattr(weights, field.name) for field in dataclasses.fields(weights)}
    return model, Loaded(**record | dict(params={}), model=model)


def run_config(path: str | Path) -> dict[str, Any]:
    """The config of the run that wrote a checkpoint; {} for published weights."""
    own, _ = _own_checkpoint(path)
    return read_meta(own, ["config"])["config"] if own else {}


def read_weights(
    path: str | Path,
    *,
    use_ema: bool = False,
    layout: Layout | None = None,
    task_params: bool = False,
    resample: str | None = None,
    leave_out: Sequence[str] = (),
    adapter: str | Path = "",
    **options: Any,
) -> Weights:
    """Reads checkpoints and published weights into one form, which can be written; see `load`.

    Args:
      path, use_ema, resample, leave_out, adapter, **options: as `load`.
      layout: sharding of each parameter, so that no device or host holds a whole checkpoint;
        published files are read as a whole by each process.
      task_params: whether to include parameters that only the run's task uses.

    Raises:
      InputError: as `load`.
    """
    own, why = _own_checkpoint(path)
    if own is not None:
        weights = _read_own(own, why, use_ema, layout, task_params)
    else:
        weights = read_stored(path, options, leave_out, use_ema=use_ema)
    if adapter:
        from vit_jax.weights.adapters.peft import with_adapter

        weights = with_adapter(weights, adapter)
    return refit(weights, resample=resample, **options)


def read_start(
    path: str | Path, told: Mapping[str, Any], *, use_ema: bool = False
) -> tuple[ModelConfig, Weights | None]:
    """The model of the weights at a path, for a run that starts from them.

    Args:
      path: as `load`.
      told: options of `create_model` that a published file may lack.
      use_ema: whether to take the averaged parameters of a published file.

    Returns:
      The model, and the weights if they come from a published file, else None.

    Raises:
      InputError: there are no weights at `path`.
    """
    own, _ = _own_checkpoint(path)
    if own is not None:
        return stored_model(own), None
    weights = read_stored(path, told, use_ema=use_ema)
    return weights.config, weights


def read_description(path: str | Path, *, use_ema: bool = False) -> Weights:
    """The record of the weights at a path, for those who read the arrays of checkpoints later.

    Args:
      path: as `load`.
      use_ema: whether to take the averaged parameters of a published file.

    Returns:
      The record; of a checkpoint without arrays, of a published file with them.

    Raises:
      InputError: there are no weights at `path`.
    """
    own, _ = _own_checkpoint(path)
    if own is None:
        return read_stored(path, {}, use_ema=use_ema)
    return _record(own, read_meta(own, USE), {}, [])


def stored_model(checkpoint: Path) -> ModelConfig:
    """The model of a run's checkpoint."""
    model = dict(read_meta(checkpoint, ["model"])["model"])
    return model_config(model.pop("name"), **model)


def _own_checkpoint(path: str | Path) -> tuple[Path | None, str]:
    """The best or newest checkpoint at a path, and why; None for published weights.

    Raises:
      InputError: a workdir without a complete checkpoint, or with a damaged one.
    """
    path = expand(path)
    try:
        return chosen_checkpoint(path)
    except DamagedCheckpoint:
        raise
    except InputError:
        if (path / "checkpoints").is_dir():
            raise
        return None, ""


def _read_own(
    checkpoint: Path, why: str, use_ema: bool, layout: Layout | None, task_params: bool
) -> Weights:
    meta = read_meta(checkpoint, USE)
    name = meta["model"]["name"]
    tree, adapter = _merged(
        read_params(checkpoint, use_ema=use_ema, layout=layout), meta, checkpoint
    )
    params = traverse_util.flatten_dict(tree, sep="/")
    report = [f"{checkpoint}: {name}, all parameters loaded" + (f"; {why}" if why else "")]
    if adapter is not None:
        report.append(f"LoRA adapter of {len(adapter.pairs)} projections a block merged")
    if not task_params:
        own = _task_params(meta, params)
        params = {path: array for path, array in params.items() if path not in own}
        report += [f"left out, only the task of the run has it: {path}" for path in own]
    record = _record(checkpoint, meta, traverse_util.unflatten_dict(params, sep="/"), report)
    return dataclasses.replace(record, adapter=adapter)


def _record(
    checkpoint: Path, meta: dict[str, Any], params: dict[str, Any], report: list[str]
) -> Weights:
    """The record of a checkpoint, from its metadata."""
    # Data may have classes where the model has none.
    labels = [] if meta["model"].get("num_classes") == 0 else meta["labels"]
    return Weights(
        name=meta["model"]["name"],
        options={key: value for key, value in meta["model"].items() if key != "name"},
        params=params,
        pp=meta["pp"],
        labels=labels,
        multi_label=_has_sigmoid_loss(meta["config"]),
        source=str(checkpoint),
        run_config=meta["config"],
        report=report,
    )


def _merged(
    params: dict[str, Any], meta: dict[str, Any], checkpoint: Path
) -> tuple[dict[str, Any], Adapter | None]:
    """A checkpoint's parameters with its adapter merged, and the adapter, if it has one."""
    if lora.LORA not in params:
        return params, None
    alpha = meta["config"].get("lora", {}).get("alpha")
    if not isinstance(alpha, (int, float)):
        raise damaged(checkpoint, "an adapter without config.lora.alpha")
    adapter = Adapter(float(alpha), lora.pairs(params[lora.LORA]))
    layout = {
        name: jax.tree.map(lambda leaf: leaf.sharding, tree)
        for name, tree in params.items()
        if name != lora.LORA
    }
    merge = functools.partial(lora.merge, alpha=adapter.alpha)
    return jax.jit(merge, out_shardings=layout)(params), adapter


def _has_sigmoid_loss(config: Mapping[str, Any]) -> bool:
    loss = config.get("loss")
    name = loss.get("name") if isinstance(loss, Mapping) else None
    return isinstance(name, str) and name.partition("(")[0].strip() == "sigmoid"


def _task_params(meta: dict[str, Any], paths: Iterable[str]) -> list[str]:
    """Parameters that only the task of a run uses; earlier versions had one such task."""
    earlier = ["masked/.*"] if meta["model"].get("masked") else []
    patterns = meta.get("task", {}).get("own_params", earlier)
    return [path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)]
