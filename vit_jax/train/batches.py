"""The training data of a run: the opened source, and batches on the devices."""

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.data.pipeline import Batches
from vit_jax.data.stages import StagedBatches
from vit_jax.errors import InputError
from vit_jax.parallel.agree import total
from vit_jax.parallel.same import compare_data
from vit_jax.train.prefetch import prefetch
from vit_jax.train.progressive.options import parse_sizes
from vit_jax.train.progressive.stages import Stage
from vit_jax.train.resident import check_resident, resident_batches
from vit_jax.train.run import Dataset, Run


def open_training_data(config: ConfigDict) -> tuple[Any, Any, Dataset]:
    """Opens the training data: the source, its preprocessing, and facts that the run needs.

    Raises:
      InputError: they cannot be opened or parsed.
    """
    options = config.data
    source = data.open_configured(options)
    pp = data.parse(options.pp)
    compare_data("config.data.source", source.fingerprint())
    if options.resident:
        check_resident(source, pp, config.parallel.engine)
    size = pp.output_size(source.image_size)
    sizes = parse_sizes(config.progressive)
    if sizes and source.sequential:
        raise InputError(
            "config.progressive.sizes opens the data for each size: set config.data.sequential to "
            "False"
        )
    for other, _ in sizes:
        pp.at_size(other, "config.progressive.sizes")
    counts = tuple(source.class_counts().tolist()) if config.loss.class_weights else None
    return (
        source,
        pp,
        Dataset(
            source.size,
            source.num_classes,
            size,
            pp.mean,
            pp.std,
            naflex=patches_of(pp),
            class_counts=counts,
            labels=tuple(source.label_names),
        ),
    )


def abstract_batch(run: Run) -> dict[str, Any]:
    """Shapes and shardings of a global batch, the input of the step."""
    return run.engine.abstract_batch(abstract_rows(run, run.config.batch_size))


def abstract_rows(run: Run, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the fields of a batch with so many examples."""
    config = run.config
    label = jax.ShapeDtypeStruct((rows,), jnp.int32)
    if config.data.multi_label:
        label = jax.ShapeDtypeStruct((rows, run.task.num_classes), jnp.uint8)
    image = jax.ShapeDtypeStruct((rows, *run.model_config.input_size, 3), jnp.uint8)
    arrays = dict(image=image, label=label)
    return {name: arrays[name] for name in run.task.batch_fields}


def patches_of(pp: Any) -> tuple[int, int]:
    """`Dataset.naflex` of a preprocessing."""
    return (pp.naflex.patches, pp.naflex.patch) if pp.naflex else (0, 0)


class TrainingBatches(Iterator[dict[str, jax.Array]]):
    """Global batches on the devices."""

    def __init__(self, run: Run, source: Any, pp: Any, *, start_step: int, unreadable: int = 0):
        """Starts reading ahead.

        Args:
          run: the run.
          source, pp: training data of the run and their preprocessing.
          start_step: step of the first batch.
          unreadable: number of examples that earlier starts of the run could not read.
        """
        config, engine = run.config, run.engine
        order = dict(batch_size=config.batch_size, seed=config.seed, shuffle=config.data.shuffle)
        self._unreadable_before, self._unreadable = unreadable, 0
        self._host: StagedBatches | None = None
        self._batches: Generator[tuple[dict[str, jax.Array], int], None, None]
        if config.data.resident:
            batches = resident_batches(source, pp, engine, start_step=start_step, **order)
            self._batches = ((batch, 0) for batch in batches)
            return
        read = functools.partial(
            data.train_batches,
            source,
            **order,
            rows=engine.rows(config.batch_size),
            threads=config.data.threads,
            prefetch=config.data.prefetch - 1,
            max_unreadable=config.data.max_unreadable,
            leave_flip=jax.default_backend() != "cpu",
        )
        host = StagedBatches(
            [(stage.first, functools.partial(_opened, read, pp, stage)) for stage in run.stages],
            start_step,
        )
        self._host = host

        def place(batch: dict[str, np.ndarray]) -> tuple[dict[str, jax.Array], int]:
            fields = (*run.task.batch_fields, "flip")
            arrays = {name: batch[name] for name in fields if name in batch}
            return engine.put_batch(arrays, config.batch_size), host.skipped

        self._batches = prefetch(host, place)

    def __next__(self) -> dict[str, jax.Array]:
        batch, self._unreadable = next(self._batches)
        return batch

    @property
    def unreadable(self) -> jax.Array | int:
        """Number of examples that could not be read so far; others took their places.

        All processes and all starts of the run are counted. Call on all processes at the same
        step.
        """
        return self._unreadable_before + total(self._unreadable)

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()
        if self._host is not None:
            self._host.close()


def _opened(
    read: Callable[..., Batches], pp: data.Preprocess, stage: Stage, first: int, end: int | None
) -> Batches:
    """The batches of a stage from one step to another."""
    if stage.size is not None and pp.image_size not in (None, stage.size):
        pp = pp.at_size(stage.size, "config.progressive.sizes")
    return read(pp, start_step=first, stop_step=end)
