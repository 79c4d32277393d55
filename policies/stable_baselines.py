"""Files of Stable-Baselines3 and sb3-contrib.

Nothing of a file is run: its settings are JSON, its spaces are read as inert records, and its weights by PyTorch's reader
for tensors alone.
"""

import base64
import io
import json
import pickletools
import re
import zipfile
from dataclasses import dataclass
from math import prod

import numpy as np

from pops.policies.formats import is_stable_baselines, refuse
from pops.policies.pickles import read_pickle, value_of
from pops.policies.stack import Space, Stack, channels_last
from pops.support.errors import ConfigurationError, one_line


@dataclass(frozen=True)
class _Kind:
    """Where the policies of one module keep the layers that choose the action.

    Args:
        algorithm: or the first of those that share the module.
        hidden: names of Sequentials, in their order; their layers stand at even places, activations between.
        heads: names that the last layer may have; "" if it is the last of `hidden`.
        idle: pattern of the tensors that choose no action: critics, targets, noise.
        trunks: names that the extractor of features may have, the actor's own first.
        activation: PyTorch's name of the default.
        squash: default of whether continuous actions pass tanh and the affine map to their bounds.
    """

    algorithm: str
    hidden: tuple[str, ...]
    heads: tuple[str, ...]
    idle: str
    trunks: tuple[str, ...] = ("actor.features_extractor",)
    activation: str = "ReLU"
    squash: bool = False


_ACTOR_CRITIC = {
    "hidden": ("mlp_extractor.shared_net", "mlp_extractor.policy_net"),  # shared layers: before 1.8
    "heads": ("action_net",),
    # sde_features_extractor: layers of their own for gSDE's noise, which the mean action never passes; before 1.8.
    "idle": r"mlp_extractor\.value_net\..+|value_net\..+|log_std|(vf|sde)_features_extractor\..+",
    "trunks": ("pi_features_extractor", "features_extractor"),
    "activation": "Tanh",
}
_SQUASHED_GAUSSIAN = {
    "hidden": ("actor.latent_pi",),
    "heads": ("actor.mu", "actor.mu.0"),  # the second with gSDE, where a Hardtanh follows
    "idle": r"critic(_target)?\..+|actor\.log_std(\.weight|\.bias)?|actor\.sde_features_extractor\..+",
    "squash": True,
}
_KINDS = {
    "stable_baselines3.common.policies": _Kind("PPO", **_ACTOR_CRITIC),
    "sb3_contrib.common.maskable.policies": _Kind("MaskablePPO", **_ACTOR_CRITIC),
    "stable_baselines3.sac.policies": _Kind("SAC", **_SQUASHED_GAUSSIAN),
    "sb3_contrib.tqc.policies": _Kind("TQC", **_SQUASHED_GAUSSIAN),
    "stable_baselines3.td3.policies": _Kind(
        "TD3", hidden=("actor.mu",), heads=("",), idle=r"(critic|critic_target|actor_target)\..+", squash=True
    ),
    "stable_baselines3.dqn.policies": _Kind(
        "DQN", hidden=("q_net.q_net",), heads=("",), idle=r"q_net_target\..+", trunks=("q_net.features_extractor",)
    ),
    "sb3_contrib.qrdqn.policies": _Kind(
        "QR-DQN",
        hidden=("quantile_net.quantile_net",),
        heads=("",),
        idle=r"quantile_net_target\..+",
        trunks=("quantile_net.features_extractor",),
    ),
    # The linear policy was one layer of this name at first, a Sequential of one layer since.
    "sb3_contrib.ars.policies": _Kind(
        "ARS", hidden=("action_net",), heads=("action_net", ""), idle="", trunks=("features_extractor",), squash=True
    ),
}

# Policies of these libraries that are more than layers one after the other.
_NO_STACKS = {
    "sb3_contrib.common.recurrent.policies": "it is recurrent: its action depends on earlier observations too; PoPS "
    "compresses policies of the present observation: train one with PPO",
    "sb3_contrib.crossq.policies": "it is CrossQ's, with batch renormalisation between its layers; export its actor to "
    "ONNX and give that file, or train one with SAC",
}

# PyTorch's names of activations that compute the same with their default arguments -> the stack's.
_ACTIVATIONS = {
    "Identity": "linear",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu_0.01",
    "ELU": "elu",
    "CELU": "celu",
    "SELU": "selu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "GELU": "gelu",
    "Mish": "mish",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Hardtanh": "hard_tanh",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_silu",
    "LogSigmoid": "log_sigmoid",
    "Tanhshrink": "tanh_shrink",
}

# Of NatureCNN's convolutions; a file holds their kernels but not their strides.
_KERNELS, _STRIDES = (8, 4, 3), (4, 2, 1)

_EXPORT = "export its actor to ONNX and give that file"


def read(path):
    """The actor in a file of Stable-Baselines3 or sb3-contrib.

    Args:
        path: of the .zip.

    Returns:
        Stack.

    Raises:
        ConfigurationError: the file is of another kind or damaged, PyTorch is missing, or the policy is not a stack of
            layers whose every tensor is known.
    """
    if not is_stable_baselines(path):
        refuse(path)
    data, weights = _parts(path)
    try:
        return _stack(data, weights)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ConfigurationError(
            f"{path}: its settings are not as Stable-Baselines3 writes them ({reason}); save the model again"
        ) from None


def _parts(path):
    """A file's settings, and its tensors as float32 arrays by name."""
    try:
        import torch
    except ImportError:
        torch = None
    # Older ones can be made to run code by files that were made for that.
    if torch is None or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise ConfigurationError(
            f"{path}: a file of Stable-Baselines3, for which PyTorch 2.6 or newer is missing; install with: "
            "pip install -r requirements-sb3.txt"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            data, stream = dict(json.loads(archive.read("data"))), io.BytesIO(archive.read("policy.pth"))
    except Exception as error:  # a damaged zip brings about many kinds
        raise ConfigurationError(f"{path}: damaged ({one_line(error, 200)}); save or download it again") from None
    try:
        tensors = torch.load(stream, map_location="cpu", weights_only=True)
        other = next((name for name, tensor in tensors.items() if not torch.is_tensor(tensor)), None)
        if other is None:
            return data, {name: tensor.float().numpy() for name, tensor in tensors.items()}
        reason = f"it holds {other}, which is none"
    except Exception as error:  # PyTorch raises many kinds for what it cannot read
        reason = one_line(str(error).split("WeightsUnpickler error: ")[-1].split("Please ")[0], 200) or type(error).__name__
    raise ConfigurationError(f"{path}: its policy.pth cannot be read as tensors alone ({reason}); save the model again")


def _stack(data, weights):
    """The actor of a file's settings and tensors.

    Args:
        data: of the file's JSON.
        weights: float32 arrays by the tensors' names.
    """
    kind, name = _kind(data)
    observations, actions = (_space(data.get(f"{part}_space"), part) for part in ("observation", "action"))
    options = data.get("policy_kwargs") or {}
    hidden_activation = _activation(options, kind)
    images, layers = _layers(kind, name, options, weights)
    _account(weights, [*images, *layers], kind)

    is_image = _is_image(observations)
    channels_first = bool(images) or (is_image and int(np.argmin(observations.shape)) == 0)
    convolutions, shape = _convolutions(images, weights, observations)
    dense = _dense(layers, weights, prod(shape) if images else observations.width, kind)
    if channels_first:
        dense[0] = (channels_last(dense[0][0], shape), dense[0][1])
    dense[-1] = _folded(layers[-1], *dense[-1], kind, actions)
    hidden = [hidden_activation] * (len(layers) - 1)
    if images:  # NatureCNN's layers, of which one is dense, have ReLU always
        hidden[0] = "relu"
    return Stack(
        algorithm=_algorithm(kind, data),
        dense=dense,
        activations=["relu"] * len(images) + hidden + ["linear"],
        observation_space=observations,
        action_space=actions,
        convolutions=convolutions,
        channels_first=channels_first,
        image_scale=255.0 if is_image and _option(options, "normalize_images", True) else 1.0,
        observation_encoding=None if observations.nvec is None else "one_hot",
        pre_squash_clip=_clip(kind, layers[-1], options),
        squash_map=_squash_map(kind, name, options, actions),
        normalised=_normalised(kind, data),
    )


# What kind of policy it is


def _kind(data):
    """The _Kind of a policy, and its class's name."""
    record = data.get("policy_class")
    module, name = (record.get("__module__") if isinstance(record, dict) else None), "unknown"
    # Looking at a pickle's texts runs nothing. Of a class that others can import these are the module and the name; one
    # that only the saving script had is made anew of its metaclass and name.
    try:
        stream = base64.b64decode(record[":serialized:"])
        texts = " ".join(text for _, text, _ in pickletools.genops(stream) if isinstance(text, str)).split()
        name = texts[texts.index("ABCMeta") + 1 if "ABCMeta" in texts else 1]
    except (TypeError, KeyError, ValueError, IndexError):
        pass  # the module alone then says which kind it is
    if module in _NO_STACKS:
        raise ConfigurationError(f"its policy, {module}.{name}, is not read: {_NO_STACKS[module]}")
    if module not in _KINDS:
        raise ConfigurationError(
            f"its policy is of the custom class {module}.{name}, whose layers cannot be known from the file; {_EXPORT}"
        )
    return _KINDS[module], name


def _algorithm(kind, data):
    """The algorithm's name, by settings that others with the same policy class lack."""
    if kind.algorithm == "PPO":
        return "TRPO" if "cg_max_steps" in data else "PPO" if "clip_range" in data else "A2C"
    if kind.algorithm == "TD3" and data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0:
        return "DDPG"  # as which Stable-Baselines3 runs TD3
    return kind.algorithm


def _normalised(kind, data):
    """Whether VecNormalize stood before the agent while it was trained: algorithms that learn from a replay memory keep the
    observation before it always, these only then."""
    trained = data.get("num_timesteps", 0) > 0 and "_last_original_obs" in data
    tells = trained and kind.algorithm in ("PPO", "MaskablePPO", "ARS")  # PPO: also A2C and TRPO
    return data["_last_original_obs"] is not None if tells else None


def _option(options, name, default):
    """A truth value of the policy's keyword arguments, which may be written as text."""
    return str(options.get(name, default)) == "True"


def _class(text):
    """A class's name from its text, such as <class 'torch.nn.modules.activation.ReLU'>."""
    return text.removeprefix("<class '").removesuffix("'>")


def _activation(options, kind):
    """The stack's name of the hidden layers' activation."""
    text = str(options.get("activation_fn", f"<class 'torch.nn.modules.activation.{kind.activation}'>"))
    match = re.fullmatch(r"<class 'torch\.nn\.modules\.\w+\.(\w+)'>", text)
    if match is None or match[1] not in _ACTIVATIONS:
        raise ConfigurationError(
            f"its hidden layers have the activation {_class(text)}; read are PyTorch's {', '.join(_ACTIVATIONS)}; {_EXPORT}"
        )
    return _ACTIVATIONS[match[1]]


def _clip(kind, head, options):
    """The bound of the mean action before tanh, which gSDE has in SAC and TQC; None for others."""
    return float(options.get("clip_mean", 2.0)) if head == "actor.mu.0" and head in kind.heads else None


def _squash_map(kind, name, options, actions):
    """Scale and offset of the map from tanh's -1 to 1 to the bounds of the actions, or None where no tanh follows."""
    default = kind.squash and name != "ARSLinearPolicy"
    if actions.kind != "Box" or not _option(options, "squash_output", default):
        return None
    if not np.isfinite([actions.low, actions.high]).all():
        raise ConfigurationError(f"its actions pass tanh and are mapped to their bounds, which are not finite: {actions}")
    half = (actions.high - actions.low) / 2
    return half, actions.low + half


# Its spaces


def _space(record, part):
    """An observation or action space.

    The text beside the pickle is rounded, and shortened for large arrays, by the printing options of whoever saved it. So
    the pickle is read, as inert records, and the text only where that cannot be.

    Args:
        record: of the file's JSON: the pickle in base64, and the space's attributes as text.
        part: "observation" or "action".
    """
    kind = _class(str(record.get(":type:"))) if isinstance(record, dict) else str(record)
    match = re.fullmatch(r"(?:gym|gymnasium)\.spaces\.\w+\.(Box|Discrete|MultiDiscrete|MultiBinary)", kind)
    if match is None:
        way = "wrap the environment in gymnasium.wrappers.FlattenObservation and train with MlpPolicy"
        raise ConfigurationError(f"its {part}s are a {kind}; read are Box, Discrete, MultiDiscrete and MultiBinary; {way}")
    try:
        state = read_pickle(base64.b64decode(record[":serialized:"])).state
    except (ConfigurationError, AttributeError, KeyError, ValueError):
        state = record
    get = {name.removeprefix("_"): value_of(value) for name, value in state.items()}.get
    dtype = re.sub(r".*\.|'>", "", str(record.get("dtype") or "float32"))
    if match[1] == "Box":
        shape = tuple(get("shape"))
        low, high = (_array(get(bound), dtype, shape) for bound in ("low", "high"))
        if part == "action" and (low is None or high is None):
            raise ConfigurationError(
                f"the bounds of its actions are not all written ({str(record.get('low'))[:60]!r}); save the model again, "
                "in an environment whose spaces are Gymnasium's own"
            )
        return Space("Box", shape, dtype, low, high)
    if match[1] == "MultiBinary":
        n = _array(get("n"), "int64")
        return Space("MultiBinary", tuple(n.ravel().tolist()), dtype)
    nvec = _array(get("nvec" if match[1] == "MultiDiscrete" else "n"), "int64")
    start = _array(get("start") or 0, "int64") if match[1] == "Discrete" else None
    return Space(match[1], nvec.shape, dtype, nvec=nvec.ravel(), start=start)


def _array(value, dtype, shape=None):
    """Numbers of a space, which may be written as text; None if the text leaves some out."""
    if isinstance(value, str):
        if "..." in value:
            return None
        value = [float(number) for number in re.findall(r"[^\s\[\](),]+", value)]
        value = value[0] if len(value) == 1 and not shape else value
    array = np.asarray(value, dtype)
    return array if shape is None else np.broadcast_to(array if array.size == 1 else array.reshape(shape), shape)


def _is_image(space):
    """Whether Stable-Baselines3 takes observations for images, which it divides by 255 for networks of any kind."""
    if space.kind != "Box" or len(space.shape) != 3 or space.dtype != "uint8":
        return False
    if space.low is None or space.high is None:
        raise ConfigurationError("whether its observations are images cannot be told, as their bounds are not all written")
    return bool((space.low == 0).all() and (space.high == 255).all())


# Its tensors


def _layers(kind, name, options, weights):
    """The names of the actor's convolutions, and of its dense layers in their order."""
    default = "NatureCNN" if "Cnn" in name else "FlattenExtractor"
    extractor = str(options.get("features_extractor_class", f"<class 'stable_baselines3.common.torch_layers.{default}'>"))
    match = re.fullmatch(r"<class 'stable_baselines3\.common\.torch_layers\.(NatureCNN|FlattenExtractor)'>", extractor)
    if match is None:
        raise ConfigurationError(
            f"its extractor of features is {_class(extractor)}, whose layers cannot be known from the file; {_EXPORT}"
        )
    images, layers = [], []
    if match[1] == "NatureCNN":
        trunk = next((trunk for trunk in kind.trunks if f"{trunk}.linear.0.weight" in weights), kind.trunks[0])
        images, layers = [f"{trunk}.cnn.{place}" for place in (0, 2, 4)], [f"{trunk}.linear.0"]
    for sequential in kind.hidden:
        place = 0
        while f"{sequential}.{place}.weight" in weights:
            layers.append(f"{sequential}.{place}")
            place += 2
    head = next((head for head in kind.heads if not head or f"{head}.weight" in weights), kind.heads[0])
    layers = [*layers, head] if head else layers
    if not layers:
        raise ConfigurationError(f"its tensor {kind.hidden[0]}.0.weight is missing")
    return images, layers


def _account(weights, layers, kind):
    """Refuse tensors that are neither the actor's nor known to choose no action."""
    used = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    # An actor's own extractor is written twice: as the shared one, too.
    own, *shared = kind.trunks
    copies = rf"{shared[0]}\.(cnn|linear)\..+" if shared and layers[0].startswith(f"{own}.") else "(?!)"
    for name, tensor in weights.items():
        if name not in used and not re.fullmatch(f"{kind.idle}|{copies}", name):
            raise ConfigurationError(
                f"its tensor {name} {tensor.shape} is none that {kind.algorithm} has by itself, and without it the actions "
                f"would be others; {_EXPORT}"
            )


def _tensor(weights, name, shape):
    """A tensor of a shape, in which None stands for any number."""
    if name not in weights:
        raise ConfigurationError(f"its tensor {name} is missing")
    array = weights[name]
    if len(array.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = "×".join("any" if n is None else str(n) for n in shape)
        raise ConfigurationError(f"its tensor {name} is {'×'.join(map(str, array.shape))}, where {wanted} is needed")
    if not np.isfinite(array).all():
        raise ConfigurationError(f"its tensor {name} holds values that are not finite: the training diverged")
    return array


def _convolutions(names, weights, observations):
    """NatureCNN's convolutions.

    Returns:
        kernels float32 [height, width, inputs, outputs], biases and strides; and [channels, height, width] of what leaves
        the last, the observations' shape where there are none.
    """
    shape, layers = observations.shape, []
    if names and len(shape) != 3:
        raise ConfigurationError(f"its policy is convolutional, but its observations have the shape {shape}")
    for name, size, stride in zip(names, _KERNELS, _STRIDES, strict=False):
        kernel = _tensor(weights, f"{name}.weight", (None, shape[0], size, size))
        bias = _tensor(weights, f"{name}.bias", (len(kernel),))
        layers.append((np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), bias, stride))
        shape = (len(kernel), *((length - size) // stride + 1 for length in shape[1:]))
    return layers, shape


def _dense(names, weights, inputs, kind):
    """Kernels float32 [inputs, outputs] and biases [outputs] of the dense layers, each as wide as what it is given."""
    layers = []
    for name in names:
        kernel = _tensor(weights, f"{name}.weight", (None, inputs)).T
        inputs = kernel.shape[1]
        absent = kind.algorithm == "ARS" and f"{name}.bias" not in weights  # ARS alone has layers without
        bias = np.zeros(inputs, np.float32) if absent else _tensor(weights, f"{name}.bias", (inputs,))
        layers.append((np.ascontiguousarray(kernel), bias))
    return layers


def _folded(name, kernel, bias, kind, actions):
    """The last layer, with one output for each value or dimension of the actions."""
    both, width = np.vstack([kernel, bias]).astype(np.float64), actions.width
    if kind.algorithm == "QR-DQN" and both.shape[1] % width == 0:
        both = both.reshape(len(both), -1, width).mean(axis=1)  # [inputs + 1, quantiles, actions]
    if kind.algorithm == "MaskablePPO" and actions.kind == "MultiBinary" and both.shape[1] == 2 * width:
        both = both[:, 1::2] - both[:, ::2]  # a bit is the greater of two logits there
    if both.shape[1] != width:
        raise ConfigurationError(f"its tensor {name}.weight has {both.shape[1]} outputs, where its {actions} needs {width}")
    return both[:-1].astype(np.float32), both[-1].astype(np.float32)
