"""A linear probe and nearest neighbours: classifiers on frozen features with all labels."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vit_jax.data import Source
from vit_jax.errors import InputError
from vit_jax.evaluate.evaluation import EVALUATIONS, Context, Opened
from vit_jax.evaluate.features import FeatureEvaluation, headless_params
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import option

_CHUNK = 256  # queries at a time
_FEATURE_BYTES = 2**31  # of the features of several layers that are kept at a time
_HELD_OUT = 0.1  # share of the training examples that chooses between penalties


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    c: Sequence[float] = (1.0,),
    max_iterations: int = 1000,
) -> dict[str, Any]:
    """Logistic regression by L-BFGS (scikit-learn's) on standardised features.

    Args:
      features, labels: training examples, (n, d) and (n,).
      test_features, test_labels: test examples, (m, d) and (m,).
      c: inverse strengths of the L2 penalty; if several, the best on a tenth of the
        training examples is chosen, and the model fitted again on all of them.
      max_iterations: largest number of L-BFGS iterations.

    Returns:
      {"top1", "c", "iterations"}.

    Raises:
      InputError: no c, a c that is not positive, a single class, or too few examples to choose.
    """
    if not c or not all(0 < value < math.inf for value in c):
        raise InputError(f"linear probe: c is {tuple(c)}; give positive numbers")
    if len(np.unique(labels)) < 2 or (len(c) > 1 and len(labels) < 10):
        raise InputError(
            f"linear probe: {len(labels)} training examples of {len(np.unique(labels))} classes; "
            "give two classes or more, and ten examples where c is to be chosen"
        )
    best = c[0] if len(c) == 1 else _choose(features, labels, c, max_iterations)
    model = _fit(features, labels, best, max_iterations)
    top1 = float(model.score(test_features, test_labels))
    return dict(top1=top1, c=best, iterations=int(model[-1].n_iter_.max()))


def _choose(
    features: np.ndarray, labels: np.ndarray, c: Sequence[float], max_iterations: int
) -> float:
    from sklearn.model_selection import train_test_split

    fit, held, fit_labels, held_labels = train_test_split(
        features, labels, test_size=_HELD_OUT, random_state=0
    )
    scores = [_fit(fit, fit_labels, value, max_iterations).score(held, held_labels) for value in c]
    return c[int(np.argmax(scores))]


def _fit(features: np.ndarray, labels: np.ndarray, c: float, max_iterations: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iterations))
    return model.fit(features, labels)


def knn_predict(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Classifies queries by the votes of their k nearest neighbours, as in DINO (2104.14294).

    A neighbour at cosine similarity s has exp(s / temperature) votes.

    Args:
      features, labels: neighbours, (n, d) and (n,); they stay on the device.
      queries: (m, d); the device takes a few hundred at a time.
      num_classes: number of classes.
      k, temperature: number of neighbours, and temperature of their votes.

    Returns:
      The class of each query: int (m,).

    Raises:
      InputError: k or temperature is out of range.
    """
    if not 1 <= k <= len(features) or not 0 < temperature < math.inf:
        raise InputError(
            f"k-NN with k={k} and temperature {temperature:g}: k must be from 1 to "
            f"{len(features)}, the number of training examples, the temperature positive"
        )
    bank, classes = _unit(jnp.asarray(features)), jnp.asarray(labels)

    @jax.jit
    def vote(bank: jax.Array, classes: jax.Array, chunk: jax.Array) -> jax.Array:
        similarity = jnp.matmul(_unit(chunk), bank.T, precision=lax.Precision.HIGHEST)
        nearest, index = lax.top_k(similarity, k)
        votes = jnp.exp((nearest - nearest[:, :1]) / temperature)  # the nearest has one vote
        rows = jnp.arange(len(chunk))[:, None]
        return jnp.zeros((len(chunk), num_classes)).at[rows, classes[index]].add(votes).argmax(1)

    padded = np.pad(queries, ((0, -len(queries) % _CHUNK), (0, 0)), constant_values=1)
    found = [
        vote(bank, classes, padded[start : start + _CHUNK])
        for start in range(0, len(queries), _CHUNK)
    ]
    return np.concatenate([np.asarray(part) for part in found])[: len(queries)]


def _unit(x: jax.Array) -> jax.Array:
    """Rows of length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


class AllLabelsEvaluation(FeatureEvaluation, abc.ABC):
    """A classifier that is fitted on all training examples."""

    @abc.abstractmethod
    def score(
        self,
        features: tuple[np.ndarray, np.ndarray],
        queries: tuple[np.ndarray, np.ndarray],
        num_classes: int,
    ) -> dict[str, Any]:
        """Fits on `features` and tests on `queries`, each (n, d) with labels (n,).

        Returns:
          `top1` on the queries, and the classifier's settings.
        """

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`."""
        train, test = self.open_pair(context)
        check_single_label(train)
        features = self.compile(context)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            extract = features(params, after_batch)
            result = self.score(extract(train), extract(test), train.num_classes)
            where = dict(source=train.name, train=train.split, test=test.split)
            return dict(result, examples=test.size, **where)

        return Opened(("top1",), run)


def chosen_layers(spec: str, config: ModelConfig, where: str) -> list[int]:
    """The layers that a probe is to be trained on.

    Args:
      spec: "all", or numbers with commas between them.
      config: configuration of the model.
      where: place of the option in messages.

    Raises:
      InputError: no such layers, or a model without Transformer blocks.
    """
    if not isinstance(config, ViTConfig):
        raise InputError(f"{where} are those of a ViT; a BiT has none")
    if spec == "all":
        return list(range(config.depth + 1))
    try:
        layers = [int(number) for number in spec.split(",")]
    except ValueError:
        layers = [-1]
    if not all(0 <= layer <= config.depth for layer in layers) or len(set(layers)) < len(layers):
        raise InputError(
            f"{where} is {spec!r}; give 'all', or different numbers from 0 to {config.depth} such "
            f"as '0,{config.depth}'"
        )
    return layers


def _layer_metric(layer: int) -> str:
    return f"layer{layer}/top1"


def _layer_features(model: Any, images: Any, *, layers: Sequence[int]) -> jax.Array:
    """Features (B, layers, D) in float32; see `ViT.layer_features`."""
    return model.layer_features(images)[:, np.array(layers)].astype(jnp.float32)


def check_single_label(source: Source) -> None:
    """Refuses data whose images have sets of classes."""
    if source.multi_label:
        raise InputError(f"a probe needs one class an image; {source.name} holds sets")


@EVALUATIONS.register("knn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestNeighbours(AllLabelsEvaluation):
    """Votes of the nearest training images; see `knn_predict`."""

    k: int = option(20, "number of nearest neighbours that vote", effect="course", at_least=1)
    temperature: float = option(
        0.07,
        "temperature of the votes: exp(cosine similarity / temperature) for each neighbour",
        effect="course",
        above=0,
    )

    def score(
        self,
        features: tuple[np.ndarray, np.ndarray],
        queries: tuple[np.ndarray, np.ndarray],
        num_classes: int,
    ) -> dict[str, Any]:
        k, temperature = self.k, self.temperature
        found = knn_predict(
            *features, queries[0], num_classes=num_classes, k=k, temperature=temperature
        )
        return dict(top1=float((found == queries[1]).mean()), k=k, temperature=temperature)


@EVALUATIONS.register("probe")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(AllLabelsEvaluation):
    """Logistic regression; see `linear_probe`."""

    c: tuple[float, ...] = option(
        (1.0,),
        "inverse strengths of the L2 penalty; if several, the best on a tenth of the training "
        "examples is used",
        effect="course",
    )
    layers: str = option(
        "",
        'layers to probe, "all" or numbers such as "0,6,12": 0 is the input of the first block, '
        "the last number the encoded tokens; top1 is then that of the best layer on the test "
        'split. "": only the input of the head',
        effect="course",
    )

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`; with `layers`, a probe of each, as layer<number>/top1 too."""
        if not self.layers:
            return super().open(context)
        layers = chosen_layers(self.layers, context.model_config, f"{context.where}: layers")
        train, test = self.open_pair(context)
        check_single_label(train)
        width = context.model_config.pooled_width
        together = max(1, _FEATURE_BYTES // (4 * width * (train.size + test.size)))
        groups = [layers[i : i + together] for i in range(0, len(layers), together)]
        compiled = [
            self.outputs(context, functools.partial(_layer_features, layers=group))
            for group in groups
        ]

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            rows: list[dict[str, Any]] = []
            for group, (outputs, config) in zip(groups, compiled):
                frozen = headless_params(params, config)
                (x, y), (queries, labels) = (
                    outputs(frozen, source, None, after_batch) for source in (train, test)
                )
                for i, layer in enumerate(group):
                    found = linear_probe(x[:, i], y, queries[:, i], labels, c=self.c)
                    rows.append(dict(layer=layer, **found))
            best = max(rows, key=lambda row: row["top1"])
            where = dict(source=train.name, train=train.split, test=test.split)
            by_layer = {_layer_metric(row["layer"]): row["top1"] for row in rows}
            return dict(best, layers=rows, examples=test.size, **where, **by_layer)

        return Opened(("top1", *map(_layer_metric, layers)), run)

    def score(
        self,
        features: tuple[np.ndarray, np.ndarray],
        queries: tuple[np.ndarray, np.ndarray],
        num_classes: int,
    ) -> dict[str, Any]:
        del num_classes
        return linear_probe(*features, *queries, c=self.c)
