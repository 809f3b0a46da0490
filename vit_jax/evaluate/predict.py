"""Classes and probabilities of image files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError
from vit_jax.models.layers import normalize_pixels
from vit_jax.weights import Weights

MAX_BATCH = 64


class Predictor:
    """Class probabilities of any number of images, in few compiled shapes.

        predictor = Predictor(*vit_jax.load("workdirs/fashion_mnist"))
        probabilities = predictor.files(paths)

    Images go to the device in batches of `batch_size`; the last batch is padded to a power of
    two. While the device computes, the next images are read.
    """

    def __init__(self, model: nnx.Module, info: Weights, *, batch_size: int = MAX_BATCH):
        """Takes the results of `vit_jax.load`."""
        self._pp = data.parse(info.pp)
        self._batch_size = batch_size
        graphdef, self._params = models.split(model)
        mean, std = self._pp.mean, self._pp.std
        to_probabilities = jax.nn.sigmoid if info.multi_label else jax.nn.softmax

        @jax.jit
        def probabilities(params: Any, images: jax.Array) -> jax.Array:
            images = normalize_pixels(images, mean, std)
            return to_probabilities(models.merge(graphdef, params)(images))

        self._probabilities = probabilities

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (n, K), of images, uint8 (n, h, w, 3) in the model's size."""
        size = self._batch_size
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate(list(self._rows(parts)))

    def files(self, paths: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 (n, K), of image files, preprocessed as in evaluation.

        Raises:
          InputError: an image is missing or cannot be read.
        """
        batches = data.image_batches(paths, self._pp, self._batch_size)
        return np.concatenate(list(self._rows(batches)))

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
    checkpoint: str, paths: Sequence[str], *, topk: int = 5, use_ema: bool = False
) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      paths: image files.
      topk: number of classes per image.
      use_ema: whether to use averaged parameters.

    Returns:
      A list of {"path", "top": [{"label", "index", "probability"}]}, best first.
      Probabilities are the softmax over classes; each logit's sigmoid for a model trained with
      the sigmoid loss.

    Raises:
      InputError: no such checkpoint or image, an image that cannot be read, or a model
        without classes.
    """
    if topk < 1:
        raise InputError(f"--topk is {topk}; it must be at least 1")
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise InputError(f"image {missing[0]} does not exist")
    model, info = load(checkpoint, use_ema=use_ema)
    if not info.config.num_classes:
        raise InputError(f"{checkpoint} has no classes; fine-tune with it as config.init_from")
    rows = Predictor(model, info).files(paths)
    return [
        dict(path=str(path), top=_top(row, topk, info.labels))
        for path, row in zip(paths, rows, strict=True)
    ]


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
