"""Networks as functions from observations to outputs, in NumPy where they are stacks of dense layers.

For few observations or few weights, a call of TensorFlow takes ten times as long as the arithmetic.
"""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

from pops.model import OWN_ACTIVATIONS
from pops.policies.stack import ACTIVATIONS

# It would warn that policies are compiled anew, once a network.
tf.get_logger().setLevel("ERROR")

# Above so many weights TensorFlow is as fast, and may have a GPU.
MOST_WEIGHTS = 10**6

_NAMES = {OWN_ACTIVATIONS.get(name) or keras.activations.get(name): name for name in ACTIVATIONS}


def _dense(layer):
    activation = ACTIVATIONS[_NAMES[layer.activation]]

    def run(inputs, arrays):
        outputs = inputs @ next(arrays)
        outputs += next(arrays)
        return activation(outputs)

    return run


def _activation(layer):
    activation = ACTIVATIONS[_NAMES[layer.activation]]
    return lambda inputs, _: activation(inputs)


def _leaky_relu(layer):
    slope = np.float32(layer.negative_slope)
    return lambda inputs, _: np.where(inputs > 0, inputs, slope * inputs)


def _rescaling(layer):
    scale, offset = np.float32(layer.scale), np.float32(layer.offset)
    return lambda inputs, _: inputs * scale + offset


_LAYERS = {
    "Dense": _dense,
    "MemberDense": _dense,
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "Rescaling": _rescaling,
}


def in_numpy(network):
    """A stack of dense layers as a function in NumPy, or None for any other network and for large ones.

    Args:
        network: keras.Model, plain or of members.

    Returns:
        (weights as `get_weights` gives them, observations) -> outputs, float32.
    """
    if type(network) is not keras.Sequential or network.count_params() > MOST_WEIGHTS:
        return None
    try:
        steps = [_LAYERS[type(layer).__name__](layer) for layer in network.layers]
    except KeyError:  # another layer or activation
        return None
    if len(network.weights) != 2 * sum(hasattr(layer, "kernel") for layer in network.layers):  # no bias
        return None

    def run(weights, observations):
        outputs, arrays = observations.astype(np.float32, copy=False), iter(weights)
        for step in steps:
            outputs = step(outputs, arrays)
        return outputs

    return run


def network_policy(network):
    """A plain Keras network, or what is used like one, as a policy for `Player`; its weights as they are now."""
    if not isinstance(network, keras.Model):
        run = network
    elif run := in_numpy(network):
        run = partial(run, network.get_weights())
    else:
        run = tf.function(network, autograph=False)
    return lambda observations: run(observations[0])[None]


def agent_policy(agent):
    """The same for a teacher in training, whose weights are not its network's own: weights -> policy."""
    run, arrays_of = _run(agent.network, agent.__call__)

    def policy(weights):
        arrays = arrays_of(weights)
        return lambda observations: run(arrays, observations[0])[None]

    return policy


def student_policy(student):
    """The same for all members of a student: (weights, masks) -> policy."""
    run, arrays_of = _run(student.network, student.outputs, student.xla)
    return lambda weights, masks: partial(run, arrays_of(student.masked(weights, masks)))


def _run(network, outputs, xla=False):
    """How a network's outputs follow from weights and observations, and the form in which this takes its weights."""
    if run := in_numpy(network):
        return run, lambda weights: [np.asarray(weight) for weight in weights]
    return tf.function(outputs, jit_compile=xla, autograph=False), list
