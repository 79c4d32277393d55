#!/usr/bin/env bash
# Sets up an environment in the project folder and runs all tests: bash scripts/test.sh [pytest arguments]
set -u
. "$(dirname "$0")/setup.sh"
install requirements.txt tests/requirements.txt requirements-export.txt requirements-tensorboard.txt
exec .venv/bin/python -m pytest "$@"
