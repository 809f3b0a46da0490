"""Outputs of a frozen model, such as features, for all images of a data set, on all devices."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from vit_jax import data, models
from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError
from vit_jax.evaluate.evaluation import (
    Context,
    Evaluation,
    check_normalization,
    run_batches,
)
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import shard_batch
from vit_jax.models.naflex import model_inputs
from vit_jax.options import option
from vit_jax.parallel.engines import Engine
from vit_jax.tasks.tta import Views

# (source, numbers of examples or None) -> features (n, width), labels (n,).
Features = Callable[..., tuple[np.ndarray, np.ndarray]]


def headless_config(model_config: ModelConfig) -> ModelConfig:
    """The configuration of the same model without its head: it returns `pre_logits`."""
    return dataclasses.replace(model_config, num_classes=0)


def headless_params(params: dict[str, Any], model_config: ModelConfig) -> dict[str, Any]:
    """The parameters that the model has without its head.

    Args:
      params: parameters of the model, or of a task that trains it.
      model_config: configuration without head; see `headless_config`.
    """
    _, wanted = models.abstract(functools.partial(models.build_model, model_config))
    return {name: params[name] for name in wanted}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A compiled model that is applied to whole data sets.

    Attributes:
      engine: engine that places parameters and batches.
      step: (params, batch) -> value and label of every row of the global batch.
      preprocess: preprocessing of the images.
      batch_size: batch size over all devices.
      threads: number of threads that decode images; 0: as many as there are cores.
    """

    engine: Engine
    step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
    preprocess: Preprocess
    batch_size: int
    threads: int = 0

    def __call__(
        self,
        params: Any,
        source: Source,
        examples: np.ndarray | None = None,
        after_batch: Callable[[], None] = lambda: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, ...) and labels (n,) of all examples, in order, on every process.

        Args:
          params: parameters of the model, on the devices.
          source: source of images.
          examples: numbers of the examples to use, in this order; None: all.
          after_batch: function called after each batch.
        """
        parts = list(self.stream(params, self.host_batches(source, examples), after_batch))
        # Padding is at the end of the last batch.
        count = source.size if examples is None else len(examples)
        values, labels = (
            np.concatenate([part[name] for part in parts])[:count] for name in ("value", "label")
        )
        return values, labels

    def host_batches(
        self, source: Source, examples: np.ndarray | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """This process's part of batches of all examples, in order, with padding at the end."""
        return data.eval_batches(
            source,
            self.preprocess,
            batch_size=self.batch_size,
            rows=self.engine.rows(self.batch_size),
            threads=self.threads,
            examples=examples,
        )

    def stream(
        self,
        params: Any,
        batches: Iterable[dict[str, np.ndarray]],
        after_batch: Callable[[], None] = lambda: None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Value and label of every row of each global batch, on every process.

        Args:
          params, after_batch: as in the call.
          batches: this process's part of the batches.
        """

        def place(batch: dict) -> dict[str, jax.Array]:
            arrays = {name: batch[name] for name in ("image", "label")}
            return self.engine.put_batch(arrays, self.batch_size)

        return run_batches(self.step, params, batches, place, after_batch)


def compile_outputs(
    engine: Engine,
    model_config: Any,
    preprocess: Preprocess,
    *,
    batch_size: int,
    reduce: Callable[[jax.Array], jax.Array] = lambda values: values,
    apply: Callable[[Any, Any], jax.Array] = lambda model, images: model(images),
    threads: int = 0,
    views: Views | None = None,
) -> Outputs:
    """Compiles a model, whose parameters come later, for use on data sets.

    Args:
      engine: engine whose devices run the model.
      model_config: configuration of the model; without classes (see `headless_config`) it
        returns features, else logits.
      preprocess: preprocessing of the images.
      batch_size: batch size over all devices; rounded up to a multiple of the batch shards.
      reduce: traced function from the model's output (B, ...) to the value to keep.
      apply: traced function from the model and its images to its output.
      threads: number of threads that decode images.
      views: views over which logits are averaged; `preprocess` yields the images to cut them from.

    Raises:
      InputError: the images do not have the model's size.
    """
    size = preprocess.image_size
    if not views and size is not None and size != tuple(model_config.input_size):
        raise InputError(
            f"the preprocessing {str(preprocess)!r} yields images of {size}, the model takes "
            f"{tuple(model_config.input_size)}"
        )
    graphdef, wanted = models.abstract(functools.partial(models.build_model, model_config))

    def make_step(axis_name: str | None = None) -> Callable:
        def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            images = shard_batch(batch["image"])
            inputs = model_inputs(images, model_config, preprocess.mean, preprocess.std)
            own = {name: params[name] for name in wanted}  # without those of the run's task
            model = nnx.merge(graphdef, own)
            values = reduce(apply(views.averaged(model) if views else model, inputs))
            found = dict(value=values, label=batch["label"])
            return lax.all_gather(found, axis_name, tiled=True) if axis_name else found

        return step

    shards = engine.batch_shards
    batch_size = -(-batch_size // shards) * shards
    return Outputs(engine, engine.compile_eval(make_step), preprocess, batch_size, threads)


def protocol_pp(image_size: tuple[int, int], preprocess: Preprocess) -> Preprocess:
    """Preprocessing of the public few-shot protocol: resized to 8/7 of the size, then cropped.

    For 224 pixels that is 256. Pixels are normalised as in `preprocess`. Its operations that
    correct stored images (`stored_values`, such as `crop_border`) come first.
    """
    larger = tuple(round(side * 8 / 7) for side in image_size)
    resized = data.parse(f"resize({larger})|central_crop({tuple(image_size)})")
    first = tuple(op for op in preprocess.ops if op.stored_values)
    return dataclasses.replace(
        resized, ops=(*first, *resized.ops), normalization=preprocess.normalization
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureEvaluation(Evaluation):
    """Accuracy of a classifier on frozen features; without pp, preprocessed by `protocol_pp`."""

    train: str = option("train", "split to fit the classifier on, in tfds syntax", effect="course")
    test: str = option("test", "split to test the classifier on, in tfds syntax", effect="course")

    def open_pair(self, context: Context) -> tuple[Source, Source]:
        """The images to fit on and those to test on.

        Raises:
          InputError: they cannot be opened, or have different classes.
        """
        train = context.open_source(self.source, self.train, tests=False)
        test = context.open_source(self.source, self.test)
        if list(train.label_names) != list(test.label_names):
            raise InputError(f"{train.name}: {self.train} and {self.test} have other classes")
        return train, test

    def compile(self, context: Context) -> Callable[..., Features]:
        """Compiles the model without its head.

        Returns:
          (parameters of the whole model on the devices, function to call after each batch) ->
          `Features`.
        """
        outputs, model_config = self.outputs(context)

        def features(params: Any, after_batch: Callable[[], None] = lambda: None) -> Features:
            frozen = headless_params(params, model_config)
            return functools.partial(outputs, frozen, after_batch=after_batch)

        return features

    def outputs(
        self,
        context: Context,
        apply: Callable[[Any, Any], jax.Array] = lambda model, images: model(images),
    ) -> tuple[Outputs, Any]:
        """The compiled model without its head, and its configuration; see `compile_outputs`."""
        model_config = headless_config(context.model_config)
        size = model_config.image_size
        pp = data.parse(self.pp) if self.pp else protocol_pp(size, context.pp)
        check_normalization(context, pp)
        outputs = compile_outputs(
            context.engine,
            model_config,
            pp,
            batch_size=self.batch_size or context.batch_size,
            apply=apply,
            threads=context.data.threads,
        )
        return outputs, model_config
