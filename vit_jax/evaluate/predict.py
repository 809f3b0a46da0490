"""Classes and probabilities of image files."""

import collections
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.data.sources.folder import EXTENSIONS
from vit_jax.errors import InputError, unknown
from vit_jax.models.naflex import model_inputs
from vit_jax.tasks.tta import TTA, views_of
from vit_jax.weights import Weights

MAX_BATCH = 64


class Predictor:
    """Class probabilities of any number of images, in few compiled shapes.

        predictor = Predictor(*vit_jax.load("workdirs/fashion_mnist"))
        probabilities = predictor.files(paths)

    Images go to the device in batches of `batch_size`; the last batch is padded to a power of
    two. While the device computes, the next images are read.
    """

    def __init__(
        self,
        model: nnx.Module,
        info: Weights,
        *,
        batch_size: int = MAX_BATCH,
        tta: str = "none",
    ):
        """Takes the results of `vit_jax.load`.

        Args:
          model, info: the model and its record.
          batch_size: number of images computed at once.
          tta: views over which probabilities are averaged; see `tasks.tta`.

        Raises:
          InputError: an unknown tta, or one that does not suit the model or its preprocessing.
        """
        self._pp = data.parse(info.pp)
        views = None
        if tta not in TTA:
            raise unknown("tta", tta, TTA)
        if tta != "none":
            views, self._pp = views_of(tta, info.config, info.multi_label, self._pp, f"tta {tta!r}")
        self._batch_size = batch_size
        run_data = info.run_config.get("data", {}) if info.run_config else {}
        self._max_pixels = run_data.get("max_pixels", data.MAX_PIXELS)
        graphdef, self._params = models.split(model)
        mean, std = self._pp.mean, self._pp.std
        to_probabilities = jax.nn.sigmoid if info.multi_label else jax.nn.softmax

        @jax.jit
        def probabilities(params: Any, images: jax.Array) -> jax.Array:
            inputs = model_inputs(images, info.config, mean, std)
            model: Any = models.merge(graphdef, params)
            return to_probabilities((views.averaged(model) if views else model)(inputs))

        self._probabilities = probabilities

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (n, K), of images, uint8 (n, h, w, 3).

        They have the model's size; for crops, that of the images from which these are cut.
        """
        size = self._batch_size
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate(list(self._rows(parts)))

    def files(self, paths: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 (n, K), of image files, preprocessed as in evaluation.

        Raises:
          InputError: an image is missing or cannot be read.
        """
        batches = data.image_batches(paths, self._pp, self._batch_size, self._max_pixels)
        return np.concatenate(list(self._rows(images for _, images in batches)))

    def stream(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | InputError]]:
        """Yields (path, probabilities) of image files in order, in bounded memory.

        An image that cannot be read gives its error instead, and the others go on.
        """
        unread: dict[str, InputError] = {}
        waiting = collections.deque(paths)
        readable: collections.deque[list[str]] = collections.deque()

        def images() -> Iterator[np.ndarray]:
            for names, batch in data.image_batches(
                paths, self._pp, self._batch_size, self._max_pixels, unread.__setitem__
            ):
                if names:
                    readable.append(names)
                    yield batch

        def broken() -> Iterator[tuple[str, InputError]]:
            while waiting and waiting[0] in unread:
                path = waiting.popleft()
                yield path, unread[path]

        for rows in self._rows(images()):
            for path, row in zip(readable.popleft(), rows, strict=True):
                yield from broken()
                waiting.popleft()
                yield path, row
        yield from broken()

    def _rows(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        started = None
        for images in batches:
            before, started = started, (self._start(images), len(images))
            if before:
                yield np.asarray(before[0])[: before[1]]
        if started:
            yield np.asarray(started[0])[: started[1]]

    def _start(self, images: np.ndarray) -> jax.Array:
        """Starts computing a batch on the device, padded with zeros."""
        rows = min(_padded_size(len(images)), self._batch_size)
        padded = np.pad(images, ((0, rows - len(images)), (0, 0), (0, 0), (0, 0)))
        return self._probabilities(self._params, padded)


def predict(
    checkpoint: str,
    paths: Sequence[str],
    *,
    topk: int = 5,
    use_ema: bool = False,
    tta: str = "none",
) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      paths: image files, folders and patterns such as "photos/*.jpg"; see `find_images`.
      topk: number of classes per image.
      use_ema: whether to use averaged parameters.
      tta: views over which probabilities are averaged: none, flip, five_crop or ten_crop.

    Returns:
      A list of {"path", "top": [{"label", "index", "probability"}]}, best first. An image that
      cannot be read has an empty "top", and "error" says why.
      Probabilities are the softmax over classes, or each logit's sigmoid for a model trained with
      the sigmoid loss.

    Raises:
      InputError: no such checkpoint or image, or a model without classes.
    """
    if topk < 1:
        raise InputError(f"--topk is {topk}; it must be at least 1")
    files = find_images(paths)
    model, info = load(checkpoint, use_ema=use_ema)
    if not info.config.num_classes:
        raise InputError(f"{checkpoint} has no classes; fine-tune with it as config.init_from")
    results: list[dict[str, Any]] = []
    for path, found in Predictor(model, info, tta=tta).stream(files):
        if isinstance(found, InputError):
            results.append(dict(path=path, top=[], error=str(found)))
        else:
            results.append(dict(path=path, top=_top(found, topk, info.labels)))
    return results


def find_images(paths: Sequence[str]) -> list[str]:
    """The image files that arguments name, each file once.

    Args:
      paths: files; folders, whose images at any depth are taken in order of their names; and
        patterns with *, ? or [...].

    Raises:
      InputError: nothing is there, or a folder or pattern has no image.
    """
    found: dict[str, None] = {}
    for path in paths:
        path = os.path.expanduser(path)
        if os.path.isdir(path):
            inside = sorted(
                os.path.join(folder, name)
                for folder, _, names in os.walk(path)
                for name in names
                if name.lower().endswith(EXTENSIONS)
            )
            if not inside:
                raise InputError(f"no image in {path}; its names end in {', '.join(EXTENSIONS)}")
        elif os.path.exists(path):
            inside = [path]
        else:
            inside = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            if not inside:
                is_pattern = path != glob.escape(path)
                problem = "matches no file" if is_pattern else "does not exist"
                raise InputError(f"image {path} {problem}")
        found |= dict.fromkeys(inside)
    return list(found)


def _padded_size(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _top(row: np.ndarray, topk: int, labels: Sequence[str]) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:topk]
    return [
        dict(
            label=labels[i] if i < len(labels) else str(i),
            index=int(i),
            probability=float(row[i]),
        )
        for i in order
    ]
