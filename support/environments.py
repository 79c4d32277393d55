"""Environments: their copies, their spaces, and the settings that they give."""

import os

import gymnasium
import numpy as np

from pops.configs import ENVIRONMENTS, configuration, is_atari
from pops.support.atari import AtariEnvironments
from pops.support.errors import ConfigurationError
from pops.support.workers import ProcessEnvironments, make_one


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
    environment = make_one(settings)
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


def configuration_of(environment, profile="fast", assignments=(), objective=None):
    """The configuration of an environment: a key of configs.ENVIRONMENTS, or any name that Gymnasium has.

    Raises:
        ConfigurationError: see `describe` and `configs.configuration`.
    """
    described = None if environment in ENVIRONMENTS else describe(environment)
    return configuration(environment, profile, assignments, described, objective)


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
