"""Networks as functions from observations to outputs: stacks of dense layers in NumPy, convolutional ones in ONNX Runtime.

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

# From so few copies of an environment on, fewer are not worth another compilation.
LEAST_COPIES = 4

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


_CONVOLUTIONAL = {*_LAYERS, "Permute", "Frames", "Conv2D", "MemberConvolution", "Flatten"}


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


def in_onnx(network):
    """What `runtime.sessions` makes of a stack with convolutions; None for others, and where there is a GPU."""
    stack = type(network) is keras.Sequential and any(hasattr(layer, "filters") for layer in network.layers)
    if not stack or tf.config.list_physical_devices("GPU"):
        return None
    from pops.support.runtime import sessions  # imports what no other network needs

    return sessions(network)


def network_policy(network):
    """A plain Keras network, or what is used like one, as a policy for `Player`; its weights as they are now."""
    if not isinstance(network, keras.Model):
        return _in_few_sizes(lambda observations: np.asarray(network(observations[0]))[None])
    if run := in_numpy(network):
        return partial(_one, run, network.get_weights())
    if session := in_onnx(network):
        run = session(network.get_weights())
        return lambda observations: run(observations[0])[None]
    return _compiled(network, lambda observations: network(observations[0])[None])


def agent_policy(agent):
    """The same for a teacher in training, whose weights are not its network's own: weights -> policy."""
    if run := in_numpy(agent.network):
        return lambda weights: partial(_one, run, _arrays(weights))
    run = _compiled(agent.network, lambda weights, observations: agent(weights, observations[0])[None])
    return lambda weights: partial(run, weights)


def student_policy(student):
    """The same for all members of a student: (weights, masks) -> policy."""
    if run := in_numpy(student.network):
        return lambda weights, masks: partial(run, _arrays(student.masked(weights, masks)))
    if session := in_onnx(student.network):

        def policy(weights, masks):
            arrays = _arrays(student.masked(weights, masks))
            runs = [session([array[member] for array in arrays]) for member in range(student.members)]
            return lambda observations: np.stack([run(seen) for run, seen in zip(runs, observations, strict=True)])

        return policy
    run = _compiled(student.network, student.outputs, student.members)
    return lambda weights, masks: partial(run, student.masked(weights, masks))


def _one(run, weights, observations):
    return run(weights, observations[0])[None]


def _arrays(weights):
    return [np.asarray(weight) for weight in weights]


def _compiled(network, outputs, members=1):
    """`outputs`, of (..., observations [members, copies, ...]), in TensorFlow; of small convolutional networks, by XLA."""
    small = type(network) is keras.Sequential and network.count_params() <= MOST_WEIGHTS * members
    xla = small and all(type(layer).__name__ in _CONVOLUTIONAL for layer in network.layers)
    return _in_few_sizes(tf.function(outputs, autograph=False, jit_compile=xla))


def _in_few_sizes(run):
    """The same function for any number of copies, which is asked for few: the most so far, half of it, a quarter and so on.

    It may be compiled anew for each. The last copy's observation fills these up.
    """
    most = 0

    def filled(*arguments):
        nonlocal most
        *weights, observations = arguments
        count = observations.shape[1]
        size = most = max(most, count)
        while size > LEAST_COPIES and (size + 1) // 2 >= count:
            size = (size + 1) // 2
        rows = np.minimum(np.arange(size), count - 1)
        return np.asarray(run(*weights, observations[:, rows]))[:, :count]

    return filled
