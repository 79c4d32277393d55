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

from pops.support.console import log
from pops.support.errors import ConfigurationError
from pops.support.experiments import ENVIRONMENTS
from pops.support.files import IN_USE, ROOT, make_folder, write_json

RENEWED = 5  # seconds between the signs of life of whoever has a lease
EXPIRED = 30  # seconds without one, after which it is another's
KILLS = 20  # of one run, after which it is given up

# Loaded before anything is started: a process that was forked from one with threads should not.
LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None


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
        with contextlib.suppress(OSError):
            if self.mine():
                self.path.unlink()

    def mine(self):
        """Whether nobody has taken it meanwhile."""
        try:
            return self.path.read_text() == self.token
        except FileNotFoundError:
            return False

    def _take(self):
        try:
            with open(self.path, "x") as file:
                file.write(self.token)
            return True
        except OSError:  # it is there, or, on Windows, open
            if expired := self._expired():
                self._remove(expired)
            return False

    def _expired(self):
        """The token of a holder that gave no sign of life for too long, else None."""
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=self.path.parent) as now:
            token = self.path.read_text()
            if os.stat(now.name).st_mtime - self.path.stat().st_mtime > EXPIRED:
                return token or "nobody"
        return None

    def _remove(self, expired):
        """Removes the lease of an expired holder; that of another, who took it meanwhile, is put back."""
        with contextlib.suppress(OSError):
            os.rename(self.path, aside := self.path.with_suffix(f".{uuid.uuid4().hex}"))
            if (aside.read_text() or "nobody") != expired:
                os.link(aside, self.path)
            os.unlink(aside)

    def _renew(self):
        while not self.ended.wait(RENEWED):
            with contextlib.suppress(OSError):
                if self.mine():
                    os.utime(self.path)


@contextlib.contextmanager
def cores_of_its_own(count):
    """Cores that no other run on this machine uses, for as long as the block lasts; None where there are no such."""
    if not (count and hasattr(os, "sched_getaffinity")):
        yield None
        return
    folder = make_folder(Path(tempfile.gettempdir()) / f"pops-cores-{os.getuid()}")
    with contextlib.ExitStack() as stack:
        taken = []
        for core in sorted(os.sched_getaffinity(0)):
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
    start, storage = time.perf_counter(), Path(storage)
    make_folder((storage / str(experiment)).parent)
    with Lease(storage / f"{experiment}.lease") as lease, cores_of_its_own(cores) as own:
        if experiment.summary(storage):  # another machine has made it meanwhile
            return Outcome("", 0.0)
        try:
            command = experiment.command(storage)
        except ConfigurationError as error:
            return Outcome(str(error), 0.0)
        write_json(storage / f"{experiment}.json", experiment.describes())
        before_start = (lambda: _prepared(own)) if sys.platform == "linux" else None
        with open(storage / f"{experiment}.log", "a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, preexec_fn=before_start)
            try:
                code = _wait(process, lease)
            except KeyboardInterrupt:  # which the run's process has got as well
                process.wait()
                raise
        said = last_line(storage / f"{experiment}.log")
        if code < 0 or (code and IN_USE in said):  # elsewhere than on Linux the process of a dead worker may go on
            time.sleep(1)
            raise Killed(f"{experiment}: ended by signal {-code}" if code < 0 else said)
        return Outcome(said if code else "", time.perf_counter() - start)


def _wait(process, lease):
    """Waits for the end of a run. Returns its exit code; where the lease was lost, ends the run first."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=RENEWED)
        with contextlib.suppress(OSError):  # storage that does not answer says nothing
            if not lease.mine():
                process.kill()


def _prepared(cores):
    """In the run's process, before it starts: it ends with this one, and keeps to its cores."""
    LIBRARY.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
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
            for _ in range(KILLS):
                try:
                    outcome = make(experiment, storage, cores)
                    break
                except Killed as error:
                    outcome = Outcome(f"{error}, {KILLS} times; perhaps there is not enough memory", 0.0)
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
    with started(address) as ray:
        remote = ray.remote(max_retries=KILLS, retry_exceptions=[Killed])(_made)
        made, waiting = {}, {}
        rooms = needs(experiments, cores, ray.nodes())
        for experiment in experiments:
            count, memory = rooms[experiment]
            task = remote.options(num_cpus=count, memory=memory, name=str(experiment))
            needed = made.get(experiment.needed)
            made[experiment] = task.remote(experiment, str(storage), cores, needed)
            waiting[made[experiment]] = experiment
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=1)
            for reference in ended:
                experiment = waiting.pop(reference)
                try:
                    yield experiment, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield experiment, Outcome(str(error).strip().split("\n")[-1], 0.0)
            if not ended:
                yield None, None


@contextlib.contextmanager
def started(address=None):
    """Ray, for as long as the block lasts: of the cluster at this address, or started on this machine."""
    import ray

    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    context = ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        log_to_driver=False,
        logging_level="ERROR",
    )
    if context.dashboard_url:
        log(f"Ray's dashboard: http://{context.dashboard_url}")
    try:
        yield ray
    finally:
        ray.shutdown()


def needs(experiments, cores, machines):
    """The cores and bytes of memory that each run takes: {Experiment: (cores, bytes)}.

    Args:
        cores: for each run; 0 for all of a machine.
        machines: as `ray.nodes()` gives them.

    Raises:
        ConfigurationError: no machine has room for one of them.
    """
    memory = {experiment: ENVIRONMENTS[experiment.environment][1] for experiment in experiments}
    whole = _largest(machines, cores, max(memory.values()))
    return {experiment: (cores or whole, size * 2**30) for experiment, size in memory.items()}


def _largest(machines, cores, memory):
    """How many cores the largest machine of a cluster has. Raises ConfigurationError where none has room for a run.

    Args:
        machines: as `ray.nodes()` gives them.
        cores, memory: that a run takes; memory in GB.
    """
    rooms = [(machine["Resources"].get("CPU", 0), machine["Resources"].get("memory", 0) / 2**30) for machine in machines]
    if not any(count >= max(1, cores) and free >= memory for count, free in rooms):
        count, free = max(rooms, default=(0, 0))
        raise ConfigurationError(
            f"no machine has {max(1, cores)} cores and {memory} GB for a run: the largest has {count:.0f} and {free:.1f}; "
            "give --cores, or use --one-by-one"
        )
    return int(max(rooms)[0])


def _made(experiment, storage, cores, needed):
    """`make`, as a task of Ray: after the run whose networks it needs."""
    if needed is not None and needed.failed:
        return Outcome(f"needs {experiment.needed}, which failed", 0.0)
    return make(experiment, storage, cores)
