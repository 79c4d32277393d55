"""What the algorithm stands on: seeds, environments and evaluation, replay memory, run folder, logging and plots."""

import contextlib
import csv
import importlib.metadata
import json
import math
import os
import platform
import time
import zlib
from pathlib import Path

import gymnasium
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console

from configs import ConfigurationError


class RunFailed(Exception):
    """A run cannot go on. The message is one line."""


# Seeds


class Seeds:
    """Every random number of a run, derived from its one seed and from what the number is for."""

    # Environments of different uses get seeds from ranges that do not meet: no episode is trained on, chosen by and
    # reported from.
    USES = {"train": 0, "select": 1, "confirm": 2, "report": 3}
    RANGE = 2**29

    def __init__(self, seed):
        self.seed = seed

    def generator(self, *purpose):
        """A NumPy generator for one purpose, for example ("minibatches", step, "prune", iteration)."""
        key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
        return np.random.default_rng([self.seed, *key])

    def environment(self, use, *purpose):
        """An environment seed for one of the `USES`."""
        return self.USES[use] * self.RANGE + int(self.generator(use, *purpose).integers(self.RANGE))


# Environments and evaluation


def make_environments(settings, count):
    """`count` copies of an environment, stepped together, that start over by themselves one step after their end."""
    return gymnasium.make_vec(
        settings["id"], count, vectorization_mode="vector_entry_point", max_episode_steps=settings["max_episode_steps"]
    )


def select_actions(outputs, acting, seed, epsilon=None):
    """Actions, int64 [...], from a policy's outputs, float32 [..., actions]. Runs inside compiled functions.

    Args:
        acting: "greedy" (the largest output) or "sample" (from the softmax of the outputs).
        seed: two integers for the random numbers.
        epsilon: share of actions drawn uniformly instead; None for none.
    """
    uniform = tf.random.stateless_uniform
    if acting == "sample":  # the Gumbel-max trick
        outputs -= tf.math.log(-tf.math.log(uniform(tf.shape(outputs), seed, minval=1e-9)))
    actions = tf.argmax(outputs, axis=-1)
    if epsilon is not None:
        shape, count = tf.shape(actions), outputs.shape[-1]
        others = uniform(shape, seed + [1, 0], maxval=count, dtype=tf.int64)
        actions = tf.where(uniform(shape, seed + [2, 0]) < epsilon, others, actions)
    return actions


class Player:
    """Lets a policy play copies of an environment side by side, in one compiled loop.

    Args:
        policy: (*arguments, observations [members, copies, *observation_shape]) -> outputs [members, copies, actions].
        settings: the configuration's group `environment`.
        copies: copies of the environment for each member.
        acting, epsilon: see `select_actions`.
        members: policies that play side by side.
    """

    def __init__(self, policy, settings, copies, acting, epsilon=None, members=1):
        self.shape = (members, copies)
        self.environments = make_environments(settings, members * copies)
        space = self.environments.single_observation_space

        def loop(observations, seed, *arguments):
            def step(index, observations, _):
                grouped = tf.reshape(observations, [*self.shape, *space.shape])
                outputs = policy(*arguments, grouped)
                actions = select_actions(outputs, acting, tf.stack([seed, index]), epsilon)
                observations, going = tf.numpy_function(self._step, [outputs, actions], [space.dtype, tf.bool])
                observations.set_shape([members * copies, *space.shape])
                going.set_shape([])
                return index + 1, observations, going

            tf.while_loop(lambda index, _, going: going, step, (0, observations, True), parallel_iterations=1)

        self._loop = tf.function(loop)

    def _step(self, outputs, actions):
        before = self.observations
        self.observations, rewards, terminated, truncated, _ = self.environments.step(actions.reshape(-1))
        going = self._on_step(before, outputs.reshape(len(before), -1), rewards, terminated | truncated)
        return self.observations, np.bool_(going)

    def play(self, seed, on_step, *arguments):
        """Plays from freshly seeded environments until `on_step` says no.

        Args:
            seed: environment seed; it also seeds random actions.
            on_step: (observations, outputs, rewards, ended), arrays over all copies -> whether to go on.
            arguments: tensors for the policy.
        """
        self._on_step = on_step
        self.observations, _ = self.environments.reset(seed=seed)
        self._loop(tf.constant(self.observations), tf.constant(seed), *arguments)

    def evaluate(self, seed, *arguments):
        """Plays one whole episode in every copy.

        Returns:
            Sums of raw rewards, float64 [members, copies].
        """
        sums = np.zeros(math.prod(self.shape))
        playing = np.ones(sums.shape, bool)

        def on_step(observations, outputs, rewards, ended):
            np.add(sums, rewards, out=sums, where=playing)
            np.logical_and(playing, ~ended, out=playing)
            return playing.any()

        self.play(seed, on_step, *arguments)
        return sums.reshape(self.shape)


def single(network):
    """A plain Keras network as a policy for `Player`."""
    return lambda observations: network(observations[0])[None]


def standard_error(rewards):
    """Standard error of the mean along the last axis."""
    return rewards.std(axis=-1, ddof=1) / np.sqrt(rewards.shape[-1])


def reward_statistics(rewards):
    """Episodes, mean, standard error, lowest: how every reward is reported."""
    return {
        "episodes": int(rewards.size),
        "reward_mean": float(rewards.mean()),
        "reward_stderr": float(standard_error(rewards.reshape(-1))),
        "reward_min": float(rewards.min()),
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

    def add(self, **batch):
        """Adds entries: {name: array [n, *shape]}, at most `capacity` of them."""
        count = len(next(iter(batch.values())))
        positions = (self.next + np.arange(count)) % self.capacity
        for name, array in self.arrays.items():
            array[positions] = batch[name]
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, generator, updates, batch_size):
        """Minibatches for a block of updates: a list of arrays [updates, batch_size, *shape], in the fields' order."""
        rows = generator.integers(self.size, size=(updates, batch_size), dtype=np.int32)
        return [np.take(array, rows, axis=0) for array in self.arrays.values()]


# Run folder and files


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary path beside `path`; when the block ends well, that file is flushed and takes the place of `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


class Run:
    """A run folder: what is written as a run goes on (see the README for its files).

    Args:
        folder: is made; must not hold another run.

    Raises:
        ConfigurationError: the folder holds files already or cannot be written.
    """

    COLUMNS = (
        "seconds,phase,step,iteration,update,weights,nonzero,sparsity,learning_rate,loss,"
        "episodes,reward_mean,reward_stderr"
    ).split(",")

    def __init__(self, folder, command, environment, profile, seed, config):
        self.folder = Path(folder)
        self.start = time.perf_counter()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise ConfigurationError(f"{folder}: holds another run or other files; give a new folder with --out")
            write_json(
                self.folder / "config.json",
                {
                    "command": command,
                    "environment": environment,
                    "profile": profile,
                    "seed": seed,
                    "settings": config,
                    "versions": versions(),
                },
            )
            with open(self.folder / "metrics.csv", "x", newline="") as file:
                csv.writer(file).writerow(self.COLUMNS)
        except OSError as error:
            raise ConfigurationError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None

    def seconds(self):
        return round(time.perf_counter() - self.start, 3)

    def metrics(self, *, rewards, **row):
        """Adds an evaluation's row to metrics.csv: rewards [episodes] and the columns that the phase has."""
        if "nonzero" in row:
            row["sparsity"] = round(1 - row["nonzero"] / row["weights"], 6)
        statistics = reward_statistics(rewards)
        row |= {name: statistics[name] for name in ("episodes", "reward_mean", "reward_stderr")}
        with open(self.folder / "metrics.csv", "a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS).writerow({"seconds": self.seconds(), **row})

    def save_model(self, name, network):
        """Writes a plain Keras network as `name`."""
        with replacing(self.folder / name) as temporary:
            network.save(temporary)
        return self.folder / name

    def save_summary(self, summary):
        write_json(self.folder / "summary.json", summary)


def versions():
    packages = ("tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


# Logging

console = Console(highlight=False, soft_wrap=True)


def log(message):
    console.print(message, markup=False)
