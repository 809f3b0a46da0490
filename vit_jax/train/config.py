"""All options of a run; `default()` returns them with their defaults.

An option's type, default, meaning, range and effect are declared in the class of its section: the
classes in `SECTIONS`, those of models, and those of evaluations. A config file (`configs/*.py`)
starts from `default()`, sets what differs, and returns the `ml_collections.ConfigDict`. Options
that do not exist are refused.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax import options
from vit_jax.checkpoint.options import CheckpointOptions, check_local
from vit_jax.data.options import DataOptions
from vit_jax.durations import duration, in_steps
from vit_jax.errors import InputError, nearest
from vit_jax.evaluate.evaluation import EVALUATIONS, create_evaluation, evaluation
from vit_jax.models.config import BiTConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import FREE_EFFECTS, Described, Duration, check_section, described, option
from vit_jax.parallel.mesh import ParallelOptions
from vit_jax.tasks import TASKS
from vit_jax.tasks.distill import DistillOptions
from vit_jax.tasks.losses import LossOptions
from vit_jax.tasks.mixup import MixupOptions
from vit_jax.train.health.watchdog import WatchdogOptions
from vit_jax.train.log.metrics import LogOptions, check_log
from vit_jax.train.optim import OptimizerOptions
from vit_jax.train.progressive.options import ProgressiveOptions, parse_sizes
from vit_jax.weights.adapters.lora import LoraOptions

__all__ = ["check", "default", "duration", "evaluation", "in_steps", "is_free"]

DEFAULT_MODEL = "ViT-S/16"


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options outside all sections."""

    seed: int = option(0, "of initialisation, data order, augmentation and dropout", at_least=0)
    task: str = option(
        "classify",
        "training task: classify (labels of images), distill (labels and a teacher, see "
        "distill.*), masked (masked patch prediction, without labels; section 4.6, appendix "
        "B.1.2), and for iGPT pixels (the next pixel), masked_pixels (hidden pixels) or joint "
        "(pixels and labels; docs/igpt.md)",
        choices=TASKS,
    )
    total: Duration = option(Duration(), "length of the run", effect="course")
    batch_size: int = option(128, "examples per step over all devices and processes", at_least=1)
    init_from: str = option(
        "",
        "weights to start from: a workdir, a checkpoint or a published weight file; "
        '"": random initialisation',
    )
    init_adapter: str = option(
        "",
        "folder of a LoRA adapter, as peft writes it, that is merged into the weights of init_from",
    )
    init_skip: tuple[str, ...] = option(
        ("head/.*", "head_dist/.*", "pre_logits/.*", "masked/.*"),
        "regular expressions for whole parameter paths: these parameters are initialised, not "
        "taken from init_from",
    )
    init_palette: str = option(
        "",
        "file of the colours of a new model with model.palette: .npy (colours, 3) from -1 to 1, or "
        'preprocessor_config.json of openai/imagegpt-*; "": k-means on training images',
    )
    init_ema: bool = option(False, "start from the averaged (EMA) parameters of init_from")
    init_resample: str = option(
        "bilinear_align_corners",
        "interpolation of position embeddings to another grid of patches; docs/weights.md lists "
        "the methods",
    )
    eval_every: Duration = option(
        Duration(), "interval between evaluations (unset: only at the end)", effect="course"
    )
    max_skipped_steps: int = option(
        10,
        "stop after this many consecutive steps whose loss or gradient is not finite; their "
        "updates are skipped",
        effect="course",
        at_least=1,
    )
    debug: bool = option(
        False,
        "stop at the first step that is not finite and report the operation that caused it; "
        "training is slower",
        effect="course",
    )


@dataclasses.dataclass(frozen=True)
class NameOptions:
    """The model's name, in `config.model` beside the options of the model's class."""

    name: str | None = option(
        None,
        "model name, as listed by `vit_jax models`; None: the model of init_from, or "
        f"{DEFAULT_MODEL} without init_from",
        effect="structure",
    )


SECTIONS: dict[str, type] = {
    "data": DataOptions,
    "loss": LossOptions,
    "mixup": MixupOptions,
    "progressive": ProgressiveOptions,
    "distill": DistillOptions,
    "optimizer": OptimizerOptions,
    "lora": LoraOptions,
    "parallel": ParallelOptions,
    "checkpoint": CheckpointOptions,
    "log": LogOptions,
    "watchdog": WatchdogOptions,
}
MODELS = (ViTConfig, BiTConfig)
# Names that other programs and papers use -> the option's name here, for suggestions.
USUAL_NAMES = {
    "lr": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "peak_lr": "optimizer.learning_rate",
    "blr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "train_batch_size": "batch_size",
    "epochs": "total.epochs",
    "num_epochs": "total.epochs",
    "num_train_epochs": "total.epochs",
    "max_epochs": "total.epochs",
    "steps": "total.steps",
    "num_steps": "total.steps",
    "max_steps": "total.steps",
    "iterations": "total.steps",
    "drop_rate": "model.dropout",
    "drop": "model.dropout",
    "hidden_dropout_prob": "model.dropout",
    "attn_drop_rate": "model.attention_dropout",
    "drop_path": "model.stochastic_depth",
    "drop_path_rate": "model.stochastic_depth",
    "droppath": "model.stochastic_depth",
    "embed_dim": "model.width",
    "hidden_size": "model.width",
    "hidden_dim": "model.width",
    "dim": "model.width",
    "num_layers": "model.depth",
    "layers": "model.depth",
    "num_hidden_layers": "model.depth",
    "heads": "model.num_heads",
    "num_attention_heads": "model.num_heads",
    "mlp_ratio": "model.mlp_dim",
    "intermediate_size": "model.mlp_dim",
    "img_size": "model.image_size",
    "resolution": "model.image_size",
    "input_size": "model.image_size",
    "classes": "model.num_classes",
    "global_pool": "model.head",
    "pool": "model.head",
    "arch": "model.name",
    "backbone": "model.name",
    "precision": "model.dtype",
    "grad_checkpointing": "model.remat",
    "gradient_checkpointing": "model.remat",
    "grad_checkpoint": "model.remat",
    "smoothing": "loss.label_smoothing",
    "criterion": "loss.name",
    "cutmix": "mixup.cutmix_alpha",
    "opt": "optimizer.name",
    "optim": "optimizer.name",
    "betas": "optimizer.b1",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "epsilon": "optimizer.eps",
    "clip_grad": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "max_grad_norm": "optimizer.clip_norm",
    "sched": "optimizer.schedule",
    "scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "layer_lr_decay": "optimizer.layer_decay",
    "llrd": "optimizer.layer_decay",
    "model_ema": "optimizer.ema_decay",
    "polyak": "optimizer.ema_decay",
    "sam": "optimizer.sam_rho",
    "grad_accum": "parallel.accumulate",
    "grad_accum_steps": "parallel.accumulate",
    "gradient_accumulation_steps": "parallel.accumulate",
    "accum_iter": "parallel.accumulate",
    "mesh": "parallel.data",
    "fsdp_size": "parallel.fsdp",
    "tp": "parallel.tensor",
    "context_parallel": "parallel.sequence",
    "workers": "data.threads",
    "num_workers": "data.threads",
    "transform": "data.pp",
    "transforms": "data.pp",
    "augmentation": "data.pp",
    "preprocessing": "data.pp",
    "dataset": "data.source",
    "data_path": "data.source",
    "pretrained": "init_from",
    "weights": "init_from",
    "finetune": "init_from",
    "resume": "init_from",
    "save_every": "checkpoint.every.steps",
    "save_steps": "checkpoint.every.steps",
    "local_checkpoint_directory": "checkpoint.local",
    "local_checkpoint_period": "checkpoint.local_every.steps",
    "eval_steps": "eval_every.steps",
    "logging_steps": "log.every",
    "early_stopping": "checkpoint.patience",
}


def default() -> ConfigDict:
    """The full set of options with their defaults."""
    config = options.section(RunOptions)
    config.model = options.section(NameOptions, *MODELS)
    for name, kind in SECTIONS.items():
        config[name] = options.section(kind)
    config.evals = ConfigDict()  # name -> evaluation(...); metrics eval/<name>/<metric>
    return config.lock()


def check(config: ConfigDict) -> None:
    """Refuses values that no run can use: out of range, not finite, or unknown names.

    Options of the model are checked with the model.

    Raises:
      InputError: names the option.
    """
    if names := unknown_names(config):
        hint = nearest(names[0], every_name(default())) or "; `vit_jax config` lists all"
        raise InputError(f"unknown option config.{names[0]}{hint}")
    check_section(RunOptions, config, "config")
    for name, kind in SECTIONS.items():
        check_section(kind, config[name], f"config.{name}")
    parse_sizes(config.progressive)
    for name, default_value in options.defaults(LoraOptions).items():
        if not config.lora.rank and config.lora[name] != default_value:
            raise InputError(f"config.lora.{name} needs config.lora.rank above 0")
    check_log(config.log)
    check_local(config.checkpoint.local)
    for name, entry in config.evals.items():
        create_evaluation(entry, f"config.evals.{name}")


def every_name(config: ConfigDict) -> list[str]:
    """The full names of a config's options."""
    return [name for name, value in options.flatten(config) if not isinstance(value, ConfigDict)]


def unknown_names(config: ConfigDict) -> list[str]:
    """Full names that a config should not have, as of an option misspelled under `unlocked()`.

    The options of evaluations are checked where those are created.
    """
    known = set(every_name(default()))
    return [
        name for name in every_name(config) if name not in known and not name.startswith("evals.")
    ]


def every_option() -> Iterator[Described]:
    """All options, section by section, then those of the models and of each evaluation type."""
    yield from described(RunOptions, "")
    seen: set[str] = set()
    model_kinds: tuple[type, ...] = (NameOptions, *MODELS)
    for model_kind in model_kinds:
        for found in described(model_kind, "model."):
            if found.name not in seen:
                yield found
            seen.add(found.name)
    for name, kind in SECTIONS.items():
        yield from described(kind, f"{name}.")
    for name, evaluation_kind in EVALUATIONS.items():
        yield from described(evaluation_kind, f"evals.NAME[{name}].")


def is_free(name: str) -> bool:
    """Whether a resumed run may change an option, given by its full name.

    Unknown options may not be changed.
    """
    first, _, rest = name.partition(".")
    if first == "evals":
        return True
    kinds: tuple[type, ...]
    if first == "model":
        kinds, option = MODELS, rest.partition(".")[0]
    elif first in SECTIONS:
        kinds, option = (SECTIONS[first],), rest.partition(".")[0]
    else:
        kinds, option = (RunOptions,), first
    return any(option in options.names_with(kind, *FREE_EFFECTS) for kind in kinds)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat config in which options of the model that are None have their defaults.

    Options of earlier versions get today's names.

    Args:
      config: full name -> value, of an earlier run or of this one.
    """
    values = dict(config)
    if values.pop("model.axial", None):
        values["model.attention_kind"] = "axial"
    for name in [name for name in values if name == "fewshot" or name.startswith("fewshot.")]:
        del values[name]  # today an evaluation, and those may change
    defaults = options.defaults(BiTConfig) | options.defaults(ViTConfig) | {"name": DEFAULT_MODEL}
    for name, value in defaults.items():
        if values.get(f"model.{name}") is None:
            values[f"model.{name}"] = value
    return values
