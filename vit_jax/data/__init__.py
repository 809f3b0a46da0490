"""Data: sources of images, their order, and preprocessing.

The only package that imports TensorFlow, and only for sources and operations that need it.
"""

from vit_jax.data.batches.unreadable import LeftOut
from vit_jax.data.listing import read_labels
from vit_jax.data.named import find_images
from vit_jax.data.ops.image_files import MAX_PIXELS
from vit_jax.data.ops.preprocess import Preprocess, parse
from vit_jax.data.pipeline import (
    eval_batches,
    image_batches,
    load_images,
    planned_examples,
    train_batches,
)
from vit_jax.data.sources.opening import open_configured, open_source
from vit_jax.data.sources.source import Source, check_unchanged

__all__ = [
    "MAX_PIXELS",
    "LeftOut",
    "Preprocess",
    "Source",
    "check_unchanged",
    "eval_batches",
    "find_images",
    "image_batches",
    "load_images",
    "open_configured",
    "open_source",
    "parse",
    "planned_examples",
    "read_labels",
    "train_batches",
]
