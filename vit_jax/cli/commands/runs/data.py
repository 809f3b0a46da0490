"""Show images before they are trained on: sizes, classes, faults, augmented examples, speed.

  vit_jax data photos
  vit_jax data csv:labels.csv --check
  vit_jax data --config=configs/fashion_mnist.py --sheet=examples.png

DATA is a data source, or a folder of class folders, whose images are resized to 224 pixels; its
training split and its split for evaluation are shown. --config shows what a config reads.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable

from ml_collections import ConfigDict

from vit_jax.cli.arguments import (
    add_config_argument,
    add_data_argument,
    add_json_argument,
)
from vit_jax.cli.outputs import check_file, without_lines
from vit_jax.config_files import PREFIX, apply_overrides, load_config, set_option
from vit_jax.errors import InputError
from vit_jax.text import printable, some

MOST_SECONDS = 86_400
MOST_CLASSES = 20  # whose images are counted on the screen; --json has all
# Key of the summary -> its words on the screen.
WORDS = {
    "same_as_training": "copies of training images",
    "training_images": "images of the training split",
    "then": "so that",
    "skipped": "unreadable when timed",
}
# What libjpeg, within TensorFlow, says of damaged files, which are counted here.
OF_LIBJPEG = (
    rb"Improper call to JPEG library|Corrupt JPEG data|Premature end of JPEG|jpeg_mem\.cc|"
    rb"Bogus (marker|Huffman)|Input file read error|Unsupported marker|"
    rb"All log messages before absl::InitializeLog"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_data_argument(parser, "source", nargs="?")
    add_config_argument(parser, required=False)
    parser.add_argument(
        "--sheet", type=os.path.expanduser, help="PNG of examples before and after augmentation"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds to measure the speed for (%(default)s)"
    )
    parser.add_argument(
        "--check", action="store_true", help="read and decode all images, not only a sample"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the summary; returns the exit status."""
    if bool(args.source) == bool(args.config):
        raise InputError("data takes DATA, such as a folder, or --config=FILE; give one of them")
    config = load_config(args.config, args.overrides) if args.config else _config_of(args)
    if not 0 < args.seconds <= MOST_SECONDS:
        raise InputError(
            f"--seconds={args.seconds:g}: the speed takes some time to measure, at most a day "
            f"({MOST_SECONDS})"
        )
    if args.sheet:
        check_file(args.sheet, "--sheet")
    from vit_jax.data import inspect, open_configured
    from vit_jax.data.batches.unreadable import too_many
    from vit_jax.data.check import Faults
    from vit_jax.train.batches import open_training_data
    from vit_jax.train.run import steps_of

    source, pp, dataset = open_training_data(config)
    summary = inspect.describe(source, pp)
    faults = Faults(
        source,
        bytes_per_example=summary["bytes_per_example"],
        every=args.check,
        threads=config.data.threads,
        **(dict(progress=_progress) if args.check else {}),
    )
    summary.update(faults.of_training())
    summary["evals"] = {}
    for name, entry in sorted(config.evals.items()):
        splits = [entry[key] for key in ("split", "train", "test") if key in entry]
        for split in splits:
            opened = open_configured(config.data, source=entry.source, split=split)
            key = name if len(splits) == 1 else f"{name} ({split})"
            summary["evals"][key] = inspect.sizes(opened)
            if shared := source.shared(opened):
                summary["evals"][key]["training_images"] = shared
            summary["evals"][key] |= faults.of_evaluation(opened)
    try:
        if args.sheet:
            inspect.contact_sheet(source, pp, args.sheet, seed=config.seed)
            summary["sheet"] = args.sheet
        with without_lines(OF_LIBJPEG):
            measured = inspect.measure_speed(
                source,
                pp,
                batch_size=config.batch_size,
                threads=config.data.threads,
                seconds=args.seconds,
            )
        speed = measured.images_per_second
        summary["images_per_second"] = round(speed, 1)
        if measured.skipped:
            summary["skipped"] = dict(images=measured.skipped, of=measured.seen)
            limit = config.data.max_unreadable
            if too_many(source, measured.skipped, measured.seen, limit):
                summary["skipped"]["then"] = f"training ends, by data.max_unreadable = {limit:g}"
        # For `vit_jax plan --images-per-core`.
        cores = len(os.sched_getaffinity(0))
        summary["images_per_core"] = speed / min(config.data.threads or cores, cores)
        steps = steps_of(config.total, "total", config, dataset)
        if steps:
            summary["images"] = steps * config.batch_size
            summary["hours"] = summary["images"] / speed / 3600
    finally:  # what was found says why training would end
        if args.json:
            print(json.dumps(summary))
        else:
            _print(summary, every=args.check)
    return 0


def _config_of(args: argparse.Namespace) -> ConfigDict:
    """A config that reads DATA: its splits, as a fine-tuning run finds them, at 224 pixels."""
    from vit_jax.config import default, evaluation
    from vit_jax.data.sources.opening import as_source
    from vit_jax.finetune.choices import hold_out
    from vit_jax.finetune.facts import look_at_images

    config = default()
    config.data.source = as_source(args.source)
    config.data.pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    with config.unlocked():
        config.evals.test = evaluation()
    apply_overrides(config, args.overrides)
    given = {word.removeprefix(PREFIX).partition("=")[0] for word in args.overrides}
    for choice in hold_out(look_at_images(config, given)):
        if choice.option not in given:
            set_option(config, choice.option, str(choice.value))
    return config


def _progress(what: str) -> Callable[[int, int], None]:
    """Shows how many images are read: in one line on a terminal, else at each tenth."""
    tenths = 0

    def show(done: int, of: int) -> None:
        nonlocal tenths
        terminal, reached = sys.stderr.isatty(), done * 10 // of
        if terminal or reached > tenths:
            line = f"{printable(what)}: {done:,} of {of:,} images checked"
            end = "" if terminal and done < of else "\n"
            print(("\r" if terminal else "") + line, end=end, file=sys.stderr, flush=True)
        tenths = reached

    return show


def _print(summary: dict, *, every: bool) -> None:
    rows = dict(summary)
    for name, found in rows.pop("evals").items():
        rows[f"evaluation {name}"] = found
    if (decoded := rows.pop("decoded")) < rows["examples"] and not every:
        rows["decoded"] = f"{decoded:,} of {rows['examples']:,} images; --check decodes all"
    if counts := rows.pop("class_examples", {}):
        shown = [f"{name} {count:,}" for name, count in counts.items()]
        least, most = rows.pop("examples_per_class")
        limits = f"; from {least:,} to {most:,}" if len(shown) > MOST_CLASSES else ""
        rows["images_by_class"] = some(shown, MOST_CLASSES) + limits
        rows.pop("label_names")
    for name, value in rows.items():
        if isinstance(value, dict):
            value = ", ".join(f"{_words(key)} {_shown(part)}" for key, part in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
        print(f"{printable(_words(name)) + ':':24}{printable(value)}")


def _words(key: str) -> str:
    return WORDS.get(key) or key.replace("_", " ")


def _shown(value: object) -> str:
    """A value within a row: lists with semicolons, dictionaries in parentheses."""
    if isinstance(value, dict):
        parts = (f"{_words(key)} {_shown(part)}" for key, part in value.items())
        return f"({', '.join(parts)})"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "; ".join(value)
    return str(value)
