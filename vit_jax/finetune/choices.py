"""The choices of a fine-tuning run: pure functions of the facts, each with its reason.

Sources of the rules: BiT-HyperRule (1912.11370, section 3.3: length and mixup by the number of
images, SGD for ResNets), BEiT (2106.08254, table 9) and MAE (2111.06377, table 9) for AdamW with
layer-wise decay of the learning rate, weight decay 0.05 and stochastic depth, Malladi et al.
(2205.10287) for the square root in the learning rate, Yang et al. (2203.03466) for its part of the
width. What none of them says was chosen here, and says so. docs/finetuning.md has the rules in a
table.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from vit_jax.errors import InputError
from vit_jax.finetune.begun import Begun
from vit_jax.finetune.facts import Base, Devices, Facts, Images
from vit_jax.models.config import BiTConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.text import count
from vit_jax.train.log.metrics import LogOptions
from vit_jax.weights.preprocessing import shown_size

SMALL, LARGE = 20_000, 500_000  # images, as in BiT-HyperRule
FEW = 20  # images of the rarest class
MOST_EPOCHS, LEAST_EPOCHS = 50, 8
LEAST_STEPS = 200
LARGEST_BATCH = 512
HELD_OUT, MOST_HELD_OUT = 10, 10_000  # percent, images
LINES = 20  # of metrics.jsonl, in a short run
ENOUGH = 30  # images for evaluation: one of them is three points of accuracy
LITTLE = 64  # pixels of a side: a smaller part of such an image shows too little
NARROW = 768  # width of ViT-B, the narrowest model for which BEiT and MAE have a learning rate


@dataclasses.dataclass(frozen=True)
class Choice:
    """The value of an option, and why.

    Attributes:
      option: full name, such as "optimizer.learning_rate".
      value: value of the option.
      why: the reason, in a few words; "": it goes without saying.
    """

    option: str
    value: Any
    why: str = ""

    def line(self) -> str:
        """The choice as the override that would make it, with the reason."""
        return f"--config.{self.option}={self.value!r}: {self.why}"


def choose(
    facts: Facts,
    *,
    epochs: float | None = None,
    share: float = 1.0,
    rate: float = 1.0,
    hold_out: bool = True,
    method: str = "full",
) -> list[Choice]:
    """All choices of a run.

    Args:
      facts: facts about weights, images and devices.
      epochs: length of the run; None: by the number of images.
      share: factor of that length, as for the short runs of a sweep.
      rate: factor of the learning rate.
      hold_out: whether to hold images out where the data have no split for evaluation.
      method: way of fine-tuning, see `methods.apply_method`.
    """
    base, images, devices, begun = facts.base, facts.images, facts.devices, facts.begun
    batch, remat = batch_size(base, images, devices)
    if begun is not None:
        batch, remat = begun.batch_size, begun.remat or "auto"
    evaluated = bool(images.test) or hold_out
    held_out = 0.0 if images.test or not hold_out else held_out_share(images)
    return [
        *_split(images, held_out),
        *_preprocessing(base, images),
        *_computation(devices, begun),
        *_batch(batch, remat, images, devices, begun),
        *_length(round(images.count * (1 - held_out)), batch, epochs, share),
        *_best(images, evaluated),
        *_optimizer(base, batch, rate, method),
        *_regularisation(base, images),
    ]


def hold_out(images: Images) -> list[Choice]:
    """The splits to train and to evaluate on: the data's own, or slices of one split.

    Raises:
      InputError: there are too few images to hold one out.
    """
    return list(_split(images, 0.0 if images.test else held_out_share(images)))


def held_out_images(images: Images) -> int | None:
    """The number of images for evaluation; None if it is not known without reading more."""
    if images.test:
        return images.tested
    # As `splits.select` cuts "train[90%:]".
    return images.count - round(images.count * (1 - held_out_share(images)))


def doubt(images: Images) -> str:
    """What is to be said of an evaluation on few images; "" if there are enough."""
    few = held_out_images(images)
    if few is None or few >= ENOUGH:
        return ""
    noun = "image is" if few == 1 else "images are"
    return (
        f"only {few} {noun} for evaluation: each is {100 / few:.2g} points of accuracy, so "
        f"that results are rough; {ENOUGH} or more tell models apart"
    )


def held_out_share(images: Images) -> float:
    """The share of the images that is held out for evaluation."""
    percent = HELD_OUT if (images.smallest or FEW) >= 10 else 2 * HELD_OUT
    return min(percent / 100, MOST_HELD_OUT / images.count)


def _split(images: Images, held_out: float) -> Iterator[Choice]:
    if not held_out:
        yield Choice("data.split", images.split, f"{images.count:,} images")
        if images.test:
            yield Choice("evals.test.split", images.test, "the data's own split for evaluation")
        return
    if not held_out_images(images):
        raise InputError(
            f"{images.source} has {count(images.count, 'image')} in split "
            f"{images.split!r} and no split for evaluation: too few to hold one out; add images, "
            "or a folder val beside train"
        )
    share = f"{100 * (1 - held_out):.6g}%"
    whole = f"there is no split for evaluation beside {images.split!r}; the slices hold each class"
    yield Choice("data.split", f"{images.split}[:{share}]", f"{images.count:,} images; {whole}")
    yield Choice("evals.test.split", f"{images.split}[{share}:]", "held out of training")


def _preprocessing(base: Base, images: Images) -> Iterator[Choice]:
    pp = base.preprocess
    size = pp.image_size
    if pp.naflex or size is None:
        steps, why = ["flip_lr", str(pp.naflex)], "patches of any aspect ratio, as the weights say"
    elif (few := _few(images)) or max(size) <= LITTLE:
        steps = [f"inception_crop({shown_size(size)}, area_min=50)", "flip_lr"]
        why = f"at least half of the image, as there are few{'' if few else ' pixels'}"
    else:
        steps = [f"inception_crop({shown_size(size)})", "flip_lr"]
        why = "a random box of the image; without flip_lr if left and right matter, as in text"
    yield Choice("data.pp", "|".join(["decode", *steps, str(pp.normalization)]), why)
    size_of = " at this run's size" if base.resized else ""
    yield Choice("evals.test.pp", str(pp), f"as {base.path} asks for{size_of}")


def _few(images: Images) -> bool:
    return images.smallest is not None and images.smallest < FEW


def _computation(devices: Devices, begun: Begun | None) -> Iterator[Choice]:
    if begun is not None:
        if begun.dtype:
            yield Choice("model.dtype", begun.dtype, "as the run began")
    elif devices.accelerators:
        yield Choice("model.dtype", "bfloat16", "matrix products; parameters stay float32")


def batch_size(base: Base, images: Images, devices: Devices) -> tuple[int, str]:
    """The batch size over all devices and the remat policy.

    Twenty steps an epoch where the images allow it, at most the paper's 512, and what fits into
    four fifths of the memory by `training_bytes`; on CPUs, whose memory is unknown, 32.
    """
    wanted = 2 ** round(math.log2(max(images.count / 20, 1)))
    # Multiples of the number of devices.
    least = devices.count * math.ceil(8 / devices.count)
    most = LARGEST_BATCH if devices.accelerators else 32
    steps = round(math.log2(max(min(wanted, most) / least, 1)))
    wanted = least * 2**steps
    if devices.memory is None:
        return wanted, "none"
    for remat in ("none", "full"):
        batch = wanted
        while batch >= least:
            if training_bytes(base, batch / devices.count, remat) <= 0.8 * devices.memory:
                return batch, remat
            batch //= 2
    return least, "full"


def training_bytes(base: Base, images: float, remat: str) -> float:
    """An estimate of the memory of a training step on one device, in bytes.

    Parameters, gradients and two moments in float32; of each block, per token, 18 times the width
    and, per head, two rows of attention weights in bfloat16. `full` remat keeps a block's input.
    A ResNet's activations are estimated by those of ResNet-50, 110 MB at 224 pixels in bfloat16.
    """
    model = base.model
    state = 16.0 * base.params
    if not isinstance(model, ViTConfig):
        pixels = math.prod(model.input_size)
        return state + images * 110e6 * pixels / 224**2 * model.resnet_width
    tokens = model.naflex or math.prod(side // p for side, p in zip(model.image_size, model.patch))
    block = 2.0 * tokens * (18 * model.width + 2 * model.num_heads * tokens)
    if remat == "full":
        return state + images * (2.0 * model.depth * tokens * model.width + block)
    return state + images * model.depth * block


def _batch(
    batch: int, remat: str, images: Images, devices: Devices, begun: Begun | None
) -> Iterator[Choice]:
    if begun is not None:
        yield Choice("batch_size", batch, "as the run began")
        if remat not in ("auto", "none"):
            yield Choice("model.remat", remat, "as the run began")
        return
    if devices.memory:
        where = f"fits {devices.count} x {devices.memory / 2**30:.0f} GiB by an estimate"
    else:
        where = "at most 32 without an accelerator"
    yield Choice("batch_size", batch, f"about 20 steps an epoch, from 8 to 512; {where}")
    if remat != "none":
        yield Choice("model.remat", remat, "activations do not fit; they are computed again")


def _length(images: int, batch: int, epochs: float | None, share: float) -> Iterator[Choice]:
    if epochs is None:
        seen = 500 * 512 if images < SMALL else 10_000 * 512 if images < LARGE else 20_000 * 512
        bounded = min(max(seen / images, LEAST_EPOCHS), MOST_EPOCHS)
        epochs = max(round(bounded), math.ceil(LEAST_STEPS * batch / images))
        why = f"{images:,} images; {seen:,} are to be seen in all, in 8 to 50 epochs, as with BiT"
    else:
        why = "as asked"
    if share != 1:
        epochs, why = float(f"{epochs * share:.4g}"), f"{share:.3g} of the length, in a sweep"
    steps = math.ceil(epochs * images / batch)
    yield Choice("total.epochs", epochs, f"{why}; {steps:,} steps")
    if (every := max(1, steps // LINES)) < LogOptions.every:
        yield Choice("log.every", every, f"about {LINES} lines in a run of {steps:,} steps")
    yield Choice("optimizer.warmup.epochs", epochs / 10, "a tenth of the run")
    apart = max(1.0, math.ceil(epochs / 50), math.ceil(20 * batch / images))
    yield Choice("eval_every.epochs", apart, "each epoch; at most 50 times, 20 steps apart")


def _best(images: Images, evaluated: bool) -> Iterator[Choice]:
    if evaluated:
        yield Choice("checkpoint.best", best_metric(images), "the best state is kept")


def best_metric(images: Images) -> str:
    """The metric by which states are compared."""
    return "eval/test/" + ("mean_average_precision" if images.multi_label else "top1")


def _optimizer(base: Base, batch: int, factor: float, method: str) -> Iterator[Choice]:
    again = f"; {factor:g} times that" if factor != 1 else "; --sweep looks for a better one"
    if method == "probe":
        rate = factor * 0.01 * batch / 256
        why = "0.01 at batch 256, in proportion, as in the middle of DINOv2's"
        yield Choice("optimizer.learning_rate", _rounded(rate), why + again)
        return
    if isinstance(base.model, BiTConfig):
        rate = factor * 0.003 * batch / 512
        yield Choice("optimizer.name", "sgd", "as BiT's ResNets are fine-tuned")
        why = "0.003 at batch 512, in proportion"
        yield Choice("optimizer.learning_rate", _rounded(rate), why + again)
    else:
        few = method != "full"  # few parameters, at the end of the network or of low rank
        rate = factor * (5e-3 if few else 5e-4) * math.sqrt(batch / 256)
        yield Choice("optimizer.name", "adamw", "as BEiT and MAE are fine-tuned")
        why = f"{'5e-3' if few else '5e-4'} at batch 256, by the square root of the batch"
        width = base.model.width if isinstance(base.model, ViTConfig) else NARROW
        if not few and width < NARROW:
            rate *= NARROW / width
            why += f"; times {NARROW} / {width}, as the model is narrow"
        yield Choice("optimizer.learning_rate", _rounded(rate), why + again)
        if not few:
            why = "of the rate, from block to block downwards"
            yield Choice("optimizer.layer_decay", 0.75, why)
        yield Choice("optimizer.weight_decay", 0.05, "MAE's")
    yield Choice("optimizer.clip_norm", 1.0, "the paper's")


def _regularisation(base: Base, images: Images) -> Iterator[Choice]:
    if images.multi_label:
        yield Choice("loss.name", "sigmoid", "labels are sets of classes")
    if images.count >= SMALL:
        yield Choice("mixup.alpha", 0.1, "as BiT is fine-tuned, from 20,000 images on")
    if images.count >= LARGE and not isinstance(base.model, BiTConfig):
        yield Choice("model.stochastic_depth", 0.1, "BEiT's and MAE's on ImageNet")
        yield Choice("loss.label_smoothing", 0.1, "BEiT's and MAE's on ImageNet")


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
