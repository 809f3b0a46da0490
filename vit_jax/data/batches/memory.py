"""Batches of sources in memory, in NumPy: tens of thousands of small images a second."""

import collections
import dataclasses
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from vit_jax.data.batches.examples import Plan, TrainingPlan
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources.source import ArraySource

_CACHE_BYTES = 2**30  # limit for keeping images after the operations before the first random one
_CHUNK = 1024  # images


def batches(
    source: ArraySource,
    preprocess: Preprocess,
    plan: Plan,
    steps: Iterable[int],
    threads: int,
    prefetch: int,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Batches of the planned examples, made by threads ahead of their use."""
    images = source.images
    if isinstance(plan, TrainingPlan):  # each image is used many times
        images, preprocess = settled(source, preprocess)

    def make(step: int) -> dict[str, np.ndarray]:
        planned = plan(step)
        image = preprocess.batched(images[planned.index], planned.words)
        return dict(
            image=to_rgb(image),
            label=source.labels(planned.index),
            index=planned.index,
            epoch=planned.epoch,
        )

    return _ahead(make, steps, threads, prefetch)


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Grey images (b, h, w, 1) with three equal channels; others unchanged."""
    if images.shape[-1] == 3:
        return np.ascontiguousarray(images)
    rgb = np.empty((*images.shape[:3], 3), np.uint8)
    for channel in range(3):  # several times as fast as a broadcast over the last axis
        rgb[..., channel] = images[..., 0]
    return rgb


def settled(source: ArraySource, preprocess: Preprocess) -> tuple[np.ndarray, Preprocess]:
    """Images after the operations before the first random one, and the remaining operations.

    Images that would take more than `_CACHE_BYTES` are returned unchanged.
    """
    fixed = next((i for i, op in enumerate(preprocess.ops) if op.random), len(preprocess.ops))
    first = dataclasses.replace(preprocess, ops=preprocess.ops[:fixed])
    size = first.output_size(source.image_size)
    assert size is not None  # images in memory share theirs
    height, width = size
    channels = source.images.shape[-1]
    if not fixed or source.size * height * width * channels > _CACHE_BYTES:
        return source.images, preprocess
    settled = np.empty((source.size, height, width, channels), np.uint8)
    for start in range(0, source.size, _CHUNK):
        rows = slice(start, start + _CHUNK)
        settled[rows] = first.batched(source.images[rows], None)
    return settled, dataclasses.replace(preprocess, ops=preprocess.ops[fixed:])


def _ahead(make, steps: Iterable[int], threads: int, prefetch: int) -> Generator:
    """make(step) for each step, in order, computed by threads `prefetch` steps ahead."""
    steps = iter(steps)
    with ThreadPoolExecutor(threads, "vit_jax-data") as pool:
        pending: collections.deque[Future] = collections.deque()
        try:
            for step in steps:
                pending.append(pool.submit(make, step))
                if len(pending) > prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
