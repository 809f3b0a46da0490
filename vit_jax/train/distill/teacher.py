"""The teacher of a distillation: its weights, its classes, its place on the devices."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax import data, models
from vit_jax.checkpoint.fingerprint import fingerprints
from vit_jax.checkpoint.load import read_description, read_weights
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel import same
from vit_jax.parallel.engines import Engine
from vit_jax.tasks.distill import Teacher
from vit_jax.weights import Weights
from vit_jax.weights.fit import check_finite

log = logging.getLogger(__name__)
OPTION = "config.distill.teacher"


@dataclasses.dataclass(frozen=True)
class OpenTeacher:
    """The teacher of a run, whose parameters may still have to be read.

    Attributes:
      path: value of `config.distill.teacher`.
      use_ema: whether to take averaged parameters.
      model: the teacher without its parameters.
      weights: weights of a published file, or the description of a checkpoint, without arrays.
      abstract: shapes and shardings of the parameters.
      params: parameters on the devices; None before `placed`.
      fingerprint: fingerprint of the parameters; "" before `placed`.
    """

    path: str
    use_ema: bool
    model: Teacher
    weights: Weights
    abstract: Any
    params: Any = None
    fingerprint: str = ""

    def placed(self, engine: Engine, stored: Mapping[str, str] | None) -> "OpenTeacher":
        """The teacher with its parameters on the devices, each in its layout.

        Args:
          engine: engine of the run.
          stored: `describe` of the run's checkpoint; None for a new run.

        Raises:
          InputError: they cannot be read, are not finite, or are not those of the run's start.
        """
        weights = self.weights
        if not weights.params:
            weights = read_weights(
                self.path, use_ema=self.use_ema, layout=engine.parameter_sharding
            )
        flat = traverse_util.flatten_dict(weights.params, sep="/")
        wanted = traverse_util.flatten_dict(self.abstract, sep="/")
        params = {path: _placed(flat[path], leaf) for path, leaf in wanted.items()}
        check_finite(params, self.path, OPTION)
        tree = traverse_util.unflatten_dict(params, sep="/")
        digest = _digest(fingerprints(tree))
        same.compare({f"the parameters of {OPTION}": digest})
        if stored and stored.get("fingerprint") != digest:
            raise InputError(
                f"{OPTION} {self.path} has other parameters than when the run began (fingerprint "
                f"{digest}, not {stored.get('fingerprint')}); give the same weights, or another "
                "--workdir"
            )
        log.info("teacher: %s, %s, parameters %s", weights.name, weights.source, digest)
        # The arrays that were read are no longer needed on the host.
        weights = dataclasses.replace(weights, params={})
        return dataclasses.replace(self, params=tree, fingerprint=digest, weights=weights)

    def describe(self) -> dict[str, str]:
        """What checkpoints of the run say about the teacher."""
        return dict(model=self.weights.name, path=self.path, fingerprint=self.fingerprint)


def open_teacher(
    config: ConfigDict, labels: Sequence[str], model_config: ModelConfig, engine: Engine
) -> OpenTeacher:
    """Opens the teacher that `config.distill` names, and checks that it fits the model.

    Args:
      config: config of the run.
      labels: class names of the training data; () if unknown.
      model_config: configuration of the model that learns.
      engine: engine of the run.

    Raises:
      InputError: no weights there, or a teacher with other classes, or of images of any size.
    """
    chosen = config.distill
    weights = read_description(chosen.teacher, use_ema=chosen.teacher_ema)
    own: Any = weights.config
    for where, naflex in ((OPTION, own.naflex), ("the model", model_config.naflex)):
        if naflex:
            raise InputError(f"config.task 'distill' needs images of one size: {where} has naflex")
    _check_token(config, model_config)
    own = dataclasses.replace(own, dtype=model_config.dtype)
    places = None
    if chosen.kind == "feature":
        own = dataclasses.replace(own, num_classes=0)
    elif not own.num_classes:
        raise InputError(
            f"{OPTION} {chosen.teacher} has no classes; take config.distill.kind 'feature'"
        )
    else:
        places = matched_classes(labels, model_config.num_classes, weights.labels, own.num_classes)
    graphdef, shapes = models.abstract(functools.partial(models.build_model, own))
    abstract = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=engine.parameter_sharding(path, leaf.shape)
        )
        for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    pp = data.parse(weights.pp)
    return OpenTeacher(
        chosen.teacher,
        chosen.teacher_ema,
        Teacher(own, graphdef, pp.mean, pp.std, places),
        weights,
        traverse_util.unflatten_dict(abstract, sep="/"),
    )


def _check_token(config: ConfigDict, model_config: ModelConfig) -> None:
    """Refuses a distillation token's head, or a class token's, that would learn nothing."""
    if not isinstance(model_config, ViTConfig) or model_config.distillation != "head":
        return
    if config.distill.kind == "feature":
        raise InputError(
            "model.distillation 'head' needs config.distill.kind 'soft' or 'hard': its head learns "
            "the teacher's classes"
        )
    if config.distill.alpha == 1:
        raise InputError(
            "model.distillation 'head' needs config.distill.alpha below 1: the class token's head "
            "learns from the labels"
        )


def matched_classes(
    names: Sequence[str], classes: int, labels: Sequence[str], teacher_classes: int
) -> tuple[int, ...] | None:
    """The teacher's class for each of the model's; None where both have the same numbers.

    Matched by name where both know their names, else by number.

    Args:
      names: class names of the training data; () if unknown.
      classes: number of classes of the model.
      labels: class names of the teacher; () if unknown.
      teacher_classes: number of classes of the teacher.

    Raises:
      InputError: names the first class that the teacher does not have.
    """
    names, labels = list(names), list(labels)
    if not (names and labels and len(set(labels)) == len(labels)):
        if classes != teacher_classes:
            unknown = "the teacher's" if not labels else "the data's"
            raise InputError(
                f"{OPTION} has {teacher_classes} classes, the model {classes}, and {unknown} have "
                "no names to match; give a teacher of the same classes, or take "
                "config.distill.kind 'feature'"
            )
        return None
    if names == labels and classes == teacher_classes:
        return None
    numbers = {label: number for number, label in enumerate(labels)}
    for number, name in enumerate(names):
        if name not in numbers:
            other = f" (its class {number} is {labels[number]!r})" if number < len(labels) else ""
            raise InputError(
                f"{OPTION} has no class {name!r}, number {number} of the data{other}; give a "
                "teacher of these classes, or take config.distill.kind 'feature'"
            )
    if classes != len(names):
        raise InputError(
            f"config.model.num_classes is {classes}, but the data have {len(names)} classes to be "
            f"matched with those of {OPTION}; set it to None"
        )
    return tuple(numbers[name] for name in names)


def _placed(array: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """A parameter in its layout and dtype."""
    if isinstance(array, jax.Array) and array.sharding == leaf.sharding:
        return array.astype(leaf.dtype)
    # Through NumPy: JAX does not copy arrays of one device to another process's devices.
    return jax.device_put(np.asarray(array, leaf.dtype), leaf.sharding)


def _digest(found: dict[str, int]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
