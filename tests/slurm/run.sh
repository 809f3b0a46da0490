#!/usr/bin/env bash
# Runs launch/slurm.sbatch on a real Slurm of one node, which lives in a temporary directory and is
# gone afterwards: two tasks, stopped in the middle, requeued, resumed, compared bit by bit with a
# run that nobody stopped.
#
#   bash tests/slurm/run.sh
#
# VENV=.venv is the environment that has vit_jax. Needs Linux and root (Debian's packages, which it
# installs if they are missing; slurmd starts tasks as their user).
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV=$(realpath "${VENV:-.venv}")
STEPS=120
DIR=$(mktemp -d)
export VENV SLURM_CONF=$DIR/slurm.conf PYTHONPATH=$PWD JAX_PLATFORMS=cpu
export XLA_FLAGS=--xla_backend_optimization_level=0
DAEMONS=()

fail() {
  echo "tests/slurm/run.sh: $1" >&2
  tail -n 30 "$DIR"/*.log >&2 || true
  exit 1
}

install_slurm() {
  command -v slurmctld slurmd munged >/dev/null && return
  [[ $(id -u) == 0 ]] || fail "install slurmctld, slurmd, slurm-client and munge, or run as root"
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
    slurmctld slurmd slurm-client munge >"$DIR/apt.log"
}

# Two GPUs that are none: Slurm counts the devices it is told of.
write_config() {
  local host cpus
  host=$(hostname -s)
  cpus=$(nproc)
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
AuthInfo=socket=$DIR/munge.socket
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
RebootProgram=/bin/true
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$((cpus > 2 ? cpus : 2)) Gres=gpu:2
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
  echo 'NodeName=localhost Name=gpu File=/dev/tty[0-1]' >"$DIR/gres.conf"
  touch "$DIR/cgroup.conf"
}

start_slurm() {
  mkdir "$DIR/state" "$DIR/spool"
  chmod 755 "$DIR"
  (umask 077 && head -c 128 /dev/urandom >"$DIR/munge.key")
  munged --force --foreground --socket="$DIR/munge.socket" --key-file="$DIR/munge.key" \
    --pid-file="$DIR/munge.pid" --seed-file="$DIR/munge.seed" --log-file="$DIR/munged.log" \
    2>"$DIR/munged.log" &
  DAEMONS+=($!)
  wait_for "munged" test -S "$DIR/munge.socket"
  slurmctld -D 2>"$DIR/slurmctld.log" &
  DAEMONS+=($!)
  slurmd -D -N localhost 2>"$DIR/slurmd.log" &
  DAEMONS+=($!)
  wait_for "an idle node" is_node_idle
}

is_node_idle() {
  [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]
}

# Jobs first: the daemons do not take them along.
stop_slurm() {
  scancel --user="$(id -un)" 2>/dev/null || true
  for _ in $(seq 60); do
    [[ -n $(squeue --noheader 2>/dev/null) ]] || break
    sleep 0.5
  done
  for ((i = ${#DAEMONS[@]} - 1; i >= 0; i--)); do
    kill "${DAEMONS[i]}" 2>/dev/null && wait "${DAEMONS[i]}" || true
  done
  rm -rf "$DIR"
}

wait_for() {
  local what=$1
  shift
  for _ in $(seq 600); do
    "$@" && return
    sleep 0.5
  done
  fail "waited five minutes for $what"
}

state_of() {
  scontrol --oneliner show job "$1" | grep --only-matching --perl-regexp '(?<=JobState=)\S+'
}

is_done() {
  [[ $(state_of "$1") == COMPLETED ]] && return
  [[ $(state_of "$1") != FAILED ]] || fail "job $1 failed"
  return 1
}

is_pending() {
  [[ $(state_of "$1") == PENDING ]]
}

has_steps() {
  [[ -f $1/metrics.jsonl ]] && (($(wc -l <"$1/metrics.jsonl") >= $2))
}

# The training of tests/parallel, which CPUs finish in seconds.
submit() {
  local workdir=$1
  shift
  sbatch --nodes=1 --ntasks-per-node=2 --gpus-per-node=2 --time=30 --output="$DIR/%x-%j.log" "$@" \
    launch/slurm.sbatch --config=configs/quickstart.py:pretrain --workdir="$workdir" \
    --config.model.depth=2 --config.batch_size=32 --config.total.epochs=None \
    --config.total.steps=$STEPS --config.optimizer.warmup.epochs=None \
    --config.mixup.alpha=0.2 --config.model.dropout=0.1 --config.log.every=1 \
    --config.log.tensorboard=False --config.evals.test.batch_size=64
}

compare() {
  "$VENV/bin/python" - "$1" "$2" <<'PYTHON'
import json
import logging
import sys
from pathlib import Path

import jax
import numpy as np

from vit_jax.checkpoint.load import read_weights

logging.getLogger("absl").setLevel(logging.ERROR)


def losses(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["train/loss"] for line in lines]


one, two = sys.argv[1:]
assert losses(one) == losses(two)
leaves = [jax.tree.leaves(read_weights(Path(workdir)).params) for workdir in (one, two)]
for first, second in zip(*leaves, strict=True):
    np.testing.assert_array_equal(first, second)
print(f"Bit-equal: {len(losses(one))} losses and {len(leaves[0])} arrays of parameters.")
PYTHON
}

say() {
  printf '\n== %s\n' "$1"
}

trap stop_slurm EXIT
install_slurm
write_config
start_slurm
say "Slurm $(sinfo --version | cut -d' ' -f2), one node of two tasks"
sinfo --Node --long

say "sbatch --test-only"
submit "$DIR/none" --test-only

say "undisturbed: two tasks"
whole=$(submit "$DIR/whole" --parsable)
wait_for "the undisturbed run" is_done "$whole"
cat "$DIR/vit_jax-$whole.log"

say "disturbed: scancel -s TERM in the middle"
cut=$(submit "$DIR/cut" --parsable)
wait_for "the first steps" has_steps "$DIR/cut" 30
scancel --signal=TERM "$cut"
wait_for "the requeue" is_pending "$cut"
saved=$(grep --count 'preempted after step .* state saved' "$DIR/vit_jax-$cut.log") || true
steps=$(grep -o 'preempted after step [0-9]*' "$DIR/vit_jax-$cut.log" | sort -u | wc -l)
((saved == 2 && steps == 1)) || fail "both tasks should save the same step: see the log"
grep --quiet 'xited with exit code 75' "$DIR/vit_jax-$cut.log" || fail "no exit status 75"

say "requeued by the job itself"
squeue --format='%i %T %r'
# A requeued job waits two minutes, in case its node needs to be cleaned.
scontrol update jobid="$cut" StartTime=now
wait_for "the resumed run" is_done "$cut"
cat "$DIR/vit_jax-$cut.log"
scontrol --oneliner show job "$cut" | \
  grep --only-matching --extended-regexp '(JobState|Restarts|ExitCode)=\S+'

say "compared"
compare "$DIR/whole" "$DIR/cut"
