"""Copies of an environment, stepped together: Gymnasium's vectorised form, threads (Atari games) or one process a core.

Apart from `utils.py` because this file is also the program of those processes, which start without TensorFlow.
"""

import atexit
import contextlib
import itertools
import json
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np

from configs import ENVIRONMENTS, ConfigurationError, RunFailed, configuration, is_atari


def make_environments(settings, count, autoreset=True):
    """`count` copies of an environment that are stepped together.

    Args:
        settings: the configuration's group `environment`.
        autoreset: a copy starts over one step after its end. Without it, what follows an end means nothing, and is cheap.

    Returns:
        An object with `reset(seed=...)`, `step(actions)`, `close()`, `single_observation_space` and `single_action_space`,
        as `gymnasium.vector.VectorEnv` has them.
    """
    is_registered(settings)
    if is_atari(settings):
        return AtariEnvironments(settings, count, autoreset)
    if gymnasium.spec(settings["id"]).vector_entry_point is None:
        return ProcessEnvironments(settings, count, autoreset)
    return gymnasium.make_vec(
        settings["id"], count, vectorization_mode="vector_entry_point", max_episode_steps=settings["max_episode_steps"]
    )


def is_registered(settings):
    """Whether Gymnasium has the environment. For other names it would import modules."""
    if is_atari(settings):
        import ale_py  # brings the games; nothing else needs it

        gymnasium.register_envs(ale_py)
    return settings["id"] in gymnasium.registry


def spaces(settings):
    """Observation space and action space of an environment."""
    if is_atari(settings):
        environments = AtariEnvironments(settings, 1)
        return environments.single_observation_space, environments.single_action_space
    environment = _make_one(settings)
    return environment.observation_space, environment.action_space


def describe(name):
    """The settings of an environment that has none in configs.py, by group and key, as it describes itself.

    Raises:
        ConfigurationError: Gymnasium does not have it or cannot make it, or PoPS has no agents for its observations or
            actions.
    """
    settings = {"id": name, "max_episode_steps": None}
    check_registered(settings)
    if is_atari(settings):
        games = [key for key, profiles in ENVIRONMENTS.items() if is_atari(profiles["paper"]["environment"])]
        raise ConfigurationError(f"environment.id: {name} is an Atari game; of those there are {', '.join(games)}")
    observations, actions = _made(settings)
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
    if not isinstance(observations, box) or len(observations.shape) != 1:
        raise ConfigurationError(
            f"environment.id: {name} has observations {observations}; they must be a Box with one axis"
        )
    bounds = []
    if isinstance(actions, box) and len(actions.shape) == 1 and actions.is_bounded():
        bounds = [actions.low.tolist(), actions.high.tolist()]
    elif not isinstance(actions, discrete) or actions.start != 0:
        raise ConfigurationError(
            f"environment.id: {name} has actions {actions}; they must be Discrete from 0, or a bounded Box with one axis"
        )
    limit = gymnasium.spec(name).max_episode_steps
    return {
        "environment": {"id": name, "max_episode_steps": limit},
        "model": {
            "observation_shape": list(observations.shape),
            "actions": len(bounds[0]) if bounds else int(actions.n),
            "bounds": bounds,
        },
    }


def configuration_of(environment, profile="fast", assignments=()):
    """The configuration of an environment: a key of configs.ENVIRONMENTS, or any name that Gymnasium has.

    Raises:
        ConfigurationError: see `describe` and `configs.configuration`.
    """
    described = None if environment in ENVIRONMENTS else describe(environment)
    return configuration(environment, profile, assignments, described)


def registered_name(name):
    """Gymnasium's name of an environment whose slash was replaced by a dot, as in networks' names; None if it has none."""
    return next((known for known in gymnasium.registry if known.replace("/", ".") == name), None)


def check_registered(settings):
    """Raises ConfigurationError unless Gymnasium has the environment."""
    if not is_registered(settings):
        raise ConfigurationError(
            f"environment.id: {settings['id']} is not an environment that Gymnasium has; write it as CartPole-v1"
        )


def check_spaces(config):
    """Raises ConfigurationError unless the environment exists and has the shapes that the group `model` says."""
    name, model = config["environment"]["id"], config["model"]
    check_registered(config["environment"])
    observations, actions = _made(config["environment"])
    discrete = isinstance(actions, gymnasium.spaces.Discrete)
    wanted = gymnasium.spaces.Box if model["bounds"] else gymnasium.spaces.Discrete
    if not isinstance(observations, gymnasium.spaces.Box) or not isinstance(actions, wanted):
        raise ConfigurationError(
            f"environment.id: {name} has observations {observations} and actions {actions}; "
            f"they must be Box and {wanted.__name__}"
        )
    count = int(actions.n) if discrete else actions.shape[0]
    wanted = [("observation_shape", list(observations.shape)), ("actions", count)]
    if not discrete:
        wanted.append(("bounds", [actions.low.tolist(), actions.high.tolist()]))
    for key, value in wanted:
        if model[key] != value:
            raise ConfigurationError(f"model.{key}: {model[key]} does not fit {name}, which has {value}")


def _made(settings):
    try:
        return spaces(settings)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"environment.id: {settings['id']} cannot be made ({reason})") from None


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _make_one(settings, **options):
    limit = settings["max_episode_steps"]
    return gymnasium.make(settings["id"], max_episode_steps=limit, disable_env_checker=True, **options)


_games = weakref.WeakSet()  # all AtariEnvironments
_unused_games = {}  # settings as JSON -> copies that nobody uses any more; making one takes as long as 200 steps


@atexit.register
def _free_games():
    """Frees all copies before Python ends, after which ale-py would list them as leaked."""
    for environments in _games:
        environments.copies.clear()
    _unused_games.clear()


class AtariEnvironments:
    """Copies of an Atari game as the paper plays it, stepped together, each in a thread of its own in C++ (ale-py).

    Up to 30 steps without an action at the start, 4 frames a step with the maximum of the last two, 84 x 84 grey, 4 frames
    stacked, the oldest first. Rewards are raw. `step` gives the lives that are left as `info["lives"]`. Copy i starts from
    seed + i.
    """

    FRAMES = 4  # a step

    def __init__(self, settings, count, autoreset=True, **changes):
        unused = _unused_games.setdefault(json.dumps([settings, changes]), [])
        self.copies = [unused.pop() if unused else self._make(settings, changes) for _ in range(count)]
        self.close = weakref.finalize(self, unused.extend, self.copies)
        _games.add(self)
        self.autoreset = autoreset
        self.actions = np.array(settings["actions"] or range(self.copies[0].single_action_space.n))
        self.single_observation_space = self.copies[0].single_observation_space
        self.single_action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.results = _results(count, self.single_observation_space)
        self.lives = np.zeros(count, int)

    def _make(self, settings, changes):
        return gymnasium.make_vec(
            settings["id"],
            1,
            vectorization_mode="vector_entry_point",
            frameskip=self.FRAMES,
            max_num_frames_per_episode=self.FRAMES * settings["max_episode_steps"],
            repeat_action_probability=settings["sticky"],
            reward_clipping=False,
            num_threads=1,
            **changes,
        )

    def reset(self, seed):
        with ThreadPoolExecutor(cores()) as pool:
            starts = list(pool.map(lambda copy, index: copy.reset(seed=seed + index), self.copies, itertools.count()))
        self.results[:] = 0
        for index, (observation, info) in enumerate(starts):
            self.results["observation"][index], self.lives[index] = observation[0], info["lives"][0]
        return self.results["observation"].copy(), {"lives": self.lives.copy()}

    def step(self, actions):
        over = self.results["terminated"] | self.results["truncated"]
        playing = np.flatnonzero(~over | self.autoreset)
        try:
            for index in playing:
                self.copies[index].send(self.actions[actions[index]][None])
            for index in playing:
                *result, info = self.copies[index].recv()
                self.results[index] = tuple(part[0] for part in result)
                self.lives[index] = info["lives"][0]
        except BaseException:
            self.close.detach()  # an answer may be left unread, which the next user would take for its own
            raise
        return *(self.results[name].copy() for name in self.results.dtype.names), {"lives": self.lives.copy()}


class Single:
    """One copy of an environment, stepped alone.

    Args:
        settings: the configuration's group `environment`.
        draw: whether there are pictures of it.
    """

    def __init__(self, settings, draw=False):
        self.atari = is_registered(settings) and is_atari(settings)
        if self.atari:
            self.games = [AtariEnvironments(settings, 1)]
            if draw:  # the same game once more, in colour
                changes = {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
                self.games.append(AtariEnvironments(settings, 1, **changes))
        else:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draws where there is no screen
            self.games = [_make_one(settings, render_mode="rgb_array" if draw else None)]

    def reset(self, seed):
        self.observations = [game.reset(seed=seed)[0] for game in self.games]
        return self._first(self.observations[0])

    def step(self, action):
        """Observation, reward, and whether the episode has ended."""
        action = np.array([action]) if self.atari else action
        results = [game.step(action) for game in self.games]
        self.observations = [result[0] for result in results]
        observation, reward, terminated, truncated, _ = results[0]
        return self._first(observation), float(np.sum(reward)), bool(np.any(terminated | truncated))

    def _first(self, observations):
        return observations[0] if self.atari else observations

    def picture(self):
        """uint8 [height, width, 3]"""
        return self.observations[1][0, -1] if self.atari else self.games[0].render()


def draw_rate(settings):
    """Steps a second at which an environment is meant to be watched."""
    if is_atari(settings):
        return 60 // AtariEnvironments.FRAMES
    return _make_one(settings).metadata.get("render_fps", 50)


def _results(count, space):
    """An array for what `count` copies give back for a step."""
    fields = [("observation", space.dtype, space.shape), ("reward", "f8"), ("terminated", "?"), ("truncated", "?")]
    return np.zeros(count, fields)


class ProcessEnvironments:
    """Copies spread over this process and one more for each further core (see `make_environments`).

    Copy i starts from seed + i, so what happens does not depend on the number of processes.
    """

    COPIES = 8  # a process is not worth its start for fewer

    _numbers = itertools.count()

    def __init__(self, settings, count, autoreset):
        self.single_observation_space, self.single_action_space = spaces(settings)
        self.results = _results(count, self.single_observation_space)
        # Other processes know only the environments that Gymnasium itself registers.
        everywhere = str(gymnasium.spec(settings["id"]).entry_point).startswith("gymnasium.")
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
        if actions.ndim > 1:  # numbers travel as the integers that have their bits
            actions = actions.astype(np.float64).view(np.int64)
        return *self._exchange(-1, actions), {}


def _add_to_all(lists, item):
    for each in lists:
        each.append(item)


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
            copies = [_make_one(self.settings) for _ in range(count)]
            self.groups[number] = copies, _results(count, copies[0].observation_space)
        copies, results = self.groups[number]
        if seed < 0 and isinstance(space := copies[0].action_space, gymnasium.spaces.Box):
            actions = np.array(actions, np.int64).view(np.float64).reshape(count, *space.shape).astype(space.dtype)
        ended = (results["terminated"] | results["truncated"]).tolist()
        if seed >= 0:
            results[:] = 0
            for index, copy in enumerate(copies):
                results["observation"][index] = copy.reset(seed=seed + index)[0]
        else:
            for index, (copy, action) in enumerate(zip(copies, actions, strict=True)):
                if not ended[index]:
                    results[index] = copy.step(action)[:4]
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


class _Worker:
    """Copies in a process of their own, which ends when this one does."""

    def __init__(self, settings):
        self.process = subprocess.Popen(
            [sys.executable, __file__, settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,  # so that Ctrl-C reaches only the process that was started
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
