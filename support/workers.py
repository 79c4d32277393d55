"""Copies of an environment, stepped together by one process a core.

This file is also the program of those processes, which start without TensorFlow.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import warnings
import weakref

import gymnasium
import numpy as np

from pops.support.console import quiet
from pops.support.errors import RunFailed, one_line
from pops.support.spaces import adapted


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def make_one(settings, **options):
    """One environment as the configuration's group `environment` says, with spaces that policies have here."""
    limit, kwargs = settings["max_episode_steps"], settings.get("kwargs", {})
    # MuJoCo's compiler warns of its old models, once a copy.
    silent = quiet() if ".mujoco." in str(gymnasium.spec(settings["id"]).entry_point) else contextlib.nullcontext()
    with silent, warnings.catch_warnings(action="ignore"):  # of newer versions, and of the types that are adapted here
        made = gymnasium.make(settings["id"], max_episode_steps=limit, disable_env_checker=True, **kwargs, **options)
        return adapted(made)


def room_for_results(count, space):
    """An array for what `count` copies give back for a step."""
    fields = [("observation", space.dtype, space.shape), ("reward", "f8"), ("terminated", "?"), ("truncated", "?")]
    return np.zeros(count, fields)


class ProcessEnvironments:
    """Copies spread over this process and one more for each further core (see `make_environments`).

    Copy i starts from seed + i, so what happens does not depend on the number of processes.

    Args:
        everywhere: whether other processes have this environment too, as this one has it.
    """

    COPIES = 8  # a process is not worth its start for fewer

    _numbers = itertools.count()

    def __init__(self, settings, count, autoreset, everywhere=True):
        one = make_one(settings)
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.results = room_for_results(count, self.single_observation_space)
        processes = max(1, min(cores(), count // self.COPIES)) if everywhere else 1
        self.workers = _workers(json.dumps(settings), processes)
        bounds = [count * part // len(self.workers) for part in range(len(self.workers) + 1)]
        self.shares = [slice(*pair) for pair in itertools.pairwise(bounds)]
        self.number, self.autoreset = next(self._numbers), autoreset
        # The processes serve others too; they drop these copies when nobody uses them any more.
        unused = [worker.unused for worker in self.workers]
        self.close = weakref.finalize(self, _add_to_all, unused, self.number)

    def _exchange(self, seed, actions):
        try:
            for worker, share in zip(self.workers, self.shares, strict=True):
                first = seed if seed < 0 else seed + share.start
                numbers = actions[share].reshape(-1)
                header = [self.number, share.stop - share.start, self.autoreset, first, len(numbers)]
                worker.send(np.concatenate([header, numbers], dtype=np.int64))
            for worker, share in zip(self.workers, self.shares, strict=True):
                worker.receive(self.results[share])
        except BaseException:
            # An answer may be left unread, which the next request would take for its own.
            _stop_workers()
            raise
        return [self.results[name].copy() for name in self.results.dtype.names]

    def reset(self, seed):
        return self._exchange(seed, np.zeros(0, np.int64))[0], {}

    def step(self, actions):
        if isinstance(
            self.single_action_space, gymnasium.spaces.Box
        ):  # numbers travel as the integers that have their bits
            actions = actions.astype(np.float64).view(np.int64)
        return *self._exchange(-1, actions), {}


def _add_to_all(lists, item):
    for each in lists:
        each.append(item)


def checked(name, method, *arguments, **named):
    """What a method of an environment returns. Raises RunFailed where it raises, or gives a reward that is no number."""
    try:
        result = method(*arguments, **named)
    except Exception as error:  # of whatever kind: it is the environment's code that runs here
        reason = one_line(error)
        raise RunFailed(f"{name}: {method.__name__} raised {type(error).__name__}: {reason}") from None
    if method.__name__ == "step" and np.ndim(result[1]):
        raise RunFailed(f"{name}: the reward is an array of shape {np.shape(result[1])}, and must be a number")
    return result


class _Copies:
    """Groups of copies that one process makes, resets and steps."""

    # Number of the group, number of copies (0: the group is not used any more), autoreset, seed (-1: a step), and how many
    # numbers follow, which are the actions.
    HEADER = 5

    def __init__(self, settings):
        self.settings, self.groups = settings, {}

    def answer(self, header, actions):
        """Results of the group after a reset, or after a step with these actions; None for a group dropped."""
        number, count, autoreset, seed, _ = header
        if count == 0:
            self.groups.pop(number, None)
            return None
        if number not in self.groups:
            copies = [make_one(self.settings) for _ in range(count)]
            self.groups[number] = copies, room_for_results(count, copies[0].observation_space)
        copies, results = self.groups[number]
        space = copies[0].action_space
        if seed < 0 and space.shape:
            numbers = np.array(actions, np.int64)
            numbers = numbers.view(np.float64) if isinstance(space, gymnasium.spaces.Box) else numbers
            actions = numbers.reshape(count, *space.shape).astype(space.dtype)
        ended = (results["terminated"] | results["truncated"]).tolist()
        if seed >= 0:
            results[:] = 0
            for index, copy in enumerate(copies):
                results["observation"][index] = checked(self.settings["id"], copy.reset, seed=seed + index)[0]
        else:
            for index, (copy, action) in enumerate(zip(copies, actions, strict=True)):
                if not ended[index]:
                    results[index] = checked(self.settings["id"], copy.step, action)[:4]
                elif autoreset:
                    results[index] = copy.reset()[0], 0.0, False, False
        return results


class _Here:
    """Copies in this process, used like a `_Worker`."""

    def __init__(self, settings):
        self.copies = _Copies(json.loads(settings))
        self.unused = []  # numbers of groups that nobody uses any more

    def send(self, message):
        while self.unused:
            self.copies.answer((self.unused.pop(), 0, 0, 0, 0), ())
        self.message = message.tolist()

    def receive(self, results):
        results[:] = self.copies.answer(self.message[: _Copies.HEADER], self.message[_Copies.HEADER :])

    def stop(self):
        pass


# So that Ctrl-C reaches only the process that was started.
APART = {"process_group": 0} if os.name == "posix" else {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP


class _Worker:
    """Copies in a process of their own, which ends when this one does."""

    def __init__(self, settings):
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pops.support.workers", settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            **APART,
        )
        self.unused = []

    def send(self, message):
        try:
            while self.unused:
                self.process.stdin.write(np.array([self.unused.pop(), 0, 0, 0, 0]).tobytes())
            self.process.stdin.write(message.tobytes())
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def receive(self, results):
        if self.process.stdout.readinto(results.view(np.uint8)) < results.nbytes:
            self._fail()

    def _fail(self):
        raise RunFailed(f"a process that steps the environment ended (exit code {self.process.wait()})")

    def stop(self):
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


_running = {}  # settings as JSON -> workers


def _workers(settings, count):
    """The first `count` workers for these settings; they are kept for the next caller."""
    # The first one's share is stepped while the other processes step theirs.
    workers = _running.setdefault(settings, [_Here(settings)])
    workers += [_Worker(settings) for _ in range(count - len(workers))]
    return workers[:count]


def _stop_workers():
    while _running:
        for worker in _running.popitem()[1]:
            worker.stop()


def work(settings, requests, replies):
    """What a process does: answers requests until there are no more."""
    copies = _Copies(settings)
    size = 8 * _Copies.HEADER
    while len(header := requests.read(size)) == size:
        header = np.frombuffer(header, np.int64).tolist()
        actions = np.frombuffer(requests.read(8 * header[-1]), np.int64).tolist()
        results = copies.answer(header, actions)
        if results is not None:
            replies.write(results.tobytes())
            replies.flush()


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the replies
    with contextlib.suppress(BrokenPipeError):
        work(json.loads(sys.argv[1]), sys.stdin.buffer, replies)
