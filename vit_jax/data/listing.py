"""What a source knows of its examples without their images: labels and file names."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.ops.preprocess import parse
from vit_jax.data.sources.source import FileSource, Source
from vit_jax.errors import InputError

_CHUNK = 1024  # examples read at a time


def read_labels(source: Source) -> np.ndarray:
    """The labels of all examples: int32 (n,), or uint8 (n, classes) if multi-label.

    Sources that store them in their records are read from front to back.

    Raises:
      InputError: a record that cannot be read.
    """
    known = source.labels(np.arange(source.size))
    if known is not None:
        return known
    from vit_jax.data._tf import tf
    from vit_jax.data.batches import graph

    words = tf.zeros([0, 2], tf.uint32)
    # What computes the image is pruned from the graph.
    return _mapped(source, lambda p: graph.example(source, parse(""), p, words)["label"])


def file_names(source: Source) -> list[str]:
    """The name of each example's file, without its folder.

    Raises:
      InputError: the source does not know them.
    """
    if isinstance(source, FileSource):
        return [os.fsdecode(os.path.basename(path)) for path in source.files]
    if not hasattr(source, "image_key"):
        raise InputError(f"{source.name} does not know the names of its image files")
    from vit_jax.data._tf import tf

    keys = dict(file_name=tf.io.FixedLenFeature([], tf.string))
    names = _mapped(source, lambda p: tf.io.parse_single_example(p, keys)["file_name"])
    return [os.path.basename(os.fsdecode(name)) for name in names]


def _mapped(source: Source, compute: Callable[[Any], Any]) -> np.ndarray:
    """A function of the payload, in the graph, of every example."""
    from vit_jax.data._tf import tf

    def fetch(start: np.ndarray) -> np.ndarray:
        return source.fetch(np.arange(start, min(start + _CHUNK, source.size)))

    data = tf.data.Dataset.range(0, source.size, _CHUNK).map(
        lambda start: tf.ensure_shape(tf.numpy_function(fetch, [start], tf.string), [None])
    )
    data = data.unbatch().map(compute, num_parallel_calls=tf.data.AUTOTUNE).batch(_CHUNK)
    try:
        return np.concatenate(list(data.as_numpy_iterator()))
    except tf.errors.OpError as error:
        reason = str(error.message).strip().splitlines()[0]
        raise InputError(f"{source.name} ({source.split}) cannot be read: {reason}") from None
