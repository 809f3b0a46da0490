"""Classes and probabilities of image files."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.checkpoint.loaded import Loaded
from vit_jax.data import find_images
from vit_jax.errors import InputError, unknown
from vit_jax.models import layers
from vit_jax.models.forms.quantized import int8
from vit_jax.models.naflex import model_inputs
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.options import section
from vit_jax.parallel.engines import Engine, create_engine
from vit_jax.parallel.mesh import ParallelOptions
from vit_jax.schema import argument
from vit_jax.tasks.tta import TTA, views_of
from vit_jax.weights import Weights

MAX_BATCH = 64
DTYPES = (*layers.DTYPES, "int8")
TOPK = 5

# A traced function from a model's intermediates (B, ...) by name to a value (B, ...) to keep.
Reduce = Callable[[Mapping[str, jax.Array]], jax.Array]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about one image, or why the image cannot be read.

    Attributes:
      path: the image, as it was named.
      probabilities: float32 (K,); (0,) for a model without classes or an image with an error.
      image: the image as the model takes it, without normalisation, uint8 (h, w, 3).
      features: the input of the head, float32 (D,), if they were asked for.
      reduced: the value of `reduce`, if there is one.
      error: why the image cannot be read.
    """

    path: str
    probabilities: np.ndarray
    image: np.ndarray | None = None
    features: np.ndarray | None = None
    reduced: np.ndarray | None = None
    error: InputError | None = None


class Predictor:
    """Class probabilities of any number of images, in few compiled shapes.

        predictor = Predictor(*vit_jax.load("workdirs/fashion_mnist"))
        probabilities = predictor.files(paths)

    Images go to the devices in batches of `batch_size`; the last batch is padded to a power of
    two. While the devices compute, the next images are read. All devices of this process take
    part, each with its share of a batch and all parameters, unless the batch does not divide
    among them or `jax.default_device` says which one.
    """

    def __init__(
        self,
        model: nnx.Module,
        info: Weights,
        *,
        batch_size: int = MAX_BATCH,
        tta: str = "none",
        features: bool = False,
        reduce: Reduce | None = None,
    ):
        """Takes the results of `vit_jax.load`.

        Args:
          model, info: the model and its record.
          batch_size: number of images computed at once.
          tta: views over which probabilities are averaged; see `tasks.tta`.
          features: whether predictions have the input of the head, too.
          reduce: function whose value predictions have, too, such as an attention map.

        Raises:
          InputError: an unknown tta, or one that does not suit the model, its preprocessing, or
            `features` and `reduce`, which are of one view.
        """
        self._pp = data.parse(info.pp)
        views = None
        if tta not in TTA:
            raise unknown("tta", tta, TTA)
        if tta != "none":
            if features or reduce:
                raise InputError(f"tta {tta!r} averages predictions, not features or attention")
            views, self._pp = views_of(tta, info.config, info.multi_label, self._pp, f"tta {tta!r}")
        self._batch_size = batch_size
        run_data = info.run_config.get("data", {}) if info.run_config else {}
        self._max_pixels = run_data.get("max_pixels", data.MAX_PIXELS)
        graphdef, self._params = models.split(model)
        mean, std = self._pp.mean, self._pp.std
        to_probabilities = jax.nn.sigmoid if info.multi_label else jax.nn.softmax

        @jax.jit
        def compute(params: Any, images: jax.Array) -> dict[str, jax.Array]:
            inputs = model_inputs(images, info.config, mean, std)
            model: Any = models.merge(graphdef, params)
            found: dict[str, jax.Array] = {}
            if reduce:
                logits, out = model(inputs, return_intermediates=True)
                found["reduced"], seen = reduce(out), out["pre_logits"]
            elif features and info.config.num_classes:
                logits, other, seen = model.outputs(inputs)
                logits = logits if other is None else (logits + other) / 2
            else:
                logits = seen = (views.averaged(model) if views else model)(inputs)
            if features:
                found["features"] = seen.astype(jnp.float32)
            known = logits if info.config.num_classes else logits[:, :0]
            return dict(found, probabilities=to_probabilities(known) if known.size else known)

        self._compute = compute
        self._engine = _engine_of_all()
        if self._engine:
            self._shared = self._engine.compile_eval(lambda axis_name: compute)
            self._replicated = jax.device_put(self._params, self._engine.replicated)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (n, K), of images, uint8 (n, h, w, 3).

        They have the model's size; for crops, that of the images from which these are cut.
        """
        size = self._batch_size
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate([found["probabilities"] for _, found in self._rows(parts)])

    def files(self, paths: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 (n, K), of image files, preprocessed as in evaluation.

        Raises:
          InputError: an image is missing or cannot be read.
        """
        batches = data.image_batches(paths, self._pp, self._batch_size, self._max_pixels)
        rows = self._rows(images for _, images in batches)
        return np.concatenate([found["probabilities"] for _, found in rows])

    def stream(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | InputError]]:
        """Yields (path, probabilities) of image files in order, in bounded memory.

        An image that cannot be read gives its error instead, and the others go on.
        """
        for one in self.predictions(paths):
            yield one.path, one.probabilities if one.error is None else one.error

    def predictions(self, paths: Sequence[str]) -> Iterator[Prediction]:
        """Yields the prediction of each image in order.

        At most three batches of images are in memory: one that is read, one that waits for the
        device, and one whose results are used.

        Args:
          paths: files, and addresses such as https://host/cat.jpg.
        """
        unread: dict[str, InputError] = {}
        waiting = collections.deque(paths)
        readable: collections.deque[list[str]] = collections.deque()
        none = np.zeros(0, np.float32)

        def images() -> Iterator[np.ndarray]:
            for names, batch in data.image_batches(
                paths, self._pp, self._batch_size, self._max_pixels, unread.__setitem__
            ):
                if names:
                    readable.append(names)
                    yield batch

        def broken() -> Iterator[Prediction]:
            while waiting and waiting[0] in unread:
                path = waiting.popleft()
                yield Prediction(path, none, error=unread[path])

        for batch, found in self._rows(images()):
            for place, path in enumerate(readable.popleft()):
                yield from broken()
                waiting.popleft()
                row = {name: value[place] for name, value in found.items()}
                yield Prediction(path, image=batch[place], **row)
        yield from broken()

    def _rows(
        self, batches: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches and their results; the device works on one while the next is read."""
        started = None
        for images in batches:
            before, started = started, (images, self._start(images))
            if before:
                yield before[0], _fetched(*before)
        if started:
            yield started[0], _fetched(*started)

    def _start(self, images: np.ndarray) -> dict[str, jax.Array]:
        """Starts computing a batch, padded with zeros, on all devices among which it divides."""
        rows = min(_padded_size(len(images)), self._batch_size)
        padded = np.asarray(images)  # np.pad would copy even where nothing is missing
        if missing := rows - len(images):
            padded = np.pad(padded, ((0, missing), (0, 0), (0, 0), (0, 0)))
        if self._engine and rows % self._engine.batch_shards == 0:
            batch = self._engine.put_batch({"images": padded}, rows)
            return self._shared(self._replicated, batch["images"])
        return self._compute(self._params, padded)


def _engine_of_all() -> Engine | None:
    """Data parallelism over this process's devices; None for one, or if the caller chose one."""
    devices = jax.local_devices()
    if len(devices) == 1 or jax.default_device.value is not None:
        return None
    return create_engine(section(ParallelOptions), devices)


def _fetched(images: np.ndarray, found: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value)[: len(images)] for name, value in found.items()}


def predict(
    checkpoint: str,
    paths: Sequence[str],
    *,
    topk: int | None = None,
    threshold: float | None = None,
    use_ema: bool = False,
    tta: str = "none",
    batch_size: int = MAX_BATCH,
    dtype: str | None = None,
) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      paths: image files, folders, patterns such as "photos/*.jpg", and addresses such as
        https://host/cat.jpg; see `find_images`.
      topk: largest number of classes per image; None: 5, or all with a threshold.
      threshold: smallest probability of a class that is listed, from 0 to 1; None: none.
      use_ema: whether to use averaged parameters.
      tta: views over which probabilities are averaged: none, flip, five_crop or ten_crop.
      batch_size: number of images computed at once.
      dtype: see `load_for`.

    Returns:
      A list of {"path", "top": [{"label", "index", "probability"}]}, best first. An image that
      cannot be read has an empty "top", and "error" says why.
      Probabilities are the softmax over classes, or each logit's sigmoid for a model trained with
      the sigmoid loss.

    Raises:
      InputError: no such checkpoint or image, or a model without classes.
    """
    check_choice(topk, threshold)
    files = find_images(paths)
    model, info = load_for(checkpoint, use_ema, dtype)
    if not info.config.num_classes:
        raise InputError(f"{checkpoint} has no classes; fine-tune with it as config.init_from")
    predictor = Predictor(model, info, tta=tta, batch_size=batch_size)
    return [described(one, info.labels, topk, threshold) for one in predictor.predictions(files)]


def load_for(checkpoint: str | Path, use_ema: bool, dtype: str | None) -> tuple[ViT | BiT, Loaded]:
    """`load` for inference in another dtype.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      use_ema: whether to use averaged parameters.
      dtype: of the products: float32, bfloat16 or int8 (see `models.forms.quantized`); None: as
        in training.

    Raises:
      InputError: no such checkpoint, an unknown dtype, or int8 for a model without blocks.
    """
    if dtype is None:
        return load(checkpoint, use_ema=use_ema)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if dtype != "int8":
        return load(checkpoint, use_ema=use_ema, dtype=dtype)
    model, info = load(checkpoint, use_ema=use_ema)
    return int8(model), info


def check_choice(topk: int | None, threshold: float | None) -> None:
    """Refuses a number of classes below 1, and a threshold that is no probability."""
    if topk is not None and topk < 1:
        raise InputError(f"{argument('topk')} is {topk}; it must be at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"{argument('threshold')} is {threshold}; it must be from 0 to 1")


def described(
    prediction: Prediction,
    labels: Sequence[str],
    topk: int | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """A prediction as `predict` returns it.

    Args:
      prediction: prediction of an image.
      labels: class names by number; a class without one is called by its number.
      topk, threshold: as in `predict`.
    """
    if prediction.error is not None:
        return dict(path=prediction.path, top=[], error=str(prediction.error))
    row = prediction.probabilities
    if topk is None:
        topk = TOPK if threshold is None else len(row)
    top = top_classes(row, topk, labels)
    if threshold is not None:
        top = [one for one in top if one["probability"] >= threshold]
    return dict(path=prediction.path, top=top)


def top_classes(row: np.ndarray, topk: int, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The classes with the highest of the probabilities (K,), the highest first.

    Args:
      row: probability of each class.
      topk: largest number of classes.
      labels: class names by number; a class without one is called by its number.

    Returns:
      A list of {"label", "index", "probability"}.
    """
    return [
        dict(
            label=labels[i] if i < len(labels) else str(i),
            index=int(i),
            probability=float(row[i]),
        )
        for i in np.argsort(-row, kind="stable")[:topk]
    ]


def _padded_size(count: int) -> int:
    return 1 << (count - 1).bit_length()
