"""ImageNet classifiers on other labels and images: ReaL, ImageNet-v2 and ObjectNet.

What is right for an image is a set of ImageNet's classes, from files that those projects
publish. Images whose set is empty do not count.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from vit_jax import config as configs
from vit_jax import data, models
from vit_jax.checkpoint.load import read
from vit_jax.data import Source
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.features import compile_outputs, replicate
from vit_jax.parallel.engines import create_engine

CLASSES = 1000
BORDER = 2  # pixels of the red frame around ObjectNet's images
_REAL_NAME = "ILSVRC2012_val_{:08}.JPEG"  # counted from 1


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a set of images is evaluated.

    Attributes:
      split: that is evaluated where none is named.
      targets: (source, path of the labels) -> bool (n, 1000): what is right for each image.
      operations: put before the preprocessing.
      labels: where the labels come from; "": none are needed.
    """

    split: str
    targets: Callable[[Source, str], np.ndarray]
    operations: str = ""
    labels: str = ""


def real_targets(source: Source, path: str) -> np.ndarray:
    """ReaL (2006.07159): real.json lists the classes of each image of the validation set.

    Raises:
      InputError: no such list, or images of another set.
    """
    lists = _read_json(path, list)
    numbers = {_REAL_NAME.format(i + 1).lower(): i for i in range(len(lists))}
    targets = np.zeros((source.size, CLASSES), bool)
    for row, name in enumerate(data.file_names(source)):
        if name.lower() not in numbers:
            raise InputError(
                f"{path} has no labels for {name} of {source.name}; protocol real wants images "
                f"of ImageNet's validation set, named as {_REAL_NAME.format(1)}"
            )
        targets[row, _classes(lists[numbers[name.lower()]], path)] = True
    return targets


def v2_targets(source: Source, path: str) -> np.ndarray:
    """ImageNet-v2 (1902.10811): one class an image.

    Folders are named by a class's number, 0 to 999, or by its WordNet id; the 1000 ids in
    alphabetical order are ImageNet's classes.

    Raises:
      InputError: classes of other names.
    """
    names = list(source.label_names)
    numbers = [int(name) if name.isdecimal() else -1 for name in names]
    if len(names) == CLASSES and all(_is_wordnet_id(name) for name in names):
        numbers = np.argsort(np.argsort(names)).tolist()
    if not all(0 <= number < CLASSES for number in numbers):
        odd = next(name for name, n in zip(names, numbers) if not 0 <= n < CLASSES)
        raise InputError(
            f"{source.name} has a class {odd!r}; protocol v2 wants folders named 0 to 999, or all "
            "1000 WordNet ids"
        )
    return np.eye(CLASSES, dtype=bool)[np.array(numbers)][data.read_labels(source)]


def _is_wordnet_id(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdecimal()


def objectnet_targets(source: Source, path: str) -> np.ndarray:
    """ObjectNet: folders whose objects are among ImageNet's classes, by its mappings.

    Raises:
      InputError: no such mappings, or a folder that they do not know.
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
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise InputError(f"labels {path} cannot be read: {reason}") from None


PROTOCOLS = dict(
    real=Protocol(
        "validation",
        real_targets,
        labels="real.json of https://github.com/google-research/reassessed-imagenet",
    ),
    v2=Protocol("all", v2_targets),
    objectnet=Protocol(
        "all",
        objectnet_targets,
        operations=f"crop_border({BORDER})|",
        labels="the folder mappings of objectnet-1.0.zip of https://objectnet.dev",
    ),
)


def score(top: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Shares of images whose first, or one of whose first five, classes are right.

    Args:
      top: int (n, 5), classes from the most probable on.
      targets: bool (n, classes); rows without any do not count.

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


def evaluate_protocol(
    path: str,
    protocol: str,
    *,
    source: str | None,
    split: str | None = None,
    labels: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool | None = None,
) -> dict[str, Any]:
    """A checkpoint's accuracy by one of PROTOCOLS, on all devices.

    Args:
      path: workdir, checkpoint or weight file of a model with ImageNet's 1000 classes.
      protocol: real, v2 or objectnet.
      source, split: images.
      labels: file or folder with the labels, where the protocol needs one.
      pp: preprocessing; None: the checkpoint's.
      data_dir: where tfds looks.
      batch_size: over all devices.
      use_ema: use averaged parameters.

    Returns:
      As `score`, with `protocol`, `source` and `split`.

    Raises:
      InputError: a protocol, labels or images that are not there or do not suit the model.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    how = PROTOCOLS[protocol]
    if how.labels and not labels:
        raise InputError(f"protocol {protocol} needs {how.labels}: give its path with --labels")
    if not source:
        raise InputError(f"protocol {protocol} needs --source, where its images are")
    params, info = read(path, use_ema=bool(use_ema))
    model_config = models.model_config(info.name, **info.options)
    if model_config.num_classes != CLASSES:
        raise InputError(
            f"protocol {protocol} wants a model with ImageNet's {CLASSES} classes; {path} has "
            f"{model_config.num_classes}"
        )
    opened = data.open_source(source, split or how.split, data_dir=data_dir)
    targets = how.targets(opened, labels)
    counted = np.flatnonzero(targets.any(1))
    if not len(counted):
        raise InputError(f"{source} ({opened.split}) has no image with a label of {protocol}")
    text = (pp or info.pp).removeprefix("decode|")
    engine = create_engine(configs.default().parallel)
    outputs = compile_outputs(
        engine,
        model_config,
        data.parse(how.operations + text),
        batch_size=batch_size,
        reduce=functools.partial(_best, count=5),
    )
    top, _ = outputs(replicate(engine, params), opened, counted)
    result = score(top, targets[counted])
    result["left_out"] = opened.size - len(counted)
    return dict(result, protocol=protocol, source=source, split=opened.split)


def _best(logits: jax.Array, count: int) -> jax.Array:
    return lax.top_k(logits, count)[1]
