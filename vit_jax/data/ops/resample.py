"""Resizes images. With antialias this is Pillow's resampling, which peers' weights expect."""

import functools
import platform
from typing import Any

import numpy as np

from vit_jax.data.ops.op import Array, Size, Tensor
from vit_jax.errors import InputError

METHODS = ("bilinear", "bicubic", "nearest", "area")
_PILLOW = ("bilinear", "bicubic", "nearest")


def resize_image(image: Tensor, size: Any, method: str, antialias: bool) -> Tensor:
    """An image in TensorFlow, uint8 (h, w, 3), resized to (height, width).

    Pillow rounds and clips to bytes between the two axes, which TensorFlow's float32 does not:
    near edges bicubic values would differ by up to ten levels. So Pillow itself is called.
    """
    from vit_jax.data._tf import tf

    if antialias and method in _PILLOW:
        call = functools.partial(_by_pillow, method=method)
        resized = tf.numpy_function(call, [image, size], tf.uint8, stateful=False)
        static = tf.get_static_value(tf.convert_to_tensor(size))
        shape = [None, None] if static is None else [int(side) for side in static]
        return tf.ensure_shape(resized, [*shape, 3])
    resized = tf.image.resize(image, size, method=method, antialias=antialias)
    if method == "nearest":
        return resized  # copied pixels, already uint8
    if method == "bicubic":  # the other methods stay within the range
        resized = tf.clip_by_value(resized, 0, 255)
    return tf.cast(resized + 0.5, tf.uint8)


def _by_pillow(image: np.ndarray, size: Any, method: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise InputError("antialias=True needs Pillow: pip install pillow") from None
    filters = Image.Resampling
    found = dict(bilinear=filters.BILINEAR, bicubic=filters.BICUBIC, nearest=filters.NEAREST)
    height, width = (int(side) for side in size)
    grey = image.shape[-1] == 1
    resized = Image.fromarray(image[..., 0] if grey else image).resize(
        (width, height), found[method]
    )
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def same_as_tensorflow(method: str, antialias: bool) -> bool:
    """Whether `resize_array` gives what `resize_image` gives, to the bit.

    Bilinear values and means of areas are computed in the order of TensorFlow's kernels on x86;
    other processors fuse multiplications and additions.
    """
    if antialias and method in _PILLOW:
        return True
    return method in ("bilinear", "area") and platform.machine() in ("x86_64", "AMD64")


def resize_array(image: np.ndarray, size: Size, method: str, antialias: bool) -> np.ndarray:
    """`resize_image` without TensorFlow, where `same_as_tensorflow` holds: uint8 (h, w, 3)."""
    if antialias and method in _PILLOW:
        return _by_pillow(image, size, method)
    values = image.astype(np.float32)
    if method == "area":
        return (_area(values, size) + np.float32(0.5)).astype(np.uint8)
    (y0, y1, y), (x0, x1, x) = (_neighbours(*pair) for pair in zip(image.shape[:2], size))
    left, right = values[:, x0], values[:, x1]
    rows = left + (right - left) * x[:, None]
    top, bottom = rows[y0], rows[y1]
    resized = top + (bottom - top) * y[:, None, None]
    return (resized + np.float32(0.5)).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones around its centre, and the weight of the second."""
    half = np.float32(0.5)
    place = (np.arange(new, dtype=np.float32) + half) * (np.float32(old) / np.float32(new)) - half
    below = np.floor(place)
    first = np.maximum(below.astype(np.int64), 0)
    second = np.minimum(np.ceil(place).astype(np.int64), old - 1)
    return first, second, place - below


def _area(values: np.ndarray, size: Size) -> np.ndarray:
    """The mean of the area of each new pixel, float32 (h, w, 3): sums over columns, then rows.

    Sums are in the order of TensorFlow's kernel; adding zeros changes nothing.
    """
    rows, columns = (_Area(*pair) for pair in zip(values.shape, size))
    sums = values[:, columns.at(0)] * columns.share(columns.first)[:, None]
    for step in range(1, columns.most - 1):
        inner = columns.first + step < columns.end - 1
        sums = sums + values[:, columns.at(step)] * inner.astype(np.float32)[:, None]
    last = columns.share(columns.end - 1) * (columns.first + 1 != columns.end)
    sums = sums + values[:, np.minimum(columns.end, columns.old) - 1] * last[:, None]
    found = np.zeros((size[0], *sums.shape[1:]), np.float32)
    for step in range(rows.most):
        place = rows.first + step
        share = rows.share(place) * (place < rows.end)
        found = found + sums[rows.at(step)] * share[:, None, None]
    return found * np.float32(1.0 / float(rows.scale * columns.scale))


class _Area:
    """Along one axis, the old pixels that each new one covers: `first` to before `end`."""

    def __init__(self, old: int, new: int):
        number, one = np.arange(new, dtype=np.float32), np.float32(1)
        self.old, self.scale = old, np.float32(old) / np.float32(new)
        self._low, self._high = number * self.scale, (number + one) * self.scale
        self.first = np.floor(self._low).astype(np.int64)
        self.end = np.ceil(self._high).astype(np.int64)
        self.most = int((self.end - self.first).max())

    def at(self, step: int) -> np.ndarray:
        """The old pixel `step` after the first; the last one beyond the edge."""
        return np.minimum(self.first + step, self.old - 1)

    def share(self, place: np.ndarray) -> np.ndarray:
        """The share of old pixels that is covered, float32."""
        start, stop = place.astype(np.float32), (place + 1).astype(np.float32)
        begun = np.where(stop > self._high, self._high - start, np.float32(1))
        inside = np.where(stop > self._high, self.scale, stop - self._low)
        return np.where(start < self._low, inside, begun)


def resize_batch(images: Array, size: Size, method: str, antialias: bool, xp: Any) -> Array:
    """Images (B, h, w, 3) resized on the host or on the device; see `resize_weights`."""
    if antialias and xp is np:
        return np.stack([_by_pillow(image, size, method) for image in images])
    rows, columns = (
        resize_weights(old, new, method, antialias) for old, new in zip(images.shape[1:3], size)
    )
    if antialias:  # as Pillow: columns first, bytes between
        images = _to_bytes(xp.einsum("bhwc,xw->bhxc", images, columns), xp)
        return _to_bytes(xp.einsum("yh,bhxc->byxc", rows, images), xp)
    return _to_bytes(xp.einsum("yh,bhwc,xw->byxc", rows, images, columns, optimize=True), xp)


def _to_bytes(values: Array, xp: Any) -> Array:
    return xp.clip(xp.rint(values), 0, 255).astype(np.uint8)


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
