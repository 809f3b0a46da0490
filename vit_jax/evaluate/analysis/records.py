"""What a classifier says about every example, in one pass over the data."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.evaluate.evaluation import Context, run_batches
from vit_jax.models.layers import shard_batch
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.losses import is_sigmoid
from vit_jax.tasks.task import Batch, gather
from vit_jax.tasks.tta import Views


@dataclasses.dataclass(frozen=True)
class Records:
    """The examples that count, in the order of the data; classes are the model's numbers.

    Attributes:
      index: number of each example in its source, int (n,).
      label: class, int (n,).
      predicted: class with the highest probability, int (n,).
      probability: of the predicted class, float32 (n,).
      label_probability: of the label, float32 (n,).
      loss: the task's loss, float32 (n,).
      top1, top5: whether the label is among the one or five highest, float32 (n,).
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    label_probability: np.ndarray
    loss: np.ndarray
    top1: np.ndarray
    top5: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def means(self) -> dict[str, Any]:
        """`top1`, `top5` and `loss`, means over the examples, and `examples`, their number."""
        count = max(len(self), 1)
        sums = {
            name: float(np.sum(getattr(self, name), dtype=np.float64))
            for name in ("top1", "top5", "loss")
        }
        return {name: total / count for name, total in sums.items()} | dict(examples=len(self))

    def worst(self, count: int) -> np.ndarray:
        """Places here of the wrongly classified examples with the highest losses, the worst first.

        Equal losses keep the order of the data; a loss that is not a number comes first.
        """
        wrong = np.flatnonzero(self.predicted != self.label)
        loss = np.nan_to_num(self.loss[wrong], nan=np.inf, posinf=np.inf)
        return wrong[np.argsort(-loss, kind="stable")][:count]


def compile_records(
    context: Context, views: Views | None, batch_size: int
) -> Callable[[Any, Iterable[dict[str, np.ndarray]], Callable[[], None]], Records]:
    """Compiles a step that tells about each example, and returns a function that runs it.

    Args:
      context: the engine, and a task of classes.
      views: views over which predictions are averaged; None: the image alone.
      batch_size: size of the global batches, a multiple of the engine's batch shards.

    Returns:
      (params, this process's part of the batches with labels in the model's numbers, function
      called after each batch) -> records of the examples with `mask` set, on every process.
    """
    task, engine = context.task, context.engine
    assert isinstance(task, Classification)
    sigmoid = is_sigmoid(task.setting.config.loss.name)

    def make_step(axis_name: str | None = None) -> Callable[[Any, Batch], dict[str, jax.Array]]:
        def step(params: Any, batch: Batch) -> dict[str, jax.Array]:
            model = task.model(params)
            model = views.averaged(model) if views else model
            logits = model(task.normalize(shard_batch(batch["image"])))
            rows = task.rows(lambda images: logits, batch, axis_name)
            to_probabilities = jax.nn.sigmoid if sigmoid else jax.nn.softmax
            probabilities = to_probabilities(logits.astype(jnp.float32))
            predicted = jnp.argmax(logits, axis=-1)

            def of(classes: jax.Array) -> jax.Array:
                return jnp.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]

            found = dict(
                {name: rows[name].astype(jnp.float32) for name in ("top1", "top5", "loss")},
                predicted=predicted.astype(jnp.int32),
                probability=of(predicted),
                label_probability=of(batch["label"]),
                label=batch["label"],
                index=batch["index"],
                mask=batch["mask"],
            )
            return {name: gather(value, axis_name) for name, value in found.items()}

        return step

    step = engine.compile_eval(make_step)

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        arrays = {name: batch[name] for name in ("image", "label", "mask")}
        return engine.put_batch(dict(arrays, index=batch["index"].astype(np.int32)), batch_size)

    def run(
        params: Any, batches: Iterable[dict[str, np.ndarray]], after_batch: Callable[[], None]
    ) -> Records:
        names = [field.name for field in dataclasses.fields(Records)]
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for found in run_batches(step, params, batches, place, after_batch):
            for name in names:
                parts[name].append(found[name][found["mask"]])
        return Records(**{name: np.concatenate(arrays) for name, arrays in parts.items()})

    return run
