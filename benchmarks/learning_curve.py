"""The learning curve of a run, as JSON and as a plot.

    python benchmarks/learning_curve.py WORKDIR NAME --command="vit_jax train ..."

NAME.json has the command, loss, accuracy and learning rate at each evaluation, and where the time
of the run went; NAME.png shows the curves.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from small_scale import machine

from vit_jax.errors import InputError
from vit_jax.figures.draw import figure_class


def document(workdir: Path, command: str) -> dict[str, Any]:
    """What a finished run left in its workdir.

    Raises:
      InputError: there is no finished run.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        summary = json.loads((workdir / "summary.json").read_text())
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; the run is not finished") from None
    wanted = ("train/loss", "train/learning_rate", "eval/")
    curve = [
        {name: value for name, value in line.items() if name == "step" or name.startswith(wanted)}
        for line in lines
    ]
    return dict(
        command=command,
        batch_size=config["batch_size"],
        wall_seconds=summary["wall_seconds"],
        seconds=summary["seconds"],
        **machine(),
        curve=curve,
    )


def plot(found: dict[str, Any], file: Path) -> None:
    """Loss, and top-1 with k-shot accuracy, over the examples seen."""
    figure = figure_class()(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in sorted({name for line in found["curve"] for name in line}):
        axes = left if name.endswith("loss") else right if name.endswith(("top1", "shot")) else None
        if axes is not None:
            points = [
                (line["step"] * found["batch_size"], line[name])
                for line in found["curve"]
                if name in line
            ]
            axes.plot(*zip(*points), label=name, marker="." if len(points) < 50 else "")
    for axes, title in ((left, "loss"), (right, "top-1")):
        axes.set(xlabel="examples seen", title=title)
        axes.legend(fontsize=8)
    right.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", help="of a finished run")
    parser.add_argument("name", help="of the files")
    parser.add_argument("--command", required=True, help="that the run was started with")
    parser.add_argument("--output", default="docs/results", help="folder (%(default)s)")
    args = parser.parse_args()
    found = document(Path(args.workdir), args.command)
    os.makedirs(args.output, exist_ok=True)
    with open(f"{args.output}/{args.name}.json", "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    plot(found, Path(args.output, f"{args.name}.png"))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"learning_curve.py: {error}", file=sys.stderr)
        sys.exit(2)
