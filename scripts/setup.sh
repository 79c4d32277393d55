# Sourced by quickstart.sh and test.sh: makes the virtual environment .venv in the project folder and installs into it.

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Prints a Python that TensorFlow has packages for, 3.11 to 3.13: $PYTHON if set, or the first on the path.
find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11 python)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# install FILE...: makes .venv hold the packages of these requirement files. Does nothing if it does already.
install() {
  local python stamp
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    [ ! -e .venv ] || die "$PWD/.venv is no whole virtual environment with pip; remove it and start again"
    python=$(find_python) || die "needs Python 3.11, 3.12 or 3.13 on the path; or name one: PYTHON=/path/to/python bash $0"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"
    echo "making a virtual environment in .venv"
    "$python" -m venv .venv || die "no virtual environment can be made in $PWD/.venv"
  fi
  stamp=$(cat "$@" | cksum)
  if [ "$(cat ".venv/installed-$#" 2>/dev/null)" != "$stamp" ]; then
    echo "installing (TensorFlow is large; this takes some minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@/#/-r}" >.venv/install.log 2>&1 ||
      die "pip cannot install the packages (is there a network?); the whole story is in $PWD/.venv/install.log"
    echo "$stamp" >".venv/installed-$#"
  fi
}
