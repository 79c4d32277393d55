"""Spaces: every environment is brought to the observations and actions that policies have here."""

import gymnasium
import numpy as np

from pops.support.errors import ConfigurationError

Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
FLATTENED = Discrete, gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary  # discrete ones become one-hot

# What the numbers of an observation are, by Gymnasium's documentation.
INPUT_NAMES = {
    "CartPole-v1": ["cart position", "cart velocity", "pole angle", "pole angular velocity"],
    "LunarLander-v3": ["x", "y", "velocity in x", "velocity in y", "angle", "angular velocity", "left leg", "right leg"],
    "Acrobot-v1": ["cos θ1", "sin θ1", "cos θ2", "sin θ2", "angular velocity of θ1", "angular velocity of θ2"],
    "MountainCar-v0": ["position", "velocity"],
    "Pendulum-v1": ["cos θ", "sin θ", "angular velocity"],
}
INPUT_NAMES |= {
    "LunarLanderContinuous-v3": INPUT_NAMES["LunarLander-v3"],
    "MountainCarContinuous-v0": INPUT_NAMES["MountainCar-v0"],
}


def adapted(environment):
    """An environment whose observations are a flat float32 Box, and whose actions are Discrete or MultiDiscrete from 0, or
    a flat Box.

    Raises:
        ConfigurationError: its spaces are others; the message says which.
    """
    return _adapted_actions(_adapted_observations(environment))


def _adapted_observations(environment):
    space = environment.observation_space
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        raise ConfigurationError(
            f"has observations {_short(space)}; register it with gymnasium.wrappers.FlattenObservation around it"
        )
    if isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        raise ConfigurationError(
            f"has images as observations, {_short(space)}; of these only Atari games (ALE/...) are taken"
        )
    if not isinstance(space, (Box, *FLATTENED)):
        raise ConfigurationError(f"has observations {_short(space)}; they must be Box, Discrete or of several of these")
    if not isinstance(space, Box) or len(space.shape) != 1:
        environment = gymnasium.wrappers.FlattenObservation(environment)
    if environment.observation_space.dtype != np.float32:
        environment = gymnasium.wrappers.DtypeObservation(environment, np.float32)
    return environment


def _adapted_actions(environment):
    space = environment.action_space
    if isinstance(space, Box):
        if not space.is_bounded():
            raise ConfigurationError(f"has actions {_short(space)}; continuous ones must be bounded")
        if not np.issubdtype(space.dtype, np.floating):
            raise ConfigurationError(
                f"has actions {_short(space)}, whole numbers, which a policy does not give; register it with MultiDiscrete"
            )
        return environment if len(space.shape) == 1 else FlatActions(environment)
    if isinstance(space, Discrete):
        return environment if space.start == 0 else ShiftedActions(environment)
    if isinstance(space, gymnasium.spaces.MultiBinary) or (
        isinstance(space, gymnasium.spaces.MultiDiscrete) and (len(space.shape) != 1 or space.start.any())
    ):
        return SeveralActions(environment)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return environment
    raise ConfigurationError(f"has actions {_short(space)}; they must be Box, Discrete or of several of these")


def _short(space):
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else text[:97] + "..."


class FlatActions(gymnasium.ActionWrapper):
    """Continuous actions with one axis in the place of several."""

    def __init__(self, environment):
        super().__init__(environment)
        space = environment.action_space
        self.action_space = Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype)

    def action(self, action):
        return action.reshape(self.env.action_space.shape)


class ShiftedActions(gymnasium.ActionWrapper):
    """Discrete actions from 0 in the place of ones from elsewhere."""

    def __init__(self, environment):
        super().__init__(environment)
        self.action_space = Discrete(int(environment.action_space.n))

    def action(self, action):
        return action + self.env.action_space.start


class SeveralActions(gymnasium.ActionWrapper):
    """Several discrete actions at once, each from 0, with one axis, in the place of binary ones or others."""

    def __init__(self, environment):
        super().__init__(environment)
        self.binary = isinstance(environment.action_space, gymnasium.spaces.MultiBinary)
        shape = environment.action_space.shape
        counts = np.full(shape, 2) if self.binary else environment.action_space.nvec
        self.action_space = gymnasium.spaces.MultiDiscrete(counts.reshape(-1))

    def action(self, action):
        space = self.env.action_space
        action = np.asarray(action).reshape(space.shape).astype(space.dtype)
        return action if self.binary else action + space.start
