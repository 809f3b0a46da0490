#!/usr/bin/env bash
# Cloud TPU VMs, one slice or several, through gcloud's queued resources:
#
#   ALL="--name=s16 --project=P --zone=us-east5-b --type=v6e-64 --spot --bucket=my-bucket"
#   RUN="--config=configs/vit_s16_i1k.py:90 --workdir=/bucket/s16"
#   bash launch/tpu_vm.sh create $ALL -- $RUN     ask for the machines and wait for them
#   bash launch/tpu_vm.sh setup  $ALL -- $RUN     copy this checkout (its HEAD) and install it
#   bash launch/tpu_vm.sh run    $ALL -- $RUN     start it, watch it, replace preempted machines
#   bash launch/tpu_vm.sh status|logs|delete $ALL
#
# --slices=N     number of slices; needs --config.parallel.replica=N
# --bucket=NAME  mounted at /bucket on all workers
# --spot, --reserved    the kind of machine; default: on demand
# --runtime=VERSION     software version of the TPU VM; default: by type
# --dry-run      print the commands of gcloud, run none
#
# On the workers the run is a systemd unit: it survives a lost connection, saves at shutdown, and
# starts again after exit status 75 or a crash, but not after wrong input.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly WRONG_INPUT=2 POLL=${POLL:-60}
NAME='' PROJECT='' ZONE='' TYPE='' RUNTIME='' SLICES=1 BUCKET='' KIND='' DRY_RUN=''

fail() {
  echo "launch/tpu_vm.sh: $1" >&2
  exit $WRONG_INPUT
}

read_arguments() {
  COMMAND=${1:-}
  [[ $COMMAND =~ ^(create|setup|run|status|logs|delete)$ ]] ||
    fail "unknown command '$COMMAND'; create, setup, run, status, logs or delete?"
  shift
  while (($#)); do
    case $1 in
      --name=*) NAME=${1#*=} ;;
      --project=*) PROJECT=${1#*=} ;;
      --zone=*) ZONE=${1#*=} ;;
      --type=*) TYPE=${1#*=} ;;
      --slices=*) SLICES=${1#*=} ;;
      --bucket=*) BUCKET=${1#*=} ;;
      --runtime=*) RUNTIME=${1#*=} ;;
      --spot | --reserved) KIND=$1 ;;
      --dry-run) DRY_RUN=1 ;;
      --) shift && break ;;
      *) fail "unknown argument '$1'; arguments of vit_jax train come after --" ;;
    esac
    shift
  done
  TRAIN=("$@")
  [[ -n $NAME ]] || fail "--name is missing; give the machines a name"
  [[ -n $PROJECT ]] || fail "--project is missing; see gcloud projects list"
  [[ -n $ZONE ]] || fail "--zone is missing; see gcloud compute tpus locations list"
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "--slices=$SLICES; give a number from 1"
  WHERE=("--project=$PROJECT" "--zone=$ZONE")
}

# Before anything that costs money: checks the type, the config, and that the mesh fits both.
check() {
  [[ -n $TYPE ]] || fail "--type is missing; give the topology's, such as --type=v6e-64"
  JAX_PLATFORMS=cpu "${VENV:-.venv}/bin/python" launch/check.py \
    "--tpu=$TYPE" "--slices=$SLICES" -- "${TRAIN[@]}" >&2 || exit $WRONG_INPUT
  case $TYPE in
    v2-* | v3-*) CHIP=v3 DEFAULT=tpu-ubuntu2204-base ;;
    v4-*) CHIP=v4 DEFAULT=v2-alpha-tpuv4 ;;
    v5p-*) CHIP=v5p DEFAULT=v2-alpha-tpuv5 ;;
    v5litepod-*) CHIP=v5e DEFAULT=v2-alpha-tpuv5-lite ;;
    v6e-*) CHIP=v6e DEFAULT=v2-alpha-tpuv6e ;;
  esac
  RUNTIME=${RUNTIME:-$DEFAULT}
}

execute() {
  if [[ -n $DRY_RUN ]]; then
    echo "${*@Q}"
  else
    "$@"
  fi
}

queued() {
  execute gcloud compute tpus queued-resources "$1" "$NAME" "${WHERE[@]}" "${@:2}"
}

# On all workers of all slices.
everywhere() {
  queued ssh --node=all --worker=all "--command=$1"
}

state() {
  [[ -z $DRY_RUN ]] || return 0
  gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" '--format=value(state.state)'
}

create() {
  local nodes=("--node-id=$NAME")
  ((SLICES == 1)) || nodes=("--node-count=$SLICES" "--node-prefix=$NAME")
  queued create "--accelerator-type=$TYPE" "--runtime-version=$RUNTIME" "${nodes[@]}" \
    ${KIND:+"$KIND"}
  [[ -z $DRY_RUN ]] || return 0
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    [[ $now != FAILED ]] || fail "the request failed; see launch/tpu_vm.sh status"
    echo "waiting for the machines: ${now:-unknown}" >&2
    sleep "$POLL"
  done
}

setup() {
  local archive=vit_jax.tar.gz
  execute git archive --format=tar.gz "--output=$archive" HEAD
  execute gcloud compute tpus queued-resources scp "$archive" "$NAME:" "${WHERE[@]}" \
    --node=all --worker=all
  execute rm "$archive"
  everywhere "mkdir -p vit_jax && tar -xzf $archive -C vit_jax && cd vit_jax &&\
 bash launch/install.sh tpu,hub${BUCKET:+ && bash launch/mount_bucket.sh ${BUCKET@Q}}"
}

start() {
  local properties=(
    --property=Restart=on-failure --property=RestartSec=30
    --property=RestartPreventExitStatus=2 --property=TimeoutStopSec=300
  )
  everywhere "cd vit_jax; sudo systemctl reset-failed vit_jax 2>/dev/null;\
 sudo systemd-run --unit=vit_jax --uid=\$USER --working-directory=\$PWD ${properties[*]}\
 bash launch/with_flags.sh $CHIP .venv/bin/vit_jax train ${TRAIN[*]@Q}"
}

# Watches until the run is done on the first worker. Ctrl-C ends the watching, not the run.
run() {
  start
  [[ -z $DRY_RUN ]] || return 0
  local now unit
  while sleep "$POLL"; do
    now=$(state) || continue
    case $now in
      ACTIVE) ;;
      SUSPENDED | SUSPENDING | FAILED)
        echo "the machines were taken away ($now); replacing them" >&2
        delete
        create
        setup
        start
        continue
        ;;
      *) continue ;;
    esac
    unit=$(queued ssh --node=0 --worker=0 '--command=systemctl is-active vit_jax || true') ||
      continue
    case $unit in
      *inactive*) echo "done" >&2 && return ;;
      *failed*) fail "the run failed; see launch/tpu_vm.sh logs" ;;
    esac
  done
}

status() {
  queued describe
  everywhere 'systemctl status vit_jax --no-pager --lines=3 || true'
}

logs() {
  queued ssh --node=0 --worker=0 \
    '--command=sudo journalctl --unit=vit_jax --follow --lines=200 --output=cat'
}

delete() {
  queued delete --force --quiet
}

read_arguments "$@"
case $COMMAND in
  create | setup | run) check ;;
esac
"$COMMAND"
