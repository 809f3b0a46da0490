"""The first training batches of a table of images, and their comparison bit for bit."""

import itertools

import numpy as np

from vit_jax.data import parse, train_batches

PP = "inception_crop(12)|flip_lr"


def take(source, steps=3, **options):
    """`steps` batches as one array a field, (steps, examples, ...)."""
    batches = train_batches(source, parse(PP), **{**dict(batch_size=8, seed=5), **options})
    found = list(itertools.islice(batches, steps))
    batches.close()
    return {name: np.stack([batch[name] for batch in found]) for name in found[0]}


def same(a, b):
    """Asserts that all fields are equal."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
