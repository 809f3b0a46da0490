"""Preprocessing as text: `decode|inception_crop(224)|flip_lr|value_range(-1, 1)`.

`parse` reads a pipeline of operations from text without evaluating any code; the
operations themselves are in `geometry`, `color` and `values`.
"""

import ast
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.ops.flip import FlipLeftRight
from vit_jax.data.ops.geometry import (
    CentralCrop,
    Resize,
    ResizeSmall,
    Resizing,
)
from vit_jax.data.ops.image_files import MAX_PIXELS
from vit_jax.data.ops.naflex import Naflex
from vit_jax.data.ops.op import OPERATIONS, Array, Op, Size, Tensor
from vit_jax.data.ops.values import Decode, Normalization, Triple
from vit_jax.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A parsed pipeline of operations; `str` gives text that parses to the same.

    Attributes:
      ops: operations on uint8 images, without decode.
      normalization: last operation, run on the device; None if there is none.
    """

    ops: tuple[Op, ...] = ()
    normalization: Normalization | None = None

    @property
    def mean(self) -> Triple:
        """Per channel, in units of pixel/255: the device computes (x/255 - mean)/std."""
        return self.normalization.mean_std()[0] if self.normalization else (0.0, 0.0, 0.0)

    @property
    def std(self) -> Triple:
        """Per channel, in units of pixel/255."""
        return self.normalization.mean_std()[1] if self.normalization else (1.0, 1.0, 1.0)

    @property
    def image_size(self) -> Size | None:
        """(height, width) of every output image; None if it depends on the input."""
        return self.output_size()

    @property
    def naflex(self) -> Naflex | None:
        """The operation that makes patches of images of any size, if that is the last one."""
        last = self.ops[-1] if self.ops else None
        return last if isinstance(last, Naflex) else None

    @property
    def num_random(self) -> int:
        """The number of pairs of random words that an example needs."""
        return sum(op.random for op in self.ops)

    def output_size(self, size: Size | None = None) -> Size | None:
        """The output size for images of `size`.

        Raises:
          InputError: a crop does not fit.
        """
        for op in self.ops:
            size = op.output_size(size)
        return size

    @property
    def ends_with_flip(self) -> bool:
        """Whether the last operation is a random flip, which a device can do."""
        return bool(self.ops) and isinstance(self.ops[-1], FlipLeftRight)

    @property
    def has_batched(self) -> bool:
        """Whether all operations work on batches in memory, without TensorFlow."""
        return all(op.has_batched for op in self.ops)

    @property
    def has_plain(self) -> bool:
        """Whether images are preprocessed without TensorFlow to the same bits."""
        return all(op.has_plain for op in self.ops)

    def batched(self, images: Array, words: Array | None, xp: Any = np) -> Array:
        """All operations in turn on a batch of images of one size.

        Args:
          images: uint8 (b, h, w, c).
          words: random words, uint32 (b, num_random, 2); None if no operation is random.
          xp: numpy or jax.numpy.

        Returns:
          uint8 (b, h', w', c).
        """
        used = 0
        for op in self.ops:
            own = words[:, used] if op.random and words is not None else None
            images = op.batched(images, own, xp)
            used += op.random
        return images

    def encoded(self, encoded: Tensor, words: Tensor, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Decodes and preprocesses in a TensorFlow graph.

        Args:
          encoded: string scalar, the bytes of an image file.
          words: uint32 (num_random or more, 2).
          max_pixels: largest number of pixels; a larger image is refused before it is decoded.

        Returns:
          uint8 (h, w, 3).
        """
        from vit_jax.data.ops import decode

        encoded = decode.limited(encoded, max_pixels)
        first, *others = self.ops or (Decode(),)
        if isinstance(first, Decode):
            return decode.decode(encoded)
        pairs = _pairs(words)
        image = first.tensorflow_encoded(encoded, pairs[0] if first.random else None)
        return _in_turn(others, image, pairs[int(first.random) :])

    def pixels(self, image: Tensor, words: Tensor) -> Tensor:
        """Preprocesses a decoded image, uint8 (h, w, 1 or 3), in a TensorFlow graph."""
        if image.shape[-1] == 1:
            from vit_jax.data._tf import tf

            image = tf.image.grayscale_to_rgb(image)
        return _in_turn(self.ops, image, _pairs(words))

    def deterministic(self) -> "Preprocess":
        """The pipeline for evaluation, with random operations replaced."""
        ops = tuple(new for op in self.ops for new in op.evaluation())
        return dataclasses.replace(self, ops=ops)

    def at_size(self, size: Size, where: str) -> "Preprocess":
        """The pipeline with another size of its images; each example keeps its random words.

        All sizes and paddings after the first operation that resizes scale in proportion.

        Args:
          size: (height, width) of the images.
          where: option that asks for it, for messages.

        Raises:
          InputError: the pipeline does not fix the size by resizing.
        """
        old = self.image_size
        if old is None or self.naflex:
            raise InputError(f"{where}: {str(self)!r} does not fix the size of images")
        if size == old:
            return self
        resizing = (isinstance(op, Resizing) for op in self.ops)
        first = next((i for i, resizes in enumerate(resizing) if resizes), len(self.ops))
        ops = (*self.ops[:first], *(op.scaled(old, size) for op in self.ops[first:]))
        found = dataclasses.replace(self, ops=ops)
        if found.image_size != size:
            raise InputError(
                f"{where}: {str(self)!r} cannot give images of {size[0]}x{size[1]} pixels; begin "
                "it with an operation that resizes, such as resize or inception_crop"
            )
        return found

    def for_crops(self, where: str) -> "Preprocess":
        """The pipeline without its last crop: images from which several crops are cut.

        An image that is not larger than the crop is resized to 8/7 of its size: 256 pixels for
        224. `resize_small(256)|central_crop(224)` gives the central square of 256.

        Args:
          where: option that asks for crops, for messages.

        Raises:
          InputError: the pipeline ends in neither central_crop nor resize.
        """
        ops = self.ops
        crop = ops[-1] if ops else None
        if isinstance(crop, CentralCrop):
            ops = ops[:-1]
            last = ops[-1] if ops else None
            whole = ops
            if isinstance(last, ResizeSmall):
                whole = (*ops, dataclasses.replace(crop, size=last.shape))
            larger = dataclasses.replace(self, ops=whole)
            size = larger.image_size
            if size and size != crop.shape and all(a >= b for a, b in zip(size, crop.shape)):
                return larger
        last = ops[-1] if ops else None
        if isinstance(last, (Resize, ResizeSmall)):
            size = (round(last.shape[0] * 8 / 7), round(last.shape[1] * 8 / 7))
            square = [CentralCrop(size)] if isinstance(last, ResizeSmall) else []
            resized = dataclasses.replace(last, size=size)
            return dataclasses.replace(self, ops=(*ops[:-1], resized, *square))
        raise InputError(
            f"{where}: no larger image to cut crops from in {str(self)!r}; let it end in "
            "resize_small(256)|central_crop(224) or resize(224), before the normalisation"
        )

    def __str__(self) -> str:
        ops = [Decode(), *self.ops] + ([self.normalization] if self.normalization else [])
        return "|".join(map(str, ops))


def _pairs(words: Tensor) -> list[Tensor]:
    """The pairs of words as a list, in a single operation."""
    from vit_jax.data._tf import tf

    return tf.unstack(words) if words.shape[0] else []


def _in_turn(operations: Sequence[Op], image: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    used = 0
    for op in operations:
        image = op.tensorflow(image, pairs[used] if op.random else None)
        used += op.random
    return image


def parse(text: str) -> Preprocess:
    """Reads operations separated by "|" from text; "" is plain decoding.

    Raises:
      InputError: wrong syntax, an unknown operation or argument (names the nearest one),
        a wrong value, or decode not first or normalisation not last.
    """
    ops = [_operation(node, text) for node in _calls(text)]
    if ops and isinstance(ops[0], Decode):
        ops = ops[1:]
    last = ops[-1] if ops else None
    normalization = last if isinstance(last, Normalization) else None
    if normalization:
        ops = ops[:-1]
    for op in ops:
        if isinstance(op, (Decode, Normalization)):
            place = "first" if isinstance(op, Decode) else "last"
            raise InputError(f"{op} must come {place} in {text!r}")
    for op in ops[:-1]:
        if isinstance(op, Naflex):
            raise InputError(f"{op} must come last, but for the normalisation, in {text!r}")
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
    """The operation for the text `name` or `name(literals)`."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise InputError(f"{ast.unparse(node)!r} is no operation in {text!r}")
    name = call.func.id
    cls = OPERATIONS[name]
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
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
