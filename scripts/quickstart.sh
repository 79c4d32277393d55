#!/usr/bin/env bash
# python scripts/quickstart.py with $PYTHON, or the first Python on the path that will do: bash scripts/quickstart.sh [ENV]
candidates=(python3 python3.13 python3.12 python3.11 python)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
for python in "${candidates[@]}"; do
  if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    exec "$python" "${0%.sh}.py" "$@"
  fi
done
echo "$(basename "$0"): needs Python 3.11, 3.12 or 3.13 on the path; or name one: PYTHON=/path/to/python bash $0" >&2
exit 1
