"""Operations on the values of pixels: multiplying, RandAugment, colour jitter, erasing."""

import functools
import math
from typing import NamedTuple

from vit_jax.data.ops.op import Op, Tensor, check_range, is_int, is_number, operation, seed
from vit_jax.errors import unknown


@operation("multiply")
class Multiply(Op):
    """Multiplies pixels, up to 255: dSprites stores black and white as 0 and 1."""

    stored_values = True
    factor: int

    def __post_init__(self):
        ok = is_int(self.factor) and 1 <= self.factor <= 255
        self.require(ok, "factor", "an int from 1 to 255")

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf

        return tf.cast(tf.minimum(tf.cast(image, tf.int32) * self.factor, 255), tf.uint8)


@operation("randaug")
class RandAugment(Op):
    """RandAugment (1909.13719): `layers` operations drawn from 16, at one strength.

    With `published` they compute what the code of AugReg (2106.10270) and Better plain ViT
    (2205.01580) does, else what Pillow does; see `randaugment`.
    """

    random = True
    layers: int
    magnitude: float
    published: bool = False

    def __post_init__(self):
        self.require(is_int(self.layers) and self.layers >= 0, "layers", "an int, 0 or more")
        ok = is_number(self.magnitude) and 0 <= self.magnitude <= 30
        self.require(ok, "magnitude", "a number from 0 to 30")
        self.require(isinstance(self.published, bool), "published", "True or False")

    def tensorflow(self, image, words):
        from vit_jax.data.ops import randaugment

        return randaugment.randaugment(
            image, self.layers, self.magnitude, seed(words), published=self.published
        )


class Level(NamedTuple):
    """A level of augmentation of AugReg (2106.10270, section 3)."""

    layers: int
    magnitude: float
    mixup: float  # alpha, for config.mixup.alpha


AUGREG = dict(
    none=Level(0, 0, 0.0),
    light1=Level(2, 0, 0.0),
    light2=Level(2, 10, 0.2),
    medium1=Level(2, 15, 0.2),
    medium2=Level(2, 15, 0.5),
    strong1=Level(2, 20, 0.5),
    strong2=Level(2, 20, 0.8),
)


@operation("augreg")
class AugReg(Op):
    """The RandAugment of a level of AugReg, e.g. "medium1"; config.mixup is set separately."""

    random = True
    level: str

    def __post_init__(self):
        if self.level not in AUGREG:
            raise unknown("AugReg level", self.level, AUGREG)

    @property
    def randaugment(self) -> RandAugment:
        """The RandAugment of the level."""
        level = AUGREG[self.level]
        return RandAugment(level.layers, level.magnitude, published=True)

    def tensorflow(self, image, words):
        return self.randaugment.tensorflow(image, words)


@operation("color_jitter")
class ColorJitter(Op):
    """Changes brightness, contrast, saturation and hue, in random order.

    The first three are multiplied by a factor from 1 - x to 1 + x; the hue is turned by up to
    x of the colour circle, as in torchvision's ColorJitter.
    """

    random = True
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0

    def __post_init__(self):
        for field in ("brightness", "contrast", "saturation", "hue"):
            check_range(self, field, field, 0, 0.5 if field == "hue" else 10)

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf
        from vit_jax.data.ops import randaugment

        strengths = tf.constant([self.brightness, self.contrast, self.saturation], tf.float32)
        numbers = tf.random.stateless_uniform([8], seed(words), -1, 1)
        factors = tf.maximum(1 + strengths * numbers[:3], 0)
        changes = [
            lambda image: randaugment.brightness(image, factors[0]),
            lambda image: randaugment.contrast(image, factors[1]),
            lambda image: randaugment.color(image, factors[2]),
            lambda image: turn_hue(image, self.hue * numbers[3]),
        ]
        for change in tf.unstack(tf.argsort(numbers[4:])):
            branches = [functools.partial(branch, image) for branch in changes]
            image = tf.ensure_shape(tf.switch_case(change, branches), image.shape)
        return image


def turn_hue(image: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue by a part of the colour circle."""
    from vit_jax.data._tf import tf

    turned = tf.image.adjust_hue(tf.cast(image, tf.float32) / 255, turns)
    return tf.cast(tf.round(turned * 255), tf.uint8)


@operation("random_erasing")
class RandomErasing(Op):
    """Fills a random box with `value` (1708.04896), with a probability.

    Areas are in percent of the image; ratios are height by width.
    """

    random = True
    probability: float = 0.5
    area_min: float = 2
    area_max: float = 40
    ratio_min: float = 0.3
    ratio_max: float = 3.3
    value: int = 128

    def __post_init__(self):
        check_range(self, "probability", "probability", 0, 1)
        check_range(self, "area_min", "area_max", 0, 100)
        check_range(self, "ratio_min", "ratio_max", 0.01, 100)
        self.require(is_int(self.value) and 0 <= self.value <= 255, "value", "0 to 255")

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf
        from vit_jax.data.ops import randaugment

        numbers = tf.random.stateless_uniform([5], seed(words))
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        area = (self.area_min + (self.area_max - self.area_min) * numbers[1]) / 100
        low, high = math.log(self.ratio_min), math.log(self.ratio_max)
        root = tf.sqrt(tf.exp(low + (high - low) * numbers[2]))
        box = tf.round(tf.sqrt(area * tf.reduce_prod(sides)) * tf.stack([root, 1 / root]))
        box = tf.minimum(box, sides)
        corner = tf.cast(numbers[3:] * (sides - box + 1), tf.int32)
        end = corner + tf.cast(box, tf.int32)
        erased = randaugment.fill_box(image, corner[0], corner[1], end[0], end[1], self.value)
        return tf.where(numbers[0] < self.probability, erased, image)
