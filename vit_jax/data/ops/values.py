"""The first and the last operation: decoding, and normalisation on the device."""

from vit_jax.data.ops.op import Op, is_number, operation

Triple = tuple[float, float, float]  # one number per channel


@operation("decode")
class Decode(Op):
    """Decodes the image file; always first, and may be left out."""


class Normalization(Op):
    """The last operation, on the device: normalises pixels for the model.

    The model gets (x / 255 - mean) / std, per channel.
    """

    def mean_std(self) -> tuple[Triple, Triple]:
        """Mean and deviation per channel, of pixels in 0..1."""
        raise NotImplementedError


@operation("value_range")
class ValueRange(Normalization):
    """Maps 0..255 to low..high."""

    low: float
    high: float

    def __post_init__(self):
        for field in ("low", "high"):
            self.require(is_number(getattr(self, field)), field, "a number")
        self.require(self.high != self.low, "high", "other than low")

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
            triple = (value,) * 3 if is_number(value) else value
            ok = isinstance(triple, (tuple, list)) and len(triple) == 3
            self.require(ok and all(map(is_number, triple)), field, "a number or three")
            self.set_field(field, tuple(triple))
        self.require(min(self.std) > 0, "std", "positive numbers")

    def mean_std(self):
        return self.mean, self.std
