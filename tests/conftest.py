"""What the tests share: a small configuration, commands run as a user runs them, and runs made once."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from filelock import FileLock

from pops.configs import configuration
from pops.support import experiments
from pops.support.errors import ConfigurationError
from pops.support.run import Run

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "saved_models" / "cartpole" / "teacher.keras"

# A whole run of PoPS in seconds: few updates and episodes, and an objective that a barely trained student meets. It has
# two steps.
TINY = [*experiments.TINY, "prune.iterations=4", "prune.end=60", "distill.epochs=2", "pops.steps=2"]


@pytest.fixture
def config():
    return configuration("cartpole", assignments=TINY)


@pytest.fixture
def new_run(tmp_path):
    """Makes a Run with a configuration in a folder of its own."""
    numbers = itertools.count()

    def make(config, folder=None, **changes):
        folder = folder or tmp_path / f"run{next(numbers)}"
        return Run(
            folder,
            **{"command": "pops.py", "environment": "cartpole", "profile": "fast", "seed": 0} | changes,
            config=config,
        )

    return make


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def rows_of(run):
    """A run's metrics as dictionaries."""
    return [dict(zip(run.COLUMNS, row, strict=True)) for row in run.rows[1:]]


def command(script, *arguments, cwd=ROOT, env=None):
    """Runs a script of scripts/ as a user does. Returns the finished process."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=900,
    )


def refused(result, *words):
    """Exit 2, and one line on standard error that has the words."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in result.stderr


def read_or_refused(read, path, times, places):
    """Reads a file with random damages: cut off, or bytes changed in so many places. It is read, or refused in one line."""
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        content = bytearray(whole[: generator.integers(1, len(whole))] if generator.random() < 0.3 else whole)
        for place in generator.integers(0, len(content), places):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content)
        try:
            read(path)
        except ConfigurationError as error:
            assert "\n" not in str(error)


def tiny_pops(out, *arguments):
    return command("pops.py", "cartpole", "--out", out, *(f"--set={setting}" for setting in TINY), *arguments)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, worker_id):
    """A finished tiny run of pops.py with seed 0: its folder, the same for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "tiny"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            result = tiny_pops(folder)
            assert result.returncode == 0, result.stderr
    return folder
