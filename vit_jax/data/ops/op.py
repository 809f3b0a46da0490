"""The interface of preprocessing operations, and their registry."""

import dataclasses
import math
from typing import Any, ClassVar, dataclass_transform

import numpy as np

from vit_jax.errors import InputError
from vit_jax.registry import Registry

Size = tuple[int, int]
Tensor = Any  # of TensorFlow, which is imported only to read images
Array = Any  # of NumPy or jax.numpy


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation on images.

    Fields of a subclass are its arguments in text, as in "resize(224, method='area')"; they
    are checked in `__post_init__`. A subclass defines `tensorflow`; with `batched` too, it
    works on data sets in memory without TensorFlow.

    Attributes:
      name: name in the text of a pipeline.
      random: whether it uses a pair of random words of its example.
      exact: whether `batched` gives the same numbers with jax.numpy, so that devices may run it.
      stored_values: whether it corrects images as they are stored; all protocols keep it.
    """

    name: ClassVar[str] = ""
    random: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    stored_values: ClassVar[bool] = False

    def tensorflow(self, image: Tensor, words: Tensor | None) -> Tensor:
        """One image in a TensorFlow graph.

        Args:
          image: uint8 (h, w, 3).
          words: random words of the example, uint32 (2,), if the operation is random; the
            same words must give the same image.

        Returns:
          uint8 (h', w', 3).
        """
        raise NotImplementedError(f"{self.name} has no TensorFlow form")

    def tensorflow_encoded(self, encoded: Tensor, words: Tensor | None) -> Tensor:
        """`tensorflow` of the bytes of an image file."""
        from vit_jax.data.ops import decode

        return self.tensorflow(decode.decode(encoded), words)

    def batched(self, images: Array, words: Array | None, xp: Any) -> Array:
        """A batch of images of one size.

        Args:
          images: uint8 (b, h, w, c) with 1 or 3 channels.
          words: uint32 (b, 2) if the operation is random.
          xp: numpy or jax.numpy.
        """
        raise NotImplementedError(f"{self.name} has no batched form")

    @property
    def has_batched(self) -> bool:
        """Whether `batched` is implemented."""
        return type(self).batched is not Op.batched

    @property
    def has_plain(self) -> bool:
        """Whether `plain` gives what `tensorflow` gives, to the bit."""
        return self.exact and not self.random

    def plain(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 (h, w, 3), without TensorFlow.

        Raises:
          InputError: the image does not suit the operation.
        """
        return self.batched(image[None], None, np)[0]

    def evaluation(self) -> tuple["Op", ...]:
        """The operations that replace it in evaluation; by default none if it is random."""
        return () if self.random else (self,)

    def output_size(self, size: Size | None) -> Size | None:
        """The size of its output for images of `size`; None if unknown."""
        return size

    def scaled(self, old: Size, new: Size) -> "Op":
        """The operation for a pipeline whose images come out as `new` pixels instead of `old`.

        Operations that have no lengths in pixels stay as they are.
        """
        del old, new
        return self

    def __str__(self) -> str:
        """The operation as text that parses to it, without default arguments."""
        arguments = [
            repr(value) if field.default is dataclasses.MISSING else f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def set_field(self, field: str, value: Any) -> None:
        """Sets an argument to its final form; for `__post_init__` only."""
        object.__setattr__(self, field, value)

    def require(self, condition: bool, field: str, wanted: str) -> None:
        """Raises an InputError that names an argument if the condition is false."""
        if not condition:
            raise InputError(f"{self.name}: {field} is {getattr(self, field)!r}; wanted {wanted}")


OPERATIONS: Registry[type[Op]] = Registry(
    "preprocessing operation",
    "vit_jax.data.ops.values",
    "vit_jax.data.ops.geometry",
    "vit_jax.data.ops.flip",
    "vit_jax.data.ops.naflex",
    "vit_jax.data.ops.color",
)


@dataclass_transform(frozen_default=True)
def operation(name: str):
    """Registers a class under `name` and makes it a frozen dataclass."""

    def register(cls: type[Op]) -> type[Op]:
        cls = dataclasses.dataclass(frozen=True)(cls)
        cls.name = name
        cls.__str__ = Op.__str__  # type: ignore[method-assign]
        return OPERATIONS.add(name, cls)

    return register


def is_int(value: Any) -> bool:
    """Whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number and not a bool."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def check_range(op: Op, low: str, high: str, least: float, most: float) -> None:
    """Checks that two arguments hold numbers, least <= low <= high <= most."""
    for field in (low, high):
        value = getattr(op, field)
        ok = is_number(value) and least <= value <= most
        op.require(ok, field, f"a number from {least:g} to {most:g}")
    op.require(getattr(op, low) <= getattr(op, high), low, f"at most {high}")


def below(word: Array, count: int) -> Array:
    """Random words as integers in [0, count), count up to 2**16."""
    return (((word >> np.uint32(16)) * np.uint32(count)) >> np.uint32(16)).astype(np.int32)


def coin(words: Array) -> Array:
    """A fair coin of each example: bool (b,) of words (b, 2)."""
    return (words[:, 0] >> np.uint32(31)).astype(bool)


def seed(words: Tensor) -> Tensor:
    """Random words as the seed of TensorFlow's stateless functions."""
    from vit_jax.data._tf import tf

    return tf.bitcast(words, tf.int32)
