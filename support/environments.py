"""Environments: their copies, their spaces, and the settings that they give."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pops.configs import ENVIRONMENTS, configuration, is_atari, value_of
from pops.support.atari import AtariEnvironments
from pops.support.errors import ConfigurationError, one_line
from pops.support.vector import GymnasiumEnvironments, PoolEnvironments, make_one


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
    if settings.get("simulator") == "envpool":
        return PoolEnvironments(settings, count, autoreset)
    if not (is_plain(settings) and gymnasium.spec(settings["id"]).vector_entry_point):
        return GymnasiumEnvironments(settings, count, autoreset)
    return gymnasium.make_vec(
        settings["id"], count, vectorization_mode="vector_entry_point", max_episode_steps=settings["max_episode_steps"]
    )


def is_plain(settings):
    """Whether an environment is as Gymnasium has it, without changes in this process or arguments of its own."""
    there = gymnasium.registry.get(settings["id"]) == registered_by_gymnasium().get(settings["id"])
    return there and not settings.get("kwargs")


def simulator_of(settings):
    """What steps an environment's copies in PoPS: EnvPool, where that is installed and does the same as Gymnasium."""
    return "envpool" if _in_envpool(settings) and importlib.util.find_spec("envpool") else "gymnasium"


def _in_envpool(settings):
    """Whether EnvPool has an environment as Gymnasium has it in this process."""
    return settings["id"] in PoolEnvironments.KNOWN and is_registered(settings) and is_plain(settings)


def check_simulator(settings):
    """Raises ConfigurationError if EnvPool is to step an environment that it does not have, or is not installed."""
    if settings["simulator"] == "envpool":
        if not _in_envpool(settings):
            raise ConfigurationError(
                f"environment.simulator: envpool does not have {settings['id']} as Gymnasium does; set gymnasium"
            )
        if not importlib.util.find_spec("envpool"):
            raise ConfigurationError(
                "environment.simulator: envpool is not installed; install with: pip install -r requirements-envpool.txt"
            )


@functools.cache
def registered_by_gymnasium():
    """The environments that Gymnasium itself registers when it is imported: {name: EnvSpec}."""
    registry = gymnasium.registry
    now = dict(registry)
    registry.clear()
    try:
        importlib.reload(gymnasium.envs)
        return dict(registry)
    finally:
        registry.clear()
        registry.update(now)


def import_environments(names):
    """Imports modules, or files of Python, that register environments. Each once.

    Raises:
        ConfigurationError: one is not there, or fails.
    """
    for name in names:
        path = Path(name)
        module = path.stem if path.suffix == ".py" else name
        if module in sys.modules:
            continue
        folder = str(path.resolve().parent if path.suffix == ".py" else Path.cwd())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            importlib.import_module(module)
        except Exception as error:  # of whatever kind: it is the user's code that runs here
            reason = one_line(error) or type(error).__name__
            raise ConfigurationError(f"--import {name}: cannot be imported ({type(error).__name__}: {reason})") from None


def is_registered(settings):
    """Whether Gymnasium has the environment, after what the settings say is imported."""
    import_environments(settings.get("imports", ()))
    if is_atari(settings):
        import ale_py  # brings the games; nothing else needs it

        gymnasium.register_envs(ale_py)
    return settings["id"] in gymnasium.registry


def spaces(settings):
    """Observation space and action space of an environment."""
    if is_atari(settings):
        environments = AtariEnvironments(settings, 1)
        return environments.single_observation_space, environments.single_action_space
    environment = make_one(settings)
    return environment.observation_space, environment.action_space


def describe(name, kwargs=None, imports=()):
    """The settings of an environment that has none in configs.py, by group and key, as it describes itself.

    Args:
        name: Gymnasium's name, or module:name, where importing the module registers it.
        kwargs: arguments of gymnasium.make.
        imports: modules or files that register environments.

    Raises:
        ConfigurationError: Gymnasium does not have it or cannot make it, or PoPS has no agents for its observations or
            actions.
    """
    *modules, name = name.split(":")
    settings = {"id": name, "kwargs": kwargs or {}, "imports": [*imports, *modules], "max_episode_steps": None}
    check_registered(settings)
    if is_atari(settings):
        settings |= {"max_episode_steps": 27_000, "actions": [], "sticky": 0.0}
        return {"environment": settings, "model": _described(*_made(settings)) | {"background": background(settings)}}
    limit = gymnasium.spec(name).max_episode_steps
    return {"environment": settings | {"max_episode_steps": limit}, "model": _described(*_made(settings))}


def background(settings):
    """The grey of most pixels of a game while it is played at random, an integer from 0 to 255."""
    games, generator = AtariEnvironments(settings, 4), np.random.default_rng(0)
    frames = [games.reset(seed=0)[0][:, -1]]
    for _ in range(100):
        frames.append(games.step(generator.integers(games.single_action_space.n, size=4))[0][:, -1])
    games.close()
    return int(np.median(frames))


def _described(observations, actions):
    """What adapted spaces say of the group `model`."""
    described = {"observation_shape": list(observations.shape), "factors": [], "bounds": []}
    if isinstance(actions, gymnasium.spaces.Box):
        bounds = [actions.low.tolist(), actions.high.tolist()]
        return described | {"actions": len(bounds[0]), "bounds": bounds}
    if isinstance(actions, gymnasium.spaces.MultiDiscrete):
        factors = actions.nvec.tolist()
        return described | {"actions": sum(factors), "factors": factors}
    return described | {"actions": int(actions.n)}


def configuration_of(environment, profile="fast", assignments=(), objective=None):
    """The configuration of an environment: a key of configs.ENVIRONMENTS, or any name that Gymnasium has.

    Raises:
        ConfigurationError: see `describe` and `configs.configuration`.
    """
    described = None
    if environment not in ENVIRONMENTS:
        given = dict(assignment.partition("=")[::2] for assignment in assignments)
        keys = [key for key in ("kwargs", "imports") if f"environment.{key}" in given]  # without which it cannot be made
        described = describe(environment, **{key: value_of(given[f"environment.{key}"]) for key in keys})
    config = configuration(environment, profile, assignments, described, objective)
    settings = config["environment"]
    if settings["simulator"] == "auto":
        settings["simulator"] = simulator_of(settings)
    return config


def named(environment):
    """An environment's object, or a factory of such, under a name that Gymnasium has in this process.

    Args:
        environment: gymnasium.Env, or a callable without arguments that returns a new one each time.

    Returns:
        the name, and settings `group.key=value` with which it is made.

    Raises:
        ConfigurationError: copies of it cannot be made.
    """
    if isinstance(environment, gymnasium.Env):
        return _of_object(environment)
    if not callable(environment):
        raise ConfigurationError(
            f"the environment is a {type(environment).__name__}; give Gymnasium's name of one, a gymnasium.Env, or a "
            "function that makes one"
        )
    return _of_factory(environment)


def _of_object(environment):
    """See `named`. One that Gymnasium made goes by its name there, if that and its arguments are all there is to it."""
    spec, kind = environment.spec, type(environment.unwrapped).__name__
    way = "give a function that makes one, such as lambda: Wrapper(gymnasium.make(...))"
    if spec is None:
        raise ConfigurationError(f"the environment, a {kind}, has no spec of which copies can be made; {way}")
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            raise ConfigurationError(f"the environment's {wrapper.name} does not record its arguments; {way}")
        if wrapper.name in ("NormalizeObservation", "NormalizeReward"):
            raise ConfigurationError(
                f"the environment's {wrapper.name} keeps running statistics, which copies would not have; give a function "
                "that makes one with these, and with update_running_mean = False"
            )
    # How an object is drawn does not matter to its copies.
    spec = dataclasses.replace(spec, kwargs={key: value for key, value in spec.kwargs.items() if key != "render_mode"})
    there = gymnasium.registry.get(spec.id)
    if there and there.entry_point == spec.entry_point and there.additional_wrappers == spec.additional_wrappers:
        with contextlib.suppress(TypeError, ValueError):  # of arrays, which cannot be compared or written so
            changes = {"kwargs": spec.kwargs} if spec.kwargs != there.kwargs else {}
            if spec.max_episode_steps != there.max_episode_steps:
                changes["max_episode_steps"] = spec.max_episode_steps
            texts = {key: json.dumps(value) for key, value in changes.items()}
            if all(json.loads(texts[key]) == value for key, value in changes.items()):  # else it needs a name of its own
                return spec.id, [f"environment.{key}={text}" for key, text in texts.items()]
    spec = dataclasses.replace(spec, id=_own_name(spec.name))
    gymnasium.registry[spec.id] = spec
    return spec.id, []


def _of_factory(factory):
    """See `named`."""
    function = getattr(factory, "func", factory)  # of functools.partial
    name = getattr(function, "__qualname__", type(function).__name__)
    try:
        first, second = factory(), factory()
    except Exception as error:  # of whatever kind: it is the user's code that runs here
        reason = one_line(error)
        raise ConfigurationError(
            f"the environment's factory {name} raised {type(error).__name__}: {reason}; it is called without arguments"
        ) from None
    if not isinstance(first, gymnasium.Env):
        raise ConfigurationError(f"the environment's factory {name} gives {type(first).__name__}, no gymnasium.Env")
    if first is second:
        raise ConfigurationError(f"the environment's factory {name} gives the same object each time, not a new one")
    limit = _limit_of(first)
    first.close()
    second.close()
    made = _own_name(name.rpartition(".")[2])
    spec = EnvSpec(made, lambda render_mode=None: factory(), max_episode_steps=limit)
    gymnasium.registry[made] = spec  # an earlier one of that name makes way
    return made, []


def _limit_of(environment):
    """The steps after which an environment ends an episode, or None: of its registration, or of a wrapper around it."""
    if environment.spec and environment.spec.max_episode_steps:
        return environment.spec.max_episode_steps
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, gymnasium.wrappers.TimeLimit):
            return environment._max_episode_steps
        environment = environment.env
    return None


def _own_name(name):
    """A name for the registry, the same in each process."""
    return f"pops/{re.sub('[^A-Za-z0-9_.-]+', '', name) or 'environment'}-v0"


def registered_name(name):
    """Gymnasium's name of an environment whose slash was replaced by a dot, as in networks' names; None if it has none."""
    registry = _atari() if is_atari({"id": name}) else gymnasium.registry
    return next((known for known in registry if known.replace("/", ".") == name), None)


# Names of the past: what they are now, and what differs.
SUCCESSORS = {
    "CartPole-v0": "CartPole-v1 with --set environment.max_episode_steps=200",
    "LunarLander-v2": "LunarLander-v3, the same but for its wind and for how it is reset",
    "LunarLanderContinuous-v2": "LunarLanderContinuous-v3, the same but for its wind and for how it is reset",
    "BipedalWalker-v2": "BipedalWalker-v3",
    "Pendulum-v0": "Pendulum-v1",
}


def check_registered(settings):
    """Raises ConfigurationError unless Gymnasium has the environment, in a version that can be played."""
    name = settings["id"]
    stem, _, version = name.rpartition("-v")
    if name in SUCCESSORS:
        raise ConfigurationError(f"environment.id: {name} is no longer there; it is now {SUCCESSORS[name]}")
    if version in ("2", "3") and f"{stem}-v4" in gymnasium.registry and f"{stem}-v5" in gymnasium.registry:
        raise ConfigurationError(
            f"environment.id: {name} needs mujoco-py, which is no longer kept; {stem}-v4 has the same rewards, {stem}-v5 "
            "other ones in places"
        )
    game = re.fullmatch(r"(\w+?)(-ram)?(NoFrameskip|Deterministic)?-v[04]", name)
    if game and f"ALE/{game[1]}-v5" in _atari():
        raise ConfigurationError(
            f"environment.id: {name} is now ALE/{game[1]}-v5, which PoPS plays with 4 frames a step and no sticky actions"
        )
    if not is_registered(settings):
        others = sorted(known for known in gymnasium.registry if known.rpartition("-v")[0] == stem)
        near = others or difflib.get_close_matches(name, gymnasium.registry, n=1)
        raise ConfigurationError(
            f"environment.id: {name} is not an environment that Gymnasium has; "
            + (
                f"it has {' and '.join(near)}"
                if near
                else "write it as CartPole-v1, or import what registers it (--import)"
            )
        )


def _atari():
    """Gymnasium's registry with the Atari games."""
    is_registered({"id": "ALE/"})
    return gymnasium.registry


def check_spaces(config):
    """Raises ConfigurationError unless the environment exists and has the shapes that the group `model` says."""
    name, model = config["environment"]["id"], config["model"]
    check_registered(config["environment"])
    check_simulator(config["environment"])
    for key, value in _described(*_made(config["environment"])).items():
        if model[key] != value:
            raise ConfigurationError(f"model.{key}: {model[key]} does not fit {name}, which has {value}")


def _made(settings):
    """The spaces of an environment, as policies have them."""
    try:
        return spaces(settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"environment.id: {settings['id']} {error}") from None
    except Exception as error:  # of whatever kind: an environment's own code runs here
        reason = one_line(error) or type(error).__name__
        way = "; install with: pip install -r requirements-mujoco.txt" if "mujoco" in reason.lower() else ""
        raise ConfigurationError(f"environment.id: {settings['id']} cannot be made ({reason}){way}") from None


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
            self.games = [make_one(settings, render_mode="rgb_array" if draw else None)]

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
    return make_one(settings).metadata.get("render_fps", 50)
