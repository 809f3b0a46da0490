"""A run's best checkpoint applied to its test images: confusion, worst errors, attention."""

import base64
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import data, models
from vit_jax.data import Source
from vit_jax.errors import InputError
from vit_jax.evaluate.analysis.confusion import confusion_matrix, results
from vit_jax.evaluate.analysis.records import compile_records
from vit_jax.evaluate.classes import match_classes
from vit_jax.evaluate.features import compile_outputs
from vit_jax.evaluate.stored import Stored, open_stored, own_entry
from vit_jax.figures.draw import look_at
from vit_jax.models.vit_config import ViTConfig
from vit_jax.report.run import Run
from vit_jax.tasks.classification import Classification
from vit_jax.text import first_line

TOP = 3  # predictions that are kept of each image
WORST = 12  # errors that are shown
ATTENTION = 6  # images whose attention is drawn
SIDE = 160  # pixels of the longer side of a picture
BATCH = 128
# Colours of attention, from low to high: they also grow lighter, for readers without colours.
HEAT = ((8, 10, 50), (90, 20, 120), (200, 60, 80), (250, 150, 40), (255, 240, 120))


@dataclasses.dataclass(frozen=True)
class Guess:
    """A class with its probability."""

    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image whose first class is wrong.

    Attributes:
      name: where the image comes from.
      label: its class.
      guesses: most probable classes, best first.
      picture: the image as the model sees it, a data URI; "" if it cannot be shown.
    """

    name: str
    label: str
    guesses: list[Guess]
    picture: str


@dataclasses.dataclass(frozen=True)
class Seen:
    """An image and where the model looks.

    Attributes:
      name: where the image comes from.
      picture: the image as the model sees it, a data URI.
      attention: the same in grey, under colours from dark blue to yellow for attention rollout.
    """

    name: str
    picture: str
    attention: str


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The results of `evaluate.analysis.confusion.results`, by name.

    Attributes:
      names: class names by number.
      matrix: images by class and predicted class, int (classes, classes).
      top1: accuracy.
      classes: accuracy of each class by name; None without images.
      confused: pairs of classes, the most frequent first.
    """

    names: list[str]
    matrix: np.ndarray
    top1: float
    classes: dict[str, float | None]
    confused: list[dict[str, Any]]


@dataclasses.dataclass
class Look:
    """What was found; a part that could not be had is None or empty, and `missing` says why.

    Attributes:
      where: the images: source and split.
      used, size: number of images that were used, and that there are.
      confusion, worst, attention: the parts.
      missing: part -> reason in a line.
    """

    where: str = ""
    used: int = 0
    size: int = 0
    confusion: Confusion | None = None
    worst: list[Mistake] = dataclasses.field(default_factory=list)
    attention: list[Seen] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


PARTS = ("confusion", "worst", "attention")


def look(run: Run, images: int) -> Look:
    """Evaluates the best checkpoint of a run on at most `images` of its test images.

    Args:
      run: the run.
      images: number of images, evenly spaced over the split.
    """
    if run.checkpoint is None:
        return without("there is no checkpoint that can be used")
    found = Look()
    try:
        _look(run, run.checkpoint, images, found)
    except InputError as error:
        _fill_missing(found, str(error))
    except (OSError, RuntimeError, ValueError) as error:  # of the data, of the devices
        _fill_missing(found, first_line(error))
    return found


def without(reason: str) -> Look:
    """A result without any part."""
    return Look(missing=dict.fromkeys(PARTS, reason))


def _fill_missing(found: Look, reason: str) -> None:
    have = dict(confusion=found.confusion, worst=found.worst, attention=found.attention)
    for part in PARTS:
        if not have[part]:
            found.missing.setdefault(part, reason)


def _look(run: Run, checkpoint: Any, images: int, found: Look) -> None:
    entry = own_entry(
        dict(run.meta.get("config", {})), dict.fromkeys(("source", "split", "use_ema"))
    )
    if entry["source"] is None:
        raise InputError("the run's config names no evaluation of type classification")
    stored = open_stored(str(checkpoint), batch_size=BATCH, use_ema=entry["use_ema"])
    context = stored.context
    if not isinstance(context.task, Classification):
        raise InputError(f"task {run.config.get('task')!r} has no classes to confuse")
    source = context.open_source(
        entry["source"], entry["split"], multi_label=context.data.multi_label
    )
    found.where, found.size = f"{source.name} ({source.split})", source.size
    found.used = min(images, source.size)
    chosen = np.linspace(0, source.size - 1, found.used).round().astype(np.int64)
    if entry.get("pp"):
        pp = data.parse(entry["pp"])
        context = dataclasses.replace(context, pp=pp)
        stored = dataclasses.replace(stored, context=context)
    _attention(stored, source, chosen, found)
    if source.multi_label:
        raise InputError("images may have several classes: there is no confusion of two")
    _errors(stored, source, chosen, found)


def _errors(stored: Stored, source: Source, chosen: np.ndarray, found: Look) -> None:
    """The confusion matrix and the worst errors of the chosen images."""
    context = stored.context
    width = context.model_config.num_classes
    match = match_classes(source, context.labels, width)
    if source.num_classes > width and match.trivial:
        raise InputError(f"the data have {source.num_classes} classes, the model {width}")
    names = [*context.labels] or [str(number) for number in range(width)]
    batches = data.eval_batches(
        source,
        context.pp,
        batch_size=context.batch_size,
        rows=context.engine.rows(context.batch_size),
        threads=context.data.threads,
        examples=chosen,
        left_out=data.LeftOut(source, context.data.max_unreadable),
    )
    run = compile_records(context, None, context.batch_size)
    records = run(stored.params, match(batches, False), lambda: None)
    matrix = confusion_matrix(records.label, records.predicted, width)
    told = results(matrix, names)
    found.confusion = Confusion(
        names, matrix, told["top1"], told["class_accuracy"], told["confused"]
    )
    worst = records.worst(WORST)
    if not len(worst):
        found.missing["worst"] = f"all {len(records):,} images are classified correctly"
        return
    examples = records.index[worst].astype(np.int64)
    guesses, shares = _guesses(stored, source, examples)
    pictures, why = _pictures(context.pp, source, examples)
    if why:
        found.missing["pictures"] = why
    found.worst = [
        Mistake(
            _name(source, int(examples[number])),
            names[records.label[row]],
            [
                Guess(names[int(place)], float(share))
                for place, share in zip(guesses[number], shares[number])
            ],
            _uri(pictures[number]) if pictures is not None else "",
        )
        for number, row in enumerate(worst)
    ]


def _guesses(stored: Stored, source: Source, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable classes of images, best first, and their probabilities: (n, TOP)."""
    context = stored.context
    top = min(TOP, context.model_config.num_classes)
    probabilities = jax.nn.sigmoid if stored.info.multi_label else jax.nn.softmax

    def reduce(logits: jax.Array) -> jax.Array:
        values, places = jax.lax.top_k(probabilities(logits.astype(jnp.float32)), top)
        return jnp.stack([places.astype(jnp.float32), values], axis=1)  # exact below 2**24 classes

    outputs = compile_outputs(
        context.engine,
        context.model_config,
        context.pp,
        batch_size=context.batch_size,
        reduce=reduce,
        threads=context.data.threads,
    )
    values, _ = outputs(stored.params, source, examples)
    return values[:, 0].astype(np.int64), values[:, 1]


def _attention(stored: Stored, source: Source, chosen: np.ndarray, found: Look) -> None:
    """Attention rollout over a few of the chosen images."""
    config = stored.info.config
    if not isinstance(config, ViTConfig):
        found.missing["attention"] = f"a {stored.info.name} has no attention"
        return
    if config.naflex:
        found.missing["attention"] = "images of any size have no common grid of patches"
        return
    pp = stored.context.pp
    few = chosen[np.linspace(0, len(chosen) - 1, min(ATTENTION, len(chosen))).astype(int)]
    pixels, why = _pictures(pp, source, few)
    if pixels is None:
        found.missing["attention"] = why
        return
    graphdef, wanted = models.abstract(functools.partial(models.build_model, config))
    own = {name: jax.tree.map(np.asarray, stored.params[name]) for name in wanted}
    looked = look_at(models.merge(graphdef, jax.tree.map(jnp.asarray, own)), pixels, pp)
    if looked is None:
        found.missing["attention"] = "the model's tokens do not attend to all others"
        return
    found.attention = [
        Seen(_name(source, int(index)), _uri(image), _uri(tinted(image, seen)))
        for index, image, seen in zip(few, pixels, looked[1])
    ]


def _name(source: Source, index: int) -> str:
    """The origin of an example, without what the page says of all of them."""
    whole = source.describe(index).removesuffix(f" of {source.name} ({source.split})")
    return "/".join(whole.rsplit("/", 2)[-2:])


def _pictures(
    pp: data.Preprocess, source: Source, examples: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """Images as the model sees them, uint8 (n, h, w, 3); or None, and why."""
    batches = data.eval_batches(source, pp, batch_size=len(examples), examples=examples)
    images = next(iter(batches))["image"]
    if images.ndim != 4 or images.shape[-1] != 3:
        return None, "images of any size are cut into patches, which are no pictures"
    return images[: len(examples)], ""


def tinted(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """An image under colours from dark blue, where `seen` is lowest, to yellow.

    Args:
      image: uint8 (h, w, 3).
      seen: attention of each patch, (rows, columns).
    """
    from PIL import Image

    span = float(seen.max() - seen.min())
    scaled = Image.fromarray(((seen - seen.min()) / max(span, 1e-12)).astype(np.float32))
    share = np.asarray(scaled.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    stops = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(share, stops, channel) for channel in zip(*HEAT)], axis=-1)
    grey = image.mean(axis=-1, keepdims=True)
    return (0.4 * grey + 0.6 * heat).astype(np.uint8)


def _uri(image: np.ndarray) -> str:
    """A data URI of an image, uint8 (h, w, 3), at most SIDE pixels wide and high."""
    from PIL import Image

    picture = Image.fromarray(image)
    small = max(image.shape[:2]) <= SIDE
    if not small:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return uri(lambda file: picture.save(file, "PNG" if small else "JPEG"), png=small)


def uri(save: Callable[[io.BytesIO], None], *, png: bool) -> str:
    """The data URI of a picture that `save` writes."""
    file = io.BytesIO()
    save(file)
    kind = "png" if png else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def heatmap(matrix: np.ndarray) -> str:
    """The data URI of a confusion matrix of many classes, as a picture: darker is more.

    Args:
      matrix: images by class and predicted class; rows are scaled to shares.
    """
    from PIL import Image

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    low, high = np.array([247, 248, 250.0]), np.array([20, 60, 140.0])
    pixels = low + np.sqrt(shares)[..., None] * (high - low)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if len(matrix) > 1000:
        picture = picture.resize((1000, 1000), Image.Resampling.BOX)
    return uri(lambda file: picture.save(file, "PNG", optimize=True), png=True)
