#!/usr/bin/env bash
# Starts N processes of one run on this machine, each with one GPU, or one CPU device without GPUs:
#
#   bash launch/local.sh 2 --config=configs/quickstart.py:pretrain --workdir=workdirs/two
#
# Each line of output begins with the rank. When one process fails, the others are ended; SIGTERM
# and Ctrl-C make all of them save and stop. Exit status: 0 done, 75 stopped, else that of the first
# to fail. VENV=.venv is the environment of vit_jax, DEVICES=1 the CPU devices of each process.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
readonly WRONG_INPUT=2 PREEMPTED=75
VENV=${VENV:-.venv}
COUNT=${1:-}

fail() {
  echo "launch/local.sh: $1" >&2
  exit $WRONG_INPUT
}

[[ $COUNT =~ ^[1-9][0-9]*$ ]] || fail "how many processes? e.g. launch/local.sh 2 --config=..."
shift
[[ -x $VENV/bin/python ]] || fail "no $VENV/bin/python; run launch/install.sh, or set VENV"
GPUS=0
if command -v nvidia-smi >/dev/null && [[ ${JAX_PLATFORMS:-} != cpu ]]; then
  GPUS=$(nvidia-smi --list-gpus 2>/dev/null | grep --count '^GPU') || true
fi
DEVICES=${DEVICES:-1}
if ((GPUS)); then
  DEVICES=1
  ((COUNT <= GPUS)) || fail "$COUNT processes, but $GPUS GPUs; JAX_PLATFORMS=cpu uses the CPU"
else
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
"$VENV/bin/python" launch/check.py --devices=$((COUNT * DEVICES)) -- "$@" >&2 || exit

free_port() {
  "$VENV/bin/python" -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

declare -A RUNNING=()

signal_all() {
  ((!${#RUNNING[@]})) || kill "-$1" "${!RUNNING[@]}" 2>/dev/null
}

JAX_COORDINATOR_ADDRESS=127.0.0.1:$(free_port)
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$COUNT
trap 'signal_all TERM' TERM INT
for ((rank = 0; rank < COUNT; rank++)); do
  ((!GPUS)) || export CUDA_VISIBLE_DEVICES=$rank
  JAX_PROCESS_ID=$rank "$VENV/bin/python" -m vit_jax train "$@" \
    > >(sed --unbuffered "s/^/$rank: /") 2>&1 &
  RUNNING[$!]=$rank
done

status=0
while ((${#RUNNING[@]})); do
  ended=
  wait -n -p ended "${!RUNNING[@]}"
  code=$?
  [[ -n ${ended:-} ]] || continue # a signal interrupted the wait
  echo "launch/local.sh: process ${RUNNING[$ended]} ended with status $code" >&2
  unset "RUNNING[$ended]"
  ((status)) || status=$code
  # Without all processes none can save, so the others are killed at once.
  ((code == 0 || code == PREEMPTED)) || signal_all KILL
done
exit $status
