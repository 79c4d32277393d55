#!/usr/bin/env bash
# Sets up an environment in the project folder and runs PoPS from the shipped teacher: bash scripts/quickstart.sh [ENV]
set -u
. "$(dirname "$0")/setup.sh"
install requirements.txt
env=${1:-cartpole}
number=1
while [ -e "runs/quickstart-$env-$number" ]; do number=$((number + 1)); done
exec .venv/bin/python scripts/pops.py "$env" --out "runs/quickstart-$env-$number"
