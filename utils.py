"""What the algorithm stands on: seeds, playing and evaluation, replay memory, run folder, logging and plots."""

import contextlib
import csv
import errno
import importlib.metadata
import json
import math
import os
import platform
import shutil
import time
import weakref
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from configs import ConfigurationError
from environments import make_environments
from files import Checkpoints, Damaged, lock, replacing, unfinished, write_json
from model import kernels, read_network, save_network

ROOT = Path(__file__).resolve().parent
# It would warn that loops are compiled anew: those of a Player are, for every evaluation.
tf.get_logger().setLevel("ERROR")


# Seeds


class Seeds:
    """Every random number of a run, derived from its one seed and from what the number is for."""

    # Environments of different uses get seeds from ranges that do not meet: what training or the choice within an epoch has
    # seen does not confirm that choice, and what any choice has seen is not reported.
    USES = ("train", "select", "confirm", "report")
    RANGE = 2**29
    COPIES = 10_000  # the seeds of an environment's copies follow on one another

    def __init__(self, seed):
        self.seed = seed

    def generator(self, *purpose):
        """A NumPy generator for one purpose, for example ("minibatches", "prune", step, iteration)."""
        key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
        return np.random.default_rng([self.seed, *key])

    def environment(self, use, *purpose):
        """An environment seed for one of the `USES`."""
        number = int(self.generator(use, *purpose).integers(self.RANGE))
        return self.USES.index(use) * self.RANGE + min(number, self.RANGE - self.COPIES)


# Playing and evaluation


def select_actions(outputs, acting, seed, epsilon=None, bounds=()):
    """Actions, int64 [...], from a policy's outputs, float32 [..., actions]. Runs inside compiled functions.

    Args:
        acting: "greedy" (the largest output) or "sample" (from the softmax of the outputs).
        seed: two integers for the random numbers.
        epsilon: share of actions drawn uniformly instead; None for none.
        bounds: least and greatest values, each [actions], of continuous actions, which are float32 [..., actions]: the
            outputs, kept within these.
    """
    uniform = tf.random.stateless_uniform
    if len(bounds):
        low, high = (tf.constant(bound, tf.float32) for bound in bounds)
        actions = tf.clip_by_value(outputs, low, high)
        if epsilon is not None:
            others = low + (high - low) * uniform(tf.shape(actions), seed + tf.constant([1, 0]))
            actions = tf.where(
                uniform(tf.shape(actions)[:-1], seed + tf.constant([2, 0]))[..., None] < epsilon, others, actions
            )
        return actions
    if acting == "sample":  # the Gumbel-max trick
        outputs -= tf.math.log(-tf.math.log(uniform(tf.shape(outputs), seed, minval=1e-9)))
    actions = tf.argmax(outputs, axis=-1)
    if epsilon is not None:
        shape, count = tf.shape(actions), outputs.shape[-1]
        others = uniform(shape, seed + tf.constant([1, 0]), maxval=count, dtype=tf.int64)
        actions = tf.where(uniform(shape, seed + tf.constant([2, 0])) < epsilon, others, actions)
    return actions


class Step(NamedTuple):
    """One step of all copies that a Player plays, as NumPy arrays over [members * copies].

    Attributes:
        observations: what the policy saw, [..., *observation_shape].
        outputs: what it gave, float32 [..., actions].
        actions, rewards, terminated, truncated: what followed.
        ended: terminated or truncated.
        over: the episode had ended before: the environment only starts the next one, and no action is taken.
    """

    observations: np.ndarray
    outputs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray

    @property
    def ended(self):
        return self.terminated | self.truncated


class Player:
    """Lets a policy play copies of an environment side by side, in one compiled loop.

    Args:
        policy: (*arguments, observations [members, copies, *observation_shape]) -> outputs [members, copies, actions].
        settings: the configuration's group `environment`.
        copies: copies of the environment for each member.
        acting, epsilon: see `select_actions`.
        members: policies that play side by side.
        autoreset: whether the copies start over after their end; see `make_environments`.

    Attributes:
        observations: the present ones, [members * copies, *observation_shape].
        played: after `evaluate`, numbers that tell episodes apart whose discrete actions differ, uint64 [members * copies].
    """

    def __init__(self, policy, settings, copies, acting, epsilon=None, members=1, autoreset=False):
        self.shape = (members, copies)
        self.environments = make_environments(settings, members * copies, autoreset)
        space, actions = self.environments.single_observation_space, self.environments.single_action_space
        continuous = isinstance(actions, gymnasium.spaces.Box)
        bounds = (actions.low, actions.high) if continuous else ()
        self.action_shape = actions.shape

        def loop(observations, seed, *arguments):
            def step(index, observations, _):
                grouped = tf.reshape(observations, [*self.shape, *space.shape])
                outputs = policy(*arguments, grouped)
                actions = select_actions(outputs, acting, tf.stack([seed, index]), epsilon, bounds)
                observations, going = tf.numpy_function(self._step, [outputs, actions], [space.dtype, tf.bool])
                observations.set_shape([members * copies, *space.shape])
                going.set_shape([])
                return index + 1, observations, going

            tf.while_loop(lambda index, _, going: going, step, (0, observations, True), parallel_iterations=1)

        self._loop = tf.function(loop, autograph=False)

    def _step(self, outputs, actions):
        before, actions = self.observations, actions.reshape(-1, *self.action_shape)
        try:
            self.observations, *results, _ = self.environments.step(actions)
            step = Step(before, outputs.reshape(len(before), -1), actions, *results, self.over)
            self.over, going = step.ended, self._on_step(step)
        except BaseException as error:  # TensorFlow would make another one of it
            self._error, going = error, False
        return self.observations, np.bool_(going)

    def play(self, seed, on_step, *arguments, go_on=False):
        """Plays until `on_step` says no.

        Args:
            seed: seed of the environments and of random actions.
            on_step: Step -> whether to play another one.
            arguments: tensors for the policy.
            go_on: from where the last play ended; otherwise from environments freshly seeded.
        """
        self._on_step, self._error = on_step, None
        if not go_on:
            self._start(seed)
        self._loop(tf.constant(self.observations), tf.constant(seed), *arguments)
        self._on_step = None  # and with it what it holds
        if self._error is not None:
            raise self._error

    def _start(self, seed):
        self.observations, _ = self.environments.reset(seed=seed)
        self.over = np.zeros(len(self.observations), bool)

    def retrace(self, seed, actions):
        """Brings the environments to where they were some actions after a `play` from freshly seeded ones.

        Args:
            actions: int [steps, members * copies].
        """
        self._start(seed)
        for now in actions.astype(np.int64):
            self.observations, _, terminated, truncated, _ = self.environments.step(now)
            self.over = terminated | truncated

    def close(self):
        """Frees the environments."""
        self.environments.close()

    def evaluate(self, seed, *arguments, visited=None, watch=None):
        """Plays one whole episode in every copy.

        Args:
            visited: called with the observations [n, *observation_shape] that the policy acts on, in every step.
            watch: called with the number of episodes that are over, in every step.

        Returns:
            Sums of raw rewards, float64 [members, copies].
        """
        sums = np.zeros(math.prod(self.shape))
        playing = np.ones(sums.shape, bool)
        self.played = np.zeros(sums.shape, np.uint64)

        def on_step(step):
            if visited:
                visited(step.observations[playing])
            np.add(sums, step.rewards, out=sums, where=playing)
            if not self.action_shape:
                # A number for all actions of an episode, by a linear congruential generator.
                number = self.played * np.uint64(6364136223846793005) + (step.actions + 1).astype(np.uint64)
                np.copyto(self.played, number, where=playing)
            np.logical_and(playing, ~step.ended, out=playing)
            left = np.count_nonzero(playing)
            if watch:
                watch(len(playing) - left)
            return left > 0

        self.play(seed, on_step, *arguments)
        return sums.reshape(self.shape)


def single(network):
    """A plain Keras network as a policy for `Player`."""
    return lambda observations: network(observations[0])[None]


def standard_error(rewards):
    """Standard error of the mean along the last axis."""
    return rewards.std(axis=-1, ddof=1) / np.sqrt(rewards.shape[-1])


def reward_statistics(rewards, played=None):
    """Episodes, mean, standard error, lowest: how every reward is reported.

    Args:
        played: a Player's; adds the number of different episodes where some are the same.
    """
    distinct = len(np.unique(played)) if played is not None else rewards.size
    return {
        "episodes": int(rewards.size),
        "reward_mean": float(rewards.mean()),
        "reward_stderr": float(standard_error(rewards.reshape(-1))),
        "reward_min": float(rewards.min()),
        **({"distinct": distinct} if distinct < rewards.size else {}),
    }


# Replay memory


class ReplayMemory:
    """A ring of preallocated arrays, one for each field; the newest entries replace the oldest.

    Args:
        capacity: entries that fit.
        fields: {name: (shape, dtype)}.
    """

    def __init__(self, capacity, fields):
        self.arrays = {name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in fields.items()}
        self.capacity, self.size, self.next = capacity, 0, 0

    def entry_bytes(self):
        return sum(array.nbytes for array in self.arrays.values()) // self.capacity

    def add(self, **batch):
        """Adds entries: {name: array [n, *shape]}, at most `capacity` of them."""
        count = len(next(iter(batch.values())))
        positions = (self.next + np.arange(count)) % self.capacity
        for name, array in self.arrays.items():
            array[positions] = batch[name]
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def skip(self, count):
        """Goes on as if `count` entries had been added, all of which will be replaced before any is drawn."""
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, generator, updates, batch_size):
        """Minibatches for a block of updates: a list of arrays [updates, batch_size, *shape], in the fields' order."""
        rows = self.rows(generator, (updates, batch_size))
        return [np.take(array, rows, axis=0) for array in self.arrays.values()]

    def rows(self, generator, shape):
        """Draws entries: integers [*shape]."""
        return generator.integers(self.size, size=shape, dtype=np.int32)


class Transitions(ReplayMemory):
    """What a teacher learns from by Q-learning: single transitions.

    Args:
        capacity: transitions that fit.
        shape: of an observation.
        settings: the configuration's group `teacher`.
    """

    history = math.inf  # steps of all copies that build it anew

    def __init__(self, capacity, shape, settings):
        self.discount = np.float32(settings["discount"])
        fields = {
            "observations": (shape, np.float32),
            "actions": ([], np.int32),
            "rewards": ([], np.float32),
            "next_observations": (shape, np.float32),
            "terminated": ([], np.float32),
        }
        super().__init__(capacity, fields)

    def add_step(self, observations, actions, rewards, following, terminated, ended, over):
        """Adds a step of all copies, arrays [copies, ...].

        Args:
            over: the episode had ended before, so that the step only started the next one.
        """
        kept = ~over
        self.add(
            observations=observations[kept],
            actions=actions[kept],
            rewards=rewards[kept],
            next_observations=following[kept],
            terminated=terminated[kept],
        )

    def sample(self, generator, updates, batch_size):
        """Observations, actions, rewards, observations that follow, and the factors with which their values count."""
        *batches, terminated = super().sample(generator, updates, batch_size)
        return *batches, self.discount * (1 - terminated)


class FrameTransitions(ReplayMemory):
    """The same for observations that are stacks of frames: keeps each frame once, and learns over several steps.

    Rows follow one another in steps of all copies. A row is a state with the action taken there and what came of it.

    Args:
        capacity, shape, settings: see Transitions.
    """

    def __init__(self, capacity, shape, settings):
        self.copies, self.steps, self.discount = settings["environments"], settings["n_steps"], settings["discount"]
        self.stack, *frame = shape
        fields = {
            "frames": (frame, np.uint8),  # the newest of the stack
            "first": ([], bool),  # in its episode
            "actions": ([], np.int32),
            "rewards": ([], np.float32),
            "terminated": ([], bool),
            "ended": ([], bool),
            "over": ([], bool),  # the episode's end: no action was taken here
        }
        self.history = capacity // self.copies
        super().__init__(self.history * self.copies, fields)
        self.over = np.ones(self.copies, bool)  # before the first step

    def add_step(self, observations, actions, rewards, following, terminated, ended, over):
        self.add(
            frames=observations[:, -1],
            first=self.over,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            ended=ended,
            over=over,
        )
        self.over = over

    def sample(self, generator, updates, batch_size):
        oldest = self.next - self.size
        low = self.stack * self.copies if self.size == self.capacity else 0  # their older frames are gone
        high = self.size - self.steps * self.copies
        rows = np.zeros((updates, batch_size), np.int64)
        wanted = np.ones(rows.shape, bool)
        while count := np.count_nonzero(wanted):
            rows[wanted] = (oldest + generator.integers(low, high, count)) % self.capacity
            wanted = self.arrays["over"][rows]
        rewards, factors = np.zeros(rows.shape, np.float32), np.full(rows.shape, self.discount**self.steps, np.float32)
        following, going = self._later(rows, self.steps), np.ones(rows.shape, bool)
        for step in range(self.steps):
            here = self._later(rows, step)
            rewards += np.where(going, np.float32(self.discount**step) * self.arrays["rewards"][here], 0)
            terminated, ended = (going & self.arrays[name][here] for name in ("terminated", "ended"))
            factors[ended] = self.discount ** (step + 1)
            factors[terminated] = 0
            following = np.where(ended, self._later(here, 1), following)
            going &= ~(terminated | ended)
        return self._stacks(rows), self.arrays["actions"][rows], rewards, self._stacks(following), factors

    def _later(self, rows, steps):
        return (rows + steps * self.copies) % self.capacity

    def _stacks(self, rows):
        """Stacked frames, uint8 [*rows.shape, stack, height, width]; black where the episode had not begun."""
        places, begun = np.empty((2, *rows.shape, self.stack), np.int64)
        now = np.ones(rows.shape, np.int64)
        for place in reversed(range(self.stack)):
            places[..., place], begun[..., place] = rows, now
            now &= ~self.arrays["first"][rows]
            rows = self._later(rows, -1)
        result = np.take(self.arrays["frames"], places, axis=0)
        result[begun == 0] = 0
        return result


# Run folder and files


def portable(path):
    """A path as text: from the project's folder if it lies in there, else absolute."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def make_folder(path):
    """Makes a folder where there is none. Raises ConfigurationError if that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: no folder can be made there ({error.strerror}); write elsewhere") from None
    return Path(path)


class Run:
    """A run folder: what is written as a run goes on (see the README for its files), and what `--resume` goes on from.

    Every random number follows from the seed and its purpose, so a resumed run takes the same steps again from the start:
    what `once` finished is not done again, and a loop goes on from what it last handed to `checkpoint`.

    Args:
        folder: is made where there is none. It must not hold another run, and no other process may use it.
        command, environment, profile, seed, config: what runs.
        resume: the folder may hold this same run; it goes on from its last checkpoint, if there is one.
        teacher: where the teacher that it starts from came from, and its checksum, if there are such.
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

    def __init__(self, folder, command, environment, profile, seed, config, resume=False, teacher=None, tensorboard=False):
        self.folder = make_folder(folder)
        self.bar = self.events = None
        self.every = self.wait = config["checkpoint"]["seconds"]
        self.description = {
            "command": command,
            "environment": environment,
            "profile": profile,
            "seed": seed,
            **(dict(zip(("teacher", "teacher_sha256"), teacher, strict=True)) if teacher else {}),
            "settings": config,
        }
        # Where a file lies does not matter, if it is the same one.
        self.identity = {key: value for key, value in self.description.items() if key != "teacher"}
        self.checkpoints = Checkpoints(self.folder / "checkpoint", json.dumps(self.identity, sort_keys=True))
        self.unlock = weakref.finalize(self, os.close, lock(self.folder))
        try:
            self._open(resume, tensorboard)
        except BaseException as error:
            self.unlock()
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise ConfigurationError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None
            raise

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
        elif {path.name for path in self.folder.iterdir()} - {".config.writing.json"}:  # what a kill at once may leave
            raise ConfigurationError(f"{self.folder}: holds other files; give a new folder with --out")
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
                self.events = Events(self.folder / "tensorboard", self.rows[1:])

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
        """While the block runs, a terminal shows how far the present phase is, its latest evaluation, and the time left."""
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), "{task.fields[latest]}", TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            self.bar, self.shown = bar, bar.add_task("starting", total=None, latest="")
            yield
        self.bar = None

    def progress(self, phase, done=0, total=None):
        """Tells who watches that a phase, in words, is `done` of `total`; the phase ends at that or before.

        Of a phase without `total` only the words are shown, and that something goes on.
        """
        if self.bar and not self.bar.disable:
            if phase != self.bar.tasks[0].description:
                self.bar.remove_task(self.shown)
                self.shown = self.bar.add_task(phase, total=total, latest="")
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
        return partial(self.progress, " ".join(map(str, purpose)))

    def once(self, purpose, function, *arguments):
        """What `function(*arguments)` returns. If it was done before the run was resumed, what it returned then."""
        key = _key(purpose)
        if key not in self.done:
            self.watch(*purpose)()
            self.done[key] = function(*arguments)
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

    def finish(self):
        """Frees what only `--resume` needs."""
        if self.checkpoint_times:
            count, spent = len(self.checkpoint_times), sum(self.checkpoint_times)
            share = 100 * spent / (time.perf_counter() - self.opened)
            log(f"checkpoints: {count} in {spent:.1f} s, {share:.1f} % of the run's time")
        shutil.rmtree(self.checkpoints.folder, ignore_errors=True)

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


class Events:
    """A run's metrics as TensorBoard reads them.

    Args:
        folder: for the files; what is there is replaced.
        rows: those of metrics.csv so far.
    """

    SCALARS = ("reward_mean", "reward_stderr", "sparsity", "nonzero", "loss", "learning_rate")

    def __init__(self, folder, rows):
        shutil.rmtree(folder, ignore_errors=True)
        self.writer, self.rows = tf.summary.create_file_writer(str(folder)), 0
        for row in rows:
            self.add(row)

    def add(self, row):
        """Adds a row of metrics.csv."""
        values = dict(zip(Run.COLUMNS, row, strict=True))
        teacher = values["phase"] == "teacher"  # its steps are the environment's, the others those of PoPS
        name = "teacher" if teacher else f"step {values['step']}, {values['phase']}"
        self.rows += 1  # updates begin again with every size that is tried and every rollback
        with self.writer.as_default(step=int(values["step"]) if teacher else self.rows):
            for scalar in self.SCALARS:
                if values[scalar] != "":
                    tf.summary.scalar(f"{name}/{scalar}", values[scalar])
        self.writer.flush()

    def add_images(self, paths):
        """Adds PNG files."""
        with self.writer.as_default(step=0):
            for path in paths:
                tf.summary.image(path.stem, tf.io.decode_png(path.read_bytes(), channels=3)[None])
        self.writer.flush()


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


# Logging

console = Console(highlight=False, soft_wrap=True, emoji=False)


def log(message):
    """Prints a line or a table."""
    console.print(message, markup=False)


def reward_line(report):
    """A policy's size and reward in words."""
    size = f"{report['weights']:,} weights"
    if report["nonzero"] < report["weights"]:
        size = f"{report['nonzero']:,} of {size}"
    return f"{size} ({shares(report)}), reward {rewards_text(report)}"


def shares(report):
    """Size in percent of the original: of the nonzero weights where some are zero."""
    return f"{report['percent'] * report['nonzero'] / report['weights']:.3g} %"


def rewards_text(report):
    text = f"{report['reward_mean']:.1f} ± {report['reward_stderr']:.1f}"
    return f"{text} ({report['distinct']} different)" if "distinct" in report else text


def result_rows(summary):
    """The summary as a table, rows of text: headings, teacher, then what each PoPS step pruned and shrunk."""
    also = [name for name in ALSO if name in summary["teacher"]]
    headings = ["policy", "hidden units", "weights", "percent", "reward ± s.e.", "lowest"]
    rows = [[*headings, *(f"{name} ± s.e." for name in also), "seconds"]]

    def add(name, report, widths, seconds=""):
        others = [rewards_text(report[name]) if name in report else "" for name in also]
        size = "-".join(map(str, widths)), f"{report['nonzero']:,}", shares(report)
        rows.append([name, *size, rewards_text(report), f"{report['reward_min']:.0f}", *others, seconds])

    add("teacher", summary["teacher"], summary["teacher"]["widths"])
    for entry in summary["steps"]:
        add(f"pruned {entry['step']}", entry["pruned"], entry["from_widths"])
        if "shrunk" in entry:
            add(f"shrunk {entry['step']}", entry["shrunk"], entry["shrunk"]["widths"], f"{entry['seconds']:.0f}")
    return rows


def table(rows, title=None, words=1):
    """A table for the terminal, on a narrow one wider than it: columns would lose what is in them.

    Args:
        rows: of text, the headings first.
        words: columns, the first ones, that hold words; the others hold numbers.
    """
    headings, *rows = rows
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index < words else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    made.width = Measurement.get(console, console.options.update(max_width=1000), made).maximum
    return made


def choice_lines(summary):
    """In words, which student is the smallest above the objective and which the smallest that matches the teacher."""
    for key, meaning in CHOICES.items():
        choice = summary[key]
        yield f"{meaning}: " + (f"{reward_line(choice)}, {choice['file']}" if choice else "none")


ALSO = ("greedy", "sticky")  # other ways to play that a report may hold

CHOICES = {
    "smallest_above_objective": "smallest above the objective",
    "smallest_matching_teacher": "smallest that matches the teacher",
}


# Results of finished runs, and their graphs


def load_run(folder):
    """Reads a finished run: {folder, config, summary, metrics}, metrics as a list of rows.

    Raises:
        ConfigurationError: the folder does not hold a finished run of pops.py.
    """
    folder = Path(folder)
    run = {"folder": folder}
    try:
        needed = {
            "config": "environment seed settings teacher".split(),
            "summary": ["teacher", "steps", "seconds", *CHOICES],
        }
        for name, keys in needed.items():
            run[name] = json.loads((folder / f"{name}.json").read_text())
            if missing := [key for key in keys if key not in run[name]]:
                raise ValueError(f"{name}.json has no {missing[0]}")
        # Names of files follow from the numbers of steps, so they must be numbers.
        steps = [entry["step"] for entry in run["summary"]["steps"]]
        if steps != list(range(1, len(steps) + 1)) or not all(type(step) is int for step in steps):
            raise ValueError("summary.json does not number its steps 1, 2, ...")
        with open(folder / "metrics.csv", newline="") as file:
            run["metrics"] = [
                {key: text if key == "phase" else float(text or "nan") for key, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{folder}: does not hold a finished run of pops.py ({error})") from None
    return run


def markdown_table(runs):
    """For each run a row for each of its `CHOICES`, or one row where both are the same student."""
    also = [name for name in ALSO if any(name in run["summary"]["teacher"] for run in runs)]
    headings = ["seed", "student", "hidden units", "weights", "percent", "reward", "lowest", "minutes"]
    headings[6:6] = also
    rows = [headings, ["---"] * len(headings)]
    for run in runs:
        summary = run["summary"]
        students = {}
        for key, meaning in CHOICES.items():
            if summary[key]:
                students.setdefault(summary[key]["step"], []).append(meaning)
        for entry in summary["steps"]:
            if entry["step"] in students:
                report, minutes = entry["shrunk"], f"{summary['seconds'] / 60:.1f}"
                row = [
                    str(run["config"]["seed"]),
                    " and ".join(students[entry["step"]]),
                    "-".join(map(str, report["widths"])),
                ]
                row += [f"{report['weights']:,}", shares(report), rewards_text(report)]
                row += [rewards_text(report[name]) for name in also]
                rows.append([*row, f"{report['reward_min']:.0f}", minutes])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_run(folder, out=None):
    """Draws all graphs of a finished run. Returns their paths.

    The weight histograms need the models; where a folder holds no models, they are left out.
    """
    run = load_run(folder)
    out = Path(out or folder)
    paths = [draw_sizes([run], out / "size_vs_reward.png")]
    before = run["folder"] / "teacher.keras"
    for entry in run["summary"]["steps"]:
        step = entry["step"]
        paths.append(draw_sparsity(run, entry, out / f"sparsity_vs_reward_step_{step}.png"))
        after = run["folder"] / f"pruned_step_{step}.keras"
        if before.exists() and after.exists():
            paths.append(draw_weights(before, after, out / f"weights_step_{step}.png"))
        before = run["folder"] / f"student_step_{step}.keras"
    return paths


def _figure(width=7.0, height=4.2):
    figure = Figure((width, height), dpi=150, layout="constrained")
    return figure, figure.subplots()


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path


def _weights_axis(axes, label):
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def objective_of(config, summary):
    """The objective of a run: what its settings leave open is in its summary."""
    return summary.get("objective", config["settings"]["evaluation"]["objective"])


def _reward_axis(axes, run):
    objective = objective_of(run["config"], run["summary"])
    axes.axhline(objective, color="tab:green", linestyle="--", linewidth=1, label=f"objective, {objective:g}")
    axes.set_ylabel("reward (mean ± standard error)")


def draw_sparsity(run, entry, path):
    """Reward against nonzero weights while IPP prunes (the paper's figure)."""
    step = entry["step"]
    rows = [row for row in run["metrics"] if row["phase"] == "prune" and row["step"] == step]
    nonzero, mean, error = ([row[name] for row in rows] for name in ("nonzero", "reward_mean", "reward_stderr"))
    figure, axes = _figure()
    axes.errorbar(nonzero, mean, error, fmt="o", markersize=4, capsize=2, linewidth=1, label="evaluations while pruning")
    pruned = entry["pruned"]
    axes.plot(
        pruned["nonzero"],
        pruned["reward_mean"],
        "*",
        markersize=15,
        color="tab:red",
        label=f"kept: {pruned['nonzero']:,} weights, {rewards_text(pruned)} over {pruned['episodes']:,} fresh episodes",
    )
    _reward_axis(axes, run)
    _weights_axis(axes, f"nonzero weights of {pruned['weights']:,}")
    axes.set_title(f"{run['config']['environment']}: pruning in PoPS step {step}")
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_sizes(runs, path):
    """Reward against size over the PoPS steps of one or several runs (the paper's figure)."""
    figure, axes = _figure()
    matching = []
    for index, run in enumerate(runs):
        teacher = run["summary"]["teacher"]
        shrunk = [entry["shrunk"] for entry in run["summary"]["steps"] if "shrunk" in entry]
        if index == 0:
            axes.axhline(teacher["reward_mean"], color="black", linewidth=1, label=f"teacher, {rewards_text(teacher)}")
        reports = [teacher, *shrunk]
        axes.errorbar(
            [report["weights"] for report in reports],
            [report["reward_mean"] for report in reports],
            [report["reward_stderr"] for report in reports],
            fmt="o-",
            markersize=5,
            capsize=3,
            linewidth=1,
            label=f"seed {run['config']['seed']}: down to {reports[-1]['weights']:,} weights",
        )
        if chosen := run["summary"]["smallest_matching_teacher"]:
            matching.append((chosen["weights"], chosen["reward_mean"]))
    if matching:
        label = CHOICES["smallest_matching_teacher"]
        axes.plot(*zip(*matching, strict=True), "*", markersize=13, color="gold", mec="black", zorder=3, label=label)
    _reward_axis(axes, runs[0])
    _weights_axis(axes, "weights of the dense student (log scale)")
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low), high + 0.1 * (high - min(0, low)))
    axes.set_title(f"{runs[0]['config']['environment']}: size against reward over the PoPS steps")
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_weights(before, after, path):
    """Histograms of the weights before and after pruning."""
    arrays = [np.concatenate([kernel.reshape(-1) for kernel in kernels(read_network(file))]) for file in (before, after)]
    figure, axes = _figure()
    left = arrays[1][arrays[1] != 0]
    bins = np.histogram_bin_edges(np.concatenate([arrays[0], left]), 60)
    axes.hist(arrays[0], bins, alpha=0.5, label=f"before pruning: {np.count_nonzero(arrays[0]):,} nonzero weights")
    axes.hist(left, bins, alpha=0.7, label=f"after pruning: {left.size:,} nonzero weights")
    axes.set_yscale("log")
    axes.set_xlabel("weight")
    axes.set_ylabel("number of weights (log scale)")
    axes.set_title(f"{Path(before).name} and {Path(after).name}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_rewards(rows, config, summary, path):
    """Reward of every evaluation of a run against time, and below it the loss.

    Args:
        rows: metrics.csv as dictionaries of text.
        config, summary: what config.json and summary.json hold.
    """
    figure = Figure((7.0, 5.4), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for phase, color in (("teacher", "tab:gray"), ("prune", "tab:orange"), ("distill", "tab:blue")):
        chosen = [row for row in rows if row["phase"] == phase]
        if chosen:
            columns = ("seconds", "reward_mean", "reward_stderr", "loss")
            seconds, mean, error, loss = (np.array([float(row[name] or "nan") for row in chosen]) for name in columns)
            label = {"teacher": "teacher", "prune": "pruning", "distill": "distilling a smaller student"}[phase]
            upper.errorbar(seconds / 60, mean, error, fmt=".", color=color, capsize=2, linewidth=1, label=label)
            lower.plot(seconds / 60, loss, ".", color=color)
    if config["command"] == "pops.py":
        objective = objective_of(config, summary)
        upper.axhline(objective, color="tab:green", linestyle="--", linewidth=1, label=f"objective, {objective:g}")
    upper.set_ylabel("reward (mean ± standard error)")
    upper.legend(fontsize="small")
    upper.set_title(f"{config['environment']}: evaluations while the run went on")
    lower.set_ylabel("loss")
    lower.set_yscale("log")
    lower.set_xlabel("minutes")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return _save(figure, path)
