"""What a fine-tuning run came to: its best state, its accuracy, what it confuses."""

import shlex
from collections.abc import Iterator
from typing import Any

from vit_jax.checkpoint.choose import chosen_checkpoint
from vit_jax.checkpoint.load import run_config
from vit_jax.evaluate.stored import evaluate_details, predict_command
from vit_jax.text import printable

PAIRS = 5  # of classes that are printed


def outcome(workdir: str) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run on its evaluation `test`, by the same parameters.

    Args:
      workdir: workdir of a run that is done, with the config of `images_config`.

    Returns:
      `checkpoint`: its path; `source`, `split`: the images; `predict`, `report`: commands; for
      data with one class an image also the results of `ConfusionEvaluation`.

    Raises:
      InputError: there is no good checkpoint.
    """
    checkpoint, _ = chosen_checkpoint(workdir)
    config = run_config(checkpoint)
    entry = config["evals"]["test"]
    found = dict(
        checkpoint=str(checkpoint),
        source=entry["source"] or config["data"]["source"],
        split=entry["split"],
        predict=predict_command(workdir, run=config),
        report=shlex.join(["vit_jax", "report", str(workdir)]),
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
            f"{printable(found['checkpoint'])}"
        )
    for pair in found.get("confused", [])[:PAIRS]:
        yield (
            f"  {printable(pair['label'])} taken for {printable(pair['predicted'])}: "
            f"{pair['count']} ({pair['share']:.1%} of its images)"
        )
    yield f"classify images: {printable(found['predict'])}"
    yield f"a page about the run: {printable(found['report'])}"
