"""Policies of Stable-Baselines3, read from its files without that library."""

import io
import json
import re
import zipfile

import numpy as np

from pops.model import ConvolutionalAgent
from pops.support.errors import ConfigurationError
from pops.support.networks import check_shapes


def is_stable_baselines(path):
    """Whether a file is one that Stable-Baselines3's `save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"data", "policy.pth"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


# Where the files keep the layers that choose the action: DQN's online network; PPO's and A2C's actor.
_HEADS = (
    (r"q_net\.features_extractor\.cnn\.\d+", "q_net.features_extractor.linear.0", r"q_net\.q_net\.\d+"),
    (r"pi_features_extractor\.cnn\.\d+", "pi_features_extractor.linear.0", r"mlp_extractor\.policy_net\.\d+|action_net"),
)


def from_stable_baselines(path, kind, settings):
    """The policy of a file of Stable-Baselines3 (DQN, PPO or A2C with an MLP or CNN policy) as an agent.

    What the file holds is read as data: the settings as JSON, whose pickled parts are left alone, and the weights by
    PyTorch's reader for tensors alone. Neither runs code from the file.

    Args:
        path: Path of the file.
        kind: class of the agent.
        settings: the configuration's group `model`.

    Raises:
        ConfigurationError: PyTorch is missing, or the file is damaged or of another kind.
    """
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
            data = json.loads(archive.read("data"))
            tensors = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        policy, options = data["policy_class"]["__module__"], data.get("policy_kwargs", {})
        options = {name: str(value) for name, value in options.items()}
    except Exception as error:  # PyTorch raises many kinds for what it cannot read
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"{path}: damaged, or no file of Stable-Baselines3 ({reason})") from None

    convolutions, features, dense = _HEADS[0] if "q_net.q_net.0.weight" in arrays else _HEADS[1]
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    images = [name for name in names if re.fullmatch(convolutions, name)]
    stack = [name for name in names if re.fullmatch(dense, name)]
    actor_critic = policy == "stable_baselines3.common.policies"
    expected = (actor_critic or policy == "stable_baselines3.dqn.policies") and stack
    if not images:  # layers of an extractor of features would be missing
        expected = expected and not any("features_extractor" in name for name in names)
    extractor = options.get("features_extractor_class", "NatureCNN")
    expected = expected and ("NatureCNN" in extractor or "FlattenExtractor" in extractor)
    if not expected or bool(images) != issubclass(kind, ConvolutionalAgent) or data.get("use_sde"):
        wanted = "a CNN policy" if issubclass(kind, ConvolutionalAgent) else "an MLP policy"
        raise ConfigurationError(f"{path}: its policy is not {wanted} of DQN, PPO or A2C, as this environment needs")
    activation = options.get("activation_fn", "Tanh" if actor_critic else "ReLU")
    hidden = next((name for name in ("relu", "tanh") if re.search(rf"\b{name}\b", activation, re.I)), None)
    if hidden is None:
        raise ConfigurationError(f"{path}: its hidden layers have {activation}; PoPS takes ReLU and tanh")

    layers = [*images, *([features] if images else []), *stack]
    try:
        weights = [arrays[f"{name}.{part}"] for name in layers for part in ("weight", "bias")]
        widths = [len(bias) for bias in weights[1:-2:2]]
        if images:
            hidden = "relu"  # of the convolutions and the layer after them; there is no other
            scale = 1.0 if options.get("normalize_images") == "False" else 255.0
            weights = _centred(weights, kind, scale)
        weights = [np.ascontiguousarray(w.T if w.ndim == 2 else w) for w in weights]
        own = settings | {"hidden_activation": hidden, "output_activation": "linear", "actions": len(weights[-1])}
        if not images:
            own["observation_shape"] = [len(weights[0])]
        network = kind(own, widths).network
        network.set_weights(weights)
    except (KeyError, ValueError, IndexError):
        network = None
    if network is None:
        raise ConfigurationError(f"{path}: its layers are not those of {kind.kind}")
    check_shapes(network, path, settings)
    return kind.from_network(network, settings, path)


def _centred(weights, kind, scale):
    """A CNN policy's weights for frames that are centred and have their channels last.

    Theirs sees x / scale, ours z = (x − background) / contrast: kernels become w · contrast / scale, and the first biases
    take on the background. Without padding that is exact.
    """
    kernel, bias, *rest = weights
    bias = bias + kernel.sum(axis=(1, 2, 3)) * np.float32(kind.background / scale)
    weights = [kernel * np.float32(kind.contrast / scale), bias, *rest]
    *images, features, features_bias, last, last_bias = weights
    # [filters, channels, height, width] -> [height, width, channels, filters]
    images = [w.transpose(2, 3, 1, 0) if w.ndim == 4 else w for w in images]
    channels = images[-1].size
    # What was flattened with channels first is flattened with channels last here.
    features = features.reshape(len(features), channels, -1).transpose(0, 2, 1).reshape(len(features), -1)
    return [*images, features, features_bias, last, last_bias]
