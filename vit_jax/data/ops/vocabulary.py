"""The operations there are: small frozen dataclasses with their checked arguments.

What they compute is in `tf_ops` and `randaugment` (per example, TensorFlow) and in
`numpy_ops` (batches in memory). Sizes are pixels, an int for squares or (height, width).
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from vit_jax.errors import InputError, unknown

Size = tuple[int, int]
VOCABULARY: dict[str, type["Op"]] = {}
METHODS = ("bilinear", "bicubic", "nearest", "area")


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation on a uint8 image (h, w, 3).

    Attributes:
      name: in the vocabulary.
      random: it consumes a pair of random words of its example.
    """

    name: ClassVar[str]
    random: ClassVar[bool] = False

    def evaluation(self) -> tuple["Op", ...]:
        """What stands in its place in evaluation; a random operation has none by default."""
        return () if self.random else (self,)

    def output_size(self, size: Size | None) -> Size | None:
        """The image size it makes of `size`; None where that is not known."""
        return size

    def __str__(self) -> str:
        """The call that makes this operation, defaults left out."""
        arguments = [
            repr(value) if field.default is dataclasses.MISSING else f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # of a frozen dataclass, in __post_init__ only

    def _require(self, condition: bool, field: str, wanted: str) -> None:
        if not condition:
            raise InputError(f"{self.name}: {field} is {getattr(self, field)!r}; wanted {wanted}")

    def _check_size(self) -> None:
        """Checks `size` and brings it to int (square) or (height, width)."""
        size = self.size
        if isinstance(size, (tuple, list)) and len(size) == 2:
            ok = all(_is_int(side) and side > 0 for side in size)
        else:
            ok = _is_int(size) and size > 0
        self._require(ok, "size", "pixels: a positive int or (height, width)")
        if not _is_int(size):
            self._set("size", size[0] if size[0] == size[1] else tuple(size))

    @property
    def shape(self) -> Size:
        """`size` as (height, width)."""
        return (self.size, self.size) if _is_int(self.size) else self.size


def operation(name: str):
    """Puts a class into the vocabulary under `name`."""

    def register(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        cls.name = name
        cls.__str__ = Op.__str__
        VOCABULARY[name] = cls
        return cls

    return register


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


@operation("decode")
class Decode(Op):
    """Reads the encoded image; first, and implied where it is left out."""


@operation("resize")
class Resize(Op):
    """Resizes to `size`, aspect ratio not kept. `antialias` low-passes when shrinking."""

    size: Any
    method: str = "bilinear"
    antialias: bool = False

    def __post_init__(self):
        self._check_size()
        _check_resize(self)

    def output_size(self, size):
        return self.shape


def _check_resize(op: Op) -> None:
    op._require(op.method in METHODS, "method", " or ".join(METHODS))
    op._require(isinstance(op.antialias, bool), "antialias", "True or False")


@operation("resize_small")
class ResizeSmall(Op):
    """Resizes so that the image just covers `size`, aspect ratio kept.

    For an int that is the length of the smaller side.
    """

    size: Any
    method: str = "area"
    antialias: bool = False

    def __post_init__(self):
        self._check_size()
        _check_resize(self)

    def output_size(self, size):
        if size is None:
            return None
        scale = max(self.shape[0] / size[0], self.shape[1] / size[1])
        return round(size[0] * scale), round(size[1] * scale)


@operation("central_crop")
class CentralCrop(Op):
    """Cuts `size` out of the middle; a smaller image is an error."""

    size: Any

    def __post_init__(self):
        self._check_size()

    def output_size(self, size):
        _check_fits(self, size)
        return self.shape


def _check_fits(op: Op, size: Size | None, padding: int = 0) -> None:
    """Refuses a crop of images known to be smaller."""
    if size and any(have + 2 * padding < want for have, want in zip(size, op.shape)):
        raise InputError(f"{op}: the image is {size[0]}x{size[1]} there; resize or pad it first")


@operation("pad")
class Pad(Op):
    """Adds `padding` black pixels on every side."""

    padding: int

    def __post_init__(self):
        self._require(_is_int(self.padding) and self.padding >= 0, "padding", "pixels, 0 or more")

    def output_size(self, size):
        return size and (size[0] + 2 * self.padding, size[1] + 2 * self.padding)


@operation("crop_border")
class CropBorder(Op):
    """Cuts `border` pixels off on every side, such as ObjectNet's red frame."""

    border: int

    def __post_init__(self):
        self._require(_is_int(self.border) and self.border >= 0, "border", "pixels, 0 or more")

    def output_size(self, size):
        if size and min(size) <= 2 * self.border:
            raise InputError(f"{self}: nothing would be left of an image of {size[0]}x{size[1]}")
        return size and (size[0] - 2 * self.border, size[1] - 2 * self.border)


@operation("multiply")
class Multiply(Op):
    """Multiplies pixels, up to 255: dSprites stores black and white as 0 and 1."""

    factor: int

    def __post_init__(self):
        ok = _is_int(self.factor) and 1 <= self.factor <= 255
        self._require(ok, "factor", "an int from 1 to 255")


@operation("random_crop")
class RandomCrop(Op):
    """Adds `padding` black pixels on every side and cuts `size` out at a random place.

    In evaluation: the middle of the padded image.
    """

    random = True
    size: Any
    padding: int = 0

    def __post_init__(self):
        self._check_size()
        self._require(_is_int(self.padding) and self.padding >= 0, "padding", "pixels, 0 or more")

    def evaluation(self):
        crop = CentralCrop(self.size)
        return (Pad(self.padding), crop) if self.padding else (crop,)

    def output_size(self, size):
        _check_fits(self, size, self.padding)
        return self.shape


@operation("inception_crop")
class InceptionCrop(Op):
    """Cuts a box of random area and aspect ratio out and resizes it to `size`.

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
        self._check_size()
        _check_range(self, "area_min", "area_max", 0.01, 100)
        _check_range(self, "ratio_min", "ratio_max", 0.01, 100)
        _check_resize(self)

    def evaluation(self):
        h, w = (round(side * 8 / 7) for side in self.shape)
        return ResizeSmall(h if h == w else (h, w)), CentralCrop(self.size)

    def output_size(self, size):
        return self.shape


@operation("flip_lr")
class FlipLeftRight(Op):
    """Mirrors left and right with probability one half."""

    random = True


@operation("flip_ud")
class FlipUpDown(Op):
    """Mirrors top and bottom with probability one half."""

    random = True


def _check_range(op: Op, low: str, high: str, least: float, most: float) -> None:
    """Checks that the fields hold numbers, least <= low <= high <= most."""
    for field in (low, high):
        value = getattr(op, field)
        ok = _is_number(value) and least <= value <= most
        op._require(ok, field, f"a number from {least:g} to {most:g}")
    op._require(getattr(op, low) <= getattr(op, high), low, f"at most {high}")


@operation("randaug")
class RandAugment(Op):
    """RandAugment (1909.13719): `layers` operations drawn from 16, at one strength.

    As AugReg and Better plain ViT use it; see `randaugment`.
    """

    random = True
    layers: int
    magnitude: float

    def __post_init__(self):
        self._require(_is_int(self.layers) and self.layers >= 0, "layers", "an int, 0 or more")
        ok = _is_number(self.magnitude) and 0 <= self.magnitude <= 30
        self._require(ok, "magnitude", "a number from 0 to 30")


class Level(NamedTuple):
    """One of AugReg's levels of augmentation (2106.10270, section 3)."""

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
    """The RandAugment of one of AugReg's levels, e.g. "medium1"; mixup is set apart."""

    random = True
    level: str

    def __post_init__(self):
        if self.level not in AUGREG:
            raise unknown("AugReg level", self.level, AUGREG)

    @property
    def randaugment(self) -> RandAugment:
        return RandAugment(*AUGREG[self.level][:2])


@operation("color_jitter")
class ColorJitter(Op):
    """Changes brightness, contrast, saturation and hue, in random order.

    The first three are multiplied by a factor within 1 - x .. 1 + x, the hue is turned by
    up to x of the colour circle, as torchvision's ColorJitter does.
    """

    random = True
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0

    def __post_init__(self):
        for field in ("brightness", "contrast", "saturation", "hue"):
            _check_range(self, field, field, 0, 0.5 if field == "hue" else 10)


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
        _check_range(self, "probability", "probability", 0, 1)
        _check_range(self, "area_min", "area_max", 0, 100)
        _check_range(self, "ratio_min", "ratio_max", 0.01, 100)
        self._require(_is_int(self.value) and 0 <= self.value <= 255, "value", "0 to 255")


class Normalization(Op):
    """The last operation: how the device turns bytes into what the model sees.

    The model gets (x / 255 - mean) / std, per channel.
    """

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        raise NotImplementedError


@operation("value_range")
class ValueRange(Normalization):
    """Maps 0..255 to low..high."""

    low: float
    high: float

    def __post_init__(self):
        for field in ("low", "high"):
            self._require(_is_number(getattr(self, field)), field, "a number")
        self._require(self.high != self.low, "high", "other than low")

    def mean_std(self):
        std = 1 / (self.high - self.low)
        return (-self.low * std,) * 3, (std,) * 3


@operation("normalize")
class Normalize(Normalization):
    """Subtracts `mean` and divides by `std`, of pixels in 0..1; defaults: ImageNet's."""

    mean: tuple = (0.485, 0.456, 0.406)
    std: tuple = (0.229, 0.224, 0.225)

    def __post_init__(self):
        for field in ("mean", "std"):
            value = getattr(self, field)
            triple = (value,) * 3 if _is_number(value) else value
            ok = isinstance(triple, (tuple, list)) and len(triple) == 3
            self._require(ok and all(map(_is_number, triple)), field, "a number or three")
            self._set(field, tuple(triple))
        self._require(min(self.std) > 0, "std", "positive numbers")

    def mean_std(self):
        return self.mean, self.std
