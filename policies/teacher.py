"""A teacher of any kind, as the agent of its environment."""

from pathlib import Path

import keras

from pops.configs import ENVIRONMENTS
from pops.model import agents_of
from pops.policies.stable_baselines import from_stable_baselines, is_stable_baselines
from pops.support.environments import configuration_of, registered_name
from pops.support.errors import ConfigurationError
from pops.support.networks import check_shapes, read_network


def load_teacher(teacher, environment, settings):
    """A teacher as the agent of its environment.

    Args:
        teacher: path of a Keras file or of a Stable-Baselines3 .zip, or a Keras network.
        environment: a key of configs.ENVIRONMENTS, or Gymnasium's name.
        settings: the configuration's group `model`.

    Raises:
        ConfigurationError: the file is not readable, or not a network of this environment's kind.
    """
    kind = agents_of(environment).teacher
    if isinstance(teacher, keras.Model):
        return kind.from_network(teacher, settings)
    if is_stable_baselines(teacher):
        return from_stable_baselines(Path(teacher), kind, settings)
    return kind.load(teacher, settings)


def read_policy(path, environment=None, assignments=()):
    """A saved policy and what it plays in.

    Args:
        path: Keras file.
        environment: its environment, a key of configs.ENVIRONMENTS or Gymnasium's name; None: the file's name tells.
        assignments: strings `group.key=value` that change single settings.

    Returns:
        Its Keras network, the environment's key, and the configuration.

    Raises:
        ConfigurationError: a setting or the file is wrong, or the two do not fit.
    """
    network = read_network(path)
    named = network.name.rpartition("_")[0]
    if environment is None and not (environment := named if named in ENVIRONMENTS else registered_name(named)):
        raise ConfigurationError(f"{path}: does not name its environment; give it with --env")
    config = configuration_of(environment, assignments=assignments)
    check_shapes(network, path, config["model"])
    return network, environment, config
