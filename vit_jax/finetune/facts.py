"""Facts about the weights, the images and the devices, on which a fine-tuning run depends."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.checkpoint.load import read_start
from vit_jax.checkpoint.stored import latest_checkpoint, read_meta
from vit_jax.data import Preprocess, Source
from vit_jax.data.sources.splits import UnknownSplit
from vit_jax.errors import InputError
from vit_jax.finetune.begun import Begun
from vit_jax.models.config import ModelConfig
from vit_jax.parallel import hardware
from vit_jax.parallel.chips import has_accelerators
from vit_jax.train.start import evaluation_preprocessing
from vit_jax.weights.record import parameter_shapes

TRAINING_SPLITS = ("train", "training", "all")
TEST_SPLITS = ("val", "valid", "validation", "dev", "test", "testing", "eval")


@dataclasses.dataclass(frozen=True)
class Images:
    """The images to train on.

    Attributes:
      source: text of `data.source`.
      split: training split.
      test: split of their own for evaluation; None: there is none.
      count: number of training images.
      classes: number of classes.
      smallest: number of images of the rarest class; None if labels are not known in advance.
      multi_label: whether labels are sets of classes.
      tested: number of images of `test`; None: it was not opened.
    """

    source: str
    split: str
    test: str | None
    count: int
    classes: int
    smallest: int | None
    multi_label: bool
    tested: int | None = None


@dataclasses.dataclass(frozen=True)
class Base:
    """The weights to start from.

    Attributes:
      path: text of `init_from`.
      model: configuration of their model.
      preprocess: preprocessing for evaluation at the size of the run.
      resized: whether that size is another than that of the weights.
    """

    path: str
    model: ModelConfig
    preprocess: Preprocess
    resized: bool

    @property
    def params(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in parameter_shapes(self.model).values())


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices to train on.

    Attributes:
      count: number of them, over all processes.
      accelerators: whether they are GPUs or TPUs.
      memory: bytes of each; None if unknown.
    """

    count: int
    accelerators: bool
    memory: float | None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the choices of a fine-tuning run are made from."""

    base: Base
    images: Images
    devices: Devices
    begun: Begun | None = None


def gather(config: ConfigDict, told: Collection[str] = (), begun: Begun | None = None) -> Facts:
    """Reads the facts.

    Args:
      config: config with `init_from`, `model.image_size` and the section `data`.
      told: names of the options that the user gave.
      begun: run that goes on, whose facts about weights and devices stay.

    Raises:
      InputError: weights or images cannot be read.
    """
    images = look_at_images(config, told)
    if begun is not None:
        return Facts(weights_of(begun, config), images, look_at_devices(), begun)
    return Facts(look_at_weights(config), images, look_at_devices())


def weights_of(begun: Begun, config: ConfigDict) -> Base:
    """The model and preprocessing of a run that goes on, without its weights.

    Raises:
      InputError: the run's preprocessing does not fix the size of images.
    """
    preprocess = evaluation_preprocessing(begun.pp, config.model.image_size)
    if preprocess is None:
        raise InputError(
            f"config.data.pp of the run, {begun.pp!r}, does not fix the size of images"
        )
    return Base(config.init_from, begun.model, preprocess, resized=False)


def look_at_images(config: ConfigDict, told: Collection[str] = ()) -> Images:
    """Opens the training images, and looks for a split for evaluation.

    Args:
      config: as for `gather`.
      told: names of options that the user gave, which stay: "data.split", "evals.test.split".

    Raises:
      InputError: they cannot be opened, or no image is left for evaluation.
    """
    given = "data.split" in told
    source = _first_split(config, (config.data.split,) if given else TRAINING_SPLITS)
    test = _first_split(config, TEST_SPLITS) if source.split != "all" else None
    named = "evals.test.split" in told
    test_split = config.evals.test.split if named else test and test.split
    if given and test_split is None:
        raise InputError(
            f"{config.data.source} has no split for evaluation beside data.split="
            f"{config.data.split}: give --config.evals.test.split too, or leave data.split out"
        )
    return Images(
        source=config.data.source,
        split=source.split,
        test=test_split,
        count=source.size,
        classes=source.num_classes,
        smallest=_rarest(source),
        multi_label=source.multi_label,
        tested=None if named or test is None else test.size,
    )


def _first_split(config: ConfigDict, names: tuple[str, ...]) -> Any:
    """The source with the first split that exists; None where none of TEST_SPLITS does."""
    for name in names:
        try:
            return data.open_configured(config.data, split=name)
        except UnknownSplit:
            if name == names[-1] and names is not TEST_SPLITS:
                raise
    return None


def _rarest(source: Source) -> int | None:
    labels = source.labels(np.arange(source.size))
    if labels is None:
        return None
    counts = labels.sum(0) if labels.ndim > 1 else np.bincount(labels, minlength=1)
    return int(counts[counts > 0].min())


def look_at_weights(config: ConfigDict) -> Base:
    """Reads the model and the preprocessing of the weights.

    Raises:
      InputError: they cannot be read, or do not tell how images are prepared.
    """
    path = config.init_from
    told: Mapping[str, Any] = {k: v for k, v in config.model.items() if v is not None}
    model, weights = read_start(path, told, use_ema=config.init_ema)
    spec = weights.pp if weights else read_meta(latest_checkpoint(path), ["pp"])["pp"]
    preprocess = evaluation_preprocessing(spec, config.model.image_size)
    if preprocess is None:
        raise InputError(
            f"{path} does not tell how images are to be prepared; write a config of your own, with "
            "data.pp such as 'decode|inception_crop(224)|flip_lr|value_range(-1, 1)'"
        )
    resized = not preprocess.naflex and preprocess.image_size != tuple(model.input_size)
    return Base(path, model, preprocess, resized)


def look_at_devices() -> Devices:
    """The devices of this run; JAX is not started where there is nothing but the CPU."""
    if not has_accelerators():
        return Devices(1, False, None)
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return Devices(1, False, None)
    # The data sheet's first: it is the same on all processes.
    chip = hardware.find_chip(devices[0].device_kind)
    if chip:
        return Devices(len(devices), True, chip.memory_bytes / chip.devices)
    return Devices(len(devices), True, (devices[0].memory_stats() or {}).get("bytes_limit"))
