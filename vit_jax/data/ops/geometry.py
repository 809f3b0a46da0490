"""Operations on the shape of images: resizing, cropping, padding, mirroring.

Sizes are pixels, an int for squares or (height, width).
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from vit_jax.data.ops.op import (
    Array,
    Op,
    Size,
    Tensor,
    below,
    check_range,
    is_int,
    operation,
    seed,
)
from vit_jax.data.ops.resample import (
    METHODS,
    resize_array,
    resize_batch,
    resize_image,
    same_as_tensorflow,
)
from vit_jax.errors import InputError

_LARGEST = 2.0**25  # pixels of an enlarged image; as float32 RGB they take 400 MB


class Sized(Op):
    """An operation with an argument `size`."""

    size: Any

    def __post_init__(self):
        """Checks `size`, makes it an int (square) or (height, width); checks the switches."""
        for switch in ("antialias", "truncate", "nearest"):
            self.require(isinstance(getattr(self, switch, False), bool), switch, "True or False")
        size = self.size
        sides = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size,)
        ok = all(is_int(side) and side > 0 for side in sides)
        self.require(ok, "size", "pixels: a positive int or (height, width)")
        if not is_int(size):
            self.set_field("size", size[0] if size[0] == size[1] else tuple(size))

    @property
    def shape(self) -> Size:
        """`size` as (height, width)."""
        return (self.size, self.size) if is_int(self.size) else self.size

    def scaled(self, old: Size, new: Size) -> Op:
        """The operation with its size in the same proportion to `new` as it has to `old`."""
        size = tuple(max(1, round(x * b / a)) for x, a, b in zip(self.shape, old, new))
        return dataclasses.replace(self, **dict(size=size))


class Resizing(Sized):
    """An operation with arguments `size`, `method` and `antialias`."""

    method: str
    antialias: bool

    def __post_init__(self):
        super().__post_init__()
        self.require(self.method in METHODS, "method", " or ".join(METHODS))

    def resized(self, image: Tensor, size: Any) -> Tensor:
        """An image in TensorFlow, resized to (height, width)."""
        return resize_image(image, size, self.method, self.antialias)

    @property
    def has_plain(self):
        return not self.random and same_as_tensorflow(self.method, self.antialias)

    def plain(self, image):
        size = self.output_size(image.shape[:2])
        return resize_array(image, size, self.method, self.antialias)


@operation("resize")
class Resize(Resizing):
    """Resizes to `size`, aspect ratio not kept.

    `antialias` low-passes when shrinking: the result is Pillow's, to the bit (method "area" has
    no other form).
    """

    size: Any
    method: str = "bilinear"
    antialias: bool = False

    def output_size(self, size):
        return self.shape

    def tensorflow(self, image, words):
        return self.resized(image, self.shape)

    @property
    def has_batched(self):
        return self.method in ("bilinear", "nearest")

    def batched(self, images, words, xp):
        if images.shape[1:3] == self.shape:
            return images
        return resize_batch(images, self.shape, self.method, self.antialias, xp)


@operation("resize_small")
class ResizeSmall(Resizing):
    """Resizes so that the image just covers `size`, aspect ratio kept.

    For an int that is the length of the smaller side. `truncate` rounds the longer side down,
    as torchvision does, instead of to the nearest pixel.
    """

    size: Any
    method: str = "area"
    antialias: bool = False
    truncate: bool = False

    def output_size(self, size):
        if size is None:
            return None
        if self.truncate:
            first = max(range(2), key=lambda axis: self.shape[axis] / size[axis])
            side = self.shape[first]
            return side * size[0] // size[first], side * size[1] // size[first]
        scale = max(self.shape[0] / size[0], self.shape[1] / size[1])
        return round(size[0] * scale), round(size[1] * scale)

    def plain(self, image):
        height, width = self.output_size(image.shape[:2])
        if height * width > max(_LARGEST, image.shape[0] * image.shape[1]):
            raise InputError(self._too_long)
        return super().plain(image)

    @property
    def _too_long(self):
        return f"the image is too long for {self}: it would have over {_LARGEST:,.0f} pixels"

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf

        whole = tf.shape(image)[:2]
        size = tf.cast(whole, tf.float64)
        scales = tf.constant(self.shape, tf.float64) / size
        if self.truncate:
            first = tf.argmax(scales)
            sides = tf.cast(tf.gather(self.shape, first), tf.int64) * tf.cast(whole, tf.int64)
            wanted = tf.cast(sides // tf.cast(whole[first], tf.int64), tf.float64)
        else:
            wanted = tf.round(size * tf.reduce_max(scales))
        limit = tf.maximum(tf.constant(_LARGEST, tf.float64), tf.reduce_prod(size))
        checked = tf.debugging.assert_less_equal(tf.reduce_prod(wanted), limit, self._too_long)
        with tf.control_dependencies([checked]):
            return self.resized(image, tf.cast(wanted, tf.int32))


def _check_fits(op: Sized, size: Size | None, padding: int = 0) -> None:
    """Refuses a crop if the images are known to be smaller."""
    if size and any(have + 2 * padding < want for have, want in zip(size, op.shape)):
        raise InputError(f"{op}: the image is {size[0]}x{size[1]} there; resize or pad it first")


def _too_small(op: Sized) -> str:
    return f"the image is smaller than {op}"


def _room(op: Sized, image: Tensor) -> Tensor:
    """The number of pixels that a crop can move down and right: int32 (2,)."""
    from vit_jax.data._tf import tf

    room = tf.shape(image)[:2] - tf.constant(op.shape)
    with tf.control_dependencies([tf.debugging.assert_non_negative(room, _too_small(op))]):
        return tf.identity(room)


def _cut(image: Tensor, corner: Any, size: Size) -> Tensor:
    from vit_jax.data._tf import tf

    return tf.ensure_shape(tf.slice(image, [corner[0], corner[1], 0], [*size, 3]), [*size, 3])


@operation("central_crop")
class CentralCrop(Sized):
    """Cuts `size` out of the middle; a smaller image is an error.

    `nearest` rounds the corner to the nearest (half to even), as torchvision does, not down.
    """

    exact = True
    size: Any
    nearest: bool = False

    def output_size(self, size):
        _check_fits(self, size)
        return self.shape

    def tensorflow(self, image, words):
        room = _room(self, image)
        # Half of an odd number rounds to even: up where the half below is odd.
        up = room % 2 * (room // 2 % 2) if self.nearest else 0
        return _cut(image, room // 2 + up, self.shape)

    def plain(self, image):
        if any(have < want for have, want in zip(image.shape, self.shape)):
            raise InputError(_too_small(self))
        return super().plain(image)

    def batched(self, images, words, xp):
        h, w = self.shape
        y, x = (images.shape[1] - h) / 2, (images.shape[2] - w) / 2
        y, x = (round(y), round(x)) if self.nearest else (int(y), int(x))
        return images[:, y : y + h, x : x + w]


def _pad(image: Tensor, padding: int) -> Tensor:
    from vit_jax.data._tf import tf

    edge = [padding, padding]
    return tf.pad(image, [edge, edge, [0, 0]]) if padding else image


def _pad_batch(images: Array, padding: int, xp: Any) -> Array:
    edge = (padding, padding)
    return xp.pad(images, ((0, 0), edge, edge, (0, 0))) if padding else images


@operation("pad")
class Pad(Op):
    """Adds `padding` black pixels on every side."""

    exact = True
    padding: int

    def __post_init__(self):
        self.require(is_int(self.padding) and self.padding >= 0, "padding", "pixels, 0 or more")

    def output_size(self, size):
        return size and (size[0] + 2 * self.padding, size[1] + 2 * self.padding)

    def scaled(self, old, new):
        return dataclasses.replace(self, padding=round(self.padding * new[0] / old[0]))

    def tensorflow(self, image, words):
        return _pad(image, self.padding)

    def batched(self, images, words, xp):
        return _pad_batch(images, self.padding, xp)


@operation("crop_border")
class CropBorder(Op):
    """Removes `border` pixels on every side, such as ObjectNet's red frame."""

    stored_values = True
    border: int

    def __post_init__(self):
        self.require(is_int(self.border) and self.border >= 0, "border", "pixels, 0 or more")

    def output_size(self, size):
        if size and min(size) <= 2 * self.border:
            raise InputError(f"{self}: nothing would be left of an image of {size[0]}x{size[1]}")
        return size and (size[0] - 2 * self.border, size[1] - 2 * self.border)

    def tensorflow(self, image, words):
        border = self.border
        return image[border:-border, border:-border] if border else image


@operation("random_crop")
class RandomCrop(Sized):
    """Adds `padding` black pixels on every side and crops `size` at a random place.

    In evaluation: the middle of the padded image.
    """

    random = True
    exact = True
    size: Any
    padding: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.require(is_int(self.padding) and self.padding >= 0, "padding", "pixels, 0 or more")

    def scaled(self, old, new):
        padding = round(self.padding * new[0] / old[0])
        return dataclasses.replace(super().scaled(old, new), padding=padding)

    def evaluation(self):
        crop = CentralCrop(self.size)
        return (Pad(self.padding), crop) if self.padding else (crop,)

    def output_size(self, size):
        _check_fits(self, size, self.padding)
        return self.shape

    def tensorflow(self, image, words):
        image = _pad(image, self.padding)
        room = _room(self, image)
        corner = [_below(words[0], room[0] + 1), _below(words[1], room[1] + 1)]
        return _cut(image, corner, self.shape)

    def batched(self, images, words, xp):
        images = _pad_batch(images, self.padding, xp)
        (h, w), rows = self.shape, xp.arange(len(images))
        y = below(words[:, 0], images.shape[1] - h + 1)
        x = below(words[:, 1], images.shape[2] - w + 1)
        if xp is np:  # copies whole windows: five times as fast as gathering pixels
            windows = np.lib.stride_tricks.sliding_window_view(images, self.shape, axis=(1, 2))
            return np.moveaxis(windows[rows, y, x], 1, -1)
        y, x = y[:, None] + xp.arange(h), x[:, None] + xp.arange(w)
        return images[rows[:, None, None], y[:, :, None], x[:, None, :]]


def _below(word: Tensor, count: Tensor) -> Tensor:
    """`below` in TensorFlow: int32 scalar."""
    from vit_jax.data._tf import tf

    upper = tf.cast(tf.bitwise.right_shift(word, 16), tf.int64)
    return tf.cast((upper * tf.cast(count, tf.int64)) // 2**16, tf.int32)


@operation("inception_crop")
class InceptionCrop(Resizing):
    """Crops a box of random area and aspect ratio and resizes it to `size`.

    Szegedy et al. (1409.4842), section 6; areas in percent of the image, ratios are width
    by height. In evaluation: 7/8 of the smaller side, in the middle (256 to 224).
    """

    random = True
    size: Any
    area_min: float = 5
    area_max: float = 100
    ratio_min: float = 0.75
    ratio_max: float = 1.33
    method: str = "bilinear"
    antialias: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "area_min", "area_max", 0.01, 100)
        check_range(self, "ratio_min", "ratio_max", 0.01, 100)

    def evaluation(self):
        h, w = (round(side * 8 / 7) for side in self.shape)
        return ResizeSmall(h if h == w else (h, w)), CentralCrop(self.size)

    def output_size(self, size):
        return self.shape

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf

        y, x, h, w = tf.unstack(self.box(tf.shape(image), words))
        return self.resized(image[y : y + h, x : x + w], self.shape)

    def tensorflow_encoded(self, encoded, words):
        """Decodes only the box."""
        from vit_jax.data.ops import decode

        box = functools.partial(self.box, words=words)
        return self.resized(decode.decode_box(encoded, box), self.shape)

    def box(self, shape: Tensor, words: Tensor) -> Tensor:
        """A random box: int32 (y, x, height, width) within `shape` (h, w, 3)."""
        from vit_jax.data._tf import tf

        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4]),
            seed=seed(words),
            area_range=(self.area_min / 100, self.area_max / 100),
            aspect_ratio_range=(self.ratio_min, self.ratio_max),
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], size[:2]], 0)
