#!/usr/bin/env bash
# Creates a virtual environment and installs vit_jax into it, in place.
#
#   bash launch/install.sh [EXTRAS]      EXTRAS: cuda, tpu, test, ...; several: test,figures
#
# VENV=.venv is the environment's folder, PYTHON=python3 the interpreter that creates it. Does
# nothing when everything is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
EXTRAS=${1:-}
STAMP="$VENV/installed-${EXTRAS:-core}"

fail() {
  echo "launch/install.sh: $1" >&2
  exit 2
}

# TensorFlow, which reads the data, has no wheels for later versions of Python.
is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    is_supported "$python" && return
  done
  fail "${PYTHON:-python3} is not Python 3.11 to 3.13; name one with PYTHON=/path/to/python"
}

make_venv() {
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$VENV"
  elif "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --without-pip "$VENV"
    "$python" -m pip --python "$VENV/bin/python" install --quiet pip
  else
    fail "$python has neither ensurepip nor pip (Debian: python3-venv); name another with PYTHON=..."
  fi
  # The one that comes with a Python is old, and takes minutes to find versions that fit together.
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
}

if [[ $STAMP -nt setup.py && $STAMP -nt pyproject.toml ]]; then
  exit
fi
if [[ ! -x $VENV/bin/pip ]]; then
  find_python
  make_venv
fi
case ",$EXTRAS," in
  *,cuda,* | *,test,*) size="several GB" ;;
  *) size="about 500 MB" ;;
esac
echo "Installing vit_jax${EXTRAS:+[$EXTRAS]} into $VENV; the first time this downloads $size" \
  "and takes minutes." >&2
# With pip's own progress; packages that are there already are not listed.
"$VENV/bin/pip" install --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}" |
  { grep --line-buffered -v '^Requirement already satisfied' || true; } >&2
touch "$STAMP"
