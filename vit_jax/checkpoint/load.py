"""`vit_jax.load`: a model with its weights from whatever a path holds."""

import dataclasses
from pathlib import Path
from typing import Any

from flax import nnx

from vit_jax.checkpoint.manager import latest_checkpoint, read_meta, read_params
from vit_jax.errors import InputError
from vit_jax.models import create_model, merge, split


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known about loaded weights."""

    name: str  # such as "ViT-B/16"
    options: dict[str, Any]  # of create_model
    pp: str  # preprocessing of images for evaluation
    labels: list[str]  # class names by index; [] where unknown
    source: str  # where the weights came from
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the run; {} if foreign


def load(
    path: str | Path, *, use_ema: bool = False, **options: Any
) -> tuple[nnx.Module, ModelInfo]:
    """A model with the weights of a workdir, a checkpoint or a published weight file.

    Args:
      path: a workdir, a checkpoint directory, or a file.
      use_ema: take the averaged parameters of a run that keeps them.
      **options: of `create_model`, which replace those stored; execution options
        (dtype, attention, unroll) only, as others change what the weights mean.

    Raises:
      InputError: nothing to load there, or weights that do not fit the model.
    """
    params, info = read(path, use_ema=use_ema)
    info = dataclasses.replace(info, options={**info.options, **options})
    model = nnx.eval_shape(lambda: create_model(info.name, **info.options))
    graphdef, _ = split(model)
    return merge(graphdef, params), info


def read(path: str | Path, *, use_ema: bool = False) -> tuple[Any, ModelInfo]:
    """Parameters as a nested dict and what is known about them; see `load`."""
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; give a workdir, a checkpoint or a weight file")
    checkpoint = latest_checkpoint(path)
    meta = read_meta(checkpoint)
    info = ModelInfo(
        name=meta["model"]["name"],
        options={key: value for key, value in meta["model"].items() if key != "name"},
        pp=meta["pp"],
        labels=meta["labels"],
        source=str(checkpoint),
        config=meta["config"],
    )
    return read_params(checkpoint, use_ema=use_ema), info
