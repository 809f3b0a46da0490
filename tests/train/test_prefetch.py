"""How far reading goes ahead of the step, and how it ends."""

import time

import numpy as np
import pytest

from vit_jax.data.batches import memory
from vit_jax.train.prefetch import prefetch


def settled(count, wait=0.2):
    """A counter once it no longer moves."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        before = count()
        time.sleep(wait)
        if count() == before:
            return before
    raise AssertionError("the counter never settled")


def test_exactly_one_batch_is_placed_ahead():
    placed = []
    batches = prefetch(iter(range(100)), lambda batch: placed.append(batch) or batch)
    assert settled(lambda: len(placed)) == 0  # a generator: nothing before it is asked
    for step in range(4):
        assert next(batches) == step
        assert settled(lambda: len(placed)) == step + 2
    batches.close()
    assert settled(lambda: len(placed)) == 5


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_data_prefetch_is_spent_once(ahead):
    """The host pipeline and the device copy together hold `data.prefetch` batches."""
    made = []
    host = memory._ahead(
        lambda step: made.append(step) or np.array(step), range(100), threads=2, prefetch=ahead - 1
    )
    batches = prefetch(host, lambda batch: batch)
    assert next(batches) == 0
    assert settled(lambda: len(made)) == 1 + ahead
    assert next(batches) == 1
    assert settled(lambda: len(made)) == 2 + ahead
    batches.close()


def test_the_order_and_the_end_are_those_of_the_batches():
    assert list(prefetch(iter(range(7)), lambda batch: -batch)) == [-i for i in range(7)]
    assert list(prefetch(iter([]), abs)) == []


def test_an_error_reaches_the_consumer_after_the_good_batches():
    def broken():
        yield 1
        raise OSError("the disk is gone")

    batches = prefetch(broken(), lambda batch: batch)
    assert next(batches) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
