"""What checkpoints cost a run at the default interval: a real training, stopped by SIGTERM.

  python benchmarks/checkpoint_cost.py --minutes=22

Prints one JSON line: shares of the wall-clock time from goodput.jsonl, how many checkpoints were
written at the interval and their size. `periodic` leaves out the last one, for which a run waits
until it is written. Options of the run follow: --config.checkpoint.minutes=2.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# ViT-S on digits: 22 million parameters, 264 MB with Adam's moments.
RUN = [
    "--config=configs/quickstart.py:pretrain",
    "--config.model.name=ViT-S/4",
    "--config.model.width=384",
    "--config.model.depth=12",
    "--config.model.mlp_dim=1536",
    "--config.model.num_heads=6",
    "--config.batch_size=16",
    "--config.total.epochs=1000",
    "--config.log.tensorboard=False",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=22, help="length of the run")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        command = [sys.executable, "-m", "vit_jax", "train", f"--workdir={workdir}"]
        process = subprocess.Popen([*command, *RUN, *options], cwd=ROOT, env=os.environ)
        accounts, seen = [], set()
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end and process.poll() is None:
            time.sleep(1)
            seen |= steps(workdir)
        accounts.append(account(workdir))
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        accounts.append(account(workdir))
        seen_last = steps(workdir) - seen
        size = sum(
            path.stat().st_size
            for path in (workdir / "checkpoints" / str(max(steps(workdir)))).rglob("*")
            if path.is_file()
        )
    periodic, whole = accounts
    share = {name: round(value / whole["wall"], 4) for name, value in whole["seconds"].items()}
    print(
        json.dumps(
            dict(
                exit_status=status,
                wall_seconds=whole["wall"],
                steps=whole["step"],
                checkpoints=len(seen),
                megabytes=round(size / 1e6, 1),
                stall_seconds=round(periodic["seconds"].get("checkpoint", 0.0), 3),
                periodic=round(periodic["seconds"].get("checkpoint", 0.0) / periodic["wall"], 5),
                share=share,
                last_checkpoint=sorted(seen_last),
            )
        )
    )


def steps(workdir: Path) -> set[int]:
    """Of the complete checkpoints."""
    folder = workdir / "checkpoints"
    names = (path.name for path in folder.iterdir()) if folder.exists() else ()
    return {int(name) for name in names if re.fullmatch("[0-9]+", name)}


def account(workdir: Path) -> dict:
    """The last line of goodput.jsonl."""
    return json.loads((workdir / "goodput.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main()
