"""ONNX Runtime, in which convolutional networks take half to a third of TensorFlow's time for a few states."""

from functools import cache

import keras
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pops.support.vector import cores

OPERATORS = 21  # the version of ONNX's operators
FORMAT = 10  # and of its files

_ACTIVATIONS = {keras.activations.linear: "Identity", keras.activations.relu: "Relu", keras.activations.tanh: "Tanh"}


def open_session(model, threads=1, quiet=False):
    """ONNX Runtime's session of a model, on the CPU.

    Args:
        model: path of a file, or its bytes.
        threads: for one operation; one is enough for small networks.
        quiet: prints nothing about models that cannot be read.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # games are played in between
    if quiet:
        options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def sessions(network):
    """What makes a stack of layers a function in ONNX Runtime, or None if one is of a kind that is not known here.

    Args:
        network: keras.Sequential, plain or of members.

    Returns:
        Weights as `get_weights` gives them, of one member -> a function: observations [n, *observation_shape] -> outputs
        float32 [n, actions].
    """
    kinds = [type(layer).__name__ for layer in network.layers]
    if {*kinds} - {*_LAYERS} or not all(map(_is_usual, network.layers)):
        return None
    steps = [_LAYERS[kind](layer) for kind, layer in zip(kinds, network.layers, strict=True)]

    def with_weights(weights):
        graph, arrays = _Graph(), iter(weights)
        graph.add("Cast", to=TensorProto.FLOAT)
        for step in steps:
            step(graph, arrays)
        session = cache(graph.session)
        return lambda observations: session(observations.dtype).run(None, {"observations": observations})[0]

    return with_weights


class _Graph:
    """A chain of operations in the making."""

    def __init__(self):
        self.nodes, self.constants, self.last = [], [], "observations"

    def add(self, operation, *constants, **attributes):
        """Adds an operation on what the last one gave, and on constants."""
        names = [f"constant_{len(self.constants) + index}" for index in range(len(constants))]
        self.constants += map(numpy_helper.from_array, constants, names)
        before, self.last = self.last, f"result_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, [before, *names], [self.last], **attributes))

    def session(self, dtype):
        """ONNX Runtime's session of the chain, for observations of this type."""
        taken = helper.make_tensor_value_info("observations", helper.np_dtype_to_tensor_dtype(dtype), None)
        given = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "policy", [taken], [given], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPERATORS)], ir_version=FORMAT)
        return open_session(model.SerializeToString(), cores())


def _is_usual(layer):
    """Whether a layer has what the functions below take for granted."""
    usual = {"padding": "valid", "dilation_rate": (1, 1), "groups": 1, "data_format": "channels_last", "use_bias": True}
    return getattr(layer, "activation", keras.activations.linear) in _ACTIVATIONS and all(
        getattr(layer, name, value) == value for name, value in usual.items()
    )


def _rescaling(layer):
    def add(graph, _):
        graph.add("Mul", np.float32(layer.scale))
        graph.add("Add", np.float32(layer.offset))

    return add


def _frames(layer):
    def add(graph, _):
        graph.add("Sub", np.float32(layer.background))
        graph.add("Div", np.float32(layer.contrast))
        graph.add("Transpose", perm=[0, 2, 3, 1])

    return add


def _permute(layer):
    return lambda graph, _: graph.add("Transpose", perm=[0, *layer.dims])


def _convolution(strides, operation):
    def add(graph, arrays):
        kernel, bias = next(arrays), next(arrays)
        graph.add("Transpose", perm=[0, 3, 1, 2])  # ONNX Runtime leaves out those that undo each other
        graph.add("Conv", np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), bias.reshape(-1), strides=strides)
        graph.add("Transpose", perm=[0, 2, 3, 1])
        graph.add(operation)

    return add


def _dense(layer):
    def add(graph, arrays):
        kernel, bias = next(arrays), next(arrays)
        graph.add("MatMul", kernel)
        graph.add("Add", bias.reshape(-1))
        graph.add(_ACTIVATIONS[layer.activation])

    return add


_LAYERS = {
    "Rescaling": _rescaling,
    "Frames": _frames,
    "Permute": _permute,
    "Conv2D": lambda layer: _convolution(list(layer.strides), _ACTIVATIONS[layer.activation]),
    "MemberConvolution": lambda layer: _convolution([layer.stride] * 2, "Relu"),
    "Flatten": lambda _: lambda graph, _: graph.add("Flatten"),
    "Dense": _dense,
    "MemberDense": _dense,
    "Activation": lambda layer: lambda graph, _: graph.add(_ACTIVATIONS[layer.activation]),
}
