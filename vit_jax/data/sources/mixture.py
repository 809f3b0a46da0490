"""Mixtures of sources by weight: "mix:digits*0.3+folder:photos*0.7".

The stream of a mixture is cut into blocks of 1000 positions. Each block holds the
components in the proportions of their weights, rounded to a thousandth, in an order that
is a pure function of (seed, block). Each component runs through its own epochs, every
example once in each.
"""

import dataclasses
import functools
import re
import struct
from typing import Any

import numpy as np

from vit_jax.data import order
from vit_jax.data.ops.op import Tensor
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError

BLOCK = 1000  # positions
_TERM = re.compile(r"(.+?)\*(\d+(?:\.\d*)?|\.\d+)(?:\+|$)")


def parse(text: str) -> list[tuple[str, float]]:
    """Parses SOURCE*WEIGHT+SOURCE*WEIGHT+... into (source, weight) pairs.

    Raises:
      InputError: wrong syntax, a weight of 0, or a mixture within a mixture.
    """
    terms, end = [], 0
    while end < len(text):
        match = _TERM.match(text, end)
        if not match:
            break
        terms.append((match[1], float(match[2])))
        end = match.end()
    if not terms or end < len(text) or text.endswith("+"):
        raise InputError(f"bad mixture {text!r}; write e.g. mix:digits*0.3+folder:DIR*0.7")
    for source, weight in terms:
        if weight <= 0 or source.startswith("mix:"):
            what = "a mixture cannot hold another" if weight > 0 else "weights must be positive"
            raise InputError(f"bad mixture {text!r}: {what}")
    return terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureSource(Source):
    """Several sources as one; an example's index counts through the components in turn.

    Attributes:
      components: sources of the mixture.
      shares: number of positions of each component in a block.
      class_of: for each component, the mixture's number of each class: int (component classes,).
    """

    components: tuple[Source, ...]
    shares: tuple[int, ...]
    class_of: tuple[np.ndarray, ...]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0] + [component.size for component in self.components])

    def order(self, positions, *, seed, shuffle):
        block, offset = np.divmod(np.asarray(positions, np.int64), BLOCK)
        slot = order.permutation(offset, block, seed=seed, size=BLOCK)
        edges = np.cumsum([0, *self.shares])
        which = np.searchsorted(edges, slot, side="right") - 1
        epoch, index = np.empty_like(block), np.empty_like(block)
        for number, component in enumerate(self.components):
            rows = which == number
            # Number of earlier positions of this component, in all blocks.
            place = block[rows] * self.shares[number] + slot[rows] - edges[number]
            own = component.order(place, seed=seed + number + 1, shuffle=shuffle)
            epoch[rows], index[rows] = own[0], own[1] + self._starts[number]
        return epoch, index

    # A payload is a byte with the component's number; the mixture's label, int32 or one byte per
    # class, unless the component's payload holds it; and the component's payload.

    def fetch(self, index):
        payloads = np.empty(len(index), object)
        for number, rows, own in self._split(index):
            component = self.components[number]
            labels = component.labels(own)
            parts = component.fetch(own)
            prefixes = [b""] * len(own) if labels is None else self._in_mixture(number, labels)
            payloads[rows] = [
                struct.pack("<B", number) + prefix + part for prefix, part in zip(prefixes, parts)
            ]
        return payloads

    def _in_mixture(self, number: int, labels: np.ndarray) -> list[bytes]:
        """A component's labels in the mixture's numbers, as bytes: int32, or one byte per class."""
        classes = self.class_of[number]
        if not self.multi_label:
            return [label.tobytes() for label in classes[labels].astype("<i4")]
        found = np.zeros((len(labels), self.num_classes), np.uint8)
        found[:, classes] = labels
        return [label.tobytes() for label in found]

    def example(self, preprocess, payload, words):
        from vit_jax.data._tf import tf

        def branch(number: int) -> dict[str, Tensor]:
            component = self.components[number]
            in_payload = component.labels(np.arange(0)) is None
            length = 0 if in_payload else self.num_classes if self.multi_label else 4
            own = tf.strings.substr(payload, 1 + length, -1)
            found = component.example(preprocess, own, words)
            label = tf.strings.substr(payload, 1, length)
            if in_payload:
                label = self._relabelled(found["label"], number)
            elif self.multi_label:
                label = tf.io.decode_raw(label, tf.uint8)
            else:
                label = tf.io.decode_raw(label, tf.int32)[0]
            shape = [self.num_classes] if self.multi_label else []
            return dict(image=found["image"], label=tf.ensure_shape(label, shape))

        first = tf.io.decode_raw(tf.strings.substr(payload, 0, 1), tf.uint8)[0]
        branches = [functools.partial(branch, i) for i in range(len(self.components))]
        return tf.switch_case(tf.cast(first, tf.int32), branches)

    def _relabelled(self, label: Tensor, number: int) -> Tensor:
        """A component's label in the mixture's numbers, in a TensorFlow graph."""
        from vit_jax.data._tf import tf

        classes = self.class_of[number]
        if not self.multi_label:
            return tf.gather(tf.constant(classes, tf.int32), label)
        return tf.scatter_nd(classes[:, None].astype(np.int32), label, [self.num_classes])

    def labels(self, index):
        return None

    def shared(self, other):
        others = other.components if isinstance(other, MixtureSource) else (other,)
        return sum(own.shared(one) for own in self.components for one in others)

    def describe(self, index):
        component, own = self._one(index)
        return component.describe(own)

    def encoded(self, index):
        component, own = self._one(index)
        return component.encoded(own)

    def head(self, index):
        component, own = self._one(index)
        return component.head(own)

    def _one(self, index: int) -> tuple[Source, int]:
        """The component of an example, and its index in it."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.components[number], index - int(self._starts[number])

    def _split(self, index: np.ndarray):
        """Yields (component number, rows of `index` that belong to it, their indices in it)."""
        which = np.searchsorted(self._starts, index, side="right") - 1
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            yield number, rows, index[rows] - self._starts[number]

    def _identity(self):
        yield repr((self.shares, list(self.label_names))).encode()
        for component in self.components:
            yield component.fingerprint()["digest"].encode()


def mix(parts: list[tuple[Source, float]], *, name: str, **common: Any) -> MixtureSource:
    """Mixes sources by weight; classes of the same name are one class.

    Args:
      parts: sources and weights.
      name, **common: attributes of the mixture; see `Source`.

    Raises:
      InputError: a weight that rounds to 0, or two classes of a source with the same name.
    """
    components = tuple(source for source, _ in parts)
    label_names, class_of = _merged([list(source.label_names) for source in components], name)
    sizes = {source.image_size for source in components}
    shares = _shares([weight for _, weight in parts])
    if 0 in shares:
        small = components[shares.index(0)].name
        raise InputError(f"{name}: the weight of {small} is below a thousandth of the whole")
    return MixtureSource(
        name=name,
        size=sum(source.size for source in components),
        label_names=label_names,
        image_size=sizes.pop() if len(sizes) == 1 else None,
        components=components,
        shares=shares,
        class_of=class_of,
        **common,
    )


def _merged(tables: list[list[str]], name: str) -> tuple[list[str], tuple[np.ndarray, ...]]:
    """All class names, and for each table the numbers of its classes among them."""
    if all(table == tables[0] for table in tables):
        return tables[0], (np.arange(len(tables[0])),) * len(tables)
    for table in tables:
        if len(set(table)) < len(table):
            raise InputError(f"{name}: classes are matched by name, but two share a name")
    merged = list(dict.fromkeys(label for table in tables for label in table))
    number = {label: i for i, label in enumerate(merged)}
    return merged, tuple(np.array([number[label] for label in table]) for table in tables)


def _shares(weights: list[float]) -> tuple[int, ...]:
    """Integers in proportion to the weights whose sum is `BLOCK`."""
    edges = np.round(np.cumsum([0, *weights]) / sum(weights) * BLOCK).astype(int)
    return tuple(int(share) for share in np.diff(edges))
