"""`vit_jax.predict`: classes of images that are given in Python."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from vit_jax import data
from vit_jax.checkpoint.loaded import Loaded, listed
from vit_jax.data.given import GivenImage, name_of, read_given
from vit_jax.errors import InputError
from vit_jax.evaluate.predict import MAX_BATCH, Predictor, find_images, load_for, top_classes
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.schema import check_given
from vit_jax.weights.files.paths import check_no_image

Model: TypeAlias = tuple[ViT | BiT, Loaded]


def predict(
    weights: str | Path | Model,
    images: Any,
    *,
    topk: int = 5,
    use_ema: bool = False,
    batch_size: int = MAX_BATCH,
    dtype: str | None = None,
) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Probabilities are the softmax over classes, or each logit's sigmoid for a model trained with the
    sigmoid loss.

    Args:
      weights: workdir, checkpoint or weight file; or (model, info) from `load`, which is not read
        again.
      images: one image or a list of them: paths of files, addresses such as https://host/cat.jpg,
        the bytes of files, Pillow images, uint8 arrays (height, width) or (height, width,
        channels). A path may also be that of a folder, whose images are all taken, or a pattern
        such as "photos/*.jpg".
      topk: number of classes per image.
      use_ema: whether to use the averaged parameters of a run.
      batch_size: number of images computed at once.
      dtype: of the products: float32, bfloat16 or int8 (the dense layers of a Transformer's blocks,
        faster on most CPUs); None: as in training.

    Returns:
      A list of {"path", "top": [{"label", "index", "probability"}]}, best first, in the order of
      the images; "path" is "image 0", "image 1", ... by its place for an image without a path.

    Raises:
      InputError: no such weights or image, an image that cannot be read, or a model without
        classes.

    Example:
        >>> import numpy as np
        >>> model, info = vit_jax.load("workdirs/digits")
        >>> grey = np.full((8, 8), 128, np.uint8)
        >>> found = vit_jax.predict((model, info), [grey, 255 - grey], topk=3)
        >>> [len(each["top"]) for each in found], sorted(found[0]["top"][0])
        ([3, 3], ['index', 'label', 'probability'])
    """
    check_given(topk, "topk", int)
    check_given(batch_size, "batch_size", int)
    check_given(use_ema, "use_ema", bool)
    if topk < 1:
        raise InputError(f"topk is {topk}; it must be at least 1")
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be at least 1")
    if isinstance(weights, str | os.PathLike):
        check_no_image(os.fspath(weights))
    given = list(_found(images))
    if not given:
        raise InputError("no images are given")
    if not isinstance(weights, str | os.PathLike | tuple):
        raise InputError(
            f"weights are of type {type(weights).__name__}; give a path, or the (model, info) of "
            "load"
        )
    if isinstance(weights, tuple):
        for name, value in (("use_ema", use_ema), ("dtype", dtype)):
            if value:
                raise InputError(f"{name} chooses what is loaded; give weights by their path")
        model, info = weights
    else:
        model, info = load_for(weights, use_ema, dtype)
    if not info.config.num_classes:
        raise InputError(f"{info.source} has no classes; fine-tune with it as config.init_from")
    predictor = Predictor(model, info, batch_size=batch_size)
    pp = data.parse(info.pp)
    limit = info.run_config.get("data", {}).get("max_pixels", data.MAX_PIXELS)
    results: list[dict[str, Any]] = []
    for start in range(0, len(given), batch_size):
        part = given[start : start + batch_size]
        rows = predictor(read_given(part, pp, limit, start))
        for place, (image, row) in enumerate(zip(part, rows, strict=True), start):
            results.append(
                dict(path=name_of(image, place), top=top_classes(row, topk, info.labels))
            )
    return results


def _found(images: Any) -> Iterator[GivenImage]:
    """The images; folders and patterns give theirs."""
    for image in listed(images):
        if isinstance(image, str | os.PathLike):
            yield from find_images([os.fspath(image)])
        else:
            yield image
