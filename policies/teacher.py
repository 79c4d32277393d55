"""A teacher of any kind, as the agent of its environment."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import keras

from pops.configs import ENVIRONMENTS
from pops.model import DQNAgent, agents_of
from pops.policies import keras_network, onnx_file, stable_baselines, torch_network
from pops.policies.agent import agent_of
from pops.policies.formats import refuse, what_is
from pops.policies.functions import TeacherFunction
from pops.policies.network import policy_of
from pops.policies.normaliser import find_normaliser, read_normaliser, statistics_beside
from pops.policies.zoo import find_zoo_config, read_zoo_config, refuse_wrappers
from pops.support.console import log
from pops.support.environments import configuration_of, registered_name
from pops.support.errors import ConfigurationError
from pops.support.files import NO_NORMALIZER
from pops.support.networks import read_network

KERAS = "a Keras file", "an HDF5 file"

# Files that are taken as layers or as a function -> what opens them.
NETWORKS = {"an ONNX file": onnx_file.open_network, "a TorchScript module": torch_network.open_file}


def load_teacher(teacher, environment, settings, normalizer=None):
    """A teacher as the agent of its environment or, where its layers cannot be folded into one, as a TeacherFunction.

    Args:
        teacher: path of a file: Keras's, a .zip of Stable-Baselines3, ONNX or TorchScript; or an object: a Keras network, a
            module of PyTorch, or a model of Stable-Baselines3.
        environment: a key of configs.ENVIRONMENTS, or Gymnasium's name.
        settings: the configuration's group `model`.
        normalizer: path of the statistics of VecNormalize that belong to the .zip; those that lie where they usually do are
            found without. "none" for none.

    Returns:
        DQNAgent or TeacherFunction.

    Raises:
        ConfigurationError: the file is not readable, or not a policy of this environment.
    """
    kind = agents_of(environment).teacher
    if torch_network.is_stable_baselines_model(teacher):
        return _from_model(teacher, environment, kind, settings, normalizer)
    if torch_network.is_module(teacher):
        _refuse_normalizer(normalizer)
        return policy_of(torch_network.open_module(teacher, settings), kind, settings, environment)
    what = None if isinstance(teacher, keras.Model) else what_is(teacher)
    if what == "a file of Stable-Baselines3":
        return _from_stable_baselines(Path(teacher), environment, kind, settings, normalizer)
    _refuse_normalizer(normalizer)
    if what in NETWORKS:
        return policy_of(NETWORKS[what](teacher, settings), kind, settings, environment)
    if what is not None:
        check_keras(teacher, what)
    network, path = (teacher, "the teacher") if what is None else (read_network(teacher), teacher)
    keras_network.refuse_other(network, kind, path)
    return policy_of(keras_network.as_network(network, kind, settings, path), kind, settings, environment)


def check_keras(path, what):
    """Refuses a file that is something else than Keras writes, with the way to go."""
    # What is called one and seems to be none may be damaged, of which Keras's reader knows more.
    if what not in KERAS and Path(path).suffix != ".keras":
        refuse(path)


def is_object(teacher):
    """Whether a teacher is an object of PyTorch or Stable-Baselines3. Modules can be called, too, as functions can."""
    return torch_network.is_module(teacher) or torch_network.is_stable_baselines_model(teacher)


def _refuse_normalizer(normalizer):
    if normalizer is not None:
        raise ConfigurationError(f"--normalizer {normalizer}: belongs to a file of Stable-Baselines3")


def _from_model(model, environment, kind, settings, normalizer):
    """The agent of a model of Stable-Baselines3 that is given as an object, by way of the files that it writes."""
    name = f"the teacher, {type(model).__name__}"
    with tempfile.TemporaryDirectory() as folder:
        path, statistics = Path(folder, "teacher.zip"), Path(folder, "teacher.vecnormalize.pkl")
        model.save(path)
        if normalizer is None and (normalised := model.get_vec_normalize_env()) is not None:
            normalised.save(str(statistics))
        try:
            agent = _from_stable_baselines(path, environment, kind, settings, normalizer)
        except ConfigurationError as error:
            reason = str(error).replace(str(path), name).replace(str(statistics), f"{name}'s VecNormalize")
            raise ConfigurationError(reason) from None
    if agent.given["normalizer"] == statistics:
        agent.given["normalizer"] = "its VecNormalize"
    return agent


def _from_stable_baselines(path, environment, kind, settings, normalizer):
    """The agent of a .zip, with what lies beside it."""
    config = _zoo_config(path)
    if config:
        refuse_wrappers(path, config)
    stack = stable_baselines.read(path)
    found = _statistics(path, stack, config, normalizer)
    normaliser = read_normaliser(found) if found else None
    if normaliser and not normaliser.enabled:
        normaliser = None
    if normaliser and normaliser.mean.size != stack.observation_space.width:
        raise ConfigurationError(
            f"{found}: is for {normaliser.mean.size} numbers, and {path} sees {stack.observation_space}"
        )
    try:
        agent = agent_of(stack, kind, settings, environment, normaliser)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if stack.algorithm == "MaskablePPO":
        log(f"{path}: MaskablePPO; it plays without masks, so that actions which the environment forbids are not left out")
    agent.given = {"algorithm": stack.algorithm, "normalizer": found if normaliser else None}
    return agent


def _zoo_config(path):
    """The ZooConfig of the settings that lie beside an agent, or None; other programs have files of such names, too."""
    if found := find_zoo_config(path):
        try:
            return read_zoo_config(found)
        except ConfigurationError as error:
            log(f"{error}: left out")
    return None


def _statistics(path, stack, config, normalizer):
    """The path of the statistics that an agent's observations are normalised by, or None.

    Raises:
        ConfigurationError: it was trained on normalised observations, and none are there.
    """
    if normalizer is not None:
        return None if str(normalizer) == NO_NORMALIZER else normalizer
    found, said = find_normaliser(path), config and config.normalised
    if found and stack.normalised is False and not said:
        log(f"{path}: trained without VecNormalize, so {found} is left out; --normalizer {found} takes it all the same")
        return None
    if found or not (stack.normalised if said is None else said):
        return found
    others = ", ".join(map(str, statistics_beside(path)))
    raise ConfigurationError(
        f"{path}: trained behind VecNormalize, whose statistics are missing, and without them its actions are others; give "
        + (f"those of {others} that are its own by --normalizer" if others else "them by --normalizer FILE")
        + ", or --normalizer none if only rewards were normalised"
    )


# Algorithms whose outputs are no preferences that actions could be sampled from.
GREEDY = "DQN", "QR-DQN", "ARS"


def act_as(config, agent):
    """Makes a configuration act as an agent does, whose algorithm may not sample its actions."""
    algorithm = agent.given.get("algorithm")
    if algorithm in GREEDY and config["evaluation"]["acting"] == "sample":
        log(f"{algorithm} takes the action of its largest output, so actions are not sampled (evaluation.acting=greedy)")
        config["evaluation"] = config["evaluation"] | {"acting": "greedy"}


class Policy(NamedTuple):
    """A saved policy and what it plays in.

    Attributes:
        network: the Keras network that plays, or a TeacherFunction.
        environment: its environment, a key of configs.ENVIRONMENTS or Gymnasium's name.
        config: the configuration.
        agent: DQNAgent of the same layers; a TeacherFunction where they cannot be folded into one.
    """

    network: keras.Model | TeacherFunction
    environment: str
    config: dict
    agent: DQNAgent | TeacherFunction

    def check_layers(self, path):
        """Raises ConfigurationError where nothing but a function plays, which has no layers to count or to write."""
        if isinstance(self.network, TeacherFunction):
            self._refuse(path)

    def stacked(self, path):
        """Its layers as an agent's network, with which an exporter can deal. Raises ConfigurationError if they are not."""
        if isinstance(self.agent, TeacherFunction):
            self._refuse(path)
        return self.agent

    def _refuse(self, path):
        raise ConfigurationError(
            f"{self.agent.why}, so it has no layers to write; compress it first (pops.py --env-id "
            f"{self.config['environment']['id']} --teacher {path}) and give student.keras"
        )


def read_policy(path, environment=None, assignments=(), normalizer=None):
    """Reads a policy of any kind that `load_teacher` takes.

    Args:
        path: of the file.
        environment: see Policy; None: the file's name tells, if this project wrote it.
        assignments: strings `group.key=value` that change single settings.
        normalizer: see `load_teacher`.

    Returns:
        Policy.

    Raises:
        ConfigurationError: a setting or the file is wrong, or the two do not fit.
    """
    if what_is(path) in ("a file of Stable-Baselines3", *NETWORKS):
        if environment is None:
            raise ConfigurationError(f"{path}: does not name its environment; give it with --env")
        config = configuration_of(environment, assignments=["environment.simulator=gymnasium", *assignments])
        agent = load_teacher(path, environment, config["model"], normalizer)
        if isinstance(agent, TeacherFunction):
            return Policy(agent, environment, config, agent)
        act_as(config, agent)
        return Policy(agent.played, environment, config | {"model": agent.settings}, agent)
    _refuse_normalizer(normalizer)
    check_keras(path, what_is(path))
    network = read_network(path)
    named = network.name.rpartition("_")[0]
    if environment is None and not (environment := named if named in ENVIRONMENTS else registered_name(named)):
        raise ConfigurationError(f"{path}: does not name its environment; give it with --env")
    config = configuration_of(environment, assignments=["environment.simulator=gymnasium", *assignments])
    kind = agents_of(environment).teacher
    agent = policy_of(keras_network.as_network(network, kind, config["model"], path), kind, config["model"], environment)
    # It plays as it is in the file: folded, its outputs are rounded differently.
    return Policy(keras_network.played(network, kind, config["model"], path), environment, config, agent)
