"""Reads single images with NumPy and Pillow where the pixels are those of TensorFlow, to the bit.

Importing TensorFlow takes seconds, which prediction of a few images does not need.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.ops import image_files
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError
from vit_jax.text import reason

Read = Callable[[int, np.ndarray], dict[str, Any]]


def reader(source: Source, preprocess: Preprocess, encoded: Callable[[int], bytes]) -> Read:
    """Reads single examples: (index, words) -> {"image", "index"}.

    TensorFlow, by `graph.reader`, reads only what has no form here: operations without
    `Op.has_plain`, and files of rare kinds, such as CMYK.

    Args:
      source: source of the images, for their names and for what TensorFlow reads.
      preprocess: preprocessing without random operations.
      encoded: function from an example's number to the bytes of its file.

    Returns:
      A function that raises an InputError that names the example if it cannot be read.
    """
    lock = threading.Lock()

    @functools.cache
    def _by_tensorflow() -> Read:
        from vit_jax.data.batches import graph

        return graph.reader(source, preprocess)

    def by_tensorflow() -> Read:
        with lock:  # one thread imports it and makes the graph
            return _by_tensorflow()

    if not preprocess.has_plain:
        return by_tensorflow()

    def read(index: int, words: np.ndarray) -> dict[str, Any]:
        where = source.describe(index)
        try:
            content = encoded(index)
        except FileNotFoundError:
            raise InputError(f"{where}: no such file") from None
        except OSError as error:
            raise InputError(f"{where}: {reason(error)}") from None
        try:
            image = image_files.pixels(content, source.max_pixels)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except Exception:  # of Pillow or of one of its plug-ins, which raise what they like
            why = image_files.why_unreadable(content[: image_files.HEAD_BYTES])
            raise InputError(f"{where}: {why}") from None
        if image is None:
            return by_tensorflow()(index, words)
        try:
            for op in preprocess.ops:
                image = op.plain(image)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return dict(image=np.ascontiguousarray(image), index=index)

    return read
