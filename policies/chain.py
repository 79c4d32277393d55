"""Layers one after the other, as networks of other libraries are read, made into a Stack."""

from math import prod

import numpy as np

from pops.policies.stack import Space, Stack, channels_last


class NotPlain(Exception):
    """A network is more than layers one after the other. The message says what stands first that is not one."""


class Chain:
    """Takes a network's operations in their order. What is affine is folded into the dense layers and convolutions.

    Args:
        shape: of an observation as the network takes it, without the batch.
        images_last: whether it is an image [height, width, channels]; otherwise three axes are [channels, height, width].

    All methods raise NotPlain where a Stack cannot have the operation.
    """

    def __init__(self, shape, images_last=False):
        self.shape = tuple(shape)
        self.axes = (1, 2, 0) if images_last else tuple(range(len(shape)))  # of channels, height, width
        self.layers = []  # kernel and bias, float64, and the stride of a convolution
        self.activations = []
        self.before = None  # scale and offset, float64 [*shape], of what the next layer sees
        self.images = None  # [channels, height, width] that were flattened in this order
        self.ending = None  # "softmax", "log_softmax" or "argmax"
        self.clip = None  # bounds of the outputs

    def dense(self, kernel, bias=None):
        """x @ kernel [inputs, outputs] + bias [outputs]."""
        self._go_on("a dense layer")
        kernel = np.asarray(kernel, np.float64)
        if len(self.shape) != 1 or kernel.ndim != 2 or len(kernel) != self.shape[0]:
            raise NotPlain(f"a product of {self.shape} and {kernel.shape}")
        bias = np.zeros(kernel.shape[1]) if bias is None else np.broadcast_to(np.asarray(bias, np.float64), kernel.shape[1])
        if self.before:
            scale, offset = self.before
            kernel, bias, self.before = kernel * scale[:, None], bias + offset @ kernel, None
        if self.images:
            kernel, self.images = channels_last(kernel, self.images), None
        if self.layers and self.activations[-1] == "linear" and self.layers[-1][2] is None:
            first, constant, _ = self.layers.pop()
            kernel, bias = first @ kernel, constant @ kernel + bias
            self.activations.pop()
        self._add(kernel, bias, None)
        self.shape = (kernel.shape[1],)

    def convolution(self, kernel, bias=None, stride=1):
        """A convolution without padding of [channels, height, width]; kernel [height, width, inputs, outputs]."""
        self._go_on("a convolution")
        kernel = np.asarray(kernel, np.float64)
        if self.axes != (0, 1, 2) or kernel.ndim != 4 or any(layer[2] is None for layer in self.layers):
            raise NotPlain(f"a convolution of {self.shape}")
        bias = np.zeros(kernel.shape[3]) if bias is None else np.asarray(bias, np.float64)
        if self.before:
            scale, offset = (self._of_channels(values) for values in self.before)
            bias, self.before = bias + offset @ kernel.sum(axis=(0, 1)), None
            kernel = kernel * scale[:, None]
        self._add(kernel, bias, stride)
        sides = ((side - size) // stride + 1 for side, size in zip(self.shape[1:], kernel.shape[:2], strict=True))
        self.shape = (kernel.shape[3], *sides)

    def affine(self, scale=1.0, offset=0.0):
        """x · scale + offset, with numbers or arrays that broadcast against [batch, *shape]."""
        self._go_on("arithmetic")
        scale, offset = self._of_elements(scale), self._of_elements(offset)
        last = self.layers[-1] if self.layers and self.activations[-1] == "linear" and not self.before else None
        if last and (last[2] is None or len(self.shape) == 3):
            of_outputs = (lambda values: values) if last[2] is None else self._of_channels
            last[:2] = last[0] * of_outputs(scale), last[1] * of_outputs(scale) + of_outputs(offset)
            return
        scale_before, offset_before = self.before or (1.0, 0.0)
        self.before = scale_before * scale, offset_before * scale + offset

    def activation(self, name):
        """One of the stack's ACTIVATIONS."""
        self._go_on(name)
        if not self.layers or self.before or self.activations[-1] != "linear":
            raise NotPlain(f"{name} that follows no layer")
        self.activations[-1] = name

    def bounded(self, low, high):
        """The values kept between two numbers: an activation of that name, or the bounds of actions."""
        names = {(0, 6): "relu6", (-1, 1): "hard_tanh", (0, np.inf): "relu"}
        if (low, high) in names:
            return self.activation(names[low, high])
        self._go_on("Clip")
        if not self.layers:
            raise NotPlain("Clip of the observations")
        self.clip = low, high
        return None

    def flatten(self):
        self._go_on("Flatten")
        if len(self.shape) == 1:
            return
        if self.axes == (0, 1, 2) and self.layers:
            self.images = self.shape
        elif self.axes != tuple(range(len(self.shape))) and not (self.axes == (1, 2, 0) and self.layers):
            raise NotPlain("Transpose before Flatten")
        self.before = self.before and tuple(values.reshape(-1) for values in self.before)
        self.shape = (prod(self.shape),)
        self.axes = (0,)

    def reshape(self, shape):
        """Another shape of the sample; one of a single axis flattens it."""
        if self.ending == "argmax" or tuple(shape) == self.shape:
            return
        if len(shape) != 1:
            raise NotPlain(f"Reshape to {tuple(shape)}")
        self.flatten()

    def transpose(self, order):
        """The sample's axes in another order."""
        self._go_on("Transpose")
        self.axes, self.shape = (tuple(values[axis] for axis in order) for values in (self.axes, self.shape))
        self.before = self.before and tuple(values.transpose(order) for values in self.before)

    def end(self, ending):
        """softmax, log_softmax or argmax over the outputs, which choose the same action without it."""
        # Logarithms of probabilities give the same softmax again.
        if not (self.ending == "log_softmax" or (self.ending == "softmax" and ending == "argmax")):
            self._go_on(ending)
        if len(self.shape) != 1:
            raise NotPlain(f"{ending} of {self.shape}")
        self.ending = ending

    def stack(self, settings):
        """The Stack, for an environment with these `model` settings.

        Raises:
            NotPlain: its end is none that this environment's policies have.
        """
        if not self.layers or self.layers[-1][2] is not None:
            raise NotPlain("no dense layer at the end")
        bounds, shape = settings["bounds"], tuple(settings["observation_shape"])
        low, high = (np.asarray(side, np.float32) for side in bounds or ((), ()))
        last, squash = self.activations[-1], False
        if bounds and last == "tanh" and not self.clip:
            scale, offset = self.before or (np.ones(self.shape), np.zeros(self.shape))
            low, high, last, squash = offset - scale, offset + scale, "linear", True
        elif self.before:
            raise NotPlain(f"arithmetic after the last {last}")
        # Evaluations keep actions within the bounds anyway.
        clip = (-1, 1) if last == "hard_tanh" else self.clip
        if clip and bounds and (low >= clip[0]).all() and (high <= clip[1]).all():
            last = "linear"
        elif self.clip:
            raise NotPlain(f"Clip to {self.clip[0]:g} … {self.clip[1]:g}")
        if last != "linear":
            raise NotPlain(f"{last} after the last layer")
        if self.ending and (bounds or settings["factors"]):
            raise NotPlain(self.ending)
        if self.shape != (settings["actions"],):
            raise NotPlain(f"{self.shape[0]} outputs")
        nvec = settings["factors"] or [settings["actions"]]
        kind = "MultiDiscrete" if settings["factors"] else "Discrete"
        actions = Space("Box", low.shape, low=low, high=high) if bounds else Space(kind, nvec=np.array(nvec))
        if settings["factors"]:
            actions = Space(kind, (len(nvec),), nvec=np.array(nvec))
        singles = [(kernel.astype(np.float32), bias.astype(np.float32), stride) for kernel, bias, stride in self.layers]
        convolutions = [layer for layer in singles if layer[2] is not None]
        return Stack(
            algorithm="",
            dense=[layer[:2] for layer in singles[len(convolutions) :]],
            activations=[*self.activations[:-1], last],
            observation_space=Space("Box", shape),
            action_space=actions,
            convolutions=convolutions,
            channels_first=bool(convolutions),
            squash=squash,
            actions_as_given=True,
        )

    def _go_on(self, what):
        if self.ending or self.clip:
            raise NotPlain(f"{what} after {self.ending or 'Clip'}")

    def _add(self, kernel, bias, stride):
        self.layers.append([kernel, bias, stride])
        self.activations.append("linear")

    def _of_elements(self, values):
        """Numbers for each element of a sample, float64 [*shape]."""
        values = np.asarray(values, np.float64)
        try:
            return np.broadcast_to(values, (1, *self.shape))[0].copy()
        except ValueError:
            raise NotPlain(f"arithmetic with {values.shape}") from None

    def _of_channels(self, values):
        """Numbers of each channel, of those of each element."""
        if self.axes != (0, 1, 2) or np.ptp(values, axis=(1, 2)).any():
            raise NotPlain("arithmetic that differs from pixel to pixel")
        return values[:, 0, 0]
