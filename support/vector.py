"""Copies of an environment that are stepped together: in C++ (EnvPool), or in Gymnasium's processes, one a core."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import types
import warnings
from functools import partial

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from pops.support.console import quiet
from pops.support.errors import RunFailed, one_line
from pops.support.spaces import adapted


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def make_one(settings, spec=None, **options):
    """One environment as the configuration's group `environment` says, with spaces that policies have here.

    Args:
        spec: gymnasium.EnvSpec to make it of; without it, the one that Gymnasium has for its name.
    """
    limit, kwargs, spec = settings["max_episode_steps"], settings.get("kwargs", {}), spec or gymnasium.spec(settings["id"])
    # MuJoCo's compiler warns of its old models, once a copy.
    silent = quiet() if ".mujoco." in str(spec.entry_point) else contextlib.nullcontext()
    with silent, warnings.catch_warnings(action="ignore"):  # of newer versions, and of the types that are adapted here
        made = gymnasium.make(spec, max_episode_steps=limit, disable_env_checker=True, **kwargs, **options)
        return adapted(made)


def room_for_results(count, space):
    """An array for what `count` copies give back for a step."""
    fields = [("observation", space.dtype, space.shape), ("reward", "f8"), ("terminated", "?"), ("truncated", "?")]
    return np.zeros(count, fields)


def copied(results):
    """What a step gave, by `room_for_results`: arrays that later steps do not change."""
    return [results[name].copy() for name in results.dtype.names]


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


class Copies(gymnasium.Env):
    """Copies of an environment, as one environment, which one process steps. Copy i starts from seed + i.

    Its observation is all that the copies gave, as the bytes of `room_for_results`. What they raise comes as
    `info["failed"]`.

    Args:
        maker: the process that wants it, which may be another one than this.
        settings, autoreset: see `environments.make_environments`.
        spec: gymnasium.EnvSpec of a copy.
        spaces: observation and action space of a copy.
        count: copies.
        room: entries of the observation; those after the first `count` stay zero.
    """

    FINGERPRINT = 16  # steps

    def __init__(self, maker, settings, autoreset, spec, spaces, count, room):
        if os.getpid() != maker:  # Ctrl-C is for the process that was started
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.settings, self.autoreset, self.spec_of_one, self.count = settings, autoreset, spec, count
        observations, self.actions = spaces
        self.results = room_for_results(room, observations)
        self.observation_space = gymnasium.spaces.Box(0, 255, [self.results.nbytes], np.uint8)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, [room, *self.actions.shape], np.float64)
        self.copies = None

    def fingerprint(self):
        """What one environment gives when it is played for some steps, in one line."""
        seen = []
        with contextlib.suppress(Exception):  # of whatever kind, which the first steps of a play will report
            environment = make_one(self.settings, self.spec_of_one)
            environment.action_space.seed(0)
            seen.append([environment.reset(seed=0)[0].tolist(), 0.0, False, False])
            while len(seen) <= self.FINGERPRINT and not any(seen[-1][2:]):
                observation, *others, _ = environment.step(environment.action_space.sample())
                seen.append([observation.tolist(), *others])
            environment.close()
        return repr(seen)

    def reset(self, seed=None, options=None):
        self.copies = self.copies or [make_one(self.settings, self.spec_of_one) for _ in range(self.count)]
        self.results[:] = 0
        return self._answer(self._reset, seed)

    def _reset(self, seed):
        for index, copy in enumerate(self.copies):
            self.results["observation"][index] = checked(self.settings["id"], copy.reset, seed=seed + index)[0]

    def step(self, action):
        observation, info = self._answer(self._step, action)
        return observation, 0.0, False, False, info

    def _step(self, actions):
        ended = (self.results["terminated"] | self.results["truncated"]).tolist()
        for index, (copy, action) in enumerate(zip(self.copies, actions.astype(self.actions.dtype), strict=False)):
            if not ended[index]:
                self.results[index] = checked(self.settings["id"], copy.step, action)[:4]
            elif self.autoreset:
                self.results[index] = copy.reset()[0], 0.0, False, False

    def _answer(self, method, argument):
        info = {}
        try:
            method(argument)
        except RunFailed as error:
            info["failed"] = str(error)
        return self.results.view(np.uint8), info


class GymnasiumEnvironments:
    """Copies of any environment that Gymnasium has in this process, spread over its processes, one a core.

    What happens does not depend on the number of processes.

    Args:
        settings, count, autoreset: see `environments.make_environments`.
    """

    COPIES = 8  # a process is not worth its start for fewer

    def __init__(self, settings, count, autoreset=True):
        self.name, self.count = settings["id"], count
        one = make_one(settings)
        spaces = self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.dtype = room_for_results(1, spaces[0]).dtype
        shared = os.getpid(), settings, autoreset, gymnasium.spec(self.name), spaces
        processes = 1 if multiprocessing.current_process().daemon else min(cores(), count // self.COPIES)
        if processes < 2 or not self._start(self._makers(processes, *shared)):
            self.vector = SyncVectorEnv(self._makers(1, *shared), copy=False)

    def _makers(self, processes, *shared):
        self.room = math.ceil(self.count / processes)
        shares = [min(self.room, self.count - first) for first in range(0, self.count, self.room)]
        return [partial(Copies, *shared, share, self.room) for share in shares]

    def _start(self, makers):
        """Starts processes; False if what they have is not the environment that this process has."""
        try:
            cloudpickle.dumps(makers)
        except Exception:  # of whatever kind: it is the user's environment
            return False
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        script, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")  # which they need not run
        try:
            self.vector = AsyncVectorEnv(makers, context=method, copy=False)
        except (EOFError, OSError):  # they could not even make it
            return False
        finally:
            sys.modules["__main__"] = script
        there = self._checked(self.vector.call, "fingerprint")
        if set(there) == {makers[0]().fingerprint()}:
            return True
        self.close()
        return False

    def _checked(self, method, *arguments, **named):
        """What a method of the vector environment returns."""
        try:
            return method(*arguments, **named)
        except BaseException as error:  # an answer may be left unread
            codes = [self._ended(process) for process in getattr(self.vector, "processes", ())]
            self.vector.closed = True
            if isinstance(error, EOFError | OSError):
                raise RunFailed(f"a process that steps the environment ended (exit code {min(codes)})") from None
            raise

    @staticmethod
    def _ended(process):
        """Ends a process in the middle of whatever it does; 0, or the exit code with which it had ended already."""
        process.join(timeout=0.2)  # until it is known
        code = process.exitcode or 0
        process.kill()
        process.join()
        return code

    def _results(self, method, *arguments, **named):
        observations, *_, info = self._checked(method, *arguments, **named)
        for failed in info.get("failed", ()):
            if failed is not None:
                raise RunFailed(failed)
        return copied(observations.reshape(-1).view(self.dtype)[: self.count])

    def reset(self, seed):
        return self._results(self.vector.reset, seed=[seed + first for first in range(0, self.count, self.room)])[0], {}

    def step(self, actions):
        padded = np.zeros([self.vector.num_envs * self.room, *actions.shape[1:]])
        padded[: self.count] = actions
        return *self._results(self.vector.step, padded.reshape(self.vector.num_envs, self.room, *actions.shape[1:])), {}

    def close(self):
        self.vector.close()


class PoolEnvironments:
    """Copies in EnvPool, stepped in C++, one thread a core. Copy i starts from the seed + i of that library.

    Args:
        settings, count, autoreset: see `environments.make_environments`.
    """

    # That do there what they do in Gymnasium (tests/test_environments.py; LunarLander and BipedalWalker: docs/speed.md).
    KNOWN = (
        "Acrobot-v1",
        "BipedalWalker-v3",
        "HalfCheetah-v4",
        "HalfCheetah-v5",
        "Hopper-v4",
        "Hopper-v5",
        "LunarLander-v3",
        "LunarLanderContinuous-v3",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "Pendulum-v1",
        "Swimmer-v4",
        "Swimmer-v5",
        "Walker2d-v4",
        "Walker2d-v5",
    )

    def __init__(self, settings, count, autoreset=True):
        self.settings, self.autoreset, self.pool = settings, autoreset, None
        one = make_one(settings)
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.results = room_for_results(count, self.single_observation_space)

    def reset(self, seed):
        import envpool  # an extra

        count = len(self.results)
        # Copies take seeds only when they are made.
        self.pool = envpool.make(
            self.settings["id"],
            env_type="gymnasium",
            num_envs=count,
            num_threads=min(count, cores()),
            max_episode_steps=self.settings["max_episode_steps"],
            env_seed=list(range(seed, seed + count)),
        )
        self.results[:] = 0
        with warnings.catch_warnings(action="ignore"):  # of its own spaces, which are not used here
            self.results["observation"] = self.pool.reset()[0]
        return self.results["observation"].copy(), {}

    def step(self, actions):
        playing = np.flatnonzero(self.autoreset | ~(self.results["terminated"] | self.results["truncated"]))
        *parts, _ = self.pool.step(actions[playing], playing)
        for name, part in zip(self.results.dtype.names, parts, strict=True):
            self.results[name][playing] = part
        return *copied(self.results), {}

    def close(self):
        self.pool = None
