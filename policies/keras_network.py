"""Keras networks: what their layers do, one after the other, and the network itself where it is taken as a function."""

import contextlib
import functools
import operator
from math import prod

import keras
import numpy as np
import tensorflow as tf

from pops.configs import ENVIRONMENTS
from pops.model import LEAK
from pops.policies.chain import Chain, NotPlain
from pops.policies.functions import TeacherFunction
from pops.policies.network import Network, are_probabilities, samples
from pops.policies.stack import ACTIVATIONS
from pops.support.errors import ConfigurationError
from pops.support.networks import check_shapes

# Layers that do nothing outside training.
_IDLE = tuple(
    getattr(keras.layers, name)
    for name in (
        "Identity Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise "
        "ActivityRegularization"
    ).split()
)

_ACTIVATION_LAYERS = tuple(getattr(keras.layers, name) for name in "Activation ReLU LeakyReLU ELU Softmax".split())

# Keras's operations on tensors, such as x / 255, by the names of their classes.
_ARITHMETIC = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "TrueDivide": operator.truediv,
}
_FUNCTIONS = {"Relu": "relu", "Tanh": "tanh", "Softmax": "softmax", "LogSoftmax": "log_softmax"}


class KerasFunction(TeacherFunction):
    """A Keras network that is no stack of layers, as a function that PoPS imitates first.

    Args:
        network: keras.Model from observations [batch, *observation_shape] to action values [batch, actions].
        settings: the configuration's group `model`.
        observation_type: of the observations.
        why: in words, why it is taken as a function.

    Raises:
        ConfigurationError: for a batch of zeros it gives something else.
    """

    def __init__(self, network, settings, observation_type, why):
        self.network = network
        signature = tf.TensorSpec([None, *settings["observation_shape"]], observation_type)
        self.compiled = tf.function(functools.partial(network, training=False), input_signature=[signature])
        super().__init__(lambda observations: np.asarray(self.compiled(observations)), settings, observation_type, why)


def refuse_other(network, kind, path):
    """Raises ConfigurationError for a network of this project that is a critic, or a policy of another environment."""
    environment, _, role = network.name.rpartition("_")
    if environment not in ENVIRONMENTS:
        return
    if role == "critic":
        raise ConfigurationError(f"{path}: is a critic, {network.name}, which chooses no actions; give the actor's file")
    same = ENVIRONMENTS[environment]["paper"]["environment"]["id"] == kind.environment
    if environment != kind.environment and not same:
        raise ConfigurationError(f"{path}: is a policy for {environment}, {network.name}, not for {kind.environment}")


def as_network(network, kind, settings, path="the teacher"):
    """A Keras network as a Network.

    Args:
        network: keras.Model.
        kind: class of the agent.
        settings: the configuration's group `model`.
        path: what an error's message calls it.

    Raises:
        ConfigurationError: it takes or gives something else than a policy of this environment does.
    """
    shaped = _shaped(network, kind, settings, path)

    def run(observations):
        outputs = shaped(observations, training=False)
        if isinstance(outputs, dict | list | tuple):
            raise TypeError(f"it gives a {type(outputs).__name__}, not a tensor")
        return {"output": np.asarray(outputs, np.float32)}

    return Network(
        name=str(path),
        run=run,
        # Relu as in this project's own networks for CartPole.
        chain=lambda _: _chain(shaped, Chain(settings["observation_shape"], ends=("linear", "relu"))),
        function=lambda why: KerasFunction(_values(shaped, kind, settings), settings, kind.observation_type, why),
    )


def played(network, kind, settings, path="the teacher"):
    """The network itself as it plays in the environment: as it is, if it takes the observations and gives values.

    Args, raises:
        See `as_network`.

    Returns:
        keras.Model: [batch, *observation_shape] of the environment's type -> float32 [batch, actions], before any softmax.
    """
    return _values(_shaped(network, kind, settings, path), kind, settings)


def leaves(network):
    """The layers of a network and of those nested in it, which are left out themselves."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


# The network as the environment needs it


def _shaped(network, kind, settings, path):
    """The network, behind a layer that reorders the observations where it takes them in another order or type.

    Those of a game are [4, 84, 84], and many networks take [84, 84, 4]. All others are flat, in the order of Gymnasium's
    FlattenObservation, and a network may begin with the environment's own axes.
    """
    state = next((layer for layer in leaves(network) if getattr(layer, "stateful", False)), None)
    if state is not None:
        raise ConfigurationError(
            f"{path}: {_named(state)} keeps a state from one observation to the next (stateful=True), and PoPS compresses "
            "policies of the present observation"
        )
    inputs, outputs = (getattr(network, name, None) for name in ("inputs", "outputs"))
    if inputs is None and not isinstance(network, keras.Sequential):
        return network  # a class of somebody's own, whose shapes only a call can tell
    if inputs is not None and len(inputs) != 1:
        raise ConfigurationError(f"{path} ({network.name}): has {len(inputs)} inputs, and PoPS takes policies of one")
    if inputs is not None and len(outputs) != 1:
        network = _of_one_output(network, settings, path)
    if inputs and inputs[0].shape[0] is not None:  # built by a call, or with batch_size
        with contextlib.suppress(Exception):  # of any kind, where it cannot take other numbers of observations
            any_number = keras.Input(inputs[0].shape[1:], dtype=inputs[0].dtype)
            network = keras.Sequential([any_number, network], name=network.name)
            inputs = network.inputs
    wanted, found = tuple(settings["observation_shape"]), tuple((getattr(network, "input_shape", None) or ())[1:])
    if len(wanted) == 3 and found == (*wanted[1:], wanted[0]):
        first = [keras.layers.Permute((2, 3, 1), name="channels_last")]
    elif len(wanted) == 1 and len(found) > 1 and None not in found and prod(found) == wanted[0]:
        first = [keras.layers.Reshape(found, name="axes")]
    else:
        check_shapes(network, path, settings)
        first = []
    if network.output_shape != (None, settings["actions"]):
        check_shapes(network, path, settings)
    if not first and inputs[0].dtype == kind.observation_type:
        return network
    observations = keras.Input(wanted, name="observations", dtype=kind.observation_type)
    return keras.Sequential([observations, *first, network], name=network.name)


def _of_one_output(network, settings, path):
    """The network with the only one of its outputs that can be the actions or their values, as beside a critic."""
    fitting = [output for output in network.outputs if tuple(output.shape) == (None, settings["actions"])]
    if len(fitting) != 1:
        found = ", ".join(str(tuple(output.shape)) for output in network.outputs)
        raise ConfigurationError(
            f"{path} ({network.name}): {len(fitting) or 'none'} of its outputs, {found}, could be the actions, "
            f"(None, {settings['actions']}); give one: keras.Model(network.inputs, network.outputs[0])"
        )
    return keras.Model(network.inputs, fitting[0], name=network.name)


def _values(network, kind, settings):
    """The network with the logarithm of its outputs if they are probabilities, from whose softmax actions are drawn."""
    if settings["bounds"]:
        return network
    if not _ends_with_softmax(network):
        outputs = np.asarray(network(samples(kind, settings), training=False), np.float32)
        if not are_probabilities(outputs, settings):
            return network
    observations = keras.Input(settings["observation_shape"], name="observations", dtype=kind.observation_type)
    probabilities = keras.ops.cast(network(observations), "float32")  # in float16, 1e-30 would be 0
    return keras.Model(observations, keras.ops.log(probabilities + 1e-30), name=network.name)


def _ends_with_softmax(network):
    last = network
    while isinstance(last, keras.Model) and getattr(last, "outputs", None):
        last = last.outputs[0]._keras_history.operation
    return _activation(last) == "softmax"


# Its layers


def _steps(network):
    """What it does from input to output, nested networks' layers in their places.

    Returns:
        [(operation, its arguments, number of its input's axes without the batch)].

    Raises:
        NotPlain: it is no chain.
    """
    if getattr(network, "outputs", None) is None:
        raise NotPlain(reason=f"its class {type(network).__name__} is none of Keras's own")
    tensor, steps = network.outputs[0], []
    while True:
        operation, node, _ = tensor._keras_history
        if isinstance(operation, keras.layers.InputLayer):
            return steps[::-1]
        arguments, tensors = (getattr(operation._inbound_nodes[node], name) for name in ("arguments", "input_tensors"))
        if len(tensors) != 1 or (isinstance(operation, keras.Model) and len(operation.outputs) != 1):
            raise NotPlain(reason=f"{_named(operation)} joins branches")
        (tensor,) = tensors
        nested = isinstance(operation, keras.Model)
        steps += _steps(operation)[::-1] if nested else [(operation, arguments.args, len(tensor.shape) - 1)]


def _named(operation):
    return f"{type(operation).__name__} {operation.name!r}"


def _activation(operation):
    """Name of the activation with which a layer or operation ends, as in ACTIVATIONS, "softmax" or "log_softmax".

    None: it is another one, or has other settings than these.
    """
    kind, layers = type(operation), keras.layers
    if kind is layers.ReLU:
        plain = not operation.negative_slope and not operation.threshold
        slope = np.isclose(operation.negative_slope, LEAK) and not operation.threshold and operation.max_value is None
        return {None: "relu", 6: "relu6"}.get(operation.max_value) if plain else "leaky_relu_0.01" if slope else None
    if kind is layers.LeakyReLU:
        return "leaky_relu_0.01" if np.isclose(operation.negative_slope, LEAK) else None
    if kind is layers.ELU:
        return "elu" if operation.alpha == 1 else None
    own = kind is layers.Softmax or not isinstance(operation, layers.Layer)
    if own and kind.__name__ in ("Softmax", "LogSoftmax"):
        return _FUNCTIONS[kind.__name__] if operation.axis == -1 else None
    if own:
        return _FUNCTIONS.get(kind.__name__)
    function = getattr(operation, "activation", None)
    if isinstance(function, layers.Layer):
        return _activation(function)
    name = getattr(function, "__name__", "")
    known = name in ACTIVATIONS or name in ("softmax", "log_softmax")
    return name if known and function is keras.activations.get(name) else None


def _chain(network, chain):
    """A network's operations, put into a Chain."""
    for operation, *more in _steps(network):
        try:
            _put(chain, operation, *more)
        except NotPlain as error:
            raise NotPlain(", ".join(filter(None, [_named(operation), error.first]))) from None
    return chain


def _put(chain, operation, arguments, axes):
    """Puts a layer or operation into a Chain.

    Args:
        arguments: of its call.
        axes: number of its input's axes without the batch.
    """
    kind, layers = type(operation), keras.layers
    activation = _activation(operation)
    if isinstance(operation, _IDLE):
        return
    if kind is layers.Dense and activation:
        chain.dense(operation.kernel, operation.bias)
    elif kind is layers.Conv2D and activation and operation.data_format == "channels_last":
        settings = operation.strides, operation.dilation_rate, operation.groups, operation.padding != "valid"
        chain.convolution(operation.kernel, operation.bias, *settings, channels=-1)
    elif kind is layers.Flatten and operation.data_format == "channels_last":
        chain.reshape(-1)
    elif kind is layers.Reshape:
        chain.reshape(operation.target_shape)
    elif kind is layers.Permute:
        chain.transpose((0, *operation.dims))
    elif kind is layers.BatchNormalization and operation.axis in (-1, axes):
        scale, offset = operation.gamma if operation.scale else None, operation.beta if operation.center else None
        statistics = operation.moving_mean, operation.moving_variance, operation.epsilon
        chain.batch_norm(*statistics, scale, offset, channels=-1)
    elif (affine := _affine(operation, arguments)) is not None:
        chain.affine(*affine)
    elif not activation or not (kind in _ACTIVATION_LAYERS or not isinstance(operation, layers.Layer)):
        raise NotPlain
    if activation:
        chain.activation(activation)


def _affine(operation, arguments):
    """Scale and offset, float64, of a layer or operation that has one for each number; None for others."""
    kind, layers = type(operation), keras.layers
    if kind is layers.Rescaling:
        return np.asarray(operation.scale, np.float64), np.asarray(operation.offset, np.float64)
    if kind is layers.Normalization:
        mean, spread = np.asarray(operation.mean, np.float64), np.sqrt(np.asarray(operation.variance, np.float64))
        spread = np.maximum(spread, keras.config.epsilon())
        return (spread, mean) if operation.invert else (1 / spread, -mean / spread)
    calculate = None if isinstance(operation, layers.Layer) else _ARITHMETIC.get(kind.__name__)
    if calculate is None or (calculate is operator.truediv and not isinstance(arguments[0], keras.KerasTensor)):
        return None

    def at(value):
        """The result where the tensor has this value."""
        return calculate(*(value if isinstance(a, keras.KerasTensor) else np.asarray(a, np.float64) for a in arguments))

    return at(1.0) - at(0.0), at(0.0)
