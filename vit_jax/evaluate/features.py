"""What a frozen model makes of every image of a data set, on all devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from vit_jax import config as configs
from vit_jax import data, models
from vit_jax.checkpoint.load import ModelInfo, read
from vit_jax.data import Preprocess, Source
from vit_jax.data.ops.vocabulary import CropBorder, Multiply
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import normalize_pixels, shard_batch
from vit_jax.parallel.engines import Engine, create_engine


def headless_config(model_config: ModelConfig) -> ModelConfig:
    """The configuration of the same model without its head: it returns `pre_logits`."""
    return dataclasses.replace(model_config, num_classes=0)


def headless_params(params: dict[str, Any], model_config: ModelConfig) -> dict[str, Any]:
    """Those parameters that the model without a head has.

    Args:
      params: of a model or of a task that trains it.
      model_config: see `headless_config`.
    """
    _, wanted = models.abstract(functools.partial(models.build_model, model_config))
    return {name: params[name] for name in wanted}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A compiled model that is applied to whole data sets.

    Attributes:
      engine: places parameters and batches.
      step: (params, batch) -> value and label of every row of the global batch.
      preprocess: of the images.
      batch_size: over all devices.
      threads: that decode images; 0: as many as there are cores.
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
          params: of the model, on the devices.
          source: of images.
          examples: numbers of those that are wanted, in this order; None: all.
          after_batch: called after each batch.
        """
        batches = data.eval_batches(
            source,
            self.preprocess,
            batch_size=self.batch_size,
            rows=self.engine.rows(self.batch_size),
            threads=self.threads,
            examples=examples,
        )
        parts, pending = [], None
        for batch in batches:
            arrays = {name: batch[name] for name in ("image", "label")}
            found = self.step(params, self.engine.put_batch(arrays, self.batch_size))
            # The previous batch is fetched while the device works on this one.
            if pending:
                parts.append(jax.tree.map(np.asarray, pending))
            pending = found
            after_batch()
        parts.append(jax.tree.map(np.asarray, pending))
        # Padding stands at the end of the last batch.
        count = source.size if examples is None else len(examples)
        return tuple(
            np.concatenate([part[name] for part in parts])[:count] for name in ("value", "label")
        )


def compile_outputs(
    engine: Engine,
    model_config: Any,
    preprocess: Preprocess,
    *,
    batch_size: int,
    reduce: Callable[[jax.Array], jax.Array] = lambda values: values,
    threads: int = 0,
) -> Outputs:
    """Compiles a model, whose parameters come later, for use on data sets.

    Args:
      engine: on whose devices.
      model_config: without classes (see `headless_config`) for features, else logits.
      preprocess: of the images.
      batch_size: over all devices; rounded up to what they divide.
      reduce: what is kept of the model's output (B, ...), traced.
      threads: that decode images.

    Raises:
      InputError: images are not of the model's size.
    """
    size = preprocess.image_size
    if size is not None and size != tuple(model_config.image_size):
        raise InputError(
            f"the preprocessing {str(preprocess)!r} yields images of {size}, the model takes "
            f"{tuple(model_config.image_size)}"
        )
    graphdef, _ = models.abstract(functools.partial(models.build_model, model_config))

    def make_step(axis_name: str | None = None) -> Callable:
        def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            images = shard_batch(batch["image"])
            images = normalize_pixels(images, preprocess.mean, preprocess.std)
            values = reduce(nnx.merge(graphdef, params)(images))
            found = dict(value=values, label=batch["label"])
            return lax.all_gather(found, axis_name, tiled=True) if axis_name else found

        return step

    shards = engine.batch_shards
    batch_size = -(-batch_size // shards) * shards
    return Outputs(engine, engine.compile_eval(make_step), preprocess, batch_size, threads)


def replicate(engine: Engine, params: Any) -> Any:
    """Loaded parameters on every device, those of other processes included."""
    # By way of NumPy: arrays of one device do not go to another process' devices.
    return jax.device_put(jax.tree.map(np.asarray, params), engine.replicated)


def protocol_pp(image_size: tuple[int, int], preprocess: Preprocess) -> Preprocess:
    """Preprocessing of the public few-shot protocol: resized to 8/7 of the size, then cropped.

    For 224 pixels that is 256. Pixels are normalised as in `preprocess`, and what makes an
    image of the data's stored values comes first as there.
    """
    larger = tuple(round(side * 8 / 7) for side in image_size)
    resized = data.parse(f"resize({larger})|central_crop({tuple(image_size)})")
    first = tuple(op for op in preprocess.ops if isinstance(op, (Multiply, CropBorder)))
    return dataclasses.replace(
        resized, ops=(*first, *resized.ops), normalization=preprocess.normalization
    )


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """Features of a checkpoint's model.

    Attributes:
      info: what is known about the checkpoint.
      params: on the devices.
      outputs: the compiled model.
    """

    info: ModelInfo
    params: Any
    outputs: Outputs

    def __call__(
        self, source: Source, examples: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, width) float32 and labels (n,) of a source's examples."""
        return self.outputs(self.params, source, examples)


def load_features(
    path: str, *, pp: str | None = None, batch_size: int = 128, use_ema: bool = False
) -> FrozenModel:
    """Features of a workdir, checkpoint or weight file.

    Args:
      path: of it.
      pp: preprocessing; None: `protocol_pp`.
      batch_size: over all devices.
      use_ema: use averaged parameters.

    Raises:
      InputError: no such checkpoint, or preprocessing that does not suit it.
    """
    params, info = read(path, use_ema=use_ema)
    model_config = headless_config(models.model_config(info.name, **info.options))
    preprocess = data.parse(pp or info.pp)
    if not pp:
        preprocess = protocol_pp(model_config.image_size, preprocess)
    engine = create_engine(configs.default().parallel)
    outputs = compile_outputs(engine, model_config, preprocess, batch_size=batch_size)
    return FrozenModel(info, replicate(engine, headless_params(params, model_config)), outputs)


def open_pair(
    info: ModelInfo,
    *,
    source: str | None,
    train: str | None,
    test: str | None,
    data_dir: str = "",
) -> tuple[Source, Source]:
    """Training and test examples: those asked for, else the data of the checkpoint's run.

    Raises:
      InputError: nothing is asked for and the checkpoint has no run, or the two differ in
        their classes.
    """
    run = info.config
    if source is None:
        if not run:
            raise InputError(f"{info.source} names no data; give --source, --train and --test")
        source, train = run["data"]["source"], train or run["data"]["split"]
        own = [entry for _, entry in sorted(run["evals"].items()) if entry["source"] is None]
        test = test or (own[0]["split"] if own else None)
        data_dir = data_dir or run["data"]["data_dir"]
    opened = [
        data.open_source(source, split, data_dir=data_dir)
        for split in (train or "train", test or "test")
    ]
    if list(opened[0].label_names) != list(opened[1].label_names):
        raise InputError(f"{source}: {train} and {test} have other classes")
    return opened[0], opened[1]
