"""Draws docs/pictures/live_display.svg: the live display in the middle of a real run.

  python -m benchmarks.live_display [--output=docs/pictures/live_display.svg]

A small ViT trains on scikit-learn's digits. The picture has the log up to then and the display
below it, as they were on the terminal.
"""

import argparse
import io
import logging
import os
import sys
import tempfile
from pathlib import Path

WIDTH, STEPS, SHOWN = 100, 1200, 900


class Terminal(io.StringIO):
    """Standard error as a terminal that shows nothing."""

    def isatty(self):
        return True


class Kept(logging.Handler):
    """Keeps the lines of the log."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="docs/pictures/live_display.svg")
    output = Path(parser.parse_args().output)
    os.environ["TERM"] = "xterm"
    os.environ.pop("CI", None)
    from rich.console import Console

    from vit_jax.config import default, evaluation
    from vit_jax.train import loop
    from vit_jax.train.log.display import drawing
    from vit_jax.train.log.progress import Progress

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    kept = Kept()
    show = Progress.show

    def shown(progress, *args):
        """Records the display at one step."""
        show(progress, *args)
        if progress.status.step == SHOWN:
            console.print("\n".join(kept.lines), markup=False, highlight=False)
            for line in drawing(progress.status, WIDTH - 1):
                console.print(line)

    Progress.show = shown
    config = default()
    config.model.update(name="ViT-Ti/2", width=64, depth=4, mlp_dim=128, num_heads=4)
    config.data.update(source="digits", split="train[:80%]", pp="resize(8)|value_range(-1, 1)")
    config.batch_size, config.total.steps, config.eval_every.steps = 64, STEPS, 200
    config.log.update(every=20, tensorboard=False)
    with config.unlocked():
        config.evals.test = evaluation("classification", split="train[80%:]")
    package = logging.getLogger("vit_jax")
    package.setLevel(logging.INFO)
    package.addHandler(kept)
    stderr, sys.stderr = sys.stderr, Terminal()
    try:
        with tempfile.TemporaryDirectory() as workdir:
            loop.train(config, workdir)
    finally:
        sys.stderr = stderr
    output.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(output), title="vit_jax train")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
