"""Python functions as teachers: a network learns to act like the function first."""

import keras
import numpy as np

from pops.configs import by_size
from pops.model import FRESH, agents_of
from pops.support.console import log
from pops.support.errors import ConfigurationError, RunFailed, one_line
from pops.support.records import new_task
from pops.support.rewards import reward_statistics, rewards_text, shape_text
from pops.train import Distilled, fit_supervised


class TeacherFunction:
    """A Python function used like a Keras network.

    Args:
        function: observations [batch, *observation_shape] -> action values [batch, actions], both NumPy arrays.
        settings: the configuration's group `model`.
        observation_type: of the observations.
        why: in words, why a file or a network is taken as a function; None for one that was given as such.

    Raises:
        ConfigurationError: what it returns for a batch of zeros is not that.
    """

    def __init__(self, function, settings, observation_type="float32", why=None):
        self.why = why
        self.function, self.settings, self.calls = function, settings, 0
        self.played, self.role = self, "function"  # as of an agent
        # As of a network, whose inputs say what type observations have.
        self.inputs = [keras.KerasTensor((None, *settings["observation_shape"]), observation_type)]
        self(np.zeros((2, *settings["observation_shape"]), observation_type))

    def __call__(self, observations):
        self.calls += 1
        returned = None
        try:
            # Copies, as observations and values must not be changed by the function, nor later.
            returned = self.function(np.array(observations))
            values = np.array(returned)
            values = self._of_integers(values) if values.dtype.kind in "iub" else values.astype(np.float32)
        except ConfigurationError:
            raise
        except Exception as error:  # of whatever kind: it is the user's code that runs here
            if isinstance(returned, tuple):
                self._fail(f"returned a tuple of {len(returned)}; the actions, or their values, alone are needed")
            self._fail(f"raised {type(error).__name__}: {one_line(error)}")
        wanted = (len(observations), self.settings["actions"])
        if values.shape == wanted[:1] and wanted[1] == 1:
            values = values[:, None]
        if values.shape != wanted:
            self._fail(f"returned {values.shape} for a batch of {wanted[0]}; finite {wanted} needed")
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            self._fail(f"returned {values[row, column]} for action {column} of observation {row}; finite {wanted} needed")
        return values

    def _of_integers(self, numbers):
        """Action values for the numbers of discrete actions, [batch] or [batch, 1]; all others as they are."""
        actions, shape = self.settings["actions"], numbers.shape
        one = not (self.settings["bounds"] or self.settings["factors"]) and shape in (shape[:1], (*shape[:1], 1))
        if not one:
            return numbers.astype(np.float32)
        return one_hot(
            numbers, actions, lambda number: self._fail(f"returned action {number}; there are 0 to {actions - 1}")
        )

    def _fail(self, what):
        raise ConfigurationError(f"the teacher: {what} (in its call {self.calls})") from None


def one_hot(numbers, actions, refuse):
    """Action values, float32 [batch, actions], for numbers of actions, integers [batch] or [batch, 1]. `refuse`: raises for
    a number that there is not."""
    numbers = numbers.reshape(-1).astype(np.int64)
    for number in (numbers.min(), numbers.max()):
        if not 0 <= number < actions:
            refuse(number)
    return np.eye(actions, dtype=np.float32)[numbers]


def refuse_chance(name, function, observations):
    """Raises ConfigurationError where the same call twice does not give the same."""
    first, second = (np.asarray(function(observations), np.float64) for _ in range(2))
    with np.errstate(invalid="ignore"):  # of what is infinite
        different = np.abs(first - second)[~((first == second) | (np.isnan(first) & np.isnan(second)))]
    if len(different) and not different.max() <= 1e-6 * np.abs(first).max():
        raise ConfigurationError(
            f"{name}: gives other outputs for the same observations in another call, by chance or by what it remembers; "
            "give it as it plays greedily, without noise or sampling"
        )


def imitator(function, reference, environment, config, seeds, run):
    """A network that PoPS can prune, in place of a function: distilled from it until it is as good.

    Args:
        function: TeacherFunction.
        reference: Reference, of the function's rewards.

    Raises:
        RunFailed: it did not become so.
    """
    agents = agents_of(environment)
    settings = config["model"] | FRESH
    student = agents.student(settings, members=by_size(config["distill"]["members"], 100))
    refilled = config | {"replay": config["replay"] | {"refill": True}}
    task = new_task(function, reference, sum(student.layer_sizes()), refilled, seeds, run)
    distilled = Distilled(*fit_supervised(student, task, step=0))
    reached = rewards_text(reward_statistics(distilled.rewards))
    if reference.mean is not None and reference.confirm is not None and len(reference.confirm) == len(distilled.rewards):
        difference = reward_statistics(distilled.rewards - reference.confirm)
        reached += f" ({rewards_text(difference)} against the teacher in the same episodes)"
    units = shape_text(student.widths)
    if not distilled.met:
        raise RunFailed(
            f"a network of {units} hidden units that imitates the teacher reached {reached}, not the objective, "
            f"{config['evaluation']['objective']:.6g}; try other model.widths"
        )
    log(f"a network of {units} hidden units imitates the teacher, reward {reached}")
    agent = agents.teacher(settings)
    agent.network.set_weights(distilled.weights)
    return agent
