"""A run folder: what a run writes as it goes on, and what a resumed one goes on from."""

import contextlib
import csv
import errno
import functools
import importlib.metadata
import inspect
import json
import platform
import shutil
import threading
import time
import weakref
from functools import partial

from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from pops.support.checkpoints import Checkpoints
from pops.support.console import console, log
from pops.support.errors import ConfigurationError, Damaged
from pops.support.files import LOCK, lock, make_folder, replacing, unfinished, write_json
from pops.support.networks import save_network
from pops.support.rewards import reward_statistics
from pops.support.tensorboard import Events

# What those who watch a run read, for the first words of the purposes that it remembers.
PHASES = {
    "goal": "random play, which the objective is measured from",
    "report": "reporting:",
    "choose": "comparing with the teacher:",
    "confirm": "what students are compared with:",
    "robust": "other ways to play:",
    "pruned": "pruning: step",
    "distilled": "distilling: step, size",
    "score": "confirming:",
}


def remembered(name):
    """Makes a function of a `task`, a `step` and maybe an `attempt` run once in a run: a resumed run remembers its result.

    Args:
        name: of the result. Named tuples come back as tuples.
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*arguments, **named):
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            numbers = [bound.arguments[key] for key in ("step", "attempt") if key in bound.arguments]
            return bound.arguments["task"].run.once((name, *numbers), function, *bound.args, **bound.kwargs)

        return call

    return decorate


class Resumable:
    """What changes in the course of a training and goes into its checkpoints: all attributes. Tuples lose their names."""

    def content(self):
        return dict(vars(self))

    def restore(self, content):
        vars(self).update(content)


class Run:
    """A run folder: what is written as a run goes on (see the README for its files), and what `--resume` goes on from.

    Every random number follows from the seed and its purpose, so a resumed run takes the same steps again from the start:
    what `once` finished is not done again, and a loop goes on from what it last handed to `checkpoint`.

    Args:
        folder: is made where there is none. It must not hold another run, and no other process may use it.
        command, environment, profile, seed, config: what runs.
        resume: the folder may hold this same run; it goes on from its last checkpoint, if there is one.
        origin: where the teacher that it starts from came from, with checksums: {key: text}.
        tensorboard: write the metrics for TensorBoard as well.

    Attributes:
        finished: the folder holds this run, and it is complete.

    Raises:
        ConfigurationError: the folder is in use, holds something else or another run, has only damaged checkpoints, or
            cannot be written.
    """

    COLUMNS = (
        *("seconds", "phase", "step", "iteration", "update", "weights", "nonzero", "sparsity"),
        *("learning_rate", "loss", "episodes", "reward_mean", "reward_stderr"),
    )

    LINE_SECONDS = 20

    def __init__(self, folder, command, environment, profile, seed, config, resume=False, origin=None, tensorboard=False):
        self.folder = make_folder(folder)
        self.bar = self.events = None
        self.every = self.wait = config["checkpoint"]["seconds"]
        self.description = {
            "command": command,
            "environment": environment,
            "profile": profile,
            "seed": seed,
            **(origin or {}),
            "settings": config,
        }
        # Where a file lies does not matter, if it is the same one.
        self.identity = {key: value for key, value in self.description.items() if key not in ("teacher", "normalizer")}
        self.checkpoints = Checkpoints(self.folder / "checkpoint", json.dumps(self.identity, sort_keys=True))
        self._check_own()  # before the lock, which is a file
        unlocked = not (self.folder / LOCK).exists()
        self.unlock = weakref.finalize(self, lock(self.folder).release)
        try:
            self._open(resume, tensorboard)
        except BaseException as error:
            self._leave() if unlocked else self.unlock()
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise ConfigurationError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None
            raise

    def _check_own(self):
        """Raises ConfigurationError where the folder holds files and no run."""
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            raise ConfigurationError(f"{self.folder}: cannot be read ({error.strerror}); give another --out") from None
        # A kill at once may leave the last two.
        if "config.json" not in names and names - {".config.writing.json", LOCK}:
            raise ConfigurationError(f"{self.folder}: holds other files; give a new folder with --out")

    def _open(self, resume, tensorboard):
        stored, saved = self.folder / "config.json", None
        if stored.exists():
            if not resume:
                raise ConfigurationError(
                    f"{self.folder}: holds a run already; go on with it with --resume, or give a new folder with --out"
                )
            self._check_same(stored)
            for path in unfinished(self.folder) + unfinished(self.checkpoints.folder):
                path.unlink()
            saved = self._read_checkpoint()
        else:
            write_json(stored, self.description | {"versions": versions()})
        self.finished = saved is None and "seconds" in self.summary()
        if resume and not saved and not self.finished:
            log(f"{self.folder}: nothing to go on from, starts from the beginning")
        saved = saved or {"done": {}, "loop": None, "parts": {}, "rows": [self.COLUMNS], "seconds": 0.0}
        self.done, self.loop, self.saved_parts, self.rows = (saved[key] for key in ("done", "loop", "parts", "rows"))
        self.parts = {}
        self.opened = self.last_checkpoint = time.perf_counter()
        self.start = self.opened - saved["seconds"]
        self.checkpoint_times = []
        if not self.finished:
            with replacing(self.folder / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file).writerows(self.rows)
            if tensorboard:
                self.events = Events(self.folder / "tensorboard", self.COLUMNS, self.rows[1:])

    def _check_same(self, stored):
        try:
            before = json.loads(stored.read_text())
            different = _difference({key: before.get(key) for key in self.identity}, self.identity)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ConfigurationError(f"{stored}: damaged ({error}); start again with another --out") from None
        if different:
            name, there, here = different
            raise ConfigurationError(
                f"{self.folder}: holds another run: {name} is {there} there and {here} here; "
                "resume it with its own settings, or give another --out"
            )
        if different := _difference(before.get("versions"), versions()):
            log("the run started with {} {}, now {}: its result may differ in the last bits".format(*different))

    def _read_checkpoint(self):
        try:
            saved = self.checkpoints.read(lambda path, error: log(f"{path}: damaged ({error}), left out"))
        except Damaged as error:
            raise ConfigurationError(f"{self.checkpoints.folder}: {error}; start again with another --out") from None
        if saved:
            log(f"{self.checkpoints.good[-1]}: goes on from here, {saved['seconds']:.0f} s into the run")
        return saved

    def summary(self):
        """What summary.json holds; {} before there is one."""
        path = self.folder / "summary.json"
        try:
            summary = json.loads(path.read_text())
            if not isinstance(summary, dict) or "teacher" not in summary:
                raise ValueError("it is no summary")
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}: damaged ({error}); start again with another --out") from None
        return summary

    @contextlib.contextmanager
    def watching(self):
        """While the block runs, tells how far the present phase is and its latest evaluation: a terminal by a bar, with the
        time left; elsewhere a line every `LINE_SECONDS`."""
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), "{task.fields[latest]}", TimeRemainingColumn())
        over = threading.Event()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            self.bar, self.shown = bar, bar.add_task("starting", total=None, latest="")
            if bar.disable:
                threading.Thread(target=self._tell, args=(bar, over), daemon=True).start()
            try:
                yield
            finally:
                over.set()
        self.bar = None

    def _tell(self, bar, over):
        """Logs the present phase every `LINE_SECONDS` until it is over."""
        while not over.wait(self.LINE_SECONDS):
            phase = bar.tasks[0]
            share = f", {100 * phase.completed / phase.total:.0f} %" if phase.total else ""
            latest = f"; last evaluation: {phase.fields['latest']}" if phase.fields["latest"] else ""
            log(f"{self.seconds():.0f} s: {phase.description}{share}{latest}")

    def progress(self, phase, done=0, total=None):
        """Tells who watches that a phase, in words, is `done` of `total`; the phase ends at that or before.

        Of a phase without `total` only the words are shown, and that something goes on.
        """
        if self.bar:
            task = self.bar.tasks[0]
            if phase != task.description:
                # What is over has its share no more, but the latest evaluation says something until the next one.
                self.bar.reset(self.shown, description=phase, total=total)
            self.bar.update(self.shown, completed=done, total=total)

    def seconds(self):
        """Seconds that the run has taken, without those that a kill undid."""
        return round(time.perf_counter() - self.start, 3)

    @property
    def evaluations(self):
        """Evaluations so far."""
        return len(self.rows) - 1

    def watch(self, *purpose):
        """What tells who watches, called with (done, total), how far that which has this purpose is."""
        first, *others = purpose
        return partial(self.progress, " ".join([PHASES.get(first, first), *map(str, others)]))

    def once(self, purpose, function, *arguments, **named):
        """What `function(*arguments)` returns. If it was done before the run was resumed, what it returned then."""
        key = _key(purpose)
        if key not in self.done:
            self.watch(*purpose)()
            self.done[key] = function(*arguments, **named)
            self.checkpoint()
        return self.done[key]

    def once_watched(self, purpose, function, *arguments):
        """The same for a function that tells how far it is: it gets the purpose's `watch`."""
        return self.once(purpose, partial(function, watch=self.watch(*purpose)), *arguments)

    def include(self, name, part):
        """Makes checkpoints hold a part's `content()`. Returns whether the run was resumed and the part restored."""
        self.parts[name] = part
        if name in self.saved_parts:
            part.restore(self.saved_parts[name])
        return name in self.saved_parts

    def interrupted(self, *purpose):
        """What the loop with this purpose handed to the checkpoint that the run was resumed from, or None."""
        if self.loop is None or self.loop[0] != _key(purpose):
            return None
        (_, content), self.loop = self.loop, None
        return content

    def checkpoint(self, content=None, *purpose):
        """Writes a checkpoint if it is time for one.

        Args:
            content: without arguments, returns what the loop with this purpose needs to go on; None between loops.
        """
        start = time.perf_counter()
        if start - self.last_checkpoint < self.wait:
            return
        self.checkpoints.write(
            {
                "done": self.done,
                "loop": content and (_key(purpose), content()),
                "parts": {name: part.content() for name, part in self.parts.items()},
                "rows": self.rows,
                "seconds": self.seconds(),
            }
        )
        self.last_checkpoint = time.perf_counter()
        self.checkpoint_times.append(self.last_checkpoint - start)
        if self.every:  # a slow disk, or much to write: not more than a twentieth of the time
            self.wait = min(90, max(self.every, 20 * self.checkpoint_times[-1]))

    def _leave(self):
        """Unlocks the folder and leaves no lock in it: nobody is to go on here."""
        self.unlock()
        with contextlib.suppress(OSError):
            (self.folder / LOCK).unlink()

    def finish(self):
        """Frees what only `--resume` needs."""
        if self.checkpoint_times:
            count, spent = len(self.checkpoint_times), sum(self.checkpoint_times)
            share = 100 * spent / (time.perf_counter() - self.opened)
            log(f"checkpoints: {count} in {spent:.1f} s, {share:.1f} % of the run's time")
        shutil.rmtree(self.checkpoints.folder, ignore_errors=True)
        self._leave()

    def metrics(self, *, rewards, **row):
        """Adds an evaluation's row to metrics.csv: rewards [episodes] and the columns that the phase has."""
        if "nonzero" in row:
            row["sparsity"] = round(1 - row["nonzero"] / row["weights"], 6)
        statistics = reward_statistics(rewards)
        row |= {name: statistics[name] for name in ("episodes", "reward_mean", "reward_stderr")}
        row["seconds"] = self.seconds()
        self.rows.append([row.get(name, "") for name in self.COLUMNS])
        with open(self.folder / "metrics.csv", "a", newline="") as file:
            csv.writer(file).writerow(self.rows[-1])
        if self.events:
            self.events.add(self.rows[-1])
        if self.bar:
            size = f"{row['nonzero']:,} weights ({100 * row['sparsity']:.1f} % pruned), " if "nonzero" in row else ""
            self.bar.update(self.shown, latest=f"{size}reward {row['reward_mean']:.1f} ± {row['reward_stderr']:.1f}")

    def save_model(self, name, network):
        """Writes a plain Keras network as `name`."""
        save_network(network, self.folder / name)

    def save_summary(self, summary):
        write_json(self.folder / "summary.json", summary)


def _key(purpose):
    return "/".join(map(str, purpose))


def _difference(before, now, name=""):
    """The first value in which two trees of dictionaries and lists differ, as (its name, before, now), or None."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(f"{name}.{key}" if name else key, before.get(key), now.get(key)) for key in (*now, *before)]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        before, now = json.dumps(before), json.dumps(now)
        return None if before == now else (name, before[:60], now[:60])
    return next((found for name, *pair in pairs if (found := _difference(*pair, name))), None)


def versions():
    packages = ("tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
