"""Networks of other libraries as teachers: as layers where they are a plain stack of these, else as functions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pops.policies.agent import agent_of
from pops.policies.chain import NotPlain
from pops.policies.functions import TeacherFunction
from pops.support.errors import ConfigurationError

ROWS = 3  # observations on which the outputs' shapes are seen; no other axis is likely to have as many

LEAST = 1e-8  # probability whose logarithm is still taken


@dataclass(frozen=True)
class Network:
    """A network of another library.

    Args:
        name: for messages; a file's path.
        run: observations [batch, *observation_shape] -> {name of an output: array [batch, ...]}.
        chain: name of an output -> Chain. Raises NotPlain.
        takes: shape of the observations that it says it takes, for messages; None if it does not.
        remark: what else is to be said of how it is run.
    """

    name: str
    run: Callable
    chain: Callable
    takes: tuple | None = None
    remark: str = ""


def policy_of(network, kind, settings, environment):
    """A network as the agent of an environment, or as a function.

    It is an agent if it is a plain stack of layers that PoPS can prune, and then gives the same outputs.

    Args:
        network: Network.
        kind: class of the agent.
        settings: the configuration's group `model`.
        environment: its id, for messages.

    Returns:
        DQNAgent or TeacherFunction, whose attribute `why` says why it is none.

    Raises:
        ConfigurationError: the network does not fit the environment.
    """
    output, integers = _output(network, kind, settings, environment)
    try:
        chain = network.chain(output)
        agent = agent_of(chain.stack(settings), kind, settings, environment)
        _compare(agent, chain, lambda observations: network.run(observations)[output], settings)
        return agent
    except NotPlain as reason:
        why = f"first: {reason}"
    except ConfigurationError as error:  # layers of which PoPS has no agent
        why = str(error)
    samples = np.concatenate(_samples(kind, settings))
    probabilities = not integers and _are_probabilities(network.run(samples)[output], settings)

    def values(observations):
        outputs = network.run(observations)[output]
        if integers:
            return np.eye(settings["actions"])[outputs.reshape(-1)]
        return np.log(np.maximum(outputs, LEAST)) if probabilities else outputs

    remarks = [network.remark, "its integer actions become one-hot values" if integers else ""]
    remarks.append("its probabilities become their logarithms" if probabilities else "")
    why = "; ".join([f"{network.name} is no plain stack of layers ({why})", *filter(None, remarks)])
    return TeacherFunction(values, settings, kind.observation_type, why)


def _output(network, kind, settings, environment):
    """The name of the output that chooses the action, and whether it is the action's number."""
    shape, actions = tuple(settings["observation_shape"]), settings["actions"]
    try:
        outputs = network.run(np.zeros((ROWS, *shape), kind.observation_type))
    except ConfigurationError:
        raise
    except Exception as error:  # of whatever kind: it is the network's own code that runs here
        takes = f"takes observations of shape {network.takes}, " if network.takes else ""
        raise ConfigurationError(
            f"{network.name}: {takes}those of {environment} have {shape}, with which it fails "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    values = [name for name, array in outputs.items() if array.shape == (ROWS, actions) and array.dtype.kind == "f"]
    numbers = []
    if not (settings["bounds"] or settings["factors"]):
        shapes = (ROWS,), (ROWS, 1)
        numbers = [name for name, array in outputs.items() if array.shape in shapes and array.dtype.kind in "iu"]
    if len(values) == 1 or (not values and len(numbers) == 1):
        return (values or numbers)[0], not values
    found = ", ".join(f"{name} {('batch', *array.shape[1:])}".replace("'", "") for name, array in outputs.items())
    which = f"{len(values) or len(numbers) or 'none'} of its outputs could be"
    what = "the action" if settings["bounds"] else "the actions' values"
    raise ConfigurationError(
        f"{network.name}: {environment} takes {shape} and needs one output (batch, {actions}); {which} {what}: {found}; "
        f"export it with {what} as its only output"
    )


def _samples(kind, settings):
    """Observations of sensible scales: a list of [batch, *observation_shape]."""
    generator, shape = np.random.default_rng(0), settings["observation_shape"]
    if kind.observation_type == "uint8":
        return [generator.integers(0, 256, size=(16, *shape), dtype=np.uint8)]
    return [(scale * generator.normal(size=(64, *shape))).astype(np.float32) for scale in (0.1, 1, 10, 100)]


def _compare(agent, chain, run, settings):
    """Raises NotPlain unless an agent does what a network does, on observations of each scale."""
    for observations in _samples(type(agent), settings):
        expected, outputs = run(observations), agent.played(observations).numpy().astype(np.float64)
        if chain.ending == "argmax":
            expected, outputs = expected.reshape(-1), outputs.argmax(axis=1)
            same = np.mean(expected == outputs) > 0.95  # ties may fall otherwise
        else:
            if chain.ending:
                outputs = outputs - outputs.max(axis=1, keepdims=True)
                outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
                outputs = np.exp(outputs) if chain.ending == "softmax" else outputs
            if settings["bounds"]:
                outputs, expected = (np.clip(values, *settings["bounds"]) for values in (outputs, expected))
            with np.errstate(invalid="ignore"):  # of what is infinite, which no stack's outputs are
                same = np.abs(outputs - expected).max() <= 1e-3 * max(np.abs(expected).max(), 1e-3)
        if not same:
            raise NotPlain("its layers alone give other outputs")


def _are_probabilities(outputs, settings):
    """Whether outputs are probabilities of the actions, whose logarithms are what a softmax takes."""
    if settings["bounds"] or settings["factors"] or not np.isfinite(outputs).all():
        return False
    sums_to_one = np.abs(outputs.sum(axis=1) - 1).max() < 1e-3
    return bool(sums_to_one and (outputs >= 0).all() and ((outputs > 0) & (outputs < 1)).any())
