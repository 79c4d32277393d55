"""A policy's network as arrays, whatever the format of the file it came from."""

from dataclasses import dataclass, field
from math import erf, prod

import numpy as np

from pops.support.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Space:
    """An observation or action space as plain values.

    Args:
        kind: name of Gymnasium's class: "Box", "Discrete", "MultiDiscrete" or "MultiBinary".
        shape: of one observation or action.
        dtype: name of NumPy's type.
        low, high: bounds of a Box, [*shape].
        nvec: int64 [factors], numbers of values of a Discrete or MultiDiscrete.
        start: int64 [factors], their lowest values; Stable-Baselines3 counts from 0 all the same.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    nvec: np.ndarray | None = None
    start: np.ndarray | None = None

    @property
    def n(self):
        """Number of values of a Discrete space."""
        return int(self.nvec[0]) if self.kind == "Discrete" else None

    @property
    def width(self):
        """Number of a network's inputs or outputs for this space."""
        return prod(self.shape) if self.nvec is None else int(self.nvec.sum())

    def __str__(self):
        if self.nvec is not None:
            start = "" if self.start is None or not self.start.any() else f", start={_short(self.start)}"
            return f"{self.kind}({_short(self.nvec)}{start})"
        bounds = "" if self.low is None else f"{_short(self.low)} to {_short(self.high)}, "
        return f"{self.kind}({bounds}shape {self.shape})"


def _short(array):
    """An array on one line: a single number where all are equal."""
    values = np.unique(array)
    return f"{values[0]:g}" if len(values) == 1 else "[" + " ".join(f"{value:g}" for value in np.ravel(array)) + "]"


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf, otypes=[x.dtype])(x / np.sqrt(x.dtype.type(2))))


def _softplus(x):
    return np.logaddexp(x, x.dtype.type(0))


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


# By Keras's names and with its formulas, but for "leaky_relu_0.01": Keras's own leaky_relu has the slope 0.2. As Keras
# knows no such name, a network with the wrong slope cannot be built by mistake.
ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu_0.01": lambda x: np.where(x > 0, x, x * x.dtype.type(0.01)),
    "elu": _elu,
    "celu": _elu,
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "log_sigmoid": lambda x: -_softplus(-x),
    "tanh_shrink": lambda x: x - np.tanh(x),
}


@dataclass(frozen=True, eq=False)
class Stack:
    """An actor: convolutions, then dense layers, one after the other.

    Args:
        algorithm: that trained it, such as "PPO".
        dense: kernels float32 [inputs, outputs] and biases float32 [outputs].
        activations: a key of ACTIVATIONS for each layer, convolutions first.
        observation_space, action_space: Space as in the file.
        convolutions: kernels float32 [height, width, inputs, outputs], biases float32 [outputs], strides; without padding.
        channels_first: whether the file's images are [channels, height, width]. The stack always takes them as
            [height, width, channels], also where it flattens them for a dense layer.
        image_scale: by which observations are divided; image_offset: what is added then.
        observation_encoding: "one_hot" for Discrete and MultiDiscrete observations, else None.
        pre_squash_clip: the outputs are clipped to ±this first, or None.
        squash_map: scale and offset, [*action_space.shape], of the affine map that follows the last layer and tanh. None:
            continuous actions are clipped to the bounds instead.
        normalised: whether it was trained behind VecNormalize, of observations or rewards alone; None where nothing tells.
    """

    algorithm: str
    dense: list
    activations: list
    observation_space: Space
    action_space: Space
    convolutions: list = field(default_factory=list)
    channels_first: bool = False
    image_scale: float = 1.0
    image_offset: float = 0.0
    observation_encoding: str | None = None
    pre_squash_clip: float | None = None
    squash_map: tuple | None = None
    normalised: bool | None = None

    @property
    def squash(self):
        """Whether continuous actions pass tanh."""
        return self.squash_map is not None

    @property
    def input_shape(self):
        """Shape of an observation as the stack takes it."""
        shape = self.observation_space.shape
        return (*shape[1:], shape[0]) if self.channels_first else shape

    @property
    def widths(self):
        """Layers' numbers of outputs."""
        return [len(layer[1]) for layer in (*self.convolutions, *self.dense)]

    def encode(self, observations):
        """What the first layer sees.

        Args:
            observations: [batch, *input_shape]; of Discrete spaces integers [batch], counted from 0.

        Returns:
            float32, [batch, *input_shape] for convolutions, else [batch, inputs].
        """
        observations = np.asarray(observations)
        if self.observation_encoding == "one_hot":
            nvec = self.observation_space.nvec
            columns = observations.reshape(-1, len(nvec)).astype(int)
            return np.concatenate([np.eye(n, dtype=np.float32)[columns[:, i]] for i, n in enumerate(nvec)], axis=1)
        inputs = observations.astype(np.float32) / np.float32(self.image_scale) + np.float32(self.image_offset)
        return inputs if self.convolutions else inputs.reshape(len(inputs), -1)

    def __call__(self, observations, dtype=np.float32):
        """The last layer's outputs, [batch, outputs] of `dtype`, for observations as `encode` takes them."""
        x = self.encode(observations).astype(dtype)
        activations = [ACTIVATIONS[name] for name in self.activations]
        for (kernel, bias, stride), activation in zip(self.convolutions, activations, strict=False):
            x = activation(_convolve(x, kernel.astype(dtype), stride) + bias.astype(dtype))
        x = x.reshape(len(x), -1)
        for (kernel, bias), activation in zip(self.dense, activations[len(self.convolutions) :], strict=True):
            x = activation(x @ kernel.astype(dtype) + bias.astype(dtype))
        return x

    def act(self, observations):
        """The greedy actions, [batch, *action_space.shape], as Stable-Baselines3's deterministic `predict` gives them."""
        outputs, space = self(observations), self.action_space
        if space.nvec is not None:
            factors = np.split(outputs, np.cumsum(space.nvec)[:-1], axis=1)
            return np.stack([factor.argmax(axis=1) for factor in factors], axis=1).reshape(-1, *space.shape)
        outputs = outputs.reshape(-1, *space.shape)
        if space.kind == "MultiBinary":
            return (outputs > 0).astype(space.dtype)
        if self.pre_squash_clip is not None:
            outputs = np.clip(outputs, -self.pre_squash_clip, self.pre_squash_clip)
        if self.squash:
            scale, offset = self.squash_map
            return np.tanh(outputs) * scale + offset
        return np.clip(outputs, space.low, space.high)

    def refuse_shape(self, shape, environment):
        """Refuse observations of another size than the file's.

        Args:
            shape: of the environment's observations; flat where the stack has no convolutions.
            environment: its id, for the message.

        Raises:
            ConfigurationError: they differ.
        """
        # Images may come either way round, as Stable-Baselines3 transposes those with their channels last.
        fits = (
            sorted(shape) == sorted(self.input_shape) if self.convolutions else prod(shape) == self.observation_space.width
        )
        if not fits:
            raise ConfigurationError(
                f"the policy sees observations of shape {self.observation_space.shape}, those of {environment} have "
                f"{tuple(shape)}: it was trained on another version of the environment, or behind a wrapper; give the "
                "environment that it was trained in"
            )


def _convolve(images, kernel, stride):
    """A convolution without padding: [batch, height, width, inputs] -> [batch, height', width', outputs]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    # [batch, height', width', inputs, kernel height, kernel width]
    return np.tensordot(windows, kernel, axes=([4, 5, 3], [0, 1, 2]))


def channels_last(kernel, shape):
    """The kernel of the layer after flattening images [channels, height, width], for [height, width, channels]."""
    channels = shape[0]
    return np.ascontiguousarray(kernel.reshape(channels, -1, kernel.shape[1]).swapaxes(0, 1)).reshape(kernel.shape)


def action_map(file, environment):
    """The affine map from a policy's actions to those of an environment.

    Args:
        file, environment: Space of the actions in the policy's file and in the environment.

    Returns:
        scale, offset: float64 [*shape], so that the environment is given actions · scale + offset; 1 and 0 where the spaces
        are equal, and for discrete actions.

    Raises:
        ConfigurationError: no affine map joins them; names both.
    """
    reason = f"the policy's actions are {file}, the environment's {environment}: no affine map joins them"
    if file.kind != environment.kind or file.shape != environment.shape or file.width != environment.width:
        raise ConfigurationError(reason)
    if file.kind != "Box":
        if file.nvec is not None and not np.array_equal(file.nvec, environment.nvec):
            raise ConfigurationError(reason)
        return np.ones(file.shape), np.zeros(file.shape)
    low, high, to_low, to_high = (
        np.asarray(bound, np.float64) for bound in (file.low, file.high, environment.low, environment.high)
    )
    same = np.isclose(low, to_low, atol=1e-6) & np.isclose(high, to_high, atol=1e-6)
    if not (same | np.isfinite([low, high, to_low, to_high]).all(axis=0) & (high > low)).all():
        raise ConfigurationError(reason)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(same, 1.0, (to_high - to_low) / (high - low))
        return scale, np.where(same, 0.0, to_low - low * scale)
