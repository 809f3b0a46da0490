"""Every option of a run: its default and its meaning, in this one place.

A config file (`configs/*.py`) starts from `default()`, sets what differs and
returns the `ml_collections.ConfigDict`. Options that do not exist are refused.

Durations (`total`, `warmup`, `cooldown`, `checkpoint.every`, `eval_every`, ...)
are small dicts with exactly one of `steps`, `epochs` or `examples` set;
`in_steps` turns one into steps.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax.errors import InputError, unknown


def duration(**unit: float) -> ConfigDict:
    """A duration in one of three units: `duration(epochs=90)`."""
    fields = ConfigDict(
        dict(steps=placeholder(int), epochs=placeholder(float), examples=placeholder(int))
    )
    for name, value in unit.items():
        if name not in fields:
            raise unknown("unit of a duration", name, fields.keys())
        fields[name] = float(value) if name == "epochs" else value
    return fields


def evaluation(**options: Any) -> ConfigDict:
    """One entry of `config.evals`: a data set that is evaluated during and after training."""
    entry = ConfigDict(
        dict(
            source=placeholder(str),  # as data.source; None: the training source
            split="test",  # which part of it, tfds syntax: "test", "train[90%:]"
            pp="",  # preprocessing operations; "": those of training without randomness
            batch_size=0,  # over all devices; 0: the training batch size
            use_ema=False,  # evaluate the EMA (Polyak) parameters
        )
    )
    with entry.unlocked():
        for name, value in options.items():
            if name not in entry:
                raise unknown("option of an evaluation", name, entry.keys())
            entry[name] = value
    return entry


def fewshot(**options: Any) -> ConfigDict:
    """One entry of `config.fewshot`: a few-shot linear evaluation of the features.

    Runs when `evals` do; see vit_jax.evaluate.fewshot.
    """
    entry = ConfigDict(
        dict(
            source=placeholder(str),  # as data.source; None: the training source
            train="train",  # where the shots are drawn from, tfds syntax
            test="test",  # what they are tested on
            pp="",  # preprocessing; "": resized to 8/7 of the model's size and cropped
            shots=(1, 5, 10, 25),  # training examples of each class
            seeds=3,  # random choices of them, accuracies are means
            l2=(1024.0,),  # ridge penalties; of several the best on the test examples counts
            batch_size=0,  # over all devices; 0: the training batch size
            use_ema=False,  # evaluate the EMA (Polyak) parameters
        )
    )
    with entry.unlocked():
        for name, value in options.items():
            if name not in entry:
                raise unknown("option of a few-shot evaluation", name, entry.keys())
            entry[name] = value
    return entry


def default() -> ConfigDict:
    """The full set of options with their defaults."""
    config = ConfigDict()
    config.seed = 0  # initialisation, data order, augmentation and dropout all derive from it
    # What is learnt: classify, or masked: the colours of hidden patches (section 4.6, B.1.2).
    config.task = "classify"
    config.total = duration()  # length of the run
    config.batch_size = 128  # examples per step over all devices and processes
    config.init_from = ""  # fine-tune from: a workdir, a checkpoint or a published weight file
    # Path patterns of parameters that start afresh all the same.
    config.init_skip = ("head/.*", "head_dist/.*", "pre_logits/.*", "masked/.*")
    config.init_ema = False  # take the averaged parameters of init_from
    config.init_resample = "bilinear_align_corners"  # how position embeddings meet a new grid
    config.eval_every = duration()  # None: once, at the end
    config.max_skipped_steps = 10  # non-finite steps in a row that end the run
    config.debug = False  # at the first non-finite step, find the operation; steps wait for it

    config.model = ConfigDict(
        dict(
            name="ViT-S/16",  # see `vit_jax models`
            image_size=placeholder(object),  # pixels, int or (height, width); None: from data.pp
            num_classes=placeholder(int),  # None: the data set's
            # Shape; None: the named variant's.
            patch_size=placeholder(object),  # pixels, int or (height, width)
            width=placeholder(int),
            depth=placeholder(int),
            mlp_dim=placeholder(int),
            num_heads=placeholder(int),
            # The ResNet of hybrids and BiT.
            resnet_stages=placeholder(object),  # units of each stage; (): root alone
            resnet_width=placeholder(int),  # channels of the root, over 64
            resnet_norm_eps=placeholder(float),  # group norm epsilon; None: the training code's
            resnet_conv_eps=placeholder(float),  # of standardised kernels; None: the same
            preact=False,  # BiT with pre-activation (ResNet v2), as its published weights
            # Parts.
            # token: class token; gap: mean of the patches; map: attention pool; token_gap: the
            # class token beside the mean (DINOv2). None: token; gap where attention is axial
            head=placeholder(str),
            class_token=placeholder(bool),  # None: where the head wants it
            distillation="none",  # token: DeiT's token (2012.12877); head: and its classifier
            pool_then_norm=False,  # head gap: the last norm comes after the mean
            pre_logits=0,  # width of a tanh layer before the head; 0: none, -1: the model's
            # Position embedding: learned (1-D), learned2d, relative, sincos2d (fixed) or none.
            posemb="learned",
            # Where it is added (table 8): stem; layers: at the start of each, with its own
            # parameters; layers_shared: with the same. Relative ones act in all layers anyhow.
            posemb_where="stem",
            posemb_class_slot=True,  # class and distillation tokens have their own positions
            posemb_register_slots=False,  # and so have registers
            registers=0,  # extra learnt tokens (2309.16588)
            # Which tokens attend to which: full, or axial: rows, then columns (D.5).
            attention_kind=placeholder(str),  # None: as the name says
            layer_scale=placeholder(float),  # initial scale of residual branches (2103.17239)
            qk_norm=False,  # layer norm of queries and keys (2302.05442)
            mlp="gelu",  # gelu, or swiglu: gated (2002.05202)
            gelu="tanh",  # tanh (JAX checkpoints) or erf (PyTorch checkpoints)
            norm_eps=1e-6,  # layer norm epsilon
            head_bias=0.0,  # initial bias of the head; -10 for sigmoid pre-training
            # Regularisation.
            dropout=0.0,  # after every dense layer but qkv, and after the position embedding
            attention_dropout=0.0,  # on attention weights
            stochastic_depth=0.0,  # drop rate of the last block, growing linearly from 0
            # Execution.
            dtype="float32",  # of matrix products: float32 or bfloat16; parameters stay float32
            unroll=1,  # layers per iteration of the scan over blocks; -1: all
            remat="none",  # recompute in the backward pass: none, full, dots, dots_no_batch
            attention="auto",  # implementation: auto, xla, cudnn
        )
    )

    config.data = ConfigDict(
        dict(
            # digits, idx:DIR, folder:DIR, npz:FILE, tfds:NAME, tfds:NAME?label=LABEL (another
            # label, see data/sources/labels.py), or mix:SOURCE*WEIGHT+SOURCE*WEIGHT
            source="digits",
            split="train",  # tfds syntax
            data_dir="",  # where tfds looks; "": its default
            cache_dir="",  # for lists and indices of data; "": beside it or in ~/.cache/vit_jax
            sequential=False,  # read tfds' TFRecord files front to back (a resume reads again)
            pp="",  # preprocessing of training images, e.g. "decode|inception_crop(224)|flip_lr"
            multi_label=False,  # labels are sets of classes; wants loss "sigmoid"
            shuffle=True,  # a new order every epoch
            threads=0,  # parallel decoding threads; 0: as many as cores
            prefetch=2,  # batches kept ready
            resident=False,  # small sets: images live on the devices, augmentation happens there
            # Share of training images that may be damaged, and the first ten; more is an error.
            max_unreadable=0.01,
        )
    )
    config.evals = ConfigDict()  # name -> evaluation(...)
    config.fewshot = ConfigDict()  # name -> fewshot(...); metrics eval/fewshot/<name>/<n>shot

    config.loss = ConfigDict(
        dict(
            name="softmax",  # softmax or sigmoid cross-entropy
            label_smoothing=0.0,
        )
    )
    # Mixing of neighbours in the global batch, one ratio a step; with both on, each step
    # takes one of the two by the toss of a coin.
    config.mixup = ConfigDict(
        dict(
            alpha=0.0,  # mixup (1710.09412) with a ratio from Beta(alpha, alpha); 0: off
            cutmix_alpha=0.0,  # CutMix (1905.04899), likewise
        )
    )

    config.optimizer = ConfigDict(
        dict(
            name="adamw",  # sgd, adam, adamw, adafactor, lion
            learning_rate=1e-3,  # peak, after warm-up
            momentum=0.9,  # sgd
            nesterov=False,  # sgd
            b1=0.9,  # adam, adamw, lion; adafactor's momentum
            b2=0.999,  # adam, adamw; the highest of adafactor; lion wants .99
            eps=1e-8,  # adam, adamw
            moment_dtype="float32",  # of the first moment (and momentum): float32 or bfloat16
            # Of kernels only, and as torch.optim does it under the same name. adamw, adafactor,
            # lion: p <- p - lr(t) * (update + weight_decay * p), apart from the gradient. sgd,
            # adam: weight_decay * p is added to the gradient (L2). The paper's Adam is adamw.
            weight_decay=0.0,
            clip_norm=0.0,  # clip gradients at this global norm; 0: off
            schedule="cosine",  # constant, linear, cosine, rsqrt
            warmup=duration(steps=0),  # linear from 0 to learning_rate
            cooldown=duration(steps=0),  # linear to end_value over the last steps
            end_value=0.0,  # learning rate at the end (linear, cosine, cooldown), share of peak
            rsqrt_timescale=10_000,  # rsqrt: steps after which the rate has fallen by sqrt(2)
            # Patterns are regular expressions for whole parameter paths, such as "head/.*".
            multipliers=(),  # (pattern, factor) pairs on the learning rate; first match counts
            freeze=(),  # patterns of parameters that stay as they are
            ema_decay=0.0,  # Polyak averaging of parameters; 0: off, the paper's: .9999
        )
    )

    config.parallel = ConfigDict(
        dict(
            engine="pjit",  # pjit or pmap
            # Mesh axes: sizes, one of them may be -1 (what is left).
            replica=1,  # the slow network between pods or hosts
            data=-1,  # replicated data parallelism
            fsdp=1,  # data parallelism with sharded parameters
            tensor=1,  # heads and MLP width
            replicated_tolerance=0.05,  # share of fsdp-able bytes that may stay replicated
            accumulate=1,  # microbatches per step, gradients averaged
            # Devices to make of a machine that has no accelerator; 0: one, or what XLA_FLAGS says.
            # Two cores take a small model's parts of a batch quicker than they share products.
            cpu_devices=0,
        )
    )

    config.checkpoint = ConfigDict(
        dict(
            every=duration(),  # None: by the clock, see minutes; always at the end
            minutes=10.0,  # where every is None: between checkpoints, or more, so that
            # saving takes at most a hundredth of the time; 0: only at the end (and on preemption)
            keep=2,  # how many of the last ones stay
            keep_every=0,  # steps: those that this divides stay for good; 0: none
            # Metric whose best checkpoint stays too, e.g. "eval/test/top1"; of losses the lowest.
            # Every evaluated state is saved then.
            best="",
            # The disk may be full or gone: a save that fails is logged, the next is on time.
            retries=3,  # further attempts at one that the run waits for: the last, on preemption
            max_failures=0,  # failed attempts in a row that end the run; 0: it always goes on
            timeout=1200,  # seconds until a process gives up waiting for the others' parts
        )
    )
    config.log = ConfigDict(
        dict(
            every=50,  # steps between lines of metrics.jsonl
            tensorboard=True,  # event files in the workdir
            # A loss this many times what nine of ten of the last 64 stay below is reported; 0: off.
            spike=3.0,
        )
    )
    config.watchdog = ConfigDict(
        dict(
            seconds=600.0,  # without a step: all threads' stacks are printed; 0: off
            exit=False,  # and the process ends with status 70
        )
    )
    return config.lock()


# The lowest value of numbers that whoever uses them does not check.
LEAST = {
    "seed": 0,
    "max_skipped_steps": 1,
    "data.threads": 0,
    "data.prefetch": 1,
    "data.max_unreadable": 0,
    "parallel.cpu_devices": 0,
    "parallel.replicated_tolerance": 0,
    "parallel.accumulate": 1,
    "checkpoint.minutes": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_every": 0,
    "checkpoint.retries": 0,
    "checkpoint.max_failures": 0,
    "checkpoint.timeout": 1,
    "log.every": 1,
    "log.spike": 0,
    "watchdog.seconds": 0,
}
MAX_INTEGER = 2**63 - 1


def check(config: ConfigDict) -> None:
    """Refuses numbers that no run can use: not finite, too large, or below LEAST.

    Raises:
      InputError: names the option.
    """
    for name, value in _numbers(config):
        if not math.isfinite(value) or isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise InputError(f"config.{name} is {value}; it must be a finite number")
        if value < LEAST.get(name, -math.inf):
            raise InputError(f"config.{name} is {value}; it must be at least {LEAST[name]}")


def _numbers(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """All options that are numbers, by their full names."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            yield prefix + name, value


def name_patterns(patterns: Sequence[str], name: str) -> list[re.Pattern]:
    """Regular expressions for whole names of parameters, as "head/.*", ready to `fullmatch`.

    Args:
      patterns: of an option.
      name: what the message calls it.

    Raises:
      InputError: one is no regular expression.
    """
    try:
        return [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise InputError(f"{name} {tuple(patterns)!r}: {error}") from error


def in_steps(
    entry: ConfigDict, *, name: str, batch_size: int, train_size: int, total: int | None = None
) -> int | None:
    """A duration in optimizer steps, or None where no unit is set.

    Args:
      entry: a `duration`.
      name: what the message calls it.
      batch_size: examples per step.
      train_size: examples per epoch.
      total: steps of the whole run: what `every` may not exceed is not checked here.

    Raises:
      InputError: more than one unit is set, or the value is negative.
    """
    set_units = {unit: value for unit, value in entry.items() if value is not None}
    if not set_units:
        return None
    if len(set_units) > 1:
        raise InputError(
            f"config.{name} sets {' and '.join(set_units)}; set one and leave the others None"
        )
    ((unit, value),) = set_units.items()
    if value < 0:
        raise InputError(f"config.{name}.{unit} is {value}; it must not be negative")
    examples_per_unit = dict(steps=batch_size, epochs=train_size, examples=1)[unit]
    if unit == "steps":
        return int(value)
    return math.ceil(round(value * examples_per_unit / batch_size, 6))
