#!/usr/bin/env bash
# Under every other supported Python of this machine: installs vit_jax with the libraries that are
# newest there, checks types against them, and runs the tests of its packages and of what depends
# most on JAX.
#
#   bash launch/test_pythons.sh [PYTEST ARGUMENTS]     the tests to run instead, such as tests
#
# A Python is found as python3.X on the path or among pyenv's. VENV=.venv is the environment of
# launch/test.sh, whose Python is left out; the others are $VENV-3.X and are removed afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
TESTS=("$@")
if ((${#TESTS[@]} == 0)); then
  TESTS=(tests/test_packaging.py tests/models/test_layers.py tests/models/test_derivatives.py tests/train/test_step.py)
fi

find_python() {
  local python
  for python in "python3.$1" "$(pyenv root 2>/dev/null)"/versions/3."$1".*/bin/python; do
    "$python" -c '' 2>/dev/null && echo "$python" && return
  done
  echo "launch/test_pythons.sh: there is no Python 3.$1; left out" >&2
  return 1
}

test_under() { # PYTHON FOLDER
  VENV=$2 PYTHON=$1 bash launch/install.sh test && "$2/bin/mypy" &&
    "$2/bin/python" -m pytest -p no:cacheprovider "${TESTS[@]}"
}

tested=$("$VENV/bin/python" -c 'import sys; print(sys.version_info.minor)' 2>/dev/null || true)
jobs=()
for minor in 11 12 13; do
  [[ $minor == "$tested" ]] && continue
  python=$(find_python $minor) || continue
  folder=$VENV-3.$minor
  rm -rf "$folder"
  test_under "$python" "$folder" >"$folder.log" 2>&1 &
  jobs+=("$!:$folder")
done
status=0
for job in "${jobs[@]}"; do
  wait "${job%%:*}" || status=$?
  cat "${job#*:}.log"
  rm -rf "${job#*:}" "${job#*:}.log"
done
exit "$status"
