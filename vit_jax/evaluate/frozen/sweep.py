"""The linear evaluation of DINOv2 (2304.07193, dinov2/eval/linear.py): many heads in one pass.

Linear classifiers on frozen features differ in their learning rate, in the number of last blocks
whose class tokens they see, and in whether they see the mean of the last block's patches as well.
All are trained at once: the backbone computes each batch once, and each head takes a step of SGD.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from vit_jax import data
from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError
from vit_jax.evaluate.evaluation import EVALUATIONS, Context, Opened, check_normalization
from vit_jax.evaluate.features import FeatureEvaluation, Outputs, headless_params
from vit_jax.evaluate.frozen.probe import check_single_label
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import option

# As DINOv2's; each is multiplied by batch size / 256.
LEARNING_RATES = tuple(
    round(digit * 10.0**power, 8) for power in (-5, -4, -3, -2) for digit in (1, 2, 5)
) + (0.1,)
MOMENTUM = 0.9
SEED = 0  # of the order of images, their augmentation, and the heads


@dataclasses.dataclass(frozen=True)
class Head:
    """A kind of head: `blocks` last class tokens, and with `mean` the mean of the patches."""

    blocks: int
    mean: bool

    def inputs(self, features: jax.Array, width: int) -> jax.Array:
        """The part of the features (B, (n + 1) * width) that the head sees.

        Args:
          features: class tokens of the n last blocks, in the order of the blocks, then the mean.
          width: width of a token.
        """
        last = features.shape[1] - width
        stop = features.shape[1] if self.mean else last
        return features[:, last - self.blocks * width : stop]


# Head -> kernel (learning rates, inputs, classes) and bias (learning rates, classes).
Heads = dict[Head, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains one head for every learning rate and `Head` by SGD with a cosine down to 0.

    Attributes:
      heads: kinds of heads.
      rates: learning rates of the first step, of each of which every kind has a head.
      steps: number of steps.
      width: width of a token.
      num_classes: number of classes.
    """

    heads: tuple[Head, ...]
    rates: tuple[float, ...]
    steps: int
    width: int
    num_classes: int

    def init(self, seed: int) -> Heads:
        """Kernels from N(0, 0.01^2), biases of 0."""
        keys = jax.random.split(jax.random.key(seed), len(self.heads))
        found = {}
        for head, key in zip(self.heads, keys):
            inputs = (head.blocks + head.mean) * self.width
            shape = (len(self.rates), inputs, self.num_classes)
            found[head] = dict(
                kernel=0.01 * jax.random.normal(key, shape, jnp.float32),
                bias=jnp.zeros((len(self.rates), self.num_classes), jnp.float32),
            )
        return found

    def __call__(self, heads: Heads, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Heads:
        """Trains heads; `batches` yields features (B, ...) and labels (B,), one for each step."""
        momentum = jax.tree.map(jnp.zeros_like, list(heads.values()))
        state = list(heads.values()), momentum
        step = jax.jit(self._step, donate_argnums=0)
        for number, (features, labels) in enumerate(batches):
            state = step(state, features, labels, number)
        return dict(zip(heads, state[0]))

    def logits(self, parameters: list[dict[str, jax.Array]], features: jax.Array) -> jax.Array:
        """Logits (heads, learning rates, B, classes)."""
        return jnp.stack(
            [
                jnp.einsum(
                    "bi,rik->rbk",
                    head.inputs(features, self.width),
                    own["kernel"],
                    precision=lax.Precision.HIGHEST,
                )
                + own["bias"][:, None]
                for head, own in zip(self.heads, parameters)
            ]
        )

    def correct(self, heads: Heads, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each head is right: bool (heads, learning rates, B)."""
        logits = _logits(self, list(heads.values()), features)
        right = np.asarray(logits.argmax(-1)) == labels
        return right & np.isfinite(np.asarray(logits.max(-1)))  # diverged heads are never right

    def _step(self, state: Any, features: jax.Array, labels: jax.Array, number: jax.Array) -> Any:
        """One step of torch's SGD for every head: v <- 0.9 v + gradient, w <- w - rate * v."""

        def loss(parameters: list[dict[str, jax.Array]]) -> jax.Array:
            logits = self.logits(parameters, features)
            rows = optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.broadcast_to(labels, logits.shape[:-1])
            )
            return rows.mean(-1).sum()  # the heads do not share parameters

        parameters, momentum = state
        grads = jax.grad(loss)(parameters)
        momentum = jax.tree.map(lambda v, grad: MOMENTUM * v + grad, momentum, grads)
        decay = 0.5 * (1 + jnp.cos(math.pi * number / self.steps))
        rates = decay * jnp.asarray(self.rates, jnp.float32)

        def descend(w: jax.Array, v: jax.Array) -> jax.Array:
            return w - rates.reshape(-1, *[1] * (w.ndim - 1)) * v

        return jax.tree.map(descend, parameters, momentum), momentum


_logits = jax.jit(Trainer.logits, static_argnums=0)


@EVALUATIONS.register("sweep")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSweep(FeatureEvaluation):
    """DINOv2's linear evaluation; `top1` is that of the head which is best on `val`."""

    val: str = option(
        "",
        'split on which the best head is chosen; "": the test split, as DINOv2 does on ImageNet',
        effect="course",
    )
    learning_rates: tuple[float, ...] = option(
        LEARNING_RATES,
        "learning rates of the heads; each is multiplied by batch_size / 256",
        effect="course",
    )
    blocks: tuple[int, ...] = option(
        (1, 4), "numbers of last blocks whose class tokens a head sees", effect="course"
    )
    steps: int = option(
        12_500,
        "number of training steps; DINOv2's: 10 times 1250, with batches of 1024",
        effect="course",
        at_least=1,
    )
    train_pp: str = option(
        "",
        'preprocessing of training images; "": a random box (8% of the area or more) and flips',
        effect="course",
    )

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`."""
        self._check(context.where, context.model_config)
        train, test = self.open_pair(context)
        check_single_label(train)
        val = context.open_source(self.source, self.val) if self.val else test
        if list(val.label_names) != list(train.label_names):
            raise InputError(f"{train.name}: {self.train} and {self.val} have other classes")
        outputs, model_config = self.outputs(context, _features(max(self.blocks)))
        if train.size < outputs.batch_size:
            raise InputError(
                f"{context.where}: {train.name} ({self.train}) has {train.size} images, fewer than "
                f"a batch of {outputs.batch_size}; give a smaller batch size"
            )
        pp = self._training_pp(context, model_config, outputs.preprocess)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            frozen = headless_params(params, model_config)
            extract = _Extract(outputs, frozen, after_batch)
            trainer = Trainer(
                heads=tuple(Head(*each) for each in itertools.product(self.blocks, (False, True))),
                rates=tuple(rate * outputs.batch_size / 256 for rate in self.learning_rates),
                steps=self.steps,
                width=model_config.width,
                num_classes=train.num_classes,
            )
            heads = trainer(trainer.init(SEED), extract.training(train, pp, self.steps))
            scores = [_accuracy(trainer, heads, extract.all_of(val), val.size)]
            if val is not test:
                scores.append(_accuracy(trainer, heads, extract.all_of(test), test.size))
            return self._result(trainer.heads, scores) | dict(
                steps=self.steps,
                batch_size=outputs.batch_size,
                examples=test.size,
                source=train.name,
                train=train.split,
                val=val.split,
                test=test.split,
            )

        return Opened(("top1",), run)

    def _check(self, where: str, model_config: ModelConfig) -> None:
        if not isinstance(model_config, ViTConfig) or not model_config.has_class_token:
            raise InputError(
                f"{where}: the sweep needs a ViT with a class token; take a probe of type 'probe'"
            )
        if model_config.naflex:
            raise InputError(f"{where}: the sweep needs images of one size, no model.naflex")
        depth = model_config.depth
        if not self.blocks or not all(
            isinstance(count, int) and 1 <= count <= depth for count in self.blocks
        ):
            raise InputError(
                f"{where}: blocks is {tuple(self.blocks)}; the model has {depth} blocks, so give "
                f"numbers from 1 to {depth}"
            )
        if self.steps < 1:
            raise InputError(f"{where}: steps is {self.steps}; it must be at least 1")
        if not self.learning_rates or not all(0 < r < math.inf for r in self.learning_rates):
            raise InputError(
                f"{where}: learning_rates is {tuple(self.learning_rates)}; give positive numbers"
            )

    def _training_pp(
        self, context: Context, model_config: ViTConfig, evaluation: Preprocess
    ) -> Preprocess:
        if not self.train_pp:
            size = tuple(model_config.image_size)
            crop = data.parse(f"inception_crop({size}, 8, method='bicubic')|flip_lr")
            first = tuple(op for op in evaluation.ops if op.stored_values)
            return dataclasses.replace(
                evaluation, ops=(*first, *crop.ops), normalization=evaluation.normalization
            )
        pp = data.parse(self.train_pp)
        check_normalization(context, pp)
        if pp.image_size != tuple(model_config.image_size):
            raise InputError(
                f"{context.where}.train_pp yields images of {pp.image_size}, the model takes "
                f"{tuple(model_config.image_size)}"
            )
        return pp

    def _result(self, heads: Sequence[Head], scores: list[np.ndarray]) -> dict[str, Any]:
        """The best head, the first of several, and a row for each.

        Args:
          heads: kinds of heads.
          scores: accuracies (heads, learning rates) on val and, if that is another split, on test.
        """
        rows: list[dict[str, Any]] = [
            dict(
                blocks=head.blocks,
                mean_patches=head.mean,
                learning_rate=rate,
                val_top1=float(scores[0][i, j]),
                top1=float(scores[-1][i, j]),
            )
            for i, head in enumerate(heads)
            for j, rate in enumerate(self.learning_rates)
        ]
        best = max(rows, key=lambda row: row["val_top1"])
        return dict(top1=best["top1"], best=best, heads=rows)


def _features(blocks: int) -> Callable[[Any, Any], jax.Array]:
    """(model, images) -> class tokens of the last blocks and mean of the last block's patches.

    Every block's output passes the model's last norm, as in DINOv2: (B, (blocks + 1) * width).
    """

    def apply(model: Any, images: Any) -> jax.Array:
        config = model.config
        _, found = model(images, return_intermediates=True)
        outputs = [found[f"block{i:02}/output"] for i in range(config.depth)][-blocks:]
        tokens = [model.norm(x) if config.final_norm else x for x in outputs]
        mean = tokens[-1][:, config.prefix_tokens :].astype(jnp.float32).mean(1)
        return jnp.concatenate([*(x[:, 0].astype(jnp.float32) for x in tokens), mean], axis=1)

    return apply


@dataclasses.dataclass(frozen=True)
class _Extract:
    """Features of images, batch by batch, on every process."""

    outputs: Outputs
    params: Any
    after_batch: Callable[[], None]

    def training(
        self, source: Source, pp: Preprocess, steps: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Augmented images in a new order every epoch."""
        size = self.outputs.batch_size
        batches = data.train_batches(
            source,
            pp,
            batch_size=size,
            seed=SEED,
            rows=self.outputs.engine.rows(size),
            threads=self.outputs.threads,
        )
        try:
            yield from self._pairs(itertools.islice(batches, steps))
        finally:
            batches.close()

    def all_of(self, source: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images, in order; padding is at the end."""
        return self._pairs(self.outputs.host_batches(source))

    def _pairs(self, batches: Iterator[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for found in self.outputs.stream(self.params, batches, self.after_batch):
            yield found["value"], found["label"]


def _accuracy(
    trainer: Trainer, heads: Heads, batches: Iterator[tuple[np.ndarray, np.ndarray]], size: int
) -> np.ndarray:
    """The share of `size` examples that each head gets right: (heads, learning rates)."""
    right, seen = np.zeros((len(trainer.heads), len(trainer.rates))), 0
    for features, labels in batches:
        real = min(len(labels), size - seen)
        right += trainer.correct(heads, features, labels)[..., :real].sum(-1)
        seen += real
    return right / size
