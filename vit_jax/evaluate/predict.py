"""Classes and probabilities of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError

# Images are padded to a power of two up to this, so that few shapes are compiled.
MAX_BATCH = 64


def predict(
    checkpoint: str, paths: Sequence[str], *, topk: int = 5, use_ema: bool = False
) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      paths: image files.
      topk: how many classes.
      use_ema: use averaged parameters.

    Returns:
      A list of {"path", "top": [{"label", "index", "probability"}]}, best first.
      Probabilities are the softmax over classes.

    Raises:
      InputError: no such checkpoint or image, or an image that cannot be read.
    """
    if topk < 1:
        raise InputError(f"--topk is {topk}; it must be at least 1")
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise InputError(f"image {missing[0]} does not exist")
    model, info = load(checkpoint, use_ema=use_ema)
    pp = data.parse(info.pp)
    graphdef, params = models.split(model)

    @jax.jit
    def probabilities(params: Any, images: jax.Array) -> jax.Array:
        images = (images.astype(jnp.float32) / 255.0 - jnp.array(pp.mean)) / jnp.array(pp.std)
        return jax.nn.softmax(models.merge(graphdef, params)(images))

    results = []
    for start in range(0, len(paths), MAX_BATCH):
        batch = paths[start : start + MAX_BATCH]
        images = data.load_images(batch, pp)
        padded = np.zeros((_padded_size(len(batch)), *images.shape[1:]), images.dtype)
        padded[: len(batch)] = images
        rows = np.asarray(probabilities(params, padded))[: len(batch)]
        results += [
            dict(path=str(path), top=_top(row, topk, info.labels))
            for path, row in zip(batch, rows, strict=True)
        ]
    return results


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
