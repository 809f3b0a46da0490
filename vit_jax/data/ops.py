"""The preprocessing vocabulary: `decode|inception_crop(224)|flip_lr|value_range(-1, 1)`.

An operation is a small frozen dataclass with its checked arguments; what it computes is
in `tf_ops` (per example, TensorFlow) and `numpy_ops` (batches in memory). `parse` reads
a pipeline of them from text without evaluating any code.

Sizes are pixels, an int for squares or (height, width).
"""

import ast
import dataclasses
import inspect
import math
from typing import Any, ClassVar

from vit_jax.errors import InputError, nearest, unknown

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
        for field in ("area_min", "area_max", "ratio_min", "ratio_max"):
            value = getattr(self, field)
            self._require(_is_number(value) and value > 0, field, "a positive number")
        self._require(self.area_max <= 100, "area_max", "a percentage")
        self._require(self.area_min <= self.area_max, "area_min", "at most area_max")
        self._require(self.ratio_min <= self.ratio_max, "ratio_min", "at most ratio_max")
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


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A parsed pipeline of operations; `str` gives text that parses to the same.

    Attributes:
      ops: the operations on bytes, without decode.
      normalization: the last operation, run on the device, if there is one.
    """

    ops: tuple[Op, ...] = ()
    normalization: Normalization | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in units of pixel/255: the device computes (x/255 - mean)/std."""
        return self.normalization.mean_std()[0] if self.normalization else (0.0,) * 3

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, in units of pixel/255."""
        return self.normalization.mean_std()[1] if self.normalization else (1.0,) * 3

    @property
    def image_size(self) -> Size | None:
        """(height, width) of every image, None if that depends on the input."""
        return self.output_size()

    @property
    def num_random(self) -> int:
        """How many pairs of random words an example needs."""
        return sum(op.random for op in self.ops)

    def output_size(self, size: Size | None = None) -> Size | None:
        """The image size that inputs of `size` come out with.

        Raises:
          InputError: a crop does not fit.
        """
        for op in self.ops:
            size = op.output_size(size)
        return size

    def deterministic(self) -> "Preprocess":
        """The same for evaluation: random operations replaced by what stands for them."""
        ops = tuple(new for op in self.ops for new in op.evaluation())
        return dataclasses.replace(self, ops=ops)

    def __str__(self) -> str:
        ops = [Decode(), *self.ops] + ([self.normalization] if self.normalization else [])
        return "|".join(map(str, ops))


def parse(text: str) -> Preprocess:
    """Reads operations separated by "|" from text; "" is plain decoding.

    Raises:
      InputError: not the syntax, an unknown operation or argument (with the nearest one),
        a wrong value, decode not first or normalisation not last.
    """
    ops = [_operation(node, text) for node in _calls(text)]
    if ops and isinstance(ops[0], Decode):
        ops = ops[1:]
    normalization = ops.pop() if ops and isinstance(ops[-1], Normalization) else None
    for op in ops:
        if isinstance(op, (Decode, Normalization)):
            place = "first" if isinstance(op, Decode) else "last"
            raise InputError(f"{op} must come {place} in {text!r}")
    preprocess = Preprocess(tuple(ops), normalization)
    preprocess.output_size()
    return preprocess


def _calls(text: str) -> list[ast.expr]:
    """The operands of "|" from left to right."""
    if not text.strip():
        return []
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"cannot read preprocessing {text!r}; write e.g. decode|resize(224)|value_range(-1, 1)"
        ) from None
    calls = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        calls.append(node.right)
        node = node.left
    return [node, *reversed(calls)]


def _operation(node: ast.expr, text: str) -> Op:
    """The operation that `name` or `name(literals)` stands for."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise InputError(f"{ast.unparse(node)!r} is no operation in {text!r}")
    name = call.func.id
    if name not in VOCABULARY:
        raise unknown("preprocessing operation", name, VOCABULARY)
    cls = VOCABULARY[name]
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise InputError(
            f"{ast.unparse(node)}: arguments must be plain numbers, strings or tuples"
        ) from None
    fields = [field.name for field in dataclasses.fields(cls)]
    for keyword in kwargs:
        if keyword not in fields:
            raise InputError(f"{name} has no argument {keyword!r}{nearest(str(keyword), fields)}")
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        signature = f"{name}({', '.join(fields)})"
        raise InputError(f"{ast.unparse(node)}: {error}; it is {signature}") from None
    return cls(*args, **kwargs)
