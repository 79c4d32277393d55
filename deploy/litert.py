"""Policies as LiteRT (TensorFlow Lite) files."""

import keras
import numpy as np
import tensorflow as tf

from pops.deploy.c import quantised
from pops.deploy.convert import convert, with_actions
from pops.support.console import quiet

CALIBRATION = 500  # observations from which the converter takes the ranges of an int8 network's activations


def write_litert(network, path, examples=None):
    """Writes a LiteRT file.

    Args:
        examples: observations [n, *observation_shape] that the policy meets. With them weights and activations become int8,
            each in the range that it has for these; what goes in and comes out stays as it is.

    Raises:
        RunFailed: it cannot be converted.
    """
    options = {}
    if examples is not None:
        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([observation[None]] for observation in examples),
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        }
        network = on_blocks(network)
    convert(network, path, "litert", **options)


def on_blocks(network):
    """The same network in a form that is faster in int8; only one that begins with a convolution of frames changes.

    LiteRT is slow at transposing single bytes. As a stride never parts the columns that it steps over, the convolution can
    see blocks of them, whose bytes stay side by side. Its kernel and biases take over the centring of the frames; the
    kernel is already rounded to int8, so that the biases are right for the background: it is nearly all that there is.
    """
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    kinds = keras.layers.Rescaling, keras.layers.Permute, keras.layers.Conv2D
    if tuple(type(layer) for layer in layers[:3]) != kinds or not isinstance(network, keras.Sequential):
        return network
    centre, permutation, first, *rest = layers
    frames, rows, columns = network.input_shape[1:]
    (height, width, _, filters), (down, across) = first.kernel.shape, first.strides
    plain = first.padding == "valid" and first.use_bias and first.groups == 1 and first.data_format == "channels_last"
    numbers = np.ndim(centre.scale) == np.ndim(centre.offset) == 0 and permutation.dims == (2, 3, 1)
    if not (plain and numbers) or width % across or columns % across:
        return network
    inputs = keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype)
    images = keras.ops.reshape(keras.ops.cast(inputs, "float32"), (-1, frames * rows, columns // across, across))
    images = keras.ops.concatenate(keras.ops.split(images, frames, axis=1), axis=-1)
    kernel, bias = first.get_weights()
    rounded, scale = quantised(kernel.reshape(-1, filters))
    kernel = (rounded * scale).reshape(kernel.shape)
    kernel, bias = kernel * centre.scale, bias + centre.offset * kernel.sum((0, 1, 2))
    blocks = kernel.reshape(height, width // across, across, frames, filters).swapaxes(2, 3)
    settings = first.get_config() | {"kernel_size": (height, width // across), "strides": (down, 1)}
    convolution = type(first).from_config(settings)
    outputs = convolution(images)
    convolution.set_weights([blocks.reshape(convolution.kernel.shape), bias])
    for layer in rest:
        copy = type(layer).from_config(layer.get_config())
        outputs = copy(outputs)
        copy.set_weights(layer.get_weights())
    return keras.Model(inputs, outputs, name=network.name)


def litert_runtime(path):
    """A LiteRT file as a function: observations [n, *observation_shape] -> outputs float32 [n, actions], actions [n]."""
    with quiet():  # says that this interpreter will move to a package of its own
        interpreter = tf.lite.Interpreter(str(path))
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = None

    def run(observations):
        nonlocal rows
        if rows != len(observations):
            rows = len(observations)
            with quiet():
                interpreter.resize_tensor_input(inputs["index"], observations.shape)
                interpreter.allocate_tensors()
        interpreter.set_tensor(inputs["index"], observations)
        interpreter.invoke()
        return with_actions(interpreter.get_tensor(outputs["index"]))

    return run
