#!/usr/bin/env bash
# Runs a command with a chip's flags for the compiler and the network (launch/flags):
#
#   bash launch/with_flags.sh v6e vit_jax train --config=... --workdir=...
set -euo pipefail
FLAGS=$(dirname "$0")/flags
CHIP=${1:-}
if [[ ! -f $FLAGS/$CHIP.sh ]]; then
  known=$(cd "$FLAGS" && echo *.sh)
  echo "launch/with_flags.sh: no flags for chip '$CHIP'; known: ${known//.sh/}" >&2
  exit 2
fi
shift
# shellcheck source=/dev/null
source "$FLAGS/$CHIP.sh"
exec "$@" # signals reach the command
