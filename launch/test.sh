#!/usr/bin/env bash
# Creates a virtual environment, installs vit_jax with the tests' requirements, and runs the tests.
#
#   bash launch/test.sh [PYTEST ARGUMENTS]      e.g. -m 'not slow', or tests/models
#
# VENV and PYTHON: see launch/install.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
bash launch/install.sh test

"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -n 2 --dist worksteal "$@"
