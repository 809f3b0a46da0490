"""Operations on one image in a TensorFlow graph.

Images are uint8 (h, w, 3); `words` are the example's pair of random words, uint32 (2,).
Nothing here has a state: the same words give the same image.
"""

import functools
import math

from vit_jax.data._tf import tf
from vit_jax.data.ops import decode, randaugment, vocabulary
from vit_jax.data.ops.preprocess import Preprocess


def preprocess_encoded(preprocess: Preprocess, encoded: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """Decodes and preprocesses; `words` are (num_random, 2).

    Returns:
      uint8 (h, w, 3).
    """
    first = preprocess.ops[0] if preprocess.ops else None
    pairs = _pairs(words)
    if isinstance(first, vocabulary.InceptionCrop):
        box = functools.partial(inception_box, first, words=pairs[0])
        image = resize(decode.decode_box(encoded, box), first)
        return _apply_all(preprocess.ops[1:], image, pairs[1:])
    return _apply_all(preprocess.ops, decode.decode(encoded), pairs)


def _pairs(words: tf.Tensor) -> list[tf.Tensor]:
    """The pairs of words one by one, in a single operation."""
    return tf.unstack(words) if words.shape[0] else []


def preprocess_pixels(preprocess: Preprocess, image: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """Preprocesses a decoded image, uint8 (h, w, 1 or 3)."""
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    return _apply_all(preprocess.ops, image, _pairs(words))


def _apply_all(
    operations: tuple[vocabulary.Op, ...], image: tf.Tensor, pairs: list[tf.Tensor]
) -> tf.Tensor:
    used = 0
    for op in operations:
        image = apply(op, image, pairs[used] if op.random else None)
        used += op.random
    return image


def below(word: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A random word as an integer in [0, count): int32 scalar, count up to 2**16."""
    upper = tf.cast(tf.bitwise.right_shift(word, 16), tf.int64)
    return tf.cast((upper * tf.cast(count, tf.int64)) // 2**16, tf.int32)


@functools.singledispatch
def apply(op: vocabulary.Op, image: tf.Tensor, words: tf.Tensor | None) -> tf.Tensor:
    """One operation on one image."""
    raise NotImplementedError(op.name)


@apply.register
def _(op: vocabulary.Resize, image, words):
    return resize(image, op)


def resize(image: tf.Tensor, op: vocabulary.Op) -> tf.Tensor:
    return _resize(image, op.shape, op)


def _resize(image: tf.Tensor, size, op: vocabulary.Op) -> tf.Tensor:
    resized = tf.image.resize(image, size, method=op.method, antialias=op.antialias)
    if op.method == "nearest":
        return resized  # pixels as they were
    if op.method == "bicubic":  # the others cannot leave the range
        resized = tf.clip_by_value(resized, 0, 255)
    return tf.cast(resized + 0.5, tf.uint8)


@apply.register
def _(op: vocabulary.ResizeSmall, image, words):
    size = tf.cast(tf.shape(image)[:2], tf.float64)
    scale = tf.reduce_max(tf.constant(op.shape, tf.float64) / size)
    return _resize(image, tf.cast(tf.round(size * scale), tf.int32), op)


@apply.register
def _(op: vocabulary.Pad, image, words):
    return _pad(image, op.padding)


def _pad(image: tf.Tensor, padding: int) -> tf.Tensor:
    edge = [padding, padding]
    return tf.pad(image, [edge, edge, [0, 0]]) if padding else image


@apply.register
def _(op: vocabulary.CropBorder, image, words):
    border = op.border
    return image[border:-border, border:-border] if border else image


@apply.register
def _(op: vocabulary.Multiply, image, words):
    return tf.cast(tf.minimum(tf.cast(image, tf.int32) * op.factor, 255), tf.uint8)


@apply.register
def _(op: vocabulary.CentralCrop, image, words):
    room = _room(op, image)
    return _cut(image, room // 2, op.shape)


def _room(op: vocabulary.Op, image: tf.Tensor) -> tf.Tensor:
    """How many pixels a crop can move down and right: int32 (2,)."""
    room = tf.shape(image)[:2] - tf.constant(op.shape)
    message = f"the image is smaller than {op}"
    with tf.control_dependencies([tf.debugging.assert_non_negative(room, message)]):
        return tf.identity(room)


def _cut(image: tf.Tensor, corner: tf.Tensor, size: vocabulary.Size) -> tf.Tensor:
    return tf.ensure_shape(tf.slice(image, [corner[0], corner[1], 0], [*size, 3]), [*size, 3])


@apply.register
def _(op: vocabulary.RandomCrop, image, words):
    image = _pad(image, op.padding)
    room = _room(op, image)
    corner = [below(words[0], room[0] + 1), below(words[1], room[1] + 1)]
    return _cut(image, corner, op.shape)


def inception_box(op: vocabulary.InceptionCrop, shape: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """A random box: int32 (y, x, height, width) within `shape` (h, w, 3)."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed=_seed(words),
        area_range=(op.area_min / 100, op.area_max / 100),
        aspect_ratio_range=(op.ratio_min, op.ratio_max),
        min_object_covered=0.0,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


@apply.register
def _(op: vocabulary.InceptionCrop, image, words):
    y, x, h, w = tf.unstack(inception_box(op, tf.shape(image), words))
    return resize(image[y : y + h, x : x + w], op)


def chance(words: tf.Tensor) -> tf.Tensor:
    """A fair coin: bool scalar."""
    return tf.bitwise.right_shift(words[0], 31) == 1


@apply.register
def _(op: vocabulary.FlipLeftRight, image, words):
    return tf.cond(chance(words), lambda: tf.reverse(image, [1]), lambda: image)


@apply.register
def _(op: vocabulary.FlipUpDown, image, words):
    return tf.cond(chance(words), lambda: tf.reverse(image, [0]), lambda: image)


def _seed(words: tf.Tensor) -> tf.Tensor:
    """Random words as the seed of TensorFlow's stateless functions."""
    return tf.bitcast(words, tf.int32)


@apply.register
def _(op: vocabulary.RandAugment, image, words):
    return randaugment.randaugment(image, op.layers, op.magnitude, _seed(words))


@apply.register
def _(op: vocabulary.AugReg, image, words):
    return apply(op.randaugment, image, words)


@apply.register
def _(op: vocabulary.ColorJitter, image, words):
    strengths = tf.constant([op.brightness, op.contrast, op.saturation], tf.float32)
    numbers = tf.random.stateless_uniform([8], _seed(words), -1, 1)
    factors = tf.maximum(1 + strengths * numbers[:3], 0)
    changes = [
        lambda image: randaugment.brightness(image, factors[0]),
        lambda image: randaugment.contrast(image, factors[1]),
        lambda image: randaugment.color(image, factors[2]),
        lambda image: turn_hue(image, op.hue * numbers[3]),
    ]
    for change in tf.unstack(tf.argsort(numbers[4:])):
        branches = [functools.partial(branch, image) for branch in changes]
        image = tf.ensure_shape(tf.switch_case(change, branches), image.shape)
    return image


def turn_hue(image: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Turns the hue by a part of the colour circle."""
    turned = tf.image.adjust_hue(tf.cast(image, tf.float32) / 255, turns)
    return tf.cast(tf.round(turned * 255), tf.uint8)


@apply.register
def _(op: vocabulary.RandomErasing, image, words):
    numbers = tf.random.stateless_uniform([5], _seed(words))
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    area = (op.area_min + (op.area_max - op.area_min) * numbers[1]) / 100
    low, high = math.log(op.ratio_min), math.log(op.ratio_max)
    root = tf.sqrt(tf.exp(low + (high - low) * numbers[2]))
    box = tf.round(tf.sqrt(area * tf.reduce_prod(sides)) * tf.stack([root, 1 / root]))
    box = tf.minimum(box, sides)
    corner = tf.cast(numbers[3:] * (sides - box + 1), tf.int32)
    end = corner + tf.cast(box, tf.int32)
    erased = randaugment.fill_box(image, corner[0], corner[1], end[0], end[1], op.value)
    return tf.where(numbers[0] < op.probability, erased, image)
