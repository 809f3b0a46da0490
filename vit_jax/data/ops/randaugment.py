"""RandAugment and the operations it draws from, on uint8 images (h, w, 3) in TensorFlow.

The list of 16 operations and their strengths are those of the TensorFlow code behind
AugReg (2106.10270) and Better plain ViT (2205.01580). Each operation computes what
Pillow's operation of that name does. That code differs from Pillow in four of them, which
`published` selects, since the published accuracies were reached with them:

- `solarize`: the threshold wraps at 256. At magnitude 10 and 20 all values are inverted, at 15
  those from 128 on; with Pillow, nothing is inverted from magnitude 10 on.
- `contrast`: the image is blended with the grey value pixels / 256, at most 255, instead of
  with its mean. For 224x224 pixels that is 196.
- `shear_x`, `shear_y`: about the centre of the first pixel, not about its corner.
- `sharpness`: the smoothed image is rounded down.

Lengths in pixels (translations, cutout) are given for images of 224 there, and scale with the
image here. What moves in from outside is grey, 128.
"""

import functools
import math

from vit_jax.data._tf import tf

GREY = 128
_SIDE = 224  # pixels; the image side that lengths are given for
_LUMA = (19595, 38470, 7471)  # ITU-R 601, in units of 2**-16, as in Pillow


# Operations, each with its strength as argument.


def identity_table() -> tf.Tensor:
    """0..255."""
    return tf.range(256)


def through_table(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Replaces each value by its entry in a table of 256."""
    table = tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8)
    return tf.gather(table, tf.cast(image, tf.int32))


def by_channel(image: tf.Tensor, make_table) -> tf.Tensor:
    """Maps each channel through a table made from that channel."""
    channels = tf.unstack(image, num=3, axis=-1)
    return tf.stack([through_table(channel, make_table(channel)) for channel in channels], -1)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255."""

    def table(channel: tf.Tensor) -> tf.Tensor:
        low, high = tf.reduce_min(channel), tf.reduce_max(channel)
        low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
        scale = 255.0 / tf.maximum(high - low, 1)
        stretched = tf.cast(identity_table(), tf.float64) * scale - low * scale
        return tf.where(high > low, tf.cast(stretched, tf.int32), identity_table())

    return by_channel(image, table)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens each channel's histogram."""

    def table(channel: tf.Tensor) -> tf.Tensor:
        values = tf.reshape(tf.cast(channel, tf.int32), [-1])
        counts = tf.math.bincount(values, minlength=256)
        last = tf.gather(counts, tf.reduce_max(values))
        step = (tf.size(values) - last) // 255
        below = tf.cumsum(counts, exclusive=True)
        flat = (below + step // 2) // tf.maximum(step, 1)
        return tf.where(step > 0, flat, identity_table())

    return by_channel(image, table)


def invert(image: tf.Tensor) -> tf.Tensor:
    return 255 - image


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the upper bits."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts values from the threshold on."""
    table = identity_table()
    return through_table(image, tf.where(table < threshold, table, 255 - table))


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to values below 128."""
    table = identity_table()
    return through_table(image, tf.where(table < 128, table + addition, table))


def blend(degenerate: tf.Tensor, image: tf.Tensor, factor) -> tf.Tensor:
    """Goes from one image to another (factor 1) and beyond."""
    degenerate, image = tf.cast(degenerate, tf.float32), tf.cast(image, tf.float32)
    mixed = degenerate + tf.cast(factor, tf.float32) * (image - degenerate)
    return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def luma(image: tf.Tensor) -> tf.Tensor:
    """Grey values: int32 (h, w, 1)."""
    weighted = tf.cast(image, tf.int32) * tf.constant(_LUMA)
    return tf.bitwise.right_shift(tf.reduce_sum(weighted, -1, keepdims=True) + 2**15, 16)


def color(image: tf.Tensor, factor) -> tf.Tensor:
    """Saturation: 0 is grey."""
    return blend(luma(image), image, factor)


def contrast(image: tf.Tensor, factor, *, published: bool = False) -> tf.Tensor:
    """0 is the mean grey."""
    if published:
        pixels = tf.cast(tf.reduce_prod(tf.shape(image)[:2]), tf.float32)
        return blend(tf.floor(tf.minimum(pixels / 256, 255)), image, factor)
    mean = tf.floor(tf.reduce_mean(tf.cast(luma(image), tf.float32)) + 0.5)
    return blend(mean, image, factor)


def brightness(image: tf.Tensor, factor) -> tf.Tensor:
    """0 is black."""
    return blend(0, image, factor)


def sharpness(image: tf.Tensor, factor, *, published: bool = False) -> tf.Tensor:
    """0 is smoothed by a 3x3 kernel; the border stays."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], kernel, [1, 1, 1, 1], padding="VALID"
    )[0]
    smooth = tf.cast(smooth if published else tf.round(smooth), tf.uint8)
    inside = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
    degenerate = tf.where(inside == 1, tf.pad(smooth, [[1, 1], [1, 1], [0, 0]]), image)
    return blend(degenerate, image, factor)


def affine(image: tf.Tensor, a, b, c, d, e, f, *, whole: bool = False) -> tf.Tensor:
    """Takes the pixel (x, y) from (a x + b y + c, d x + e y + f), the nearest there is.

    The coordinates of a pixel's centre are halves, as in Pillow's Image.transform; with `whole`
    they are whole numbers.
    """
    if not whole:
        c, f = c + (a + b - 1) / 2, f + (d + e - 1) / 2
    matrix = tf.stack([tf.cast(value, tf.float32) for value in (a, b, c, d, e, f, 0, 0)])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=GREY,
    )[0]


def rotate(image: tf.Tensor, degrees) -> tf.Tensor:
    """Turns about the middle, counter-clockwise."""
    h, w = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) / 2)
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return affine(image, cos, -sin, w - cos * w + sin * h, sin, cos, h - sin * w - cos * h)


def shear_x(image: tf.Tensor, level, *, published: bool = False) -> tf.Tensor:
    return affine(image, 1.0, level, 0.0, 0.0, 1.0, 0.0, whole=published)


def shear_y(image: tf.Tensor, level, *, published: bool = False) -> tf.Tensor:
    return affine(image, 1.0, 0.0, 0.0, level, 1.0, 0.0, whole=published)


def translate_x(image: tf.Tensor, share) -> tf.Tensor:
    """By a share of the width, to the left."""
    return affine(image, 1.0, 0.0, share * _sides(image)[1], 0.0, 1.0, 0.0)


def translate_y(image: tf.Tensor, share) -> tf.Tensor:
    """By a share of the height, upwards."""
    return affine(image, 1.0, 0.0, 0.0, 0.0, 1.0, share * _sides(image)[0])


def _sides(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.shape(image)[:2], tf.float32)


def fill_box(image: tf.Tensor, top, left, bottom, right, value: int) -> tf.Tensor:
    """Fills rows [top, bottom) and columns [left, right)."""
    rows, columns = tf.range(tf.shape(image)[0]), tf.range(tf.shape(image)[1])
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return tf.where(inside[..., None], tf.constant(value, tf.uint8), image)


def cutout(image: tf.Tensor, share: float, centre: tf.Tensor) -> tf.Tensor:
    """A grey square of half the side `share` of the image's; its middle lies anywhere.

    `centre` are two numbers in [0, 1).
    """
    sides = _sides(image)
    half = tf.cast(share * sides, tf.int32)
    middle = tf.cast(centre * sides, tf.int32)
    low, high = middle - half, middle + half
    return fill_box(image, low[0], low[1], high[0], high[1], GREY)


# RandAugment.


def operations(magnitude: float, *, published: bool = False) -> dict:
    """The 16 operations at a magnitude; 10 is the strongest meant, more is allowed.

    Each takes the image and three random numbers in [0, 1), the first for the sign.

    Args:
      magnitude: M of the paper.
      published: whether they differ from Pillow as AugReg's code does, see above.
    """
    threshold = int(256 * magnitude / 10)
    if published:
        threshold %= 256
    share = magnitude / 10
    enhance = 1.8 * share + 0.1

    def sign(numbers: tf.Tensor) -> tf.Tensor:
        return tf.where(numbers[0] < 0.5, -1.0, 1.0)

    return {
        "AutoContrast": lambda image, _: autocontrast(image),
        "Equalize": lambda image, _: equalize(image),
        "Invert": lambda image, _: invert(image),
        "Rotate": lambda image, u: rotate(image, 30 * share * sign(u)),
        "Posterize": lambda image, _: posterize(image, min(8, max(1, int(4 * share)))),
        "Solarize": lambda image, _: solarize(image, threshold),
        "Color": lambda image, _: color(image, enhance),
        "Contrast": lambda image, _: contrast(image, enhance, published=published),
        "Brightness": lambda image, _: brightness(image, enhance),
        "Sharpness": lambda image, _: sharpness(image, enhance, published=published),
        "ShearX": lambda image, u: shear_x(image, 0.3 * share * sign(u), published=published),
        "ShearY": lambda image, u: shear_y(image, 0.3 * share * sign(u), published=published),
        "TranslateX": lambda image, u: translate_x(image, 100 / _SIDE * share * sign(u)),
        "TranslateY": lambda image, u: translate_y(image, 100 / _SIDE * share * sign(u)),
        "Cutout": lambda image, u: cutout(image, 40 / _SIDE * share, u[1:]),
        "SolarizeAdd": lambda image, _: solarize_add(image, int(110 * share)),
    }


def randaugment(
    image: tf.Tensor, layers: int, magnitude: float, seed: tf.Tensor, *, published: bool = False
) -> tf.Tensor:
    """Applies `layers` operations, each drawn at random.

    Args:
      image: uint8 (h, w, 3).
      layers, magnitude: N and M of the paper.
      seed: int32 (2,).
      published: see `operations`.
    """
    choices = list(operations(magnitude, published=published).values())

    @tf.function(autograph=False)  # traced once for all layers
    def draw(image: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        chosen = tf.cast(numbers[0] * len(choices), tf.int32)
        branches = [functools.partial(choice, image, numbers[1:]) for choice in choices]
        return tf.ensure_shape(tf.switch_case(chosen, branches), image.shape)

    for numbers in tf.unstack(tf.random.stateless_uniform([layers, 4], seed)):
        image = draw(image, numbers)
    return image
