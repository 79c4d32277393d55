"""Every platform: nothing is imported that only POSIX systems have, and every module is known to the package."""

import subprocess
import sys
import tomllib

import pytest

from conftest import ROOT

# As on Windows: these modules and this function do not exist.
PROGRAM = """
import importlib, os, sys, threading, subprocess
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "fork", "setsid"):
    vars(os).pop(name, None)
for name in sys.argv[1:]:
    importlib.import_module(name)
from pops.support.vector import cores
print(cores())
"""


def modules():
    flat = [path.stem for path in ROOT.glob("*.py")]
    rooms = [".".join(path.relative_to(ROOT).with_suffix("").parts) for room in ROOMS for path in ROOT.glob(f"{room}/*.py")]
    return [f"pops.{name}" for name in (*flat, *rooms)]


ROOMS = ("policies", "deploy", "support", "scripts")
# Plain files of a clone, which run before anything is installed.
APART = {
    "pops.scripts.quickstart",
    "pops.scripts.test",
    "pops.scripts.setup_environment",
}


def test_every_module_imports_without_what_only_posix_has():
    names = [name for name in modules() if name not in APART]
    assert "pops.support.vector" in names and len(names) > 40
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) >= 1


@pytest.mark.parametrize("name", ["import pops", "from pops import compress", "import pops.support.commands"])
def test_the_package_imports_no_tensorflow(name):
    program = f"{name}; import sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_an_installation_has_every_module():
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    flat = {f"{path.name}": f"pops/{path.name}" for path in ROOT.glob("*.py")}
    rooms = {room: f"pops/{room}" for room in ROOMS}
    assert (flat | rooms).items() <= included["force-include"].items()


def test_a_users_modules_of_the_same_names_are_no_hindrance(tmp_path):
    for name in ("utils", "model", "configs", "files"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    program = (
        "import sys; sys.path.append(sys.argv[1]); from pops import compress; import pops.support.session; print('fine')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout == "fine\n", result.stderr
