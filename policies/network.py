"""Networks of other libraries as teachers: as layers where they are a plain stack of these, else as functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pops.policies.agent import agent_of
from pops.policies.chain import NotPlain
from pops.policies.functions import TeacherFunction, one_hot, refuse_chance
from pops.support.console import log
from pops.support.errors import ConfigurationError, one_line

TOLERANCE = 1e-4  # by which an agent's outputs may differ from the network's, relative to the largest of them

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
        function: why it is no agent, in words -> TeacherFunction; None: of what `run` gives.
    """

    name: str
    run: Callable
    chain: Callable
    takes: tuple | None = None
    remark: str = ""
    function: Callable | None = None


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
    network = replace(network, run=_named_failures(network))
    _warn_of_small_actions(network, output, kind, settings, environment)
    try:
        chain = network.chain(output)
        agent = agent_of(chain.stack(settings), kind, settings, environment)
        _compare(agent, chain, lambda observations: network.run(observations)[output])
        return agent
    except ConfigurationError as error:  # NotPlain, or layers of which PoPS has no agent
        why = f"{network.name} is no plain stack of layers ({error})"
    _refuse_chance(network, output, integers, kind, settings)
    outputs = network.run(samples(kind, settings))[output]
    if network.function:
        return network.function(why)
    probabilities = not integers and are_probabilities(outputs, settings)

    def no_such_action(number):
        raise ConfigurationError(f"{network.name}: chooses action {number}, and there are 0 to {settings['actions'] - 1}")

    def values(observations):
        outputs = network.run(observations)[output]
        if integers:
            return one_hot(outputs, settings["actions"], no_such_action)
        return np.log(np.maximum(outputs, LEAST)) if probabilities else outputs

    values(samples(kind, settings))  # which may show actions that there are not

    remarks = [network.remark, "its integer actions become one-hot values" if integers else ""]
    remarks.append("its probabilities become their logarithms" if probabilities else "")
    return TeacherFunction(values, settings, kind.observation_type, "; ".join([why, *filter(None, remarks)]))


def _output(network, kind, settings, environment):
    """The name of the output that chooses the action, and whether it is the action's number."""
    shape, actions = tuple(settings["observation_shape"]), settings["actions"]
    try:
        outputs = network.run(np.zeros((ROWS, *shape), kind.observation_type))
    except ConfigurationError:
        raise
    except Exception as error:  # of whatever kind: it is the network's own code that runs here
        known = network.takes not in (None, shape)
        takes = f"takes observations of shape {network.takes}, those" if known else "observations"
        raise ConfigurationError(
            f"{network.name}: {takes} of {environment} have {shape}, with which it fails ({one_line(error, 200)})"
        ) from None
    values = [name for name, array in outputs.items() if array.shape == (ROWS, actions) and array.dtype.kind == "f"]
    numbers = []
    if not (settings["bounds"] or settings["factors"]):
        shapes = (ROWS,), (ROWS, 1)
        numbers = [name for name, array in outputs.items() if array.shape in shapes and array.dtype.kind in "iu"]
    # As Stable-Baselines3's documentation exports a policy: actions, value, logarithm of their probability.
    if [array.shape for array in outputs.values()] == [(ROWS, actions), (ROWS, 1), (ROWS,)]:
        values = values[:1]
    if len(values) == 1 and numbers:
        _refuse_disagreement(network, values[0], numbers, kind, settings)
    if len(values) == 1 or (not values and len(numbers) == 1):
        return (values or numbers)[0], not values
    found = ", ".join(f"{name} {_in_words(array)}" for name, array in outputs.items())
    which = f"{len(values) or len(numbers) or 'none'} of its outputs could be"
    what = "the action" if settings["bounds"] else "the actions' values"
    raise ConfigurationError(
        f"{network.name}: {environment} takes {shape} and needs one output (batch, {actions}); {which} {what}: {found}; "
        f"export it with {what} as its only output"
    )


def _warn_of_small_actions(network, output, kind, settings, environment):
    """Warns of a network whose actions end at ±1 where the environment's do not, as those of SAC, TD3 and DDPG before they
    are scaled. The file does not tell whether they are meant as they are."""
    if not settings["bounds"]:
        return
    largest = np.abs(network.run(samples(kind, settings))[output]).max()
    if 0.99 < largest <= 1.00001 and np.abs(settings["bounds"]).max() > 1.00001:
        low, high = np.min(settings["bounds"]), np.max(settings["bounds"])
        log(
            f"WARNING: {network.name}: its actions stay within -1 and 1, and those of {environment} reach from {low:g} to "
            f"{high:g}; if they are meant as shares of these, scale them inside the network"
        )


def _refuse_disagreement(network, values, numbers, kind, settings):
    """Raises ConfigurationError where a network gives numbers of actions beside the only output that could be their values,
    and none of the former is the action of the largest of the latter."""
    observations = samples(kind, settings)
    outputs = _named_failures(network)(observations)
    largest = outputs[values].argmax(axis=1)
    if max((outputs[name].reshape(-1) == largest).mean() for name in numbers) < 0.99:
        raise ConfigurationError(
            f"{network.name}: {values} has the shape of the actions' values, and its largest is not the action that "
            f"{' or '.join(numbers)} names; export it with one of them as its only output"
        )


def _named_failures(network):
    """The network's `run`, which raises ConfigurationError where it fails."""

    def run(observations):
        try:
            return network.run(observations)
        except Exception as error:  # of whatever kind: it is the network's own code that runs here
            reason = one_line(error, 200)
            raise ConfigurationError(
                f"{network.name}: fails with some of the observations that were tried ({reason})"
            ) from None

    return run


def _in_words(outputs):
    """The shape of what a network gives for ROWS observations, and its type if it is no float."""
    batch = ["batch"] if outputs.shape[:1] == (ROWS,) else outputs.shape[:1]
    shape = f"({', '.join(map(str, (*batch, *outputs.shape[1:])))})"
    return shape if outputs.dtype.kind == "f" else f"{shape} of {outputs.dtype}"


def _refuse_chance(network, output, integers, kind, settings):
    """Raises ConfigurationError where observations alone do not say what a network gives: noise, the batch's statistics."""
    refuse_chance(network.name, lambda batch: network.run(batch)[output], samples(kind, settings))
    observations = _samples(kind, settings)[0]
    outputs = network.run(observations)[output].astype(np.float64)
    pairs = [network.run(observations[place : place + 2])[output] for place in range(0, 16, 2)]
    different = np.abs(outputs[:16] - np.concatenate(pairs)).reshape(16, -1).max(axis=1)
    # Some of the difference may be rounding: of float16, or of 8 bits, whose scale may follow from the batch.
    if (different > 0).mean() > 0.05 if integers else different.mean() > 0.05 * np.abs(outputs).max():
        raise ConfigurationError(
            f"{network.name}: gives other outputs for the same observations in another call, by what else is in the batch; "
            "give it as it plays, with normalisation by statistics of training"
        )


def samples(kind, settings):
    """All of the observations on which networks are compared, [batch, *observation_shape]."""
    return np.concatenate(_samples(kind, settings))


def _samples(kind, settings, scale=1.0, offset=0.0):
    """Observations of sensible scales and at the edges, usual ones first: a list of [batch, *observation_shape].

    Args:
        scale, offset: [inputs], of the map before the network's first layer, which was made for what that brings to 0 ± 1.
    """
    generator, shape = np.random.default_rng(0), tuple(settings["observation_shape"])
    if kind.observation_type == "uint8":
        noise = generator.integers(256, size=(16, *shape), dtype=np.uint8)
        return [noise, noise // 64 + np.uint8(90), *(np.full((1, *shape), level, np.uint8) for level in (255, 0))]
    noise = generator.normal(size=(64, *shape))
    made_for = (noise.reshape(64, -1) - offset) / np.where(scale, scale, 1)
    # Far out, all units are on or off.
    batches = [made_for.reshape(noise.shape), *(factor * noise for factor in (1, 0.1, 10, 100)), np.zeros((1, *shape))]
    return [batch.astype(np.float32) for batch in batches]


def _compare(agent, chain, run):
    """Raises NotPlain unless an agent gives a network's outputs: where numbers cancel in float32, or a reader is wrong."""
    errors, usual = [], 1e-30
    for observations in _samples(type(agent), agent.settings, *chain.seen):
        expected, outputs = run(observations), np.asarray(agent.played(observations), np.float64)
        if chain.ending == "argmax":  # the agent's value of that action must be its largest, but for rounding
            chosen, expected, outputs = expected.reshape(-1, 1), outputs, outputs.copy()
            np.put_along_axis(outputs, chosen, outputs.max(axis=1, keepdims=True), axis=1)
        elif chain.ending:
            outputs = outputs - outputs.max(axis=1, keepdims=True)
            outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
            outputs = np.exp(outputs) if chain.ending == "softmax" else outputs
        elif chain.clip is not None:
            outputs = np.clip(outputs, *chain.clip)
        # A network without biases gives 0 for zeros, so that an error there is compared with the outputs elsewhere.
        usual = max(usual, np.abs(expected).max())
        with np.errstate(invalid="ignore"):  # of what is infinite, which no stack's outputs are
            errors.append(np.abs(outputs - expected).max() / usual)
    if not np.max(errors) <= TOLERANCE:  # nor where one is no number
        raise NotPlain(reason=f"folded, its outputs would differ by {np.max(errors):.2g} of the largest")


def are_probabilities(outputs, settings):
    """Whether outputs are probabilities of the actions, whose logarithms are what a softmax takes."""
    if settings["bounds"] or settings["factors"] or not np.isfinite(outputs).all():
        return False
    sums_to_one = np.abs(outputs.sum(axis=1) - 1).max() < 1e-3
    return bool(sums_to_one and (outputs >= 0).all() and ((outputs > 0) & (outputs < 1)).any())
