"""Pictures of what a training step gets."""

import jax
import numpy as np

from vit_jax.models.vit_config import ViTConfig
from vit_jax.train.log.metrics import MetricsLog
from vit_jax.train.run import Run

LARGEST = 256  # side in pixels


def show_batch(metrics: MetricsLog, run: Run, batch: dict[str, jax.Array], step: int) -> None:
    """Gives the images of a training batch to the trackers, as `config.log.images` says.

    Call it before the step, which may reuse the batch's memory. Images of any size, which are
    packed, are not shown.
    """
    count, setting = run.config.log.images, run.task.setting
    packed = isinstance(run.model_config, ViTConfig) and run.model_config.naflex
    if not count or not metrics.tracked or packed:
        return
    images = batch_images(batch, count, setting.mean, setting.std)
    if images is not None:
        metrics.images(step, "train/images", images)


def batch_images(
    batch: dict[str, jax.Array],
    count: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> np.ndarray | None:
    """The first images of a training batch as a picture shows them.

    Only images on this process's devices are copied. Mixup, which the step does, is not shown.

    Args:
      batch: batch of a training step: `image` (B, H, W, 3), uint8 or normalised, and `flip`,
        where flipping is left to the device. Under pmap, B is split in two dimensions.
      count: number of images at most.
      mean, std: normalisation of pixels / 255, which is undone.

    Returns:
      uint8 (N, h, w, 3), the larger side at most 256 pixels; None where a batch holds no images
      of one size.
    """
    if "image" not in batch or batch["image"].ndim not in (4, 5):
        return None
    images = _first(batch["image"], count)
    if images.shape[-1] != 3:
        return None
    if images.dtype != np.uint8:
        pixels = (images.astype(np.float32) * np.array(std) + np.array(mean)) * 255
        images = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if "flip" in batch:
        flip = _first(batch["flip"], count)
        images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    height, width = images.shape[1:3]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return images
    from PIL import Image  # most runs start without it

    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])


def _first(array: jax.Array, count: int) -> np.ndarray:
    """The first rows on this process's devices, in the order of the batch."""
    shards = {str(shard.index): shard for shard in array.addressable_shards}  # each part once
    parts: list[np.ndarray] = []
    tail = array.ndim - (3 if array.ndim >= 4 else 0)
    for shard in sorted(shards.values(), key=lambda shard: shard.index[0].start or 0):
        part = np.asarray(shard.data)
        parts.append(part.reshape(-1, *part.shape[tail:]))
        if sum(map(len, parts)) >= count:
            break
    return np.concatenate(parts)[:count]
