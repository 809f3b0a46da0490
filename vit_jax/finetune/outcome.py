"""What a fine-tuning run came to: its best state, its accuracy, what it confuses."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.checkpoint.choose import chosen_checkpoint
from vit_jax.checkpoint.load import run_config
from vit_jax.evaluate.stored import evaluate_details, predict_command
from vit_jax.finetune.sweep import whole_runs
from vit_jax.text import printable

PAIRS = 5  # of classes that are printed


def outcome(workdir: str) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run on its evaluation `test`, by the same parameters.

    After a sweep on data without a split for evaluation, the run has trained on all images. Then
    the sweep's run of the same length, without the images held out, is evaluated in its place.

    Args:
      workdir: workdir of a run that is done, with the config of `images_config`.

    Returns:
      `checkpoint`: its path; `measured`: path of the checkpoint that was evaluated, None if none
      was; `predict`, `report`: commands; with `measured` also `source`, `split`: the images; for
      data with one class an image also the results of `ConfusionEvaluation`.

    Raises:
      InputError: there is no good checkpoint.
    """
    checkpoint, _ = chosen_checkpoint(workdir)
    config = run_config(checkpoint)
    found = dict(
        checkpoint=str(checkpoint),
        measured=None,
        predict=predict_command(workdir, run=config),
        report=shlex.join(["vit_jax", "report", str(workdir)]),
    )
    if "test" in config["evals"]:
        return found | _measured(checkpoint)
    for twin in whole_runs(workdir):
        return found | _measured(chosen_checkpoint(str(twin))[0])
    return found


def _measured(checkpoint: Path) -> dict[str, Any]:
    """The results of a checkpoint on the evaluation `test` of its run."""
    config = run_config(checkpoint)
    entry = config["evals"]["test"]
    found = dict(
        measured=str(checkpoint),
        source=entry["source"] or config["data"]["source"],
        split=entry["split"],
    )
    if config["data"]["multi_label"]:
        return found
    results, _ = evaluate_details(
        str(checkpoint),
        source=found["source"],
        split=entry["split"],
        pp=entry["pp"],
        batch_size=config["batch_size"],
        use_ema=entry["use_ema"],
        tta=entry["tta"],
    )
    return found | results


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The result of `outcome` in words."""
    if "top1" in found:
        yield (
            f"top-1 {found['top1']:.2%} on {found['examples']:,} images of "
            f"{printable(found['source'])} ({found['split']}), by the best checkpoint, "
            f"{printable(found['measured'])}"
        )
    for pair in found.get("confused", [])[:PAIRS]:
        yield (
            f"  {printable(pair['label'])} taken for {printable(pair['predicted'])}: "
            f"{pair['count']} ({pair['share']:.1%} of its images)"
        )
    if found["measured"] != found["checkpoint"]:
        yield f"trained on all images: {printable(found['checkpoint'])}"
    yield f"classify images: {printable(found['predict'])}"
    yield f"a page about the run: {printable(found['report'])}"
