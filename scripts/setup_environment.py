"""What quickstart.py and test.py share: making the virtual environment .venv in the project folder, and running in it.

Needs the standard library only. The Python that starts the command makes .venv, where there is none yet.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.json"  # the requirement files of the last installation: {name: text}
OLDEST, NEWEST = (3, 11), (3, 13)  # what TensorFlow has packages for
VERSIONS = "Python 3.11, 3.12 or 3.13"


def install(*names):
    """Makes .venv hold the packages of these requirement files. Does nothing if it does already."""
    _check_version()
    try:
        if not _is_whole():
            _make()
        wanted = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
        if not wanted.items() <= _installed().items():
            _fill(wanted)
    except KeyboardInterrupt:
        die("interrupted; start it again")
    except OSError as error:
        die(f"{error}; start it again when that is mended")


def run(*arguments):
    """Goes on as the Python of .venv with these arguments, in the project folder, and ends with its exit code."""
    os.chdir(ROOT)
    command = [str(PYTHON), *map(str, arguments)]
    if os.name != "nt":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, lambda *_: None)  # Windows cannot turn into another program; Ctrl-C is for that one
    sys.exit(subprocess.call(command))


def die(message):
    """Ends with one line and exit code 1."""
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def _check_version():
    """Refuses a Python that TensorFlow has no packages for. Older ones, from 3.6, must be able to read this module."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        version = ".".join(map(str, sys.version_info[:3]))
        example = "py -3.13" if os.name == "nt" else "python3.13"
        die(f"needs {VERSIONS}, and {sys.executable} is {version}; start it with one of those: {example} {sys.argv[0]}")


def _is_whole():
    """Whether .venv is a virtual environment of a Python that will do, with pip."""
    check = f"import sys, pip._internal.cli.main; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.call([str(PYTHON), "-c", check], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _make():
    """Makes .venv, with the Python that runs this."""
    if os.path.lexists(VENV):
        die(f"{VENV} is no whole virtual environment of {VERSIONS} with pip; remove it and start again")
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        package = "python{}.{}-venv".format(*sys.version_info)
        die(f"the venv module of {sys.executable} is missing; on Debian and Ubuntu: apt install {package}")
    print("making a virtual environment in .venv", flush=True)
    done = False
    try:
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], cwd=ROOT, capture_output=True, text=True)
        done = made.returncode == 0
    finally:
        if not done:  # or interrupted
            shutil.rmtree(VENV, ignore_errors=True)
    if not done:
        die(f"no virtual environment can be made in {VENV} ({_last_line(made.stdout + made.stderr)})")


def _installed():
    """What the stamp says is installed; nothing if there is none, or none that can be read."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _fill(wanted):
    """Installs requirement files {name: text} and stamps .venv with them."""
    print("installing (TensorFlow is large; this takes some minutes)", flush=True)
    STAMP.unlink(missing_ok=True)
    # Python compiles a module when it is first imported; compiling all of them here takes as long as the rest.
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    files = [f"-r{name}" for name in wanted]
    log = VENV / "install.log"
    with log.open("wb") as output:
        failed = subprocess.call([*pip, *files], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    if failed:
        reason = _last_line(log.read_text(encoding="utf-8", errors="replace"))
        die(f"pip cannot install the packages ({reason}); is there a network? The whole story is in {log}")
    STAMP.write_text(json.dumps(wanted, indent=1), encoding="utf-8")


def _last_line(text):
    return text.strip().rpartition("\n")[2]
