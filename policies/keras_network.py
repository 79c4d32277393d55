"""Keras networks as teachers: folded exactly where they are a stack of layers, and functions where they are more."""

import functools
import operator
from math import prod

import keras
import numpy as np
import tensorflow as tf

from pops.configs import ENVIRONMENTS
from pops.model import LEAK
from pops.policies.agent import agent_of
from pops.policies.functions import TeacherFunction
from pops.policies.stack import ACTIVATIONS, Space, Stack
from pops.support.errors import ConfigurationError
from pops.support.networks import check_shapes

TOLERANCE = 1e-4  # by which a folded network's outputs may differ, relative to the largest of them

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

    def __call__(self, observations):
        # Part of the caller's graph. Called back from it, as other functions are, it would wait for ever where TensorFlow
        # has one thread for operations.
        return tf.ensure_shape(self.compiled(observations), (observations.shape[0], self.settings["actions"]))


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


def read(network, kind, settings, path="the teacher"):
    """A Keras network as an agent or, where its layers cannot be folded into one, as a function.

    Args:
        network: keras.Model.
        kind: class of the agent.
        settings: the configuration's group `model`.
        path: what an error's message calls it.

    Returns:
        DQNAgent of the same outputs (up to a softmax at the end), or KerasFunction.

    Raises:
        ConfigurationError: it takes or gives something else than a policy of this environment does.
    """
    shaped = _shaped(network, kind, settings, path)
    try:
        return _folded(shaped, kind, settings)
    except ConfigurationError as error:
        why = f"{path} is no plain stack of layers ({error})"
        return KerasFunction(_values(shaped, settings), settings, kind.observation_type, why)


def played(network, kind, settings, path="the teacher"):
    """The network itself as it plays in the environment: as it is, if it takes the observations and gives values.

    Args, raises:
        See `read`.

    Returns:
        keras.Model: [batch, *observation_shape] of the environment's type -> float32 [batch, actions], before any softmax.
    """
    return _values(_shaped(network, kind, settings, path), settings)


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
    if inputs is not None and (len(inputs) != 1 or len(outputs) != 1):
        raise ConfigurationError(
            f"{path} ({network.name}): has {len(inputs)} inputs and {len(outputs)} outputs, and a policy has one of each; "
            "of several outputs give one: keras.Model(network.inputs, network.outputs[0])"
        )
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


def _values(network, settings):
    """The network with the logarithm of its outputs if they are probabilities, from whose softmax actions are drawn."""
    if settings["bounds"] or not _ends_with_softmax(network):
        return network
    return keras.Model(network.inputs[0], keras.ops.log(network.outputs[0] + 1e-30), name=network.name)


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
        ConfigurationError: it is no chain.
    """
    if getattr(network, "outputs", None) is None:
        raise ConfigurationError(f"its class {type(network).__name__} is none of Keras's own")
    tensor, steps = network.outputs[0], []
    while True:
        operation, node, _ = tensor._keras_history
        if isinstance(operation, keras.layers.InputLayer):
            return steps[::-1]
        arguments, tensors = (getattr(operation._inbound_nodes[node], name) for name in ("arguments", "input_tensors"))
        if len(tensors) != 1 or (isinstance(operation, keras.Model) and len(operation.outputs) != 1):
            raise ConfigurationError(f"{_named(operation)} joins branches")
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
    if kind is layers.Softmax or kind.__name__ in ("Softmax", "LogSoftmax"):
        return _FUNCTIONS[kind.__name__] if operation.axis == -1 else None
    if not isinstance(operation, layers.Layer):
        return _FUNCTIONS.get(kind.__name__)
    function = getattr(operation, "activation", None)
    if isinstance(function, layers.Layer):
        return _activation(function)
    name = getattr(function, "__name__", "")
    known = name in ACTIVATIONS or name in ("softmax", "log_softmax")
    return name if known and function is keras.activations.get(name) else None


def _elements(operation, arguments, axes):
    """What an operation does, as [(method of _Folding, its arguments)]. Raises ConfigurationError if it has none."""
    kind, layers = type(operation), keras.layers
    activation = _activation(operation)
    if isinstance(operation, _IDLE):
        return []
    if kind in (layers.Dense, layers.Conv2D) and activation:
        kernel = np.asarray(operation.kernel)
        bias = np.zeros(kernel.shape[-1], np.float32) if operation.bias is None else np.asarray(operation.bias)
        linear = ("dense", kernel, bias) if kind is layers.Dense else ("convolution", kernel, bias, _stride(operation))
        return [linear, ("activation", activation)]
    if kind is layers.Flatten and operation.data_format == "channels_last":
        return [("reorder", lambda places: places.reshape(-1))]
    if kind is layers.Reshape:
        return [("reorder", lambda places: places.reshape(operation.target_shape))]
    if kind is layers.Permute:
        return [("reorder", lambda places: places.transpose([axis - 1 for axis in operation.dims]))]
    affine = _affine(operation, arguments, axes)
    if affine is not None:
        return [("affine", *affine)]
    if activation and (kind in _ACTIVATION_LAYERS or not isinstance(operation, layers.Layer)):
        return [("activation", activation)]
    raise ConfigurationError(_named(operation))


def _stride(convolution):
    """A convolution's stride. Raises ConfigurationError if it has more to it than a kernel and one stride."""
    (stride, other), layer = convolution.strides, convolution
    plain = layer.padding == "valid" and layer.groups == 1 and set(layer.dilation_rate) == {1}
    if not plain or stride != other or layer.data_format != "channels_last":
        raise ConfigurationError(f"{_named(layer)} has padding, dilation, groups, two strides or channels first")
    return stride


def _affine(operation, arguments, axes):
    """Scale and offset, float64, of a layer or operation that has one for each number; None for others."""
    kind, layers = type(operation), keras.layers
    if kind is layers.Rescaling:
        return np.asarray(operation.scale, np.float64), np.asarray(operation.offset, np.float64)
    if kind is layers.Normalization:
        mean, variance = (np.asarray(array, np.float64) for array in (operation.mean, operation.variance))
        mean, spread = (array[0] if array.ndim else array for array in (mean, np.sqrt(variance)))
        spread = np.maximum(spread, keras.config.epsilon())
        return (spread, mean) if operation.invert else (1 / spread, -mean / spread)
    if kind is layers.BatchNormalization and operation.axis in (-1, axes):
        mean, variance, gamma, beta = (
            default if array is None else np.asarray(array, np.float64)
            for array, default in (
                (operation.moving_mean, 0.0),
                (operation.moving_variance, 1.0),
                (operation.gamma if operation.scale else None, 1.0),
                (operation.beta if operation.center else None, 0.0),
            )
        )
        scale = gamma / np.sqrt(variance + operation.epsilon)
        return scale, beta - mean * scale
    calculate = None if isinstance(operation, layers.Layer) else _ARITHMETIC.get(kind.__name__)
    if calculate is None or (calculate is operator.truediv and not isinstance(arguments[0], keras.KerasTensor)):
        return None

    def at(value):
        """The result where the tensor has this value."""
        return calculate(*(value if isinstance(a, keras.KerasTensor) else np.asarray(a, np.float64) for a in arguments))

    return at(1.0) - at(0.0), at(0.0)


# Folding


def _folded(network, kind, settings):
    """The agent of a network that is a stack of layers. Raises ConfigurationError, with what is not, for others."""
    elements = [element for step in _steps(network) for element in _elements(*step)]
    elements = [element for element in elements if element != ("activation", "linear")]
    elements, squash, clip = _without_squash(elements, settings)
    # Actions are drawn from the softmax of an agent's outputs, or are the largest, which is the same with and without.
    if not settings["bounds"] and elements and elements[-1] in (("activation", "softmax"), ("activation", "log_softmax")):
        elements = elements[:-1]
    folding = _Folding(settings["observation_shape"])
    for method, *arguments in elements:
        getattr(folding, method)(*arguments)
    agent = agent_of(_stack(folding, kind, settings, squash, clip), kind, settings, kind.environment)
    _check_alike(agent, network, folding, settings)
    return agent


def _without_squash(elements, settings):
    """The elements before the tanh that brings continuous actions into their bounds.

    Returns:
        the elements; "scale" and "offset" of the affine map after tanh, or None without a tanh; and the bound of a clip
        before it as `model.squash_layers` writes one, or None.
    """
    last = len(elements)
    while last and elements[last - 1][0] == "affine":
        last -= 1
    if not settings["bounds"] or not last or elements[last - 1] != ("activation", "tanh"):
        return elements, None, None
    scale, offset = np.ones(settings["actions"]), np.zeros(settings["actions"])
    for _, by, plus in elements[last:]:
        scale, offset = scale * by, offset * by + plus
    clip, elements = None, elements[: last - 1]
    before = elements[-3:]
    if [name for name, *_ in before] == ["affine", "activation", "affine"] and before[1][1] == "hard_tanh":
        (_, down, zero), _, (_, up, other) = before
        if up.ndim == 0 and np.all(np.isclose(down * up, 1)) and not np.any(zero) and not np.any(other):
            clip, elements = float(up), elements[:-3]
    return elements, {"scale": scale.tolist(), "offset": offset.tolist()}, clip


def _stack(folding, kind, settings, squash, clip):
    """The Stack of a folding.

    Args:
        folding: after the last element.
        squash, clip: see `_without_squash`.

    Raises:
        ConfigurationError: something after the last layer with weights does not fold into it.
    """
    layers, end = folding.layers, folding.places
    if not layers or end.ndim != 1 or (end != np.arange(end.size)).any():
        raise ConfigurationError("its outputs are reordered" if layers else "no layer with weights")
    if (folding.scale != 1).any() or folding.offset.any():
        raise ConfigurationError(f"its outputs are scaled after {layers[-1]['activation']}")
    if layers[-1]["activation"] not in ("linear", "relu"):
        raise ConfigurationError(f"its outputs pass {layers[-1]['activation']}")
    arrays = [tuple(layer[name].astype(np.float32) for name in ("kernel", "bias")) for layer in layers]
    images = sum("stride" in layer for layer in layers)
    shapes = tuple((len(layer["kernel"]), layer["stride"]) for layer in layers[:images])
    if images and shapes != getattr(kind, "convolutions", shapes):
        raise ConfigurationError(f"its convolutions have the sizes and strides {shapes}, the paper's {kind.convolutions}")
    first, *others = settings["observation_shape"]
    bounds, factors = settings["bounds"], settings["factors"]
    if bounds:
        actions = Space("Box", (settings["actions"],), low=np.array(bounds[0]), high=np.array(bounds[1]))
    else:
        actions = Space(
            *(("MultiDiscrete", (len(factors),)) if factors else ("Discrete", ())),
            nvec=np.array(factors or [settings["actions"]]),
        )
    scale, offset = folding.image
    return Stack(
        algorithm="Keras",
        dense=arrays[images:],
        activations=[layer["activation"] for layer in layers],
        observation_space=Space("Box", (*others, first)),
        action_space=actions,
        convolutions=[(*layer, stride) for layer, (_, stride) in zip(arrays, shapes, strict=False)],
        image_scale=1 / scale,
        image_offset=offset,
        pre_squash_clip=clip,
        squash=bool(squash),
        squash_map=squash,
    )


def _check_alike(agent, network, folding, settings):
    """Raises ConfigurationError if the agent's outputs are others than the network's, which would be an error here, or
    where numbers cancel in float32."""
    generator, shape = np.random.default_rng(0), settings["observation_shape"]
    if agent.observation_type == "uint8":
        noise = generator.integers(256, size=(8, *shape))
        batches = [noise, noise // 64 + 90, np.full((1, *shape), 255), np.zeros((1, *shape))]
    else:
        noise = generator.normal(size=(64, *shape))
        scale, offset = (numbers.reshape(shape) for numbers in folding.seen)
        # As its first layer was made for, and as they are; then far out, where all units are on or off.
        batches = [(noise - offset) / np.where(scale, scale, 1), noise, np.zeros((1, *shape)), 100 * noise]
    softmax, errors, usual = _ends_with_softmax(network) and not settings["bounds"], [], 1e-30
    for batch in batches:
        batch = batch.astype(agent.observation_type)
        expected, outputs = np.asarray(network(batch, training=False), np.float64), np.asarray(agent.network(batch))
        if softmax:
            outputs = np.asarray(tf.nn.softmax(outputs))
        # A network without biases gives 0 for zeros, so that an error there is compared with the outputs elsewhere.
        usual = max(usual, np.abs(expected).max())
        errors.append(np.abs(outputs - expected).max() / usual)
    if not np.max(errors) <= TOLERANCE:  # nor where one is no number
        raise ConfigurationError(f"folded, its outputs would differ by {np.max(errors):.2g} of the largest")


class _Folding:
    """Goes through a network's elements and leaves layers with weights alone.

    Between two such layers it keeps how the numbers lie and which affine map they have passed since. A map goes into the
    layer before if no activation follows that, else into the next one, in float64. Arrays that nothing changes stay as they
    are, to the bit.

    Args:
        shape: of an observation.

    Attributes:
        layers: a dictionary for each layer with weights.
        places: for each number, which output of the layer before it is, counted with the channels of images last.
        scale, offset: float64 [outputs of the layer before], the affine map since.
        seen: scale and offset of the observations.
    """

    def __init__(self, shape):
        self.layers, self.seen, self.image = [], None, (1.0, 0.0)
        self._begin(np.arange(prod(shape)).reshape(shape))

    def _begin(self, places):
        self.places, self.scale, self.offset = places, np.ones(places.size), np.zeros(places.size)

    @property
    def open(self):
        """Whether a layer came before, and no activation after it."""
        return bool(self.layers) and self.layers[-1]["activation"] == "linear"

    def reorder(self, function):
        self.places = function(self.places)

    def activation(self, name):
        if self.open:
            self.layers[-1]["activation"] = name
        elif name != "linear":
            raise ConfigurationError(f"{name} without a layer of weights before it")

    def affine(self, scale, offset):
        scales, offsets = np.ones(self.places.size), np.zeros(self.places.size)
        scales[self.places] = np.broadcast_to(scale, self.places.shape)
        offsets[self.places] = np.broadcast_to(offset, self.places.shape)
        if self.open:
            layer, units = self.layers[-1], len(self.layers[-1]["bias"])
            scales, offsets = self._of_channels(scales, units), self._of_channels(offsets, units)
            layer["kernel"] = layer["kernel"].astype(np.float64) * scales
            layer["bias"] = layer["bias"].astype(np.float64) * scales + offsets
        else:
            self.scale, self.offset = self.scale * scales, self.offset * scales + offsets

    def _of_channels(self, numbers, channels):
        """Numbers of images' pixels, [pixels * channels], as those of the channels, which all pixels must share."""
        rows = numbers.reshape(-1, channels)
        if (rows != rows[0]).any():
            raise ConfigurationError("its images' pixels are scaled differently")
        return rows[0]

    def dense(self, kernel, bias):
        if self.places.ndim != 1:
            raise ConfigurationError("a dense layer sees images or several axes")
        if (self.places != np.arange(self.places.size)).any():
            kernel = kernel[np.argsort(self.places)]
        self._add(kernel, bias, self.scale, self.offset, self.scale[:, None], self.offset @ kernel)
        self._begin(np.arange(len(bias)))

    def convolution(self, kernel, bias, stride):
        if self.places.ndim != 3:
            raise ConfigurationError("a convolution sees no images")
        height, width, channels = self.places.shape
        images = np.arange(self.places.size)
        if self.layers:
            images = images.reshape(height, width, channels)
        else:  # frames, which lie behind one another
            images = images.reshape(channels, height, width).transpose(1, 2, 0)
        if (self.places != images).any():
            raise ConfigurationError("a convolution sees reordered images")
        scale, offset = (self._of_channels(numbers[images].ravel(), channels) for numbers in (self.scale, self.offset))
        if not self.layers and (scale == scale[0]).all() and (offset == offset[0]).all():
            # An agent scales its frames, too: both are folded at once, or cancel.
            self.image, scale, offset = (scale[0], offset[0]), np.ones(channels), np.zeros(channels)
        self._add(kernel, bias, scale, offset, scale[:, None], np.einsum("hwco,c->o", kernel, offset), stride=stride)
        rows, columns = ((length - size) // stride + 1 for length, size in zip((height, width), kernel.shape, strict=False))
        self._begin(np.arange(rows * columns * len(bias)).reshape(rows, columns, len(bias)))

    def _add(self, kernel, bias, scale, offset, factor, constant, **more):
        self.seen = self.seen or (self.scale, self.offset)
        if (scale != 1).any():
            kernel = kernel.astype(np.float64) * factor
        if offset.any():
            bias = bias + constant
        self.layers.append({"kernel": kernel, "bias": bias, "activation": "linear", **more})
