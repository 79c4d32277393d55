"""ONNX files: parsed by the package `onnx`, run by ONNX Runtime on the CPU. Neither runs code that a file brings."""

import numpy as np

from pops.policies.chain import Chain, NotPlain
from pops.policies.network import Network
from pops.support.errors import ConfigurationError, one_line

# ONNX Runtime's names of what an input may be, and NumPy's.
_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}

# Operations of one input that are one of the stack's activations, with the attributes that they then have.
_ACTIVATIONS = {
    "Relu": ("relu", {}),
    "Tanh": ("tanh", {}),
    "Sigmoid": ("sigmoid", {}),
    "LeakyRelu": ("leaky_relu_0.01", {"alpha": (0.01, 0.01)}),  # what it must be, and its default
    "Elu": ("elu", {"alpha": (1.0, 1.0)}),
    "Celu": ("celu", {"alpha": (1.0, 1.0)}),
    "Selu": ("selu", {"alpha": (1.6732632, 1.6732632), "gamma": (1.0507010, 1.0507010)}),
    "Gelu": ("gelu", {"approximate": (b"none", b"none")}),
    "Mish": ("mish", {}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": (1 / 6, 0.2), "beta": (0.5, 0.5)}),
    "HardSwish": ("hard_silu", {}),
}


def open_network(path, settings):
    """An ONNX file as a Network.

    Args:
        path: of the file; weights may lie in other files beside it.
        settings: the configuration's group `model`.

    Raises:
        ConfigurationError: the file cannot be read, or it takes other observations.
    """
    import onnx

    from pops.support.runtime import open_session

    try:
        graph = onnx.load(str(path)).graph
        session = open_session(str(path), quiet=True)
    except Exception as error:  # both raise many kinds
        raise ConfigurationError(f"{path}: cannot be read as ONNX ({one_line(error, 200)})") from None
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(f"{item.name} {item.shape}" for item in inputs)
        raise ConfigurationError(
            f"{path}: takes {len(inputs)} inputs, {names}; PoPS compresses policies of one: the present observation"
        )
    entry = inputs[0]
    if entry.type not in _TYPES:
        raise ConfigurationError(f"{path}: its input {entry.name} is a {entry.type}, which no observations are")
    axes = [None, *settings["observation_shape"]] if not entry.shape else entry.shape  # of any shape, where it says none
    alone = list(axes) == list(settings["observation_shape"])  # without a batch axis
    shape, images_last = _sample_shape(path, [1, *axes] if alone else axes, settings)
    batch = 1 if alone else axes[0]
    if isinstance(batch, int) and batch != 1:
        raise ConfigurationError(
            f"{path}: takes {batch} observations at once; export it with a dynamic batch axis (torch.onnx.export: "
            "dynamic_axes={'observation': {0: 'batch'}})"
        )
    names = [item.name for item in session.get_outputs()]

    def run(observations):
        observations = np.moveaxis(observations, 1, -1) if images_last else observations
        observations = observations.reshape(len(observations), *shape).astype(_TYPES[entry.type])
        rows = observations if alone else observations[:, None] if batch == 1 else [observations]
        results = [session.run(names, {entry.name: each}) for each in rows]
        outputs = {name: [np.asarray(result[index]) for result in results] for index, name in enumerate(names)}
        return {name: (_joined if batch == 1 else np.concatenate)(arrays) for name, arrays in outputs.items()}

    def chain(output):
        if alone:
            raise NotPlain(reason="it takes observations without a batch axis")
        begun = Chain(settings["observation_shape"])
        if images_last:
            begun.transpose((0, 2, 3, 1))
        begun.reshape(shape)
        return _chain(graph, entry.name, output, begun)

    return Network(
        name=str(path),
        run=run,
        chain=chain,
        takes=shape,
        remark="it takes one observation at a time: a dynamic batch axis would be faster" if batch == 1 else "",
    )


def _joined(arrays):
    """Outputs for one observation each, as a batch: their own batch axis of 1 is one, if they have it."""
    return np.concatenate(arrays) if arrays[0].shape[:1] == (1,) else np.stack(arrays)


def _sample_shape(path, axes, settings):
    """The shape in which a file takes an observation, and whether that is an image with its channels last."""
    shape, own = tuple(settings["observation_shape"]), tuple(axes[1:])
    images = len(shape) == 3
    if len(own) == len(shape) and all(side == n or not isinstance(side, int) for side, n in zip(own, shape, strict=True)):
        return shape, False
    if all(isinstance(side, int) for side in own):
        if images and own == (*shape[1:], shape[0]):
            return own, True
        if not images and own and int(np.prod(own)) == shape[0]:
            return own, False
    raise ConfigurationError(f"{path}: takes observations of shape {own}, those of the environment have {shape}")


def _chain(graph, entry, output, chain):
    """The operations of a graph, from its input to one of its outputs, put into a Chain."""
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, users = _needed(graph, output), {}
    for node in nodes:
        for name in node.input if node.op_type != "Shape" else ():
            users.setdefault(name, []).append(node)
    shapes = set()  # values that follow from the shape of the input alone
    present = entry
    for node in nodes:
        attributes = {item.name: _value(item, numpy_helper) for item in node.attribute}
        given = [name for name in node.input if name]
        if node.op_type == "Constant" and "sparse_value" not in attributes:
            constants[node.output[0]] = np.asarray(next(iter(attributes.values())))
        elif node.op_type == "Shape" or (shapes.intersection(given) and all(n in shapes or n in constants for n in given)):
            shapes.add(node.output[0])
        elif node.op_type in ("Identity", "Cast") and given[0] in constants:
            constants[node.output[0]] = constants[given[0]]
        elif node.op_type in _BRANCHES and given[0] == present and len(users[present]) == 2:
            continue  # the node follows that joins both
        elif len(users.get(present, ())) == 2:
            present = _join(node, present, users, chain)
        elif given.count(present) != 1:
            raise NotPlain(node.op_type)
        else:
            arguments = [None if name == present or name not in constants else constants[name] for name in node.input]
            if any(name != present and name not in constants and name not in shapes for name in given):
                raise NotPlain(node.op_type)
            _put(chain, node, attributes, arguments, node.input[0] == present)
            present = node.output[0]
    if present != output:
        raise NotPlain("an output that does not follow from the input")
    return chain


def _needed(graph, output):
    """The nodes on which an output depends, in their order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    return nodes[::-1]


def _value(attribute, numpy_helper):
    """An attribute's value, tensors as arrays."""
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if hasattr(value, "raw_data") else value


# What is written as two nodes: the operation of the branch -> the one that joins both, and what that puts into the chain.
_BRANCHES = {
    "Sigmoid": ("Mul", lambda chain: chain.activation("silu")),  # x · sigmoid(x)
    "ReduceLogSumExp": ("Sub", lambda chain: chain.end("log_softmax")),  # x − log Σ exp x
}


def _join(node, present, users, chain):
    """Takes a node that joins the present value and a branch of it. Returns the name of what comes out."""
    branch = next((user for user in users[present] if user.op_type in _BRANCHES), None)
    joined, put = _BRANCHES[branch.op_type] if branch else (None, None)
    # The difference the other way round would be another; the comparison of outputs would find it.
    if node.op_type != joined or set(node.input) != {present, branch.output[0]}:
        raise NotPlain(f"a branch at {node.op_type}")
    put(chain)
    return node.output[0]


def _put(chain, node, attributes, arguments, comes_first):
    """Puts a node into a Chain.

    Args:
        arguments: its inputs; None for the one that the chain gives, and for what is not constant.
        comes_first: whether the chain's is the first.
    """
    kind, get = node.op_type, attributes.get
    other, optional = next((value for value in arguments if value is not None), None), [*arguments[1:], None, None]
    if kind in _ACTIVATIONS:
        name, wanted = _ACTIVATIONS[kind]
        for key, (value, default) in wanted.items():
            found = get(key, default)
            if found != value if isinstance(value, bytes) else not np.isclose(found, value, atol=1e-5):
                raise NotPlain(f"{kind} with {key}={found}")
        chain.activation(name)
    elif kind in ("Gemm", "MatMul") and comes_first and not get("transA", 0) and optional[0] is not None:
        kernel = get("alpha", 1.0) * (optional[0].T if get("transB", 0) else optional[0])
        chain.dense(kernel, None if optional[1] is None else get("beta", 1.0) * optional[1])
    elif kind == "Conv" and comes_first and optional[0] is not None and optional[0].ndim == 4:
        padded = any(get("pads", [0])) or get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        more = get("strides", [1, 1]), get("dilations", [1]), get("group", 1), padded
        chain.convolution(optional[0].transpose(2, 3, 1, 0), optional[1], *more)
    elif kind in ("Add", "Sub", "Mul", "Div") and other is not None:
        _put_arithmetic(chain, kind, other, comes_first)
    elif kind == "BatchNormalization" and not get("training_mode", 0):
        scale, offset, mean, variance = arguments[1:5]
        chain.batch_norm(mean, variance, get("epsilon", 1e-5), scale, offset)
    elif kind == "Clip":  # whose bounds are attributes before version 11
        chain.bounded(get("min", optional[0]), get("max", optional[1]))
    elif kind == "Flatten" and get("axis", 1) == 1:
        chain.reshape(-1)
    elif kind == "Reshape" and comes_first:
        # A shape that is computed keeps the batch, and then joins all; the outputs are compared anyway.
        target = [0, -1] if arguments[1] is None else arguments[1].tolist()
        chain.reshape([chain.shape[place] if side == 0 else side for place, side in enumerate(target[1:])])
    elif kind == "Squeeze" and chain.ending == "argmax":
        pass
    elif kind == "Transpose" and "perm" in attributes:
        chain.transpose(get("perm"))
    elif kind in ("Softmax", "LogSoftmax", "ArgMax"):
        ending = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "ArgMax": "argmax"}[kind]
        chain.end(ending, get("axis", 0 if kind == "ArgMax" else -1))
    elif kind not in ("Identity", "Dropout", "Cast"):
        raise NotPlain(kind)


def _put_arithmetic(chain, kind, other, comes_first):
    other = other.astype(np.float64)
    if kind == "Add":
        chain.affine(offset=other)
    elif kind == "Mul":
        chain.affine(scale=other)
    elif kind == "Sub":
        chain.affine(offset=-other) if comes_first else chain.affine(scale=-1.0, offset=other)
    elif comes_first:
        chain.affine(scale=1 / other)
    else:
        raise NotPlain("Div of a constant")
