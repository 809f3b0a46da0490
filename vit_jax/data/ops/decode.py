"""Encoded images to uint8 pixels (h, w, 3), in a TensorFlow graph.

TensorFlow reads JPEG and PNG, `image_files` GIF (its first frame), BMP, WebP, TIFF, PGM, PPM,
AVIF, HEIC and JPEG XL. Grey becomes three equal channels, 16 bits the upper 8, CMYK RGB; alpha
is dropped; the EXIF orientation is applied.
"""

from collections.abc import Callable

import numpy as np

from vit_jax.data._tf import tf
from vit_jax.data.ops import image_files

_DCT = "INTEGER_ACCURATE"  # bit for bit the pixels that Pillow, and so PyTorch, reads
_DCT_OF_BOXES = "INTEGER_FAST"  # TensorFlow's default, 7% faster, about one level of 255 darker
_EXIF = r"\C*(Exif\x00\x00|eXIf)\C*"  # in JPEG or PNG; \C is any byte
# Start of a JPEG without metadata: a JFIF segment, then its tables (marker, length, number).
_PLAIN = r"\C{4}\x00\x10JFIF\x00\C{9}\C\C\x00[\x43\x84]\x00"
_PLAIN_BYTES = 25


def _apart(function: Callable) -> Callable:
    """Keeps a rarely used function out of the graph around it, where operations cost time."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one image.

    Args:
      encoded: string scalar, the bytes of an image file.

    Returns:
      uint8 (h, w, 3).

    Raises (at run time):
      tf.errors.OpError: the bytes are not an image, or a damaged one.
    """
    image = tf.cond(_is_plain(encoded), lambda: _jpeg(encoded), lambda: _other(encoded))
    image.set_shape([None, None, 3])
    return image


def limited(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """The bytes of an image file, after a check of the size in its header.

    Without it, a file of a few kilobytes could take gigabytes when it is decoded.

    Raises (at run time):
      tf.errors.OpError: the image has more than `max_pixels` pixels, or no header.
    """
    pixels = tf.cond(_is_plain(encoded), lambda: _jpeg_pixels(encoded), lambda: _pixels(encoded))
    message = image_files.too_many_pixels(max_pixels)
    limit = tf.constant(max_pixels, tf.int64)
    with tf.control_dependencies([tf.debugging.assert_less_equal(pixels, limit, message)]):
        return tf.identity(encoded)


def _jpeg_pixels(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    return shape[0] * shape[1]


def _png_pixels(encoded: tf.Tensor) -> tf.Tensor:
    sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    return tf.reduce_prod(tf.cast(sides, tf.int64))


@_apart
def _pixels(encoded: tf.Tensor) -> tf.Tensor:
    """The number of pixels that the header of any image file claims: int64 scalar."""
    return tf.switch_case(
        _kind(encoded),
        [
            lambda: _jpeg_pixels(encoded),
            lambda: _png_pixels(encoded),
            lambda: tf.ensure_shape(_call(image_files.count_pixels, encoded, tf.int64), []),
        ],
    )


def _kind(encoded: tf.Tensor) -> tf.Tensor:
    """0 for JPEG, 1 for PNG, 2 for anything else."""
    return tf.where(is_jpeg(encoded), 0, tf.where(_is_png(encoded), 1, 2))


def _is_plain(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the file is a JPEG without metadata, as nearly all are in a large data set.

    EXIF data may follow a colour profile of any size, so a search would have to read far.
    The two operations here run for every image; more of them would cost several percent.
    """
    return tf.strings.regex_full_match(tf.strings.substr(encoded, 0, _PLAIN_BYTES), _PLAIN)


def is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"


def _is_png(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n"


def _jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """The pixels of a JPEG as they are stored."""
    return tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT)


@_apart
def _other(encoded: tf.Tensor) -> tf.Tensor:
    """Any image, turned upright."""
    return tf.switch_case(
        _kind(encoded),
        [
            lambda: orient(_jpeg(encoded), orientation(encoded)),
            lambda: orient(tf.io.decode_png(encoded, channels=3), orientation(encoded)),
            lambda: _pillow(encoded),
        ],
    )


def _pillow(encoded: tf.Tensor) -> tf.Tensor:
    return _call(image_files.read, encoded, tf.uint8)


def _call(function, encoded: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Calls Python with the bytes of a string scalar (eager tensors arrive as 0-d arrays)."""

    def call(value):
        return function(value.item() if isinstance(value, np.ndarray) else value)

    return tf.numpy_function(call, [encoded], dtype, stateful=False)


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG or PNG: int32 scalar, 1 to 8, 1 where it has none."""
    return tf.cond(
        _has_exif(encoded),
        lambda: tf.ensure_shape(_call(image_files.read_orientation, encoded, tf.int32), []),
        lambda: 1,
    )


def _has_exif(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_full_match(encoded, _EXIF)


def orient(image: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Turns stored pixels upright by the EXIF orientation, 1 to 8."""

    def turned() -> tf.Tensor:
        swapped = tf.where(value >= 5, 1, 0)
        upright = tf.cond(swapped == 1, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        flip_ud = tf.reduce_any(value == [3, 4, 7, 8])
        flip_lr = tf.reduce_any(value == [2, 3, 6, 7])
        upright = tf.cond(flip_ud, lambda: upright[::-1], lambda: upright)
        return tf.cond(flip_lr, lambda: upright[:, ::-1], lambda: upright)

    return tf.cond(value == 1, lambda: image, turned)


def decode_box(encoded: tf.Tensor, choose) -> tf.Tensor:
    """Decodes a random part of an image; for an upright JPEG only that part.

    Args:
      encoded: string scalar, the bytes of an image file.
      choose: function from the shape, int32 (3,), to a box (y, x, height, width), int32 (4,).

    Returns:
      uint8 (height, width, 3).
    """

    def fused() -> tf.Tensor:
        box = choose(tf.io.extract_jpeg_shape(encoded))
        return tf.io.decode_and_crop_jpeg(encoded, box, channels=3, dct_method=_DCT_OF_BOXES)

    def separate() -> tf.Tensor:
        image = _other(encoded)
        y, x, h, w = tf.unstack(choose(tf.shape(image)))
        return image[y : y + h, x : x + w]

    @_apart
    def other() -> tf.Tensor:
        upright = tf.cond(is_jpeg(encoded), lambda: orientation(encoded) == 1, lambda: False)
        return tf.cond(upright, fused, separate)

    image = tf.cond(_is_plain(encoded), fused, other)
    image.set_shape([None, None, 3])
    return image
