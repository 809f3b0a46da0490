#!/usr/bin/env bash
# A tour in a few minutes: installs vit_jax into .venv, pre-trains a small ViT on handwritten
# digits, fine-tunes it at a higher resolution, evaluates it on held-out digits, and classifies
# an image file. Run again after an interruption, it continues.
#
#   bash launch/quickstart.sh [EXTRAS]      EXTRAS, VENV, PYTHON: see launch/install.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export VENV=${VENV:-.venv}
WORKDIR=workdirs/quickstart
DIGIT=$WORKDIR/digit.png
bash launch/install.sh "$@"

vit_jax() {
  printf '\n$ vit_jax %s\n' "$*"
  "$VENV/bin/vit_jax" "$@"
}

vit_jax train --config=configs/quickstart.py:pretrain --workdir=$WORKDIR/pretrain
vit_jax train --config=configs/quickstart.py:finetune --workdir=$WORKDIR/finetune
vit_jax evaluate --checkpoint=$WORKDIR/finetune

"$VENV/bin/python" - "$WORKDIR/finetune/summary.json" <<'PYTHON'
import json
import sys

# Ten seeds of configs/quickstart.py reach more; see its docstring.
LEAST = 0.975
top1 = json.load(open(sys.argv[1]))["metrics"]["eval/test/top1"]
if top1 < LEAST:
    sys.exit(f"quickstart: top-1 is {top1:.1%} after fine-tuning; at least {LEAST:.1%} is expected")
PYTHON

"$VENV/bin/python" - "$DIGIT" <<'PYTHON'
import sys

from PIL import Image

from vit_jax.data.sources.opening import open_source

held_out = open_source("digits", "train[80%:]")
Image.fromarray(held_out.images[0, :, :, 0]).save(sys.argv[1])
print(f"\nWrote {sys.argv[1]}: a held-out {held_out.label_names[held_out.targets[0]]}.")
PYTHON
vit_jax predict --checkpoint=$WORKDIR/finetune $DIGIT
