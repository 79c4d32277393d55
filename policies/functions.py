"""Python functions as teachers: a network learns to act like the function first."""

import keras
import numpy as np
import tensorflow as tf

from pops.configs import by_size
from pops.model import agents_of
from pops.support.console import log
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.records import new_task
from pops.support.rewards import reward_statistics, rewards_text
from pops.train import Distilled, fit_supervised


class TeacherFunction:
    """A Python function used like a Keras network.

    Args:
        function: observations [batch, *observation_shape] -> action values [batch, actions], both NumPy arrays.
        settings: the configuration's group `model`.
        observation_type: of the observations.

    Raises:
        ConfigurationError: what it returns for a batch of zeros is not that.
    """

    def __init__(self, function, settings, observation_type="float32"):
        self.function, self.settings = function, settings
        # As of a network, whose inputs say what type observations have.
        self.inputs = [keras.KerasTensor((None, *settings["observation_shape"]), observation_type)]
        self._values(np.zeros((2, *settings["observation_shape"]), observation_type))

    def __call__(self, observations):
        outputs = tf.numpy_function(self._values, [observations], tf.float32)
        return tf.ensure_shape(outputs, (observations.shape[0], self.settings["actions"]))

    def _values(self, observations):
        # Copies, as what TensorFlow passes and keeps must not be changed by the function, nor later.
        values = np.array(self.function(observations.copy()), np.float32)
        wanted = (len(observations), self.settings["actions"])
        if values.shape != wanted or not np.isfinite(values).all():
            raise ConfigurationError(
                f"the teacher: returned {values.shape} for a batch of {wanted[0]}; finite {wanted} needed"
            )
        return values


def imitator(function, environment, config, seeds, run):
    """A network that PoPS can prune, in place of a function: distilled from it until it is as good.

    Raises:
        RunFailed: it did not become so.
    """
    agents = agents_of(environment)
    settings = config["model"] | {"output_activation": "linear", "hidden_activation": "relu"}
    student = agents.student(settings, members=by_size(config["distill"]["members"], 100))
    task = new_task(function, sum(student.layer_sizes()), config, seeds, run, "function")._replace(replay=None)
    distilled = Distilled(*fit_supervised(student, task, step=0))
    if not distilled.met:
        raise RunFailed(
            f"a network of {'-'.join(map(str, student.widths))} hidden units that imitates the teacher reached "
            f"{rewards_text(reward_statistics(distilled.rewards))}, not the objective, "
            f"{config['evaluation']['objective']:.6g}; try other model.widths"
        )
    log(
        f"a network of {'-'.join(map(str, student.widths))} hidden units imitates the teacher, whose reward is "
        f"{rewards_text(reward_statistics(task.teacher_rewards))}"
    )
    agent = agents.teacher(settings)
    agent.network.set_weights(distilled.weights)
    return agent
