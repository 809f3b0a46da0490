#!/usr/bin/env bash
# A project from end to end, on two processes: pre-trains a ViT on Fashion-MNIST while it is killed
# twice and its mesh is changed, tests its features meanwhile, fine-tunes it by the one command,
# evaluates, exports, and writes the page about both runs. Stopped itself, it goes on when it is
# run again.
#
#   bash launch/end_to_end.sh [DATA] [WORK]
#
# DATA=digits is what it is fine-tuned on, WORK=workdirs/end_to_end the folder for everything.
# EXAMPLES=780000 is the length of pre-training, VENV=.venv the environment of vit_jax.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${1:-digits}
WORK=${2:-workdirs/end_to_end}
EXAMPLES=${EXAMPLES:-780000}
export VENV=${VENV:-.venv}
PRETRAIN=$WORK/pretrain
STEPS=$((EXAMPLES / 128))
mkdir -p "$WORK"

vit_jax() {
  printf '\n$ vit_jax %s\n' "$*"
  "$VENV/bin/vit_jax" "$@"
}

newest_checkpoint() {
  local newest=0 name
  for name in "$PRETRAIN"/checkpoints/*; do
    name=${name##*/}
    [[ $name =~ ^[0-9]+$ ]] && ((name > newest)) && newest=$name
  done
  echo "$newest"
}

# pretrain SHARE SIGNAL OPTIONS...: trains; once SHARE percent of the steps are in a checkpoint,
# sends SIGNAL to one of the two processes ("": none).
pretrain() {
  local share=$1 signal=$2 status=0 launcher
  shift 2
  printf '\n$ bash launch/local.sh 2 --config=configs/end_to_end.py:%s --workdir=%s %s\n' \
    "$EXAMPLES" "$PRETRAIN" "$*"
  bash launch/local.sh 2 --config=configs/end_to_end.py:"$EXAMPLES" --workdir="$PRETRAIN" "$@" &
  launcher=$!
  trap 'kill -TERM $launcher 2>/dev/null' EXIT
  while [[ $signal ]] && kill -0 $launcher 2>/dev/null; do
    if (($(newest_checkpoint) * 100 >= STEPS * share)); then
      echo "launch/end_to_end.sh: SIG$signal at checkpoint $(newest_checkpoint) of $STEPS"
      pkill "-$signal" --parent $launcher --full "vit_jax train" --newest || true
      break
    fi
    sleep 0.5
  done
  wait $launcher || status=$?
  trap - EXIT
  case $status:$signal in
    0:* | 137:KILL | 75:TERM) ;;
    *) exit "$status" ;;
  esac
}

# once NAME COMMAND...: does a step that WORK does not have yet.
once() {
  local name=$1
  shift
  [[ -e $WORK/done/$name ]] && return
  "$@"
  mkdir -p "$WORK/done" && touch "$WORK/done/$name"
}

once killed pretrain 30 KILL --config.parallel.data=2
once stopped pretrain 60 TERM --config.parallel.data=2
once pretrained pretrain 100 "" --config.parallel.tensor=2 --config.parallel.replicated_tolerance=0.2
once finetuned vit_jax finetune "$PRETRAIN" "$DATA" --workdir="$WORK/finetune"
once evaluated vit_jax evaluate --checkpoint="$WORK/finetune"
once converted vit_jax convert "$WORK/finetune" "$WORK/hub" --format=timm
once exported vit_jax convert "$WORK/finetune" "$WORK/model.onnx"
once reported vit_jax report "$PRETRAIN" "$WORK/finetune" --output="$WORK/report.html"

"$VENV/bin/python" - "$WORK" "$DATA" "$EXAMPLES" <<'PYTHON'
import json
import sys

work, data, examples = sys.argv[1:]
before, after = (
    json.load(open(f"{work}/{name}/summary.json"))["metrics"] for name in ("pretrain", "finetune")
)
tuned = next(value for name, value in after.items() if name.endswith("/top1"))
columns = {
    "examples": f"{int(examples):,}",
    "Fashion-MNIST": f"{100 * before['eval/test/top1']:.2f}",
    "digits, 5-shot": f"{100 * before['eval/fewshot/5shot']:.2f}",
    "digits, 10-shot": f"{100 * before['eval/fewshot/10shot']:.2f}",
    "digits, 20-NN": f"{100 * before['eval/knn/top1']:.2f}",
    "digits, linear": f"{100 * before['eval/probe/top1']:.2f}",
    f"{data}, fine-tuned": f"{100 * tuned:.2f}",
}
lines = [list(columns), ["---"] * len(columns), list(columns.values())]
table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
open(f"{work}/results.md", "w").write(table + "\n")
print("\n" + table)
PYTHON
