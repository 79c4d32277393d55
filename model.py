"""The policies: their layers, the `DQNAgent` interface, and each environment's teacher and student.

A teacher is a plain Keras network. A student is the same network with other widths, masked kernels and the distillation
loss; several initialisations of it (`members`) lie along a leading axis of its weights and are trained at once. Both are
saved as plain Keras models, which load where this project is not installed.
"""

import itertools
import json
import math
from functools import cache, cached_property, lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pops.configs import is_atari
from pops.utils import kernels

# Up to this many weights a product is done as multiply and sum. The compiler fuses that with its neighbours, while a call
# of the matrix product costs more than the arithmetic of so small a layer (`scripts/bench.py` shows the effect).
SMALL_KERNEL = 64


# Hidden layers of students in training are filled up to this width with units that masks hide, so that all small students
# share a compiled block: compiling it takes longer than the additional arithmetic.
LEAST_WIDTH = 8


# PyTorch's LeakyReLU, whose slope is not that of Keras's function of this name.
LEAK = 0.01
OWN_ACTIVATIONS = {"leaky_relu_0.01": partial(keras.activations.leaky_relu, negative_slope=LEAK)}


class MemberDense(keras.layers.Layer):
    """A dense layer of several members.

    Args:
        units: output width.
        members: independent copies of the layer, trained side by side.
        activation: a Keras activation or its name.

    Call arguments:
        inputs: [members or 1, batch, fan_in].

    Returns:
        [members, batch, units].
    """

    def __init__(self, units, members=1, activation="linear"):
        super().__init__()
        self.units, self.members = units, members
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        shape = (self.members, input_shape[-1], self.units)
        self.kernel = self.add_weight(shape=shape, initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(self.members, 1, self.units), initializer="zeros", name="bias")

    def call(self, inputs):
        kernel = self.kernel
        if kernel.shape[-2] * kernel.shape[-1] <= SMALL_KERNEL:
            outputs = keras.ops.sum(inputs[..., None] * kernel[:, None], axis=-2)
        else:
            outputs = keras.ops.matmul(inputs, kernel)
        return self.activation(outputs + self.bias)


class MemberConvolution(keras.layers.Layer):
    """A convolution with ReLU, of several members; see MemberDense.

    Args:
        filters, size, stride: of the convolution, without padding. The size is a multiple of the stride.
        members: independent copies of the layer.

    Call arguments:
        inputs: [members or 1, batch, height, width, channels].

    Returns:
        [members, batch, height, width, filters].
    """

    def __init__(self, filters, size, stride, members=1):
        super().__init__()
        self.filters, self.size, self.stride, self.members = filters, size, stride, members

    def build(self, input_shape):
        shape = (self.members, self.size, self.size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(self.members, 1, self.filters), initializer="zeros", name="bias")

    def call(self, inputs):
        if self.members == 1:  # the faster way for one; TensorFlow's own convolutions take members one by one
            outputs = tf.nn.conv2d(inputs[0], self.kernel[0], self.stride, "VALID")[None]
        else:
            outputs = convolve(inputs, self.kernel, self.stride)
        return keras.ops.relu(outputs + self.bias[:, :, None, None])


def convolve(images, kernels, stride):
    """Convolutions without padding of all members, as matrix products, which the compiler joins with what is around them.

    Blocks of stride x stride pixels become the channels of one coarser pixel. The convolution then moves on by one pixel,
    and is the sum of the products with each pixel of the kernel, each product taken where that pixel comes to lie.

    Args:
        images: [members or 1, batch, height, width, channels].
        kernels: [members, size, size, channels, filters], the size a multiple of the stride.

    Returns:
        [members, batch, height, width, filters].
    """
    members, size, _, channels, filters = kernels.shape
    shared, side = images.shape[0] == 1, size // stride
    height, width = images.shape[2] // stride, images.shape[3] // stride
    depth = stride * stride * channels
    images = images[:, :, : height * stride, : width * stride]
    blocks = tf.reshape(images, [images.shape[0], -1, height, stride, width, stride, channels])
    blocks = tf.reshape(tf.transpose(blocks, [0, 1, 2, 4, 3, 5, 6]), [images.shape[0], -1, depth])
    kernels = tf.reshape(kernels, [members, side, stride, side, stride, channels, filters])
    if shared:  # all members see the same: one product with the filters of all
        kernels = tf.reshape(tf.transpose(kernels, [2, 4, 5, 1, 3, 0, 6]), [1, depth, -1])
    else:
        kernels = tf.reshape(tf.transpose(kernels, [0, 2, 4, 5, 1, 3, 6]), [members, depth, -1])
    products = tf.matmul(blocks, kernels)
    products = tf.reshape(products, [images.shape[0], -1, height, width, side, side, products.shape[-1] // side**2])
    height, width = height - side + 1, width - side + 1
    outputs = sum(
        products[:, :, row : row + height, column : column + width, row, column]
        for row in range(side)
        for column in range(side)
    )
    if shared:
        outputs = tf.transpose(tf.reshape(outputs, [-1, height, width, members, filters]), [3, 0, 1, 2, 4])
    return outputs


class PlainLayers:
    """The layers of a plain Keras network, which loads where this project is not installed. Axes: batch, then others."""

    def __init__(self):
        self.numbers = itertools.count(1)

    def frames(self, background, contrast):
        """Stacked frames, uint8 [frames, height, width], as centred images with channels last."""
        scaling = keras.layers.Rescaling(1 / contrast, -background / contrast, name="centre")
        return [scaling, keras.layers.Permute((2, 3, 1), name="channels_last")]

    def convolution(self, filters, size, stride):
        return keras.layers.Conv2D(filters, size, stride, activation="relu", name=f"convolution_{next(self.numbers)}")

    def flatten(self):
        return keras.layers.Flatten(name="flatten")

    def dense(self, units, activation="linear"):
        number = next(self.numbers)
        if activation in OWN_ACTIVATIONS:  # which a saved file could not name
            after = keras.layers.LeakyReLU(LEAK, name=f"activation_{number}")
            return [keras.layers.Dense(units, name=f"dense_{number}"), after]
        return [keras.layers.Dense(units, activation, name=f"dense_{number}")]


class MemberLayers:
    """The same layers for several members. Axes: members, batch, then others."""

    def __init__(self, members):
        self.members = members

    def frames(self, background, contrast):
        return [Frames(background, contrast)]

    def convolution(self, filters, size, stride):
        return MemberConvolution(filters, size, stride, self.members)

    def flatten(self):
        return Flatten()

    def dense(self, units, activation="linear"):
        return [MemberDense(units, self.members, OWN_ACTIVATIONS.get(activation, activation))]


class Frames(keras.layers.Layer):
    """Stacked frames as centred images with channels last."""

    def __init__(self, background, contrast):
        super().__init__()
        self.background, self.contrast = background, contrast

    # TensorFlow's own transposing takes seven times as long, as long as the first convolution of a small network.
    @tf.function(jit_compile=True, autograph=False)
    def call(self, inputs):
        return (tf.transpose(tf.cast(inputs, tf.float32), (0, 1, 3, 4, 2)) - self.background) / self.contrast


class Flatten(keras.layers.Layer):
    """Joins all axes but members and batch."""

    def call(self, inputs):
        return keras.ops.reshape(inputs, (inputs.shape[0], -1, int(np.prod(inputs.shape[2:]))))


def squash_layers(squash):
    """The layers that bring continuous actions into their bounds: maybe a clip, then tanh and an affine map.

    Args:
        squash: {"clip": bound of what goes into tanh, or None, "scale", "offset": lists of the map}, or {} for none.
    """
    if not squash:
        return []
    layers, clip = [], squash["clip"]
    if clip is not None:
        layers = [
            keras.layers.Rescaling(1 / clip, name="squash_clip_in"),
            keras.layers.Activation("hard_tanh", name="squash_clip"),
            keras.layers.Rescaling(clip, name="squash_clip_out"),
        ]
    tanh = keras.layers.Activation("tanh", name="squash")
    return [*layers, tanh, keras.layers.Rescaling(squash["scale"], squash["offset"], name="squash_bounds")]


class DQNAgent:
    """A policy: a network from a batch of observations to one value per action. Subclasses say which layers it has.

    Args:
        settings: the configuration's group `model`.
        widths: units of each hidden layer; the settings' if left out.

    Attributes:
        network: the Keras network. Input [batch, *observation_shape], output [batch, actions], before any softmax.
        played: the network to play with: `network`, or one that does what no single stack of layers can, such as clipping
            its normalised inputs.
    """

    environment = None  # the environment's key in configs.ENVIRONMENTS, or Gymnasium's name of it
    xla = True  # whether XLA compiles its updates
    role = "teacher"  # the network's name is environment_role
    observation_type = "float32"
    given = MappingProxyType({})  # what the file that it was read from says of it

    def __init__(self, settings, widths=None):
        self.settings = settings
        self.widths = tuple(settings["widths"] if widths is None else widths)
        self.network = self.played = self.build()

    def layers(self, make):
        """The network's layers, input to output, made by PlainLayers or MemberLayers."""
        raise NotImplementedError

    def build(self):
        return self.plain_network(self.role)

    def plain_network(self, role, weights=None):
        """A new network of plain Keras layers, named after the environment and its role, with these weights if given."""
        inputs = keras.Input(self.settings["observation_shape"], name="observations", dtype=self.observation_type)
        network = keras.Sequential([inputs, *self.layers(PlainLayers())], name=f"{self.environment}_{role}")
        if weights is not None:
            network.set_weights(weights)
        return network

    def __call__(self, weights, observations):
        """Outputs, float32 [batch, actions], with weights other than the network's own."""
        return self.network.stateless_call(weights, [], observations)[0]

    def loss(self, outputs, actions, targets):
        """Mean Huber loss of Q-learning.

        Args:
            outputs: Q-values, float32 [batch, actions].
            actions: the actions taken, int32 [batch].
            targets: what their Q-values should be, float32 [batch].
        """
        error = tf.abs(tf.gather(outputs, actions, batch_dims=1) - targets)
        return tf.reduce_mean(tf.where(error < 1, 0.5 * error**2, error - 0.5))

    def layer_sizes(self, widths=None):
        """Number of weights N_l of each layer, for these or other widths."""
        hidden = self.widths if widths is None else widths
        units = [*self.settings["observation_shape"], *hidden, self.settings["actions"]]
        return [before * after for before, after in itertools.pairwise(units)]

    def removable(self):
        """Indices of the hidden layers without which smaller networks of this kind can do."""
        return range(len(self.widths))

    def depths(self):
        """Numbers of hidden layers that smaller networks of this kind can have."""
        return range(len(self.widths) - len(self.removable()), len(self.widths) + 1)

    def connections(self, network):
        """For each layer of a plain network of this kind, the sum of the weights' magnitudes from unit to unit.

        Returns:
            float32 [units in, units out] for each layer; 0 where no weight joins the two.
        """
        return [np.abs(kernel) for kernel in kernels(network)]

    def rows(self, layer, units):
        """The rows of a layer's kernel that see these units of the layer before."""
        return units

    def of_units(self, network, units):
        """The weights that a plain network of this kind has without most of its hidden units, as `set_weights` takes them.

        Args:
            units: for each hidden layer, the indices of the units that stay.
        """
        arrays = []
        trained = [layer.get_weights() for layer in network.layers if layer.get_weights()]
        for layer, (kernel, bias) in enumerate(trained):
            if layer > 0:
                kernel = kernel[..., self.rows(layer, units[layer - 1]), :]
            if layer < len(units):
                kernel, bias = kernel[..., units[layer]], bias[units[layer]]
            arrays += [kernel, bias]
        return arrays

    def kernel_shapes(self):
        return [tuple(layer.kernel.shape) for layer in self.network.layers if hasattr(layer, "kernel")]

    def fan_in(self, shape):
        """Inputs of a unit of a layer with a kernel of this shape."""
        return np.prod(shape[:-1])

    def initial_weights(self, generator, hidden_bias=0.0):
        """He-normal kernels and constant hidden biases, in the order of `network.trainable_variables`."""
        weights = []
        shapes = self.kernel_shapes()
        for index, (shape, variable) in enumerate(zip(shapes, self.network.trainable_variables[1::2], strict=True)):
            kernel = generator.normal(0, np.sqrt(2 / self.fan_in(shape)), shape).astype(np.float32)
            bias = 0.0 if index == len(shapes) - 1 else hidden_bias
            weights += [kernel, np.full(variable.shape, bias, np.float32)]
        return weights


class DenseAgent(DQNAgent):
    """An MLP with ReLU (or tanh, which other libraries' teachers have) between its layers."""

    def layers(self, make):
        hidden = [make.dense(width, self.settings["hidden_activation"]) for width in self.widths]
        last = make.dense(self.settings["actions"], self.settings["output_activation"])
        return [*itertools.chain(*hidden), *last, *squash_layers(self.settings["squash"])]


class CartPoleDQN(DenseAgent):
    """CartPole's teacher: an MLP, 4-256-256-128-2 in the paper. Outputs Q-values."""

    environment = "cartpole"


class ActorLunarLander(DenseAgent):
    """LunarLander's teacher: an MLP, 8-64-64-64-4 in the paper. Outputs action preferences, before softmax."""

    environment = "lunarlander"

    def loss(self, outputs, actions, advantages, before, clip, entropy):
        """Clipped policy gradient (Schulman et al., 2017, equation 7) with an entropy bonus; the mean over the batch.

        Args:
            outputs: action preferences, float32 [batch, actions].
            actions: the actions taken, int32 [batch].
            advantages: by how much each was better than the state's value, float32 [batch].
            before: logarithms of the probabilities with which they were taken, float32 [batch].
            clip: how far the ratio of probabilities may move from 1.
            entropy: weight of the entropy.
        """
        logs = tf.nn.log_softmax(outputs)
        ratio = tf.exp(tf.gather(logs, actions, batch_dims=1) - before)
        gain = tf.minimum(ratio * advantages, tf.clip_by_value(ratio, 1 - clip, 1 + clip) * advantages)
        return -tf.reduce_mean(gain - entropy * tf.reduce_sum(tf.exp(logs) * logs, axis=-1))


class CriticLunarLander(DenseAgent):
    """LunarLander's critic, of the actor's widths. Outputs a state's value."""

    environment = "lunarlander"
    role = "critic"

    def layers(self, make):
        return [*super().layers(make)[:-1], *make.dense(1)]

    def loss(self, outputs, returns):
        """Mean squared error of the values, float32 [batch, 1], against the returns, float32 [batch]."""
        return tf.reduce_mean((outputs[:, 0] - returns) ** 2)


class ConvolutionalAgent(DQNAgent):
    """The network of Mnih et al. (2015): three convolutions, a dense layer, and an output for each action.

    Its widths are the convolutions' channels and the dense layer's units; students may do without that layer. Frames are
    centred at the grey of the game's background, which makes small networks learn.
    """

    observation_type = "uint8"
    xla = False  # the compiler's convolutions are slower than TensorFlow's own, which the teacher has
    convolutions = ((8, 4), (4, 2), (3, 1))  # size and stride
    contrast = 50

    def layers(self, make):
        channels, dense = self.widths[: len(self.convolutions)], self.widths[len(self.convolutions) :]
        return [
            *make.frames(self.settings["background"], self.contrast),
            *(make.convolution(filters, *shape) for filters, shape in zip(channels, self.convolutions, strict=True)),
            make.flatten(),
            *itertools.chain(*(make.dense(units, "relu") for units in dense)),
            *make.dense(self.settings["actions"], self.settings["output_activation"]),
        ]

    def removable(self):
        return range(len(self.convolutions), len(self.widths))

    def places(self):
        """Places of the last convolution's images, which the dense layer sees side by side."""
        sides = self.settings["observation_shape"][1:]
        for size, stride in self.convolutions:
            sides = [(side - size) // stride + 1 for side in sides]
        return math.prod(sides)

    def layer_sizes(self, widths=None):
        frames, *_ = self.settings["observation_shape"]
        units = [frames, *(widths or self.widths), self.settings["actions"]]
        factors = itertools.chain((size**2 for size, _ in self.convolutions), [self.places()], itertools.repeat(1))
        return [
            factor * before * after for factor, (before, after) in zip(factors, itertools.pairwise(units), strict=False)
        ]

    def connections(self, network):
        """Of a convolution's or flattened image's weights from channel to unit, the sums over its pixels."""
        magnitudes = [np.abs(kernel) for kernel in kernels(network)]
        first = len(self.convolutions)
        images = magnitudes[first].reshape(self.places(), -1, magnitudes[first].shape[-1])
        return [*(kernel.sum(axis=(0, 1)) for kernel in magnitudes[:first]), images.sum(axis=0), *magnitudes[first + 1 :]]

    def rows(self, layer, units):
        if layer == len(self.convolutions):
            channels = self.widths[layer - 1]
            return (np.arange(self.places())[:, None] * channels + units).reshape(-1)
        return units


class DQNPong(ConvolutionalAgent):
    """Pong's teacher. Outputs Q-values."""

    environment = "pong"


class DQNPacman(ConvolutionalAgent):
    """MsPacman's teacher. Outputs Q-values."""

    environment = "pacman"


def divergence(teacher_outputs, outputs, tau):
    """KL(softmax(y_T/τ) ‖ softmax(y_S)) summed over the batch, 1e-5 added inside both; float32 [members]."""
    teacher = tf.nn.softmax(teacher_outputs / tau) + 1e-5
    student = tf.nn.softmax(outputs) + 1e-5
    return tf.reduce_sum(teacher * (tf.math.log(teacher) - tf.math.log(student)), axis=[-2, -1])


# A fresh student needs no ReLU or tanh at its end, and learns better with ReLU than with tanh in between.
FRESH = MappingProxyType({"output_activation": "linear", "hidden_activation": "relu", "squash": {}})


class Student:
    """What every student adds to its teacher's class: masks, members, and the distillation loss.

    A student's weights and masks are passed to it, so that training can carry them through a compiled loop and an
    earlier state can be kept by keeping its tensors.
    """

    in_threads = True  # whether members are trained each by itself, which a compiled loop of one core does fastest

    def __init__(self, settings, widths=None, members=1):
        self.members = members
        super().__init__(settings, widths)

    @cached_property
    def alone(self):
        """The same student with one member."""
        return self if self.members == 1 else type(self)(self.settings, self.widths)

    @property
    def wide(self):
        """The student whose compiled block trains this one's members: of one member and of no layer below `LEAST_WIDTH`."""
        widths = tuple(max(LEAST_WIDTH, width) for width in self.widths)
        return _shared_student(type(self), json.dumps(self.settings), widths)

    def build(self):
        # The first axis, Keras's batch axis, holds the members; the second one holds the batch.
        network = keras.Sequential(self.layers(MemberLayers(self.members)))
        network.build((self.members, None, *self.settings["observation_shape"]))
        return network

    def __call__(self, weights, masks, observations):
        """Outputs of every member: float32 [members, batch, actions] from [members or 1, batch, *observation_shape]."""
        return self.outputs(self.masked(weights, masks), observations)

    def masked(self, weights, masks):
        """Weights whose kernels are multiplied by their masks of zeros and ones (paper, section IV).

        Weights that a mask hides get no gradient. They never count again, as masks only grow.
        """
        pairs = zip(weights[::2], masks, weights[1::2], strict=True)
        return list(itertools.chain.from_iterable((kernel * mask, bias) for kernel, mask, bias in pairs))

    def outputs(self, weights, observations):
        """The same with weights that are masked already."""
        return self.network.stateless_call(weights, [], observations)[0]

    def fan_in(self, shape):
        return np.prod(shape[1:-1])

    def full_masks(self):
        return [tf.ones(shape) for shape in self.kernel_shapes()]

    def loss(self, teacher_outputs, outputs, tau):
        """Distillation loss (paper, section III): the sum over the batch of KL(softmax(y_T/τ) ‖ softmax(y_S)).

        Args:
            teacher_outputs: float32 [batch, actions].
            outputs: float32 [members, batch, actions].
            tau: temperature τ.

        Returns:
            float32 [members].
        """
        if self.settings["bounds"]:
            return self.continuous_loss(teacher_outputs, outputs, tau)
        if factors := self.settings["factors"]:  # independent choices, whose divergences add up
            parts = zip(tf.split(teacher_outputs, factors, axis=-1), tf.split(outputs, factors, axis=-1), strict=True)
            return tf.add_n([divergence(*part, tau) for part in parts])
        return divergence(teacher_outputs, outputs, tau)

    def continuous_loss(self, teacher_outputs, outputs, tau):
        """The same for continuous actions: the sum over the batch of KL(L(y_T, b) ‖ L(y_S, b)) = d/b + exp(−d/b) − 1.

        L is a Laplace distribution, d = |y_T − y_S|, and b is τ times half of what an action's numbers can span. Where the
        teacher is beyond a bound, being there too is enough. Normal distributions would count d², and a small student would
        spend itself on the few states where the teacher swings from one bound to the other.
        """
        low, high = (tf.constant(bound, tf.float32) for bound in self.settings["bounds"])
        teacher = tf.clip_by_value(teacher_outputs, low, high)
        least = tf.where(teacher_outputs <= low, tf.minimum(outputs, low), teacher)
        most = tf.where(teacher_outputs >= high, tf.maximum(outputs, high), teacher)
        distance = tf.abs(outputs - tf.clip_by_value(outputs, least, most)) / (tau * (high - low) / 2)
        return tf.reduce_sum(distance + tf.math.expm1(-distance), axis=[-2, -1])

    def plain(self, weights, masks, member=0, role="student"):
        """One member as a plain Keras network, its masks multiplied in."""
        arrays = []
        for kernel, bias, mask in zip(weights[::2], weights[1::2], masks, strict=True):
            # Adding zero turns the -0.0 of a masked negative weight into 0.0.
            arrays += [np.asarray(kernel[member] * mask[member]) + 0.0, np.asarray(bias[member, 0])]
        return self.plain_network(role, arrays)

    def copy(self, network, divisor=1.0):
        """Weights and masks that make member 0 a copy of a plain network, its outputs divided; its zeros give the masks."""
        *arrays, kernel, bias = (np.asarray(array) for array in network.get_weights())
        arrays += [kernel / np.float32(divisor), bias / np.float32(divisor)]
        weights = [a[None] if index % 2 == 0 else a[None, None] for index, a in enumerate(arrays)]
        return [tf.constant(w) for w in weights], [tf.constant((w != 0).astype(np.float32)) for w in weights[::2]]


@lru_cache(maxsize=16)
def _shared_student(kind, settings, widths):
    return kind(json.loads(settings), widths)


class StudentCartPole(Student, CartPoleDQN):
    """CartPole's student."""


class ConvolutionalStudent(Student):
    """What students add that see frames: of several members the compiler makes all, as they are matrix products."""

    in_threads = False

    @property
    def xla(self):
        return self.members > 1


class StudentPong(ConvolutionalStudent, DQNPong):
    """Pong's student."""


class StudentPacman(ConvolutionalStudent, DQNPacman):
    """MsPacman's student."""


class StudentActorLunarLander(Student, ActorLunarLander):
    """LunarLander's student."""


class Agents(NamedTuple):
    """The classes of an environment's networks."""

    teacher: type
    student: type
    critic: type | None = None


class DenseStudent(Student, DenseAgent):
    """The student of an environment that has none of its own."""


class FramesStudent(ConvolutionalStudent, ConvolutionalAgent):
    """The student of an Atari game that has none of its own."""


@cache
def agents_of(environment):
    """The classes of an environment's networks. One without its own has dense ones; an Atari game, convolutional ones.

    Args:
        environment: a key of configs.ENVIRONMENTS, Gymnasium's name of one, or that with dots, as in networks' names.
    """
    if environment in AGENTS:
        return AGENTS[environment]
    name = environment.replace("/", ".")  # Keras takes no slash in a name
    bases = (ConvolutionalAgent, FramesStudent) if is_atari({"id": name}) else (DenseAgent, DenseStudent)
    return Agents(*(type(base.__name__, (base,), {"environment": name}) for base in bases))


AGENTS = {
    "cartpole": Agents(CartPoleDQN, StudentCartPole),
    "lunarlander": Agents(ActorLunarLander, StudentActorLunarLander, CriticLunarLander),
    "pong": Agents(DQNPong, StudentPong),
    "pacman": Agents(DQNPacman, StudentPacman),
}
