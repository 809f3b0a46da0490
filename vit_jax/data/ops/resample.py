"""Resizes images. With antialias this is Pillow's resampling, which peers' weights expect."""

import functools
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
