"""The reader of Stable-Baselines3's files, by files whose tensors are written here; the library is not needed."""

import base64
import io
import itertools
import json
import pickle
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from pops.policies.stable_baselines import read
from pops.support.errors import ConfigurationError

from conftest import read_or_refused

torch.set_num_threads(1)
CLASSES = {
    "PPO": ("stable_baselines3.common.policies", "ActorCriticPolicy"),
    "PPO-cnn": ("stable_baselines3.common.policies", "ActorCriticCnnPolicy"),
    "MaskablePPO": ("sb3_contrib.common.maskable.policies", "MaskableActorCriticPolicy"),
    "SAC": ("stable_baselines3.sac.policies", "SACPolicy"),
    "TQC": ("sb3_contrib.tqc.policies", "TQCPolicy"),
    "TD3": ("stable_baselines3.td3.policies", "TD3Policy"),
    "TD3-cnn": ("stable_baselines3.td3.policies", "CnnPolicy"),
    "DQN": ("stable_baselines3.dqn.policies", "DQNPolicy"),
    "QR-DQN": ("sb3_contrib.qrdqn.policies", "QRDQNPolicy"),
    "ARS": ("sb3_contrib.ars.policies", "ARSPolicy"),
    "ARS-linear": ("sb3_contrib.ars.policies", "ARSLinearPolicy"),
}
BOX = gymnasium.spaces.Box(-3, 3, (5,))
UNEVEN = gymnasium.spaces.Box(np.float32([-2, 0.012345678, -0.3333333]), np.float32([2, 0.9876543, 7.7777777]))
IMAGE = gymnasium.spaces.Box(0, 255, (4, 40, 36), np.uint8)
DISCRETE = gymnasium.spaces.Discrete(4)


def record(space, pickled=True):
    """A space as Stable-Baselines3 writes it: its pickle, and its attributes as text."""
    fields = {":type:": str(type(space))}
    if pickled:
        fields[":serialized:"] = base64.b64encode(pickle.dumps(space)).decode()
    for name, value in space.__dict__.items():
        plain = isinstance(value, (int, tuple, type(None))) and name != "spaces"
        fields[name] = value if plain else str(value)
    return fields


def write(path, kind, tensors, observations=BOX, actions=UNEVEN, options=None, pickled=True, **settings):
    """A file of Stable-Baselines3 of these tensors."""
    module, name = CLASSES.get(kind, kind)
    data = {
        "policy_class": {
            ":type:": "<class 'abc.ABCMeta'>",
            ":serialized:": base64.b64encode(by_name(module, name)).decode(),
            "__module__": module,
        },
        "policy_kwargs": options or {},
        "observation_space": record(observations, pickled),
        "action_space": record(actions, pickled),
        "clip_range": 0.2,
        **settings,
    }
    stream = io.BytesIO()
    torch.save(tensors, stream)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", stream.getvalue())
    return path


def by_name(module, name):
    """The pickle of a class by its name, without importing it."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."


def sequential(name, *widths, function=nn.ReLU):
    """A Sequential of dense layers and its tensors by the names they have in a file."""
    torch.manual_seed(len(name))
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), function()]
    network = nn.Sequential(*layers)
    return network, {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}


def dense(name, inputs, outputs, **options):
    torch.manual_seed(len(name) + 1)
    layer = nn.Linear(inputs, outputs, **options)
    return layer, {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}


def check(stack, network, observations, squash=False, clip=None):
    """Compare a stack's outputs and continuous actions with those of a PyTorch network."""
    with torch.no_grad():
        outputs = network(torch.as_tensor(observations).float())
    assert np.abs(stack(observations) - outputs.numpy()).max() < 1e-5
    outputs = outputs if clip is None else outputs.clamp(-clip, clip)
    low, high = UNEVEN.low, UNEVEN.high
    if stack.action_space.kind == "Box":
        squashed = low + 0.5 * (torch.tanh(outputs).numpy() + 1) * (high - low)
        expected = squashed if squash else np.clip(outputs.numpy(), low, high)
        assert (np.abs(stack.act(observations) - expected) / (high - low)).max() < 1e-5


@pytest.fixture
def observations():
    return np.random.default_rng(0).normal(size=(300, 5)) * 3


def critic(**more):
    return {"value_net.weight": torch.ones(1, 7), "value_net.bias": torch.ones(1)} | more


@pytest.mark.parametrize(
    "name", "ReLU Tanh ELU LeakyReLU SiLU GELU Sigmoid SELU CELU Mish Softplus Softsign Hardswish".split()
)
@pytest.mark.parametrize("pickled", [True, False])
def test_actor_critic_of_any_activation(tmp_path, observations, name, pickled):
    function = getattr(nn, name)
    hidden, tensors = sequential("mlp_extractor.policy_net", 5, 8, 6, function=function)
    head, last = dense("action_net", 6, 3)
    options = {"activation_fn": str(function), "net_arch": {"pi": [8, 6], "vf": [7]}}
    tensors |= last | critic(log_std=torch.zeros(3)) | {"mlp_extractor.value_net.0.weight": torch.ones(7, 5)}
    stack = read(write(tmp_path / "a.zip", "PPO", tensors, options=options, pickled=pickled))
    assert (stack.algorithm, stack.widths, stack.squash) == ("PPO", [8, 6, 3], False)
    check(stack, nn.Sequential(hidden, head), observations)


def test_shared_layers_of_older_files(tmp_path, observations):
    shared, tensors = sequential("mlp_extractor.shared_net", 5, 9, 7, function=nn.Tanh)
    hidden, more = sequential("mlp_extractor.policy_net", 7, 6, function=nn.Tanh)
    head, last = dense("action_net", 6, 3)
    stack = read(write(tmp_path / "a.zip", "PPO", tensors | more | last | critic()))
    check(stack, nn.Sequential(shared, hidden, head), observations)


def test_state_dependent_noise_squashes_where_asked(tmp_path, observations):
    head, tensors = dense("action_net", 5, 3)
    tensors |= critic(log_std=torch.zeros(4, 3)) | {"sde_features_extractor.0.weight": torch.ones(4, 5)}
    for squash in (True, False):
        options = {"squash_output": squash, "use_expln": True}
        stack = read(write(tmp_path / "a.zip", "PPO", tensors, options=options, use_sde=True))
        assert stack.squash is squash
        check(stack, head, observations, squash)


@pytest.mark.parametrize("kind", ["SAC", "TQC"])
@pytest.mark.parametrize("clip", [None, 2.0, 0.5])
def test_squashed_gaussians(tmp_path, observations, kind, clip):
    hidden, tensors = sequential("actor.latent_pi", 5, 8)
    head, last = dense("actor.mu" if clip is None else "actor.mu.0", 8, 3)
    noise = {"actor.log_std.weight": torch.ones(3, 8)} if clip is None else {"actor.log_std": torch.ones(8, 3)}
    options = {} if clip in (None, 2.0) else {"clip_mean": clip}
    tensors |= last | noise | {"critic.qf0.0.weight": torch.ones(4, 8), "critic_target.qf0.0.weight": torch.ones(4, 8)}
    stack = read(write(tmp_path / "a.zip", kind, tensors, options=options))
    assert (stack.algorithm, stack.squash, stack.pre_squash_clip) == (kind, True, clip)
    check(stack, nn.Sequential(hidden, head), observations, True, clip)


@pytest.mark.parametrize("widths", [(5, 8, 3), (5, 3)])
def test_deterministic_actors(tmp_path, observations, widths):
    network, tensors = sequential("actor.mu", *widths)
    tensors |= {name.replace("actor.", "actor_target."): tensor for name, tensor in tensors.items()}
    settings = {"policy_delay": 1, "target_noise_clip": 0.0}
    stack = read(write(tmp_path / "a.zip", "TD3", tensors, **settings))
    assert (stack.algorithm, stack.pre_squash_clip) == ("DDPG", None)
    check(stack, network[:-1], observations, True)


@pytest.mark.parametrize("widths", [(5, 8, 6, 4), (5, 4)])
def test_value_networks(tmp_path, observations, widths):
    network, tensors = sequential("q_net.q_net", *widths)
    tensors |= {name.replace("q_net.", "q_net_target.", 1): tensor for name, tensor in tensors.items()}
    stack = read(write(tmp_path / "a.zip", "DQN", tensors, actions=DISCRETE))
    check(stack, network[:-1], observations)


def test_quantiles_are_averaged(tmp_path, observations):
    network, tensors = sequential("quantile_net.quantile_net", 5, 8, 7 * 4)
    stack = read(write(tmp_path / "a.zip", "QR-DQN", tensors, actions=DISCRETE))
    assert stack.widths == [8, 4]
    check(stack, lambda x: network[:-1](x).view(-1, 7, 4).mean(dim=1), observations)


@pytest.mark.parametrize(
    ("kind", "options", "squash"),
    [
        ("ARS", {}, True),
        ("ARS", {"squash_output": False}, False),
        ("ARS-linear", {}, False),
        ("ARS-linear", {"squash_output": True}, True),
    ],
)
def test_random_search(tmp_path, observations, kind, options, squash):
    network, tensors = sequential("action_net", *((5, 8, 3) if kind == "ARS" else (5, 3)))
    check(read(write(tmp_path / "a.zip", kind, tensors, options=options)), network[:-1], observations, squash)
    head, tensors = dense("action_net", 5, 3, bias=False)  # as the first version wrote its linear policy
    if kind == "ARS-linear":
        check(read(write(tmp_path / "a.zip", kind, tensors, options=options)), head, observations, squash)


def test_a_bit_is_the_greater_of_two_logits_of_a_maskable_policy(tmp_path, observations):
    head, tensors = dense("action_net", 5, 6)
    actions = gymnasium.spaces.MultiBinary(3)
    stack = read(write(tmp_path / "a.zip", "MaskablePPO", tensors | critic(), actions=actions))
    with torch.no_grad():
        expected = head(torch.as_tensor(observations).float()).view(-1, 3, 2).argmax(dim=2).numpy()
    assert (stack.act(observations) == expected).all()


@pytest.mark.parametrize("pickled", [True, False])
def test_discrete_spaces(tmp_path, pickled):
    spaces = gymnasium.spaces
    head, tensors = dense("action_net", 9, 5)
    seen, actions = spaces.MultiDiscrete([3, 2, 4]), spaces.MultiDiscrete([2, 3])
    stack = read(write(tmp_path / "a.zip", "PPO", tensors | critic(), seen, actions, pickled=pickled))
    batch = np.stack([seen.sample() for _ in range(100)])
    columns = [nn.functional.one_hot(torch.as_tensor(batch[:, i]), n) for i, n in enumerate((3, 2, 4))]
    with torch.no_grad():
        expected = head(torch.cat(columns, dim=1).float())
    assert np.abs(stack(batch) - expected.numpy()).max() < 1e-5
    assert (stack.act(batch) == np.stack([expected[:, :2].argmax(1), expected[:, 2:].argmax(1)], axis=1)).all()

    head, tensors = dense("action_net", 5, 4)
    stack = read(write(tmp_path / "a.zip", "PPO", tensors | critic(), spaces.Discrete(5), DISCRETE, pickled=pickled))
    assert (stack.act(np.arange(5)) == (head.weight.T + head.bias).argmax(1).numpy()).all()

    stack = read(write(tmp_path / "a.zip", "PPO", tensors | critic(), spaces.MultiBinary(5), spaces.MultiBinary(4)))
    bits = np.random.default_rng(0).integers(0, 2, (50, 5), np.int8)
    with torch.no_grad():
        assert (stack.act(bits) == (head(torch.as_tensor(bits).float()) > 0).numpy()).all()


def cnn(prefix, image=(4, 40, 36)):
    torch.manual_seed(0)
    convolutions = [
        nn.Conv2d(4, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(),
    ]
    network = nn.Sequential(*convolutions, nn.Flatten())
    linear = nn.Sequential(nn.Linear(network(torch.zeros(1, *image)).shape[1], 16), nn.ReLU())
    tensors = {f"{prefix}.cnn.{key}": tensor for key, tensor in network.state_dict().items()}
    tensors |= {f"{prefix}.linear.{key}": tensor for key, tensor in linear.state_dict().items()}
    return nn.Sequential(network, linear), tensors


@pytest.mark.parametrize("age", ["old", "shared", "separate"])
@pytest.mark.parametrize("scale", [255, 1])
def test_convolutions(tmp_path, age, scale):
    network, tensors = cnn("features_extractor")
    head, last = dense("action_net", 16, 4)
    if age != "old":  # the actor's own comes after the shared one, whose copy it is
        own = {f"pi_{name}": tensor for name, tensor in tensors.items()}
        other = {f"vf_{name}": tensor * (0 if age == "separate" else 1) for name, tensor in tensors.items()}
        tensors |= own | other
    options = {"normalize_images": scale == 255}
    stack = read(write(tmp_path / "a.zip", "PPO-cnn", tensors | last | critic(), IMAGE, DISCRETE, options))
    assert (stack.input_shape, stack.image_scale) == ((40, 36, 4), scale)
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 40, 36), np.uint8)
    with torch.no_grad():
        expected = nn.Sequential(network, head)(torch.as_tensor(images).float() / scale).numpy()
    assert np.abs(stack(images.transpose(0, 2, 3, 1)) - expected).max() < 1e-4 * (255 / scale)


def test_images_that_are_flattened(tmp_path):
    head, tensors = dense("action_net", 4 * 40 * 36, 4)
    stack = read(write(tmp_path / "a.zip", "PPO", tensors | critic(), IMAGE, DISCRETE))
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 40, 36), np.uint8)
    with torch.no_grad():
        expected = head(torch.as_tensor(images).float().flatten(1) / 255).numpy()
    assert np.abs(stack(images.transpose(0, 2, 3, 1)) - expected).max() < 1e-5


HEAD = dense("action_net", 5, 3)[1] | critic()


def refused(path, *parts):
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        (HEAD | {"features_extractor.net.0.weight": torch.ones(5, 5)}, ["features_extractor.net.0.weight"]),
        (HEAD | {"mlp_extractor.policy_net.1.weight": torch.ones(5)}, ["mlp_extractor.policy_net.1.weight"]),
        (HEAD | {"lstm_actor.weight_ih_l0": torch.ones(5, 5)}, ["lstm_actor.weight_ih_l0"]),
        (HEAD | {"action_net.weight": torch.ones(3, 6)}, ["action_net.weight is 3×6, where any×5"]),
        (HEAD | {"action_net.weight": torch.ones(2, 5), "action_net.bias": torch.ones(2)}, ["2 outputs", "needs 3"]),
        (HEAD | {"action_net.bias": torch.full((3,), np.nan)}, ["action_net.bias", "not finite"]),
        ({k: v for k, v in HEAD.items() if k != "action_net.bias"}, ["action_net.bias is missing"]),
        (critic(), ["action_net.weight is missing"]),
    ],
)
def test_tensors_that_are_not_a_plain_stack_are_named(tmp_path, tensors, parts):
    refused(write(tmp_path / "a.zip", "PPO", tensors), *parts)


@pytest.mark.parametrize(
    ("kind", "changes", "parts"),
    [
        (("my.project", "MyPolicy"), {}, ["my.project.MyPolicy", "custom"]),
        (("sb3_contrib.common.recurrent.policies", "RecurrentActorCriticPolicy"), {}, ["recurrent"]),
        (("sb3_contrib.crossq.policies", "CrossQPolicy"), {}, ["CrossQ"]),
        ("PPO", {"options": {"activation_fn": "<class '__main__.Sine'>"}}, ["__main__.Sine"]),
        ("PPO", {"options": {"activation_fn": "functools.partial(<class 'torch.nn.LeakyReLU'>)"}}, ["functools.partial"]),
        ("PPO", {"options": {"features_extractor_class": "<class 'a.Extractor'>"}}, ["a.Extractor"]),
        ("PPO", {"observations": gymnasium.spaces.Dict({"a": BOX})}, ["Dict", "FlattenObservation"]),
        ("PPO", {"observations": gymnasium.spaces.Tuple([BOX])}, ["Tuple", "FlattenObservation"]),
        ("PPO", {"observation_space": "nonsense"}, ["nonsense"]),
        ("PPO", {"policy_kwargs": "nonsense"}, ["settings are not as"]),
        ("PPO-cnn", {}, ["convolutional", "(5,)"]),
        ("PPO-cnn", {"observations": IMAGE}, ["features_extractor.cnn.0.weight is missing"]),
    ],
)
def test_policies_that_are_not_read_are_named(tmp_path, kind, changes, parts):
    refused(write(tmp_path / "a.zip", kind, HEAD, **changes), *parts)


def test_bounds_are_exact_whatever_the_text_says(tmp_path):
    with np.printoptions(precision=2, suppress=True, threshold=2, edgeitems=1):
        stack = read(write(tmp_path / "a.zip", "PPO", HEAD))
        assert np.array_equal(stack.action_space.low, UNEVEN.low) and np.array_equal(stack.action_space.high, UNEVEN.high)
        refused(write(tmp_path / "a.zip", "PPO", HEAD, pickled=False), "bounds of its actions are not all written")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_of_a_file_is_run(tmp_path):
    marker = tmp_path / "ran"
    evil = base64.b64encode(pickle.dumps(Malicious(str(marker)))).decode()
    for changed in ("observation_space", "action_space", "policy_class", "policy_kwargs", "lr_schedule"):
        path = write(tmp_path / "a.zip", "PPO", HEAD)
        with zipfile.ZipFile(path) as archive:
            data, weights = json.loads(archive.read("data")), archive.read("policy.pth")
        data.setdefault(changed, {})[":serialized:"] = evil
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", json.dumps(data))
            archive.writestr("policy.pth", weights)
        assert read(path).action_space.shape == (3,)  # by the text beside
        assert not marker.exists()
    stream = io.BytesIO()
    torch.save(HEAD | {"extra": Malicious(str(marker))}, stream)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", stream.getvalue())
    refused(path, "policy.pth cannot be read as tensors alone", "io.open")
    assert not marker.exists()


def test_damaged_files_are_refused_whatever_is_wrong(tmp_path):
    path = write(tmp_path / "a.zip", "PPO", HEAD)
    read_or_refused(read, path, 200, 5)
