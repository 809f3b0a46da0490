"""A fine-tuning run that goes on: its state is in its workdir, and what was chosen as well."""

import dataclasses
from typing import Any, TypedDict

from vit_jax import schema
from vit_jax.checkpoint.load import stored_model
from vit_jax.checkpoint.stored import latest_checkpoint
from vit_jax.data import parse
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Begun:
    """Facts about a run that has a checkpoint.

    Attributes:
      model: configuration of its model.
      pp: preprocessing for evaluation.
      batch_size: its batch size.
      remat, dtype: its `model.remat` and `model.dtype`; None: the defaults.
    """

    model: ModelConfig
    pp: str
    batch_size: int
    remat: str | None
    dtype: str | None


class _Data(TypedDict):
    pp: str


class _Kept(TypedDict):
    """What is read of config.json."""

    batch_size: int
    data: _Data
    evals: dict[str, dict[str, Any]]
    model: dict[str, Any]


def begun_in(workdir: str) -> Begun | None:
    """The run in a workdir; None where there is no checkpoint, so that it starts afresh.

    Raises:
      InputError: its config.json is damaged.
    """
    path = expand(workdir)
    if not (path / "config.json").exists():
        return None
    try:
        model = stored_model(latest_checkpoint(path))
    except InputError:
        return None
    kept = schema.read(path / "config.json", _Kept)
    pp = kept["evals"].get("test", {}).get("pp") or str(parse(kept["data"]["pp"]).deterministic())
    own = kept["model"]
    return Begun(model, pp, kept["batch_size"], own.get("remat"), own.get("dtype"))
