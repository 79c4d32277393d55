"""Runs of a benchmark, one after the other here, or side by side on the machines of a Ray cluster.

A run is a process of its own in a folder that all machines share. Whatever is killed, the run goes on from its last
checkpoint where it is started next. A lease keeps two machines from making the same run at a time.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from pops.support.errors import ConfigurationError
from pops.support.experiments import ENVIRONMENTS
from pops.support.files import ROOT, make_folder

RENEWED = 5  # seconds between the signs of life of whoever has a lease
EXPIRED = 30  # seconds without one, after which it is another's


class Outcome(NamedTuple):
    """What came of a run: `failed` is the reason if it was refused or ended by an error, else empty."""

    failed: str
    seconds: float


class Killed(Exception):
    """The process of a run was killed; the run can go on."""


class Lease:
    """A file that says who makes a run. Its holder touches it again and again; a dead machine does not.

    The times compared are both of the file system, so that clocks of machines need not agree.

    Args:
        path: of the file; its folder is shared.
    """

    def __init__(self, path):
        self.path, self.token = Path(path), f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self.ended = threading.Event()

    def __enter__(self):
        while not self._take():
            time.sleep(RENEWED / 5)
        self.renewing = threading.Thread(target=self._renew, daemon=True)
        self.renewing.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.renewing.join()
        if self._mine():
            self.path.unlink(missing_ok=True)

    def _mine(self):
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_text() == self.token
        return False

    def _take(self):
        try:
            with open(self.path, "x") as file:
                file.write(self.token)
            return True
        except FileExistsError:
            if self._expired():
                with contextlib.suppress(FileNotFoundError):  # only one of those who wait can rename it
                    os.rename(self.path, stale := self.path.with_suffix(f".{uuid.uuid4().hex}"))
                    os.unlink(stale)
            return False

    def _expired(self):
        with contextlib.suppress(FileNotFoundError), tempfile.NamedTemporaryFile(dir=self.path.parent) as now:
            return os.stat(now.name).st_mtime - self.path.stat().st_mtime > EXPIRED
        return False

    def _renew(self):
        while not self.ended.wait(RENEWED):
            with contextlib.suppress(OSError):
                if self._mine():
                    os.utime(self.path)


@contextlib.contextmanager
def cores_of_its_own(count):
    """Cores that no other run on this machine uses, for as long as the block lasts; None where there are no such."""
    if not (count and hasattr(os, "sched_getaffinity")):
        yield None
        return
    allowed, folder = (
        sorted(os.sched_getaffinity(0)),
        make_folder(Path(tempfile.gettempdir()) / f"pops-cores-{os.getuid()}"),
    )
    with contextlib.ExitStack() as stack:
        taken = []
        for core in allowed:
            if len(taken) < count:
                with contextlib.suppress(Timeout):
                    stack.enter_context(FileLock(folder / str(core), timeout=0))
                    taken.append(core)
        yield taken if len(taken) == count else None


def make(experiment, storage, cores):
    """Makes a run, or goes on with it, until it has ended. Returns the Outcome.

    Args:
        experiment: Experiment.
        storage: folder of all runs.
        cores: how many it may use; 0 for all of the machine.

    Raises:
        Killed: its process was.
    """
    folder, start = make_folder((Path(storage) / str(experiment)).parent), time.perf_counter()
    name = f"seed{experiment.seed}"
    with Lease(folder / f"{name}.lease"), cores_of_its_own(cores) as own:
        if experiment.summary(storage):  # another machine has made it meanwhile
            return Outcome("", 0.0)
        try:
            command = experiment.command(storage)
        except ConfigurationError as error:
            return Outcome(str(error), 0.0)
        before_start = (lambda: _prepared(own)) if sys.platform == "linux" else None
        with open(folder / f"{name}.log", "a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, preexec_fn=before_start)
            try:
                code = process.wait()
            except KeyboardInterrupt:  # which the run's process has got as well
                process.wait()
                raise
        if code < 0:
            raise Killed(f"{experiment}: ended by signal {-code}")
        return Outcome(last_line(folder / f"{name}.log") if code else "", time.perf_counter() - start)


def _prepared(cores):
    """In the run's process, before it starts: it ends with this one, and keeps to its cores."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if cores:
        os.sched_setaffinity(0, cores)


def last_line(path):
    """The last line of a log, or nothing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "")


def one_by_one(experiments, storage, cores=0):
    """Makes runs here, one after the other. Yields (experiment, None) as each begins, (experiment, Outcome) as it ends."""
    failed = set()
    for experiment in experiments:
        if experiment.needed in failed:
            outcome = Outcome(f"needs {experiment.needed}, which failed", 0.0)
        else:
            yield experiment, None
            outcome = None
            while outcome is None:
                with contextlib.suppress(Killed):
                    outcome = make(experiment, storage, cores)
        if outcome.failed:
            failed.add(experiment)
        yield experiment, outcome


def on_ray(experiments, storage, cores, address=None):
    """Makes runs on a Ray cluster, as many at a time as it has cores and memory for. Yields as `one_by_one` does.

    A run whose process or machine dies is started again, on any machine.

    Args:
        storage: a folder that all machines share, at the same path. So is this project's.
        cores: for each run.
        address: of the cluster; without it, Ray is started on this machine.
    """
    import ray
    from ray.exceptions import RayError

    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        remote = ray.remote(max_retries=-1, retry_exceptions=[Killed])(_made)
        made, waiting = {}, {}
        for experiment in experiments:
            memory = ENVIRONMENTS[experiment.environment][1] * 2**30
            task = remote.options(num_cpus=max(1, cores), memory=memory, name=str(experiment))
            needed = made.get(experiment.needed)
            made[experiment] = task.remote(experiment, str(storage), cores, needed)
            waiting[made[experiment]] = experiment
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=1)
            for reference in ended:
                experiment = waiting.pop(reference)
                try:
                    yield experiment, ray.get(reference)
                except RayError as error:
                    yield experiment, Outcome(str(error).strip().split("\n")[-1], 0.0)
            if not ended:
                yield None, None
    finally:
        ray.shutdown()


def _made(experiment, storage, cores, needed):
    """`make`, as a task of Ray: after the run whose networks it needs."""
    if needed is not None and needed.failed:
        return Outcome(f"needs {experiment.needed}, which failed", 0.0)
    return make(experiment, Path(storage), cores)
