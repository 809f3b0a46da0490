"""ImageNet classifiers on other labels and images: ReaL, ImageNet-v2 and ObjectNet.

The right answer for an image is a set of ImageNet classes, from files that those projects
publish. Images with an empty set do not count.
"""

import abc
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from vit_jax import data
from vit_jax.data import Source
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.evaluation import (
    EVALUATIONS,
    Context,
    Evaluation,
    Opened,
    check_normalization,
    create_views,
)
from vit_jax.evaluate.features import compile_outputs
from vit_jax.files import expand
from vit_jax.options import option
from vit_jax.schema import argument
from vit_jax.tasks.tta import MEANING, TTA
from vit_jax.text import reason

CLASSES = 1000
BORDER = 2  # pixels of the red frame around ObjectNet's images
_REAL_NAME = "ILSVRC2012_val_{:08}.JPEG"  # counted from 1


def real_targets(source: Source, path: str) -> np.ndarray:
    """ReaL (2006.07159): real.json lists the classes of each image of the validation set.

    Raises:
      InputError: the list cannot be read, or images are not of the validation set.
    """
    lists = _read_json(path, list)
    numbers = {_REAL_NAME.format(i + 1).lower(): i for i in range(len(lists))}
    targets = np.zeros((source.size, CLASSES), bool)
    for row, name in enumerate(source.file_names()):
        if name.lower() not in numbers:
            raise InputError(
                f"{path} has no labels for {name} of {source.name}; type real needs images "
                f"of ImageNet's validation set, named as {_REAL_NAME.format(1)}"
            )
        targets[row, _classes(lists[numbers[name.lower()]], path)] = True
    return targets


def v2_targets(source: Source) -> np.ndarray:
    """ImageNet-v2 (1902.10811): one class per image.

    Folders are named by a class's number, 0 to 999, or by its WordNet id; the 1000 ids in
    alphabetical order are ImageNet's classes.

    Raises:
      InputError: a class has another kind of name.
    """
    names = list(source.label_names)
    numbers = [int(name) if name.isdecimal() else -1 for name in names]
    if len(names) == CLASSES and all(_is_wordnet_id(name) for name in names):
        numbers = np.argsort(np.argsort(names)).tolist()
    if not all(0 <= number < CLASSES for number in numbers):
        odd = next(name for name, n in zip(names, numbers) if not 0 <= n < CLASSES)
        raise InputError(
            f"{source.name} has a class {odd!r}; type v2 needs folders named 0 to 999, or all "
            "1000 WordNet ids"
        )
    return np.eye(CLASSES, dtype=bool)[np.array(numbers)][data.read_labels(source)]


def _is_wordnet_id(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdecimal()


def objectnet_targets(source: Source, path: str) -> np.ndarray:
    """ObjectNet: folders whose objects are among ImageNet's classes, by its mappings.

    Raises:
      InputError: the mappings cannot be read or lack a folder.
    """
    objects = objectnet_classes(path)
    unknown_names = [name for name in source.label_names if name not in objects]
    if unknown_names:
        raise unknown(f"folder of ObjectNet (in {path})", unknown_names[0], objects)
    table = np.zeros((source.num_classes, CLASSES), bool)
    for row, name in enumerate(source.label_names):
        table[row, objects[name]] = True
    return table[data.read_labels(source)]


def objectnet_classes(folder: str) -> dict[str, list[int]]:
    """ObjectNet's folders -> ImageNet's classes, from its folder `mappings`.

    objectnet_to_imagenet_1k.json names the classes of 113 of the 313 objects, separated by
    "; "; line i of imagenet_to_label_2012_v2 is the name of the class whose number is the
    key of i in pytorch_to_imagenet_2012_id.json.

    Raises:
      InputError: a file is missing or does not fit the others.
    """
    titles = _read_json(f"{folder}/folder_to_objectnet_label.json", dict)
    overlap = _read_json(f"{folder}/objectnet_to_imagenet_1k.json", dict)
    lines = _read_json(f"{folder}/pytorch_to_imagenet_2012_id.json", dict)
    names = _read_text(f"{folder}/imagenet_to_label_2012_v2").splitlines()
    try:
        number = {names[line].strip(): int(index) for index, line in lines.items()}
        return {
            name: [number[part.strip()] for part in overlap[title].split("; ")]
            if title in overlap
            else []
            for name, title in titles.items()
        }
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: the mappings do not fit each other: {error!r}") from None


def _classes(numbers: Any, path: str) -> list[int]:
    ok = isinstance(numbers, list) and all(
        isinstance(number, int) and 0 <= number < CLASSES for number in numbers
    )
    if not ok:
        raise InputError(f"{path}: {numbers!r} is no list of classes from 0 to {CLASSES - 1}")
    return numbers


def _read_json(path: str, kind: type) -> Any:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} holds a {type(value).__name__} where a {kind.__name__} should be")
    return value


def _read_text(path: str) -> str:
    try:
        return expand(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels {path} cannot be read: {reason(error)}") from None


def score(top: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy.

    Args:
      top: the five most probable classes, best first: int (n, 5).
      targets: right classes, bool (n, classes); rows without any do not count.

    Returns:
      {"top1", "top5", "examples", "left_out"}.
    """
    counted = targets.any(1)
    right = np.take_along_axis(targets, top, axis=1)[counted]
    return dict(
        top1=float(right[:, 0].mean()),
        top5=float(right.any(1).mean()),
        examples=int(counted.sum()),
        left_out=int((~counted).sum()),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetEvaluation(Evaluation):
    """Accuracy with sets of right ImageNet classes; without pp, preprocessed as in training."""

    split: str = option("all", "split to evaluate on, in tfds syntax", effect="course")
    tta: str = option("none", MEANING, effect="course", choices=TTA)

    @abc.abstractmethod
    def targets(self, source: Source) -> np.ndarray:
        """Right classes of each image: bool (n, 1000)."""

    @property
    def operations(self) -> str:
        """Operations put before the preprocessing."""
        return ""

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`; images without a right class do not count."""
        model_config = context.model_config
        if model_config.num_classes != CLASSES:
            raise InputError(
                f"{context.where} needs a model with ImageNet's {CLASSES} classes, not "
                f"{model_config.num_classes}"
            )
        source = context.open_source(self.source, self.split)
        targets = self.targets(source)
        counted = np.flatnonzero(targets.any(1))
        if not len(counted):
            raise InputError(
                f"{context.where}: {source.name} ({source.split}) has no image with a right class"
            )
        text = (self.pp or str(context.pp)).removeprefix("decode|")
        pp = data.parse(self.operations + text)
        check_normalization(context, pp)
        views, pp = create_views(context, self.tta, pp)
        outputs = compile_outputs(
            context.engine,
            model_config,
            pp,
            batch_size=self.batch_size or context.batch_size,
            reduce=functools.partial(_best, count=5),
            threads=context.data.threads,
            views=views,
        )

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            after_batch = context.counted(len(counted), outputs.batch_size, after_batch)
            top, _ = outputs(params, source, counted, after_batch)
            result = score(top, targets[counted])
            left_out = source.size - len(counted)
            return dict(result, left_out=left_out, source=source.name, split=source.split)

        return Opened(("top1", "top5"), run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedLabels(ImageNetEvaluation):
    """An evaluation with labels from a file or folder of the project that published them."""

    labels: str = option(
        "",
        "path of the published labels: for real the file real.json, for objectnet the folder "
        "mappings",
        effect="course",
    )

    def __post_init__(self):
        if not self.labels:
            raise InputError(
                f"this protocol needs {self.where_from}: give {argument('labels')}=PATH"
            )

    @property
    @abc.abstractmethod
    def where_from(self) -> str:
        """The name of the labels and where to find them."""


@EVALUATIONS.register("real")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaL(PublishedLabels):
    """ImageNet-ReaL (2006.07159): better labels of the validation set."""

    split: str = option("validation", "split to evaluate on, in tfds syntax", effect="course")

    @property
    def where_from(self) -> str:
        return "real.json of https://github.com/google-research/reassessed-imagenet"

    def targets(self, source: Source) -> np.ndarray:
        """See `real_targets`."""
        return real_targets(source, self.labels)


@EVALUATIONS.register("v2")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetV2(ImageNetEvaluation):
    """ImageNet-v2 (1902.10811)."""

    def targets(self, source: Source) -> np.ndarray:
        """See `v2_targets`."""
        return v2_targets(source)


@EVALUATIONS.register("objectnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectNet(PublishedLabels):
    """ObjectNet: images of those objects that are among ImageNet's classes."""

    @property
    def where_from(self) -> str:
        return "the folder mappings of objectnet-1.0.zip of https://objectnet.dev"

    @property
    def operations(self) -> str:
        """Cuts off the red frame."""
        return f"crop_border({BORDER})|"

    def targets(self, source: Source) -> np.ndarray:
        """See `objectnet_targets`."""
        return objectnet_targets(source, self.labels)


def _best(logits: jax.Array, count: int) -> jax.Array:
    return lax.top_k(logits, count)[1]
