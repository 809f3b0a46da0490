"""Operations on batches of equally sized images in memory, without TensorFlow.

Images are uint8 (b, h, w, c); `words` are the pair of random words of each example,
uint32 (b, 2). The numbers are those of `tf_ops`.
"""

import functools

import numpy as np

from vit_jax.data.ops import vocabulary
from vit_jax.data.ops.preprocess import Preprocess

_IN_NUMPY = (
    vocabulary.Pad,
    vocabulary.CentralCrop,
    vocabulary.RandomCrop,
    vocabulary.FlipLeftRight,
    vocabulary.FlipUpDown,
)


def supports(preprocess: Preprocess) -> bool:
    """Whether every operation has a form here."""
    return all(_supports(op) for op in preprocess.ops)


def _supports(op: vocabulary.Op) -> bool:
    if isinstance(op, vocabulary.Resize):
        return op.method in ("bilinear", "nearest")
    return type(op) in _IN_NUMPY


def apply_all(preprocess: Preprocess, images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """All operations in turn; `words` are (b, num_random, 2).

    Returns:
      uint8 (b, h, w, c).
    """
    used = 0
    for op in preprocess.ops:
        images = apply(op, images, words[:, used] if op.random else None)
        used += op.random
    return images


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Grey images (b, h, w, 1) with three equal channels; others as they are."""
    if images.shape[-1] == 3:
        return np.ascontiguousarray(images)
    rgb = np.empty((*images.shape[:3], 3), np.uint8)
    for channel in range(3):  # several times as fast as a broadcast over the last axis
        rgb[..., channel] = images[..., 0]
    return rgb


def below(word: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Random words as integers in [0, count), count up to 2**16."""
    return (((word >> np.uint32(16)) * np.uint32(count)) >> np.uint32(16)).astype(np.int32)


@functools.singledispatch
def apply(op: vocabulary.Op, images: np.ndarray, words: np.ndarray | None) -> np.ndarray:
    """One operation on a batch."""
    raise NotImplementedError(op.name)


@apply.register
def _(op: vocabulary.Resize, images, words):
    if images.shape[1:3] == op.shape:
        return images
    rows = resize_weights(images.shape[1], op.shape[0], op.method, op.antialias)
    columns = resize_weights(images.shape[2], op.shape[1], op.method, op.antialias)
    resized = np.einsum("yh,bhwc,xw->byxc", rows, images, columns, optimize=True)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def resize_weights(size: int, new_size: int, method: str, antialias: bool) -> np.ndarray:
    """The matrix (new_size, size) that resizes one axis, pixel centres at halves."""
    scale = size / new_size
    centre = (np.arange(new_size) + 0.5) * scale - 0.5
    if method == "nearest":
        return np.eye(size, dtype=np.float32)[np.floor(centre + 0.5).astype(int)]
    if antialias:
        radius = max(scale, 1.0)
        distance = np.abs(np.arange(size) - centre[:, None]) / radius
        weights = np.maximum(0, 1 - distance)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    clipped = np.clip(centre, 0, size - 1)
    return np.maximum(0, 1 - np.abs(np.arange(size) - clipped[:, None])).astype(np.float32)


@apply.register
def _(op: vocabulary.Pad, images, words):
    return _pad(images, op.padding)


def _pad(images: np.ndarray, padding: int) -> np.ndarray:
    if not padding:
        return images
    n, h, w, channels = images.shape
    padded = np.zeros((n, h + 2 * padding, w + 2 * padding, channels), np.uint8)
    padded[:, padding : padding + h, padding : padding + w] = images
    return padded


@apply.register
def _(op: vocabulary.CentralCrop, images, words):
    h, w = op.shape
    y, x = (images.shape[1] - h) // 2, (images.shape[2] - w) // 2
    return images[:, y : y + h, x : x + w]


@apply.register
def _(op: vocabulary.RandomCrop, images, words):
    images = _pad(images, op.padding)
    windows = np.lib.stride_tricks.sliding_window_view(images, op.shape, axis=(1, 2))
    y = below(words[:, 0], windows.shape[1])
    x = below(words[:, 1], windows.shape[2])
    return np.moveaxis(windows[np.arange(len(images)), y, x], 1, -1)


def chance(words: np.ndarray) -> np.ndarray:
    """A fair coin of each example: bool (b,)."""
    return (words[:, 0] >> np.uint32(31)).astype(bool)


@apply.register
def _(op: vocabulary.FlipLeftRight, images, words):
    flipped, heads = images.copy(), chance(words)
    flipped[heads] = images[heads][:, :, ::-1]
    return flipped


@apply.register
def _(op: vocabulary.FlipUpDown, images, words):
    flipped, heads = images.copy(), chance(words)
    flipped[heads] = images[heads][:, ::-1]
    return flipped
