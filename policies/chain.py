"""Operations one after the other, as networks of other libraries are read, folded into a Stack."""

from dataclasses import dataclass
from math import prod

import numpy as np

from pops.policies.stack import Space, Stack
from pops.support.errors import ConfigurationError


class NotPlain(ConfigurationError):
    """A network is more than layers one after the other.

    Args:
        first: what stands first that is not one of them.
        reason: a sentence in the place of that, where it is no single operation.
    """

    def __init__(self, first="", reason=""):
        super().__init__(reason or f"first: {first}")
        self.first = first


@dataclass
class _Layer:
    kernel: np.ndarray
    bias: np.ndarray
    stride: int | None  # of a convolution
    activation: str = "linear"


class Chain:
    """Takes a network's operations in their order and leaves layers with weights alone.

    Since the last such layer it keeps how the numbers lie, which affine map they have passed and what they were clipped to.
    The map goes into the layer before if an activation follows, else into the next one, in float64. Arrays that nothing
    changes stay as they are, to the bit. All methods raise NotPlain where a Stack cannot have the operation.

    Args:
        shape: of the environment's observations, without the batch; of images with their channels first.
        ends: activations that may follow the last layer.

    Attributes:
        shape: of a sample after the operations so far.
        seen: scale and offset, float64 [inputs], of the observations before the first layer.
        clip: float64 [2, outputs], bounds to which the last values were kept, or None.
        ending: "softmax", "log_softmax", "argmax" or None.
    """

    def __init__(self, shape, ends=("linear",)):
        self.ends, self.layers, self.seen, self.image = ends, [], None, (1.0, 0.0)
        self.clip = self.squash_clip = self.ending = None
        first, *others = shape
        self.observations = *others, first  # images as layers have them, with their channels last
        self._begin(np.moveaxis(np.arange(prod(shape)).reshape(self.observations), -1, 0))

    def _begin(self, places):
        """`places`: for each number, which output of the layer before it is, counted with the channels of images last."""
        self.places, self.scale, self.offset = places, np.ones(places.size), np.zeros(places.size)

    @property
    def shape(self):
        return self.places.shape

    def dense(self, kernel, bias=None):
        """x @ kernel [inputs, outputs] + bias [outputs]."""
        self._settle("a dense layer")
        kernel = np.asarray(kernel)
        if len(self.shape) != 1 or kernel.ndim != 2 or len(kernel) != self.places.size:
            raise NotPlain(f"a product of {self.shape} and {kernel.shape}")
        bias = np.broadcast_to(np.float32(0) if bias is None else np.asarray(bias), (1, kernel.shape[1]))[0]
        if not self._in_order(self.places):
            kernel = kernel[np.argsort(self.places)]
        if not self._unchanged():
            kernel = kernel.astype(np.float64)
            kernel, bias = kernel * self.scale[:, None], bias + self.offset @ kernel
        self.seen = self.seen or (self.scale, self.offset)
        if self.layers and self.layers[-1].activation == "linear" and self.layers[-1].stride is None:
            first, kernel = self.layers.pop(), kernel.astype(np.float64)
            kernel, bias = first.kernel @ kernel, first.bias @ kernel + bias
        self.layers.append(_Layer(kernel, bias, None))
        self._begin(np.arange(len(bias)))

    def convolution(self, kernel, bias=None, strides=(1, 1), dilations=(1,), groups=1, padded=False, channels=0):
        """A convolution of images; kernel [height, width, inputs, outputs].

        Args:
            channels: axis of a sample's channels, 0 or -1.
        """
        self._settle("a convolution")
        if padded or set(dilations) != {1} or groups != 1 or len(set(strides)) != 1:
            raise NotPlain("a convolution with padding, dilation, groups or unequal strides")
        kernel, stride = np.asarray(kernel), strides[0]
        dense_before = self.layers and self.layers[-1].stride is None
        if len(self.shape) != 3 or kernel.ndim != 4 or dense_before or not self._in_order(self.places, channels):
            raise NotPlain(f"a convolution of {self.shape}")
        height, width, inputs = np.moveaxis(self.places, channels, -1).shape
        bias = np.zeros(kernel.shape[3], np.float32) if bias is None else np.asarray(bias)
        scale, offset = self._of_channels(inputs)
        if not self.layers and (scale == scale[0]).all() and (offset == offset[0]).all():
            self.image = scale[0], offset[0]  # an agent scales its frames, too: both are folded at once, or cancel
        elif not self._unchanged():
            kernel = kernel.astype(np.float64)
            kernel, bias = kernel * scale[:, None], bias + offset @ kernel.sum(axis=(0, 1))
        self.seen = self.seen or (self.scale, self.offset)
        self.layers.append(_Layer(kernel, bias, stride))
        sides = [(length - size) // stride + 1 for length, size in zip((height, width), kernel.shape, strict=False)]
        self._begin(np.moveaxis(np.arange(prod(sides) * len(bias)).reshape(*sides, -1), -1, channels))

    def affine(self, scale=1.0, offset=0.0):
        """x · scale + offset, with numbers or arrays that broadcast against [batch, *shape]."""
        self._go_on("arithmetic")
        scale, offset = self._of_outputs(scale), self._of_outputs(offset)
        self.scale, self.offset = self.scale * scale, self.offset * scale + offset
        if self.clip is not None:
            self.clip = np.sort(self.clip * scale + offset, axis=0)

    def batch_norm(self, mean, variance, epsilon, scale=None, offset=None, channels=0):
        """Batch normalisation by statistics [channels] of training, along a sample's axis `channels`."""
        scale, offset = (1.0 if scale is None else scale), (0.0 if offset is None else offset)
        mean, variance, scale, offset = (np.asarray(values, np.float64) for values in (mean, variance, scale, offset))
        factor = scale / np.sqrt(variance + epsilon)
        sides = np.ones(len(self.shape), int)
        sides[channels] = -1
        self.affine(factor.reshape(sides), (offset - mean * factor).reshape(sides))

    def activation(self, name):
        """One of the stack's ACTIVATIONS, or an ending over the last axis."""
        if name in ("softmax", "log_softmax"):
            return self.end(name)
        if name == "hard_tanh":
            return self.bounded(-1, 1)
        if name == "linear":
            return None
        # A clip before tanh is part of the map of actions into their bounds.
        clip, self.clip = (self.clip, None) if name == "tanh" else (None, self.clip)
        self._settle(name)
        self._absorb(name)
        if clip is not None:
            self.squash_clip = float(clip[1, 0])
            if (clip != [[-self.squash_clip], [self.squash_clip]]).any():
                raise NotPlain("Clip before tanh")
        return None

    def bounded(self, low=None, high=None):
        """The values kept between two numbers, or arrays as in `affine`, of which None is no bound."""
        low, high = self._of_outputs(-np.inf if low is None else low), self._of_outputs(np.inf if high is None else high)
        if not low.any() and (high == high[0]).all() and high[0] in (6, np.inf):
            return self.activation("relu6" if high[0] == 6 else "relu")
        if (low == -np.inf).all() and (high == np.inf).all():
            return None
        self._go_on("Clip")
        if not self.layers:
            raise NotPlain("Clip of the observations")
        before = np.repeat([[-np.inf], [np.inf]], len(self.scale), axis=1) if self.clip is None else self.clip
        self.clip = np.clip(before, low, high)
        return None

    def reshape(self, shape):
        """Another shape of the sample, of which one side may be -1."""
        self._reorder("a reshape", lambda: self.places.reshape(shape))

    def transpose(self, order):
        """The axes, the batch's among them, in another order."""
        if order[0] != 0:
            raise NotPlain("a transpose of the batch")
        self._reorder("a transpose", lambda: self.places.transpose([axis - 1 for axis in order[1:]]))

    def _reorder(self, what, reordered):
        if self.ending == "argmax":  # which has left a single number
            return
        try:
            places = reordered()
        except ValueError:
            raise NotPlain(f"{what} of {self.shape}") from None
        if not np.array_equal(places, self.places):
            self._go_on(what)
        self.places = places

    def end(self, ending, axis=-1):
        """softmax, log_softmax or argmax over the outputs, which choose the same action without it."""
        # Logarithms of probabilities give the same softmax again.
        if not (self.ending == "log_softmax" or (self.ending == "softmax" and ending == "argmax")):
            self._go_on(ending)
        if len(self.shape) != 1 or axis not in (-1, 1):
            raise NotPlain(f"{ending} of {self.shape} over axis {axis}")
        self.ending = ending

    def stack(self, settings):
        """The Stack, for an environment with these `model` settings.

        Raises:
            NotPlain: its end is none that this environment's policies have.
        """
        if not self.layers or self.layers[-1].stride is not None:
            raise NotPlain(reason="no dense layer at the end")
        bounds, factors, actions = settings["bounds"], settings["factors"], settings["actions"]
        if self.places.size != actions or not self._in_order(self.places):
            raise NotPlain(reason="its outputs are reordered" if self.places.size == actions else f"{self.shape} outputs")
        last, squash = self.layers[-1].activation, None
        if bounds and last == "tanh":
            last, squash = "linear", (self.scale, self.offset)
        elif last == "linear":
            self._absorb(last)
        elif not self._unchanged():
            raise NotPlain(f"arithmetic after the last {last}")
        if last not in self.ends:
            raise NotPlain(f"{last} after the last layer: its outputs pass {last}, and the agent's would not")
        if self.ending and (bounds or (factors and self.ending == "argmax")):
            raise NotPlain(self.ending)
        if self.clip is not None:  # to the bounds, within which evaluations keep actions anyway
            (low, high), (least, most) = np.float32(self.clip), np.float32(bounds or [[-np.inf], [np.inf]])
            if (least < low).any() or (most > high).any():
                raise NotPlain(f"Clip to {low.max():g} … {high.min():g}")
        if bounds:
            space = Space("Box", (actions,), low=np.array(bounds[0]), high=np.array(bounds[1]))
        elif factors:
            space = Space("MultiDiscrete", (len(factors),), nvec=np.array(factors))
        else:
            space = Space("Discrete", nvec=np.array([actions]))
        arrays = [(layer.kernel.astype(np.float32), layer.bias.astype(np.float32), layer.stride) for layer in self.layers]
        scale, offset = self.image
        return Stack(
            algorithm="",
            dense=[(kernel, bias) for kernel, bias, stride in arrays if stride is None],
            activations=[*(layer.activation for layer in self.layers[:-1]), last],
            observation_space=Space("Box", self.observations),
            action_space=space,
            convolutions=[layer for layer in arrays if layer[2] is not None],
            image_scale=1 / scale,
            image_offset=offset,
            pre_squash_clip=self.squash_clip,
            squash_map=squash,
        )

    def _go_on(self, what):
        if self.ending:
            raise NotPlain(f"{what} after {self.ending}")

    def _settle(self, what):
        """Makes a clip the layer's hard_tanh, as a layer or an activation follows."""
        self._go_on(what)
        if self.squash_clip is not None:
            raise NotPlain(f"{what} after Clip and tanh")
        if self.clip is not None:
            (low, high), self.clip = self.clip, None
            half, middle = (high - low) / 2, (high + low) / 2
            if not (np.isfinite(half) & (half > 0)).all():
                raise NotPlain(f"{what} after Clip")
            self.scale, self.offset = self.scale / half, (self.offset - middle) / half
            self._absorb("hard_tanh")
            self.scale, self.offset = half, middle

    def _absorb(self, activation):
        """Gives the last layer the affine map since, and this activation."""
        if not self.layers:
            raise NotPlain(f"{activation} that follows no layer")
        layer = self.layers[-1]
        if layer.activation != "linear":
            raise NotPlain(f"{activation} after {layer.activation}")
        if not self._unchanged():
            scale, offset = self._of_channels(len(layer.bias))
            layer.kernel, layer.bias = layer.kernel.astype(np.float64) * scale, layer.bias * scale + offset
        layer.activation = activation
        self._begin(self.places)

    def _unchanged(self):
        """Whether the affine map is none, but for the rounding of what cancels, such as x / 3 · 3."""
        return (np.abs(self.scale - 1) < 1e-15).all() and not self.offset.any()

    @staticmethod
    def _in_order(places, channels=-1):
        return np.array_equal(np.moveaxis(places, channels, -1).ravel(), np.arange(places.size))

    def _of_outputs(self, values):
        """Numbers for each element of a sample, as those of the outputs of the layer before, float64 [outputs]."""
        numbers = np.empty(self.places.size)
        try:
            numbers[self.places] = np.broadcast_to(np.asarray(values, np.float64), (1, *self.shape))[0]
        except ValueError:
            raise NotPlain(f"arithmetic with {np.shape(values)}") from None
        return numbers

    def _of_channels(self, channels):
        """Scale and offset, of those of images' pixels, [pixels * channels], which all pixels must share."""
        both = np.stack([self.scale, self.offset]).reshape(2, -1, channels)
        if not np.array_equal(both, np.broadcast_to(both[:, :1], both.shape), equal_nan=True):
            raise NotPlain("arithmetic that differs from pixel to pixel")
        return both[:, 0]
