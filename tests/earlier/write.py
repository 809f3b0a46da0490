"""The script that wrote runs.tar.xz with version 0.1 (commit 7d63ab4); kept as a record.

It runs with that version alone. Each kind is a run of six steps: `finished`, and `stopped` after
three; `expected.json` holds what that version evaluated and predicted.

python write.py DIRECTORY [KIND ...]
"""

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from config import KINDS, get_config  # beside this file
from vit_jax.train.preemption import PreemptionWatch

from vit_jax.cli.main import main
from vit_jax.errors import Preempted
from vit_jax.train import loop

HERE = Path(__file__).parent


def command(*args):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(args) == 0
    return json.loads(out.getvalue())


def write(kind, folder):
    run = folder / kind
    shutil.rmtree(run, ignore_errors=True)
    reached = PreemptionWatch.reached
    PreemptionWatch.reached = lambda self, step: step == 3
    with contextlib.suppress(Preempted):
        loop.train(get_config(kind), str(run / "stopped"))
    PreemptionWatch.reached = reached
    shutil.copytree(run / "stopped", run / "finished")
    loop.train(get_config(kind), str(run / "finished"))
    image = str(folder / "three.png")
    checkpoint = f"--checkpoint={run / 'finished'}"
    expected = {"evaluate": command("evaluate", checkpoint, "--json")}
    if kind != "masked":
        top = command("predict", checkpoint, image, "--topk=3", "--json")[0]["top"]
        expected["predict"] = top
    (run / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    from PIL import Image
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[3] * 15).astype("uint8")).save(folder / "three.png")
    for kind in sys.argv[2:] or KINDS:
        write(kind, folder)
