"""Model soups: averages of the weights of several runs (2203.05482)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import options
from vit_jax.checkpoint.load import read_weights, run_config
from vit_jax.errors import InputError
from vit_jax.evaluate.classification import ClassificationEvaluation
from vit_jax.evaluate.stored import open_stored, own_entry, replicate
from vit_jax.schema import argument
from vit_jax.text import shown
from vit_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class Ingredient:
    """A run of a soup.

    Attributes:
      path: path of the run.
      top1: accuracy of the run alone; None: it was not evaluated.
      used: whether it is in the soup.
    """

    path: str
    top1: float | None
    used: bool


@dataclasses.dataclass(frozen=True)
class Soup:
    """An average of weights.

    Attributes:
      weights: the average, with the model, preprocessing and labels of the runs.
      ingredients: the runs: as given, or from the best to the worst if they were evaluated.
      top1: accuracy of the average; None: it was not evaluated.
    """

    weights: Weights
    ingredients: tuple[Ingredient, ...]
    top1: float | None


def uniform_soup(paths: Sequence[str], *, use_ema: bool = False) -> Soup:
    """The average of all runs.

    Args:
      paths: workdirs, checkpoints or weight files.
      use_ema: whether to average the runs' averaged parameters.

    Raises:
      InputError: fewer than two runs, or runs of different models.
    """
    weights = _read(paths, use_ema)
    ingredients = tuple(Ingredient(path, None, True) for path in paths)
    return Soup(_averaged(weights), ingredients, None)


def greedy_soup(
    paths: Sequence[str],
    *,
    use_ema: bool = False,
    source: str | None = None,
    split: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
) -> Soup:
    """The average of those runs that do not lower its accuracy (2203.05482, recipe 1).

    From the most accurate run on, each is added if the average with it is at least as accurate.

    Args:
      paths, use_ema: as `uniform_soup`.
      source, split: images to decide by, which should not be those of the final test. Without
        `source`, the first evaluation of the first run decides both.
      pp, data_dir, batch_size: as `evaluate_checkpoint`.

    Raises:
      InputError: as `uniform_soup`, or images that do not fit the model.
    """
    weights = _read(paths, use_ema)
    entry = own_entry(run_config(paths[0]), dict(source=source, split=split))
    if entry["source"] is None:
        raise InputError(
            f"{paths[0]} names no evaluation data; give {argument('source')} and "
            f"{argument('split')}"
        )
    evaluation = ClassificationEvaluation(source=entry["source"], split=entry["split"])
    stored = open_stored(paths[0], pp=pp, data_dir=data_dir, batch_size=batch_size, use_ema=use_ema)
    opened = evaluation.open(stored.context)

    def top1(params: Any) -> float:
        found = opened.run(replicate(stored.context.engine, params), lambda: None)
        if "top1" not in found:
            raise InputError(f"{paths[0]} is no classifier: a greedy soup needs one")
        return found["top1"]

    return _greedy(paths, weights, top1)


def _greedy(paths: Sequence[str], weights: list[Weights], top1: Callable[[Any], float]) -> Soup:
    alone = [top1(one.params) for one in weights]
    order = sorted(range(len(paths)), key=lambda i: -alone[i])
    used, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        accuracy = top1(_averaged([weights[j] for j in (*used, i)]).params)
        if accuracy >= best:
            used, best = [*used, i], accuracy
    ingredients = tuple(Ingredient(paths[i], alone[i], i in used) for i in order)
    return Soup(_averaged([weights[i] for i in used]), ingredients, best)


def _read(paths: Sequence[str], use_ema: bool) -> list[Weights]:
    """The weights of all runs, which must have the same model, classes and preprocessing."""
    if len(paths) < 2:
        raise InputError("a soup needs at least two runs")
    weights = [read_weights(path, use_ema=use_ema) for path in paths]
    first = weights[0]
    for path, other in zip(paths[1:], weights[1:], strict=True):
        for name, (mine, theirs) in _facts(first, other).items():
            if mine != theirs:
                raise InputError(
                    f"a soup needs runs of one model: {name} of {path} is {shown(theirs)}, that of "
                    f"{paths[0]} is {shown(mine)}"
                )
    return weights


def _facts(first: Weights, other: Weights) -> dict[str, tuple[Any, Any]]:
    """What must be equal in two runs, by name."""
    facts: dict[str, tuple[Any, Any]] = {
        "the kind of model": (type(first.config).__name__, type(other.config).__name__)
    }
    if type(first.config) is type(other.config):
        for name in options.names_with(type(first.config), *options.STORED_EFFECTS):
            facts[name] = (getattr(first.config, name), getattr(other.config, name))
    for name in ("labels", "pp", "multi_label"):
        facts[name] = (getattr(first, name), getattr(other, name))
    return facts


def _averaged(weights: Sequence[Weights]) -> Weights:
    """The mean of parameters, in float64, with everything else of the first."""

    def mean(*arrays: Any) -> np.ndarray:
        total = np.sum([np.asarray(array, np.float64) for array in arrays], axis=0)
        return (total / len(arrays)).astype(np.asarray(arrays[0]).dtype)

    params = jax.tree.map(mean, *(one.params for one in weights))
    return dataclasses.replace(weights[0], params=params, aside={}, run_config={}, report=[])
