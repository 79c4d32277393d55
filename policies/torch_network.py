"""Networks of PyTorch: TorchScript files, and modules and models of Stable-Baselines3 that are given as objects.

A TorchScript file is a program. Before anything of it runs, its code may name PyTorch's own operators alone, and of these
none that reads or writes files, and no class that restores itself by code of its own.
"""

import contextlib
import copy
import functools
import re
import warnings
import zipfile

import numpy as np

from pops.policies.chain import Chain, NotPlain
from pops.policies.network import Network
from pops.support.errors import ConfigurationError, one_line

# Operators that reach beyond the program.
_DENIED = re.compile(r"(aten::(save|from_file|load|_?pickle\w*|_?unpickle\w*)|prim::rpc_\w+)$")
_NAMESPACES = "aten", "prim"

_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "selu": "selu",
    "silu": "silu",
    "mish": "mish",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_silu",
    "log_sigmoid": "log_sigmoid",
}


def is_module(teacher):
    """Whether an object is a module of PyTorch; that library is not imported for it."""
    return _is_a(teacher, "torch.nn.modules.module", "Module")


def is_stable_baselines_model(teacher):
    """Whether an object is a model of Stable-Baselines3 or sb3-contrib, such as PPO."""
    return _is_a(teacher, "stable_baselines3.common.base_class", "BaseAlgorithm")


def _is_a(teacher, module, name):
    return any(kind.__module__ == module and kind.__name__ == name for kind in type(teacher).__mro__)


def weights_of(module):
    """A module's parameters and buffers as arrays."""
    return [value.detach().cpu().numpy() for value in module.state_dict().values() if hasattr(value, "detach")]


def open_file(path, settings):
    """A TorchScript file as a Network.

    Args:
        path: of the file.
        settings: the configuration's group `model`.

    Raises:
        ConfigurationError: PyTorch is missing, the file cannot be read, or its program does what no policy needs to.
    """
    try:
        import torch
    except ImportError:
        raise ConfigurationError(
            f"{path}: a TorchScript module, for which PyTorch is missing; install with: pip install -r requirements-sb3.txt"
        ) from None
    _check_code(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # that TorchScript is no longer developed
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # PyTorch raises many kinds
        raise ConfigurationError(f"{path}: cannot be read as TorchScript ({one_line(error, 200)})") from None
    if not hasattr(module, "forward"):
        raise ConfigurationError(f"{path}: has no method forward, which would give the actions' values")
    _check_graph(path, module.inlined_graph)
    return _network(str(path), module.float(), lambda: torch.jit.freeze(module, optimize_numerics=False), settings)


def open_module(module, settings):
    """A module that is given as an object, as a Network. The module stays as it is.

    Raises:
        ConfigurationError: it is a policy of Stable-Baselines3 without its model, or cannot be copied.
    """
    import torch

    name = f"the teacher, {type(module).__name__}"
    if _is_a(module, "stable_baselines3.common.policies", "BaseModel"):
        raise ConfigurationError(f"{name}: a policy of Stable-Baselines3; give the model itself, such as PPO(...)")
    if getattr(module.forward, "__name__", "") == "_forward_unimplemented":
        parts = ", ".join(part for part, _ in module.named_children()) or "its modules"
        raise ConfigurationError(f"{name}: has no forward; give the part of it that chooses the action: one of {parts}")
    if any(torch.nn.parameter.is_lazy(values) for values in (*module.parameters(), *module.buffers())):
        raise ConfigurationError(f"{name}: has weights without values yet; call it on an observation first")
    try:
        own = copy.deepcopy(module).cpu().float().eval()
    except Exception as error:  # of whatever kind: it is the user's code that runs here
        reason = one_line(error, 200)
        raise ConfigurationError(f"{name}: cannot be copied ({reason}); give a function that calls it") from None

    def frozen():
        if isinstance(own, torch.jit.ScriptModule):
            return torch.jit.freeze(own, optimize_numerics=False)
        example = torch.zeros(2, *settings["observation_shape"])
        with warnings.catch_warnings(record=True, action="always") as warned:
            traced = torch.jit.trace(own, example, check_trace=False, strict=False)
        # What depends on the observations' values would stay as it is for these; PyTorch warns of it.
        if any(issubclass(each.category, torch.jit.TracerWarning) for each in warned):
            raise NotPlain("a branch that depends on the observations")
        return torch.jit.freeze(traced, optimize_numerics=False)

    return _network(name, own, frozen, settings)


def _check_code(path):
    """Raises ConfigurationError for a program that names what it must not, by its text, of which nothing has run yet."""
    try:
        with zipfile.ZipFile(path) as archive:
            sources = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
    except Exception as error:  # a damaged zip brings about many kinds
        raise ConfigurationError(f"{path}: damaged ({one_line(error, 200)}); save or download it again") from None
    text = "\n".join(sources)
    own = re.search(r"def (__[sg]etstate__)\(", text)
    classes = re.search(r"__torch__\.torch\.classes\.[\w.]+", text)
    # Operators of PyTorch are written torch.NAME, all others ops.NAMESPACE.NAME.
    operators = [f"aten::{name}" for name in re.findall(r"\btorch\.(\w+)\(", text)]
    operators += ["::".join(found) for found in re.findall(r"\bops\.(\w+)\.(\w+)", text)]
    what = own or classes
    _refuse(path, what[what.lastindex or 0] if what else next(filter(_denied, operators), None))


def _check_graph(path, graph):
    """The same for the operators that a program has, whatever its text says."""
    kinds = {node.kind() for node in _nodes(graph)}
    _refuse(path, next(filter(_denied, sorted(kinds)), None))


def _nodes(block):
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _denied(operator):
    return operator.partition("::")[0] not in _NAMESPACES or _DENIED.match(operator) is not None


def _refuse(path, what):
    if what is not None:
        raise ConfigurationError(
            f"{path}: a TorchScript program that uses {what}, which no policy needs, so it is not run; export the network "
            "to ONNX and give that file"
        )


def _network(name, module, frozen, settings):
    """A Network of a module.

    Args:
        frozen: gives the module with its weights as constants, whose graph is read.
    """
    import torch

    @functools.cache
    def takes_bytes():
        """Whether it takes frames as the environment gives them, of which it may make numbers up to 1 itself."""
        with contextlib.suppress(Exception):  # of whatever kind: it is the network's own code that runs here
            module(torch.zeros(2, *settings["observation_shape"], dtype=torch.uint8))
            return True
        return False

    def run(observations):
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            kind = np.uint8 if observations.dtype == np.uint8 and takes_bytes() else np.float32
            outputs = module(torch.from_numpy(np.array(observations, kind)))  # a copy, which it may change
        if torch.is_tensor(outputs):
            outputs = {"output": outputs}
        elif isinstance(outputs, list | tuple):
            outputs = {f"output {number}": value for number, value in enumerate(outputs)}
        elif not isinstance(outputs, dict):
            raise TypeError(f"it returned a {type(outputs).__name__}, not a tensor")
        return {str(key): array(value) for key, value in outputs.items() if torch.is_tensor(value)}

    def array(value):
        value = value.detach()  # parameters may be outputs, such as a logarithm of deviations
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

    def chain(output):
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                graph = frozen().graph
        except NotPlain:
            raise
        except Exception as error:  # PyTorch raises many kinds for what it cannot trace
            raise NotPlain(one_line(error, 200)) from None
        return _chain(graph, output, Chain(settings["observation_shape"]))

    first = next((values.shape[1] for values in module.parameters() if values.dim() == 2), None)
    flat = len(settings["observation_shape"]) == 1 and first is not None
    return Network(name, run, chain, takes=(first,) if flat else None)


def _chain(graph, output, chain):
    """The operations of a graph of constants, from its input to one of its outputs, put into a Chain."""
    results = list(graph.outputs())
    if len(results) == 1 and results[0].node().kind() == "prim::TupleConstruct":
        results = list(results[0].node().inputs())
    place = re.fullmatch(r"output (\d+)", output)  # as `run` names those of a tuple
    number = int(place[1]) if place else 0
    _, *inputs = graph.inputs()
    if len(inputs) != 1 or number >= len(results):
        raise NotPlain("its inputs and outputs")
    present, end = inputs[0].debugName(), results[number]
    known, others = {}, set()
    for node in _needed(graph, end):
        kind, given = node.kind(), [value.debugName() for value in node.inputs()]
        name = node.output().debugName() if node.outputsSize() == 1 else ""
        if any(node.blocks()):
            raise NotPlain("a branch")
        elif kind == "prim::Constant":
            known[name] = _constant(node)
        elif kind == "prim::ListConstruct" and present not in given:
            known[name] = [known.get(each) for each in given]
        elif kind in ("aten::size", "aten::dim") or all(each in known or each in others for each in given):
            others.add(name)  # follows from shapes and constants alone
        else:
            if given.count(present) != 1 or any(each not in (present, *known, *others) for each in given):
                raise NotPlain(_short(kind))
            _put(chain, kind.removeprefix("aten::").rstrip("_"), [known.get(each) for each in given], given.index(present))
            present = name
    if present != end.debugName():
        raise NotPlain("an output that does not follow from the input")
    return chain


def _needed(graph, end):
    """The nodes on which a value depends, in their order."""
    wanted, nodes = {end.debugName()}, []
    for node in reversed(list(graph.nodes())):
        if wanted.intersection(value.debugName() for value in node.outputs()):
            nodes.append(node)
            wanted.update(value.debugName() for value in node.inputs())
    return nodes[::-1]


def _constant(node):
    """A constant's value, a tensor as an array."""
    value = node.output().toIValue()
    return value.detach().numpy() if hasattr(value, "detach") else value


def _short(kind):
    return kind.removeprefix("aten::").removeprefix("prim::")


def _put(chain, kind, values, place):
    """Puts an operator into a Chain.

    Args:
        kind: its name, without the namespace and the mark of those that work in place.
        values: its arguments; None for the one that the chain gives, and for what is not constant.
        place: of that argument.
    """
    if kind in _ACTIVATIONS:
        return chain.activation(_ACTIVATIONS[kind])
    if kind in _WAYS and (place == 0 or kind in ("add", "mul", "addmm")):
        return _WAYS[kind](chain, values, place)
    if kind not in ("dropout", "feature_dropout", "contiguous", "detach", "to", "alias", "alpha_dropout", "float"):
        raise NotPlain(kind)
    return None


def _only(chain, name, fits, kind):
    if not fits:
        raise NotPlain(f"{kind} with other settings than PyTorch's own")
    chain.activation(name)


def _put_convolution(chain, values, transposed=False):
    kernel, bias, strides, padding, dilations = values[1:6]
    if transposed or kernel is None or kernel.ndim != 4:
        raise NotPlain("a convolution of another kind")
    groups = values[8] if len(values) > 8 else values[6]
    chain.convolution(kernel.transpose(2, 3, 1, 0), bias, strides, dilations, groups, np.any(padding))


def _put_normalisation(chain, values):
    scale, offset, mean, variance, training, _, epsilon = values[1:8]
    if training or mean is None:
        raise NotPlain("batch_norm by the batch's own statistics")
    chain.batch_norm(mean, variance, epsilon, scale, offset)


def _put_sum(chain, values, place):
    """x + alpha · other, or other + alpha · x."""
    other, alpha = _number(values[1 - place]), values[2]
    chain.affine(offset=alpha * other) if place == 0 else chain.affine(scale=alpha, offset=other)


def _number(value):
    if value is None:
        raise NotPlain("arithmetic with what is not constant")
    return np.asarray(value, np.float64)


def _put_reshape(chain, values):
    target = values[1]
    if target is None or None in target[1:]:
        raise NotPlain("a shape that is computed")
    chain.reshape(target[1:])


def _put_flatten(chain, values):
    if values[1] != 1 or values[2] not in (-1, len(chain.shape)):
        raise NotPlain("flatten of other axes")
    chain.reshape(-1)


def _put_addmm(chain, values, place):
    bias, _, kernel, beta, alpha = values
    if place != 1:
        raise NotPlain("addmm")
    chain.dense(alpha * _number(kernel), beta * _number(bias))


# Operators: what puts them into the chain, given their arguments and which of these is the chain's.
_WAYS = {
    "linear": lambda chain, v, _: chain.dense(_number(v[1]).T, v[2]),
    "addmm": _put_addmm,
    "matmul": lambda chain, v, _: chain.dense(_number(v[1])),
    "mm": lambda chain, v, _: chain.dense(_number(v[1])),
    "conv2d": lambda chain, v, _: _put_convolution(chain, v),
    "_convolution": lambda chain, v, _: _put_convolution(chain, v, v[6]),
    "batch_norm": lambda chain, v, _: _put_normalisation(chain, v),
    "add": _put_sum,
    "sub": lambda chain, v, _: chain.affine(offset=-v[2] * _number(v[1])),
    "rsub": lambda chain, v, _: chain.affine(scale=-v[2], offset=_number(v[1])),
    "mul": lambda chain, v, place: chain.affine(scale=_number(v[1 - place])),
    "div": lambda chain, v, _: chain.affine(scale=1 / _number(v[1])),
    "leaky_relu": lambda chain, v, _: _only(chain, "leaky_relu_0.01", v[1] == 0.01, "leaky_relu"),
    "elu": lambda chain, v, _: _only(chain, "elu", v[1:4] == [1.0, 1.0, 1.0], "elu"),
    "celu": lambda chain, v, _: _only(chain, "celu", v[1] == 1.0, "celu"),
    "gelu": lambda chain, v, _: _only(chain, "gelu", v[1] == "none", "gelu"),
    "softplus": lambda chain, v, _: _only(chain, "softplus", v[1:3] == [1, 20], "softplus"),
    "hardtanh": lambda chain, v, _: chain.bounded(*v[1:3]),
    "clamp": lambda chain, v, _: chain.bounded(*v[1:3]),
    "flatten": lambda chain, v, _: _put_flatten(chain, v),
    "reshape": lambda chain, v, _: _put_reshape(chain, v),
    "view": lambda chain, v, _: _put_reshape(chain, v),
    "permute": lambda chain, v, _: chain.transpose(v[1]),
    "softmax": lambda chain, v, _: chain.end("softmax", v[1]),
    "log_softmax": lambda chain, v, _: chain.end("log_softmax", v[1]),
    "argmax": lambda chain, v, _: chain.end("argmax", v[1]),
}
