"""Reads the labels of all examples of a source."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.ops.preprocess import parse
from vit_jax.data.sources.source import Source
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

    words = tf.zeros([0, 2], tf.uint32)
    # TensorFlow prunes the operations that compute the image.
    return map_payloads(source, lambda p: source.example(parse(""), p, words)["label"])


def map_payloads(source: Source, compute: Callable[[Any], Any]) -> np.ndarray:
    """The value of a TensorFlow function of the payload for every example, in order."""
    from vit_jax.data._tf import tf

    def fetch(start: int) -> np.ndarray:
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
