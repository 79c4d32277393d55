"""Modules of PyTorch, TorchScript files and models of Stable-Baselines3 as teachers; PyTorch is the reference."""

import json

import numpy as np
import pytest
from test_compress import ANY, stable_baselines, torch_layers

from pops.compress import compress
from pops.configs import configuration
from pops.policies import torch_network
from pops.policies.functions import TeacherFunction
from pops.policies.teacher import load_teacher
from pops.support.environments import configuration_of
from pops.support.errors import ConfigurationError

from conftest import command, refused

torch = pytest.importorskip("torch")
nn = torch.nn

SETTINGS = {name: configuration_of(name)["model"] for name in ("CartPole-v1", "Pendulum-v1")}


def observations(*shape, scale=1.0):
    return (scale * np.random.default_rng(5).normal(size=(40, *shape))).astype(np.float32)


def outputs(module, inputs):
    """What PyTorch gives."""
    training = module.training
    with torch.no_grad():
        results = module.eval()(torch.from_numpy(inputs)).numpy()
    module.train(training)
    return results


class Normalised(nn.Module):
    """An actor as people write it: statistics in buffers, functions for activations, tanh and a scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 1)
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("deviation", torch.tensor([0.5, 2.0, 3.0]))

    def forward(self, x):
        x = (x - self.mean) / self.deviation
        return 1.5 * torch.tanh(self.second(torch.relu(self.first(x)))) + 0.25


class Attentive(nn.Module):
    """Layers that do not follow one on the other."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)) * torch.sigmoid(self.gate(x)))


class Branching(nn.Module):
    """Does something else for some observations, by plain Python."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        return self.layers(x) if x.max() < 1e6 else x[:, :2]


def batch_normalised():
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    with torch.no_grad():
        module[1].running_mean.uniform_(-1, 1)
        module[1].running_var.uniform_(0.5, 2)
        module[1].weight.uniform_(0.5, 2)
    return module


STACKS = {
    "plain": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
    "nested": lambda: nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Identity(), nn.Linear(6, 2)
    ),
    "elu": lambda: nn.Sequential(nn.Linear(4, 6), nn.ELU(), nn.Linear(6, 2)),
    "gelu": lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)),
    "leaky": lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 2)),
    "silu without bias": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.SiLU(), nn.Linear(6, 2)),
    "batch normalisation": batch_normalised,
    "double": lambda: nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 2)).double(),
}
GIVEN = {
    "object": lambda module, path: module,
    "scripted": lambda module, path: torch.jit.script(module.float()),
    "scripted file": lambda module, path: torch.jit.script(module.float()).save(path) or path,
    "traced file": lambda module, path: torch.jit.trace(module.float().eval(), torch.zeros(1, 4)).save(path) or path,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", STACKS)
def test_sequentials_give_pytorchs_outputs(name, given, tmp_path):
    torch.manual_seed(0)
    module = STACKS[name]()
    training = module.training
    agent = load_teacher(GIVEN[given](module, tmp_path / "a.pt"), "CartPole-v1", SETTINGS["CartPole-v1"])
    assert not isinstance(agent, TeacherFunction) and agent.widths == (6,)
    inputs = observations(4, scale=5)
    np.testing.assert_allclose(agent.network(inputs), outputs(module.float(), inputs), rtol=1e-4, atol=1e-4)
    assert module.training == training or given == "traced file"


def test_a_module_with_its_own_forward_is_read_by_what_it_computes():
    torch.manual_seed(0)
    module = Normalised()
    agent = load_teacher(module, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    assert agent.settings["squash"] == {"clip": None, "scale": [1.5], "offset": [0.25]} and agent.widths == (6,)
    np.testing.assert_allclose(agent.played(observations(3)), outputs(module, observations(3)), atol=1e-5)


def test_convolutions_are_flattened_channels_first():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(4, 5, 8, 4), nn.ReLU(), nn.Conv2d(5, 6, 4, 2), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU()]
    module = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(7 * 49, 8), nn.ReLU(), nn.Linear(8, 3))
    agent = load_teacher(module, "pong", configuration_of("pong")["model"])
    assert agent.widths == (5, 6, 7, 8)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
    expected = outputs(module, frames.astype(np.float32))
    np.testing.assert_allclose(agent.network(frames), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    module[0] = nn.Conv2d(4, 5, 8, 4, padding=2)
    function = load_teacher(module, "pong", configuration_of("pong")["model"])
    assert "first: a convolution with padding" in function.why
    np.testing.assert_allclose(function(frames), outputs(module, frames.astype(np.float32)), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)), "first: layer_norm"),
        (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2)),
            "first: leaky_relu with other settings",
        ),
        (Attentive, "first: linear"),
        (Branching, "first: a branch that depends on the observations"),
    ],
)
def test_others_are_functions_that_give_pytorchs_outputs(make, words, tmp_path):
    torch.manual_seed(0)
    module = make()
    teachers = [module] if make is Branching else [module, GIVEN["scripted file"](module, tmp_path / "a.pt")]
    for teacher in teachers:
        function = load_teacher(teacher, "CartPole-v1", SETTINGS["CartPole-v1"])
        assert isinstance(function, TeacherFunction) and words in function.why, function.why
        np.testing.assert_allclose(function(observations(4)), outputs(module, observations(4)), rtol=1e-5, atol=1e-6)


class Computed(nn.Module):
    """Layers whose outputs `change` makes something of, or whose inputs `before` changes."""

    def __init__(self, change=lambda x: x, before=lambda x: x, inputs=4, outputs=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, outputs))
        self.change, self.before = change, before

    def forward(self, x):
        return self.change(self.layers(self.before(x)))


class InPlace(nn.Module):
    """Changes what it was given, and goes on with that."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        x.mul_(2.0)
        return self.layers(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("given", ["object", "scripted", "scripted file"])
def test_a_module_that_changes_its_input_gives_the_same_outputs(given, tmp_path):
    torch.manual_seed(0)
    module = InPlace()
    teacher = load_teacher(GIVEN[given](module, tmp_path / "a.pt"), "CartPole-v1", SETTINGS["CartPole-v1"])
    np.testing.assert_allclose(teacher.played(observations(4)), outputs(module, observations(4)), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {"action values": x},
        lambda x: (x, nn.Parameter(torch.zeros(2))),  # a mean, and the logarithm of deviations
        lambda x: x.to(torch.bfloat16),
        lambda x: torch.clamp(x, torch.tensor([-0.1, -0.2]), torch.tensor([0.1, 0.3])),
    ],
)
def test_outputs_are_taken_as_modules_give_them(change):
    torch.manual_seed(0)
    module = Computed(change)
    teacher = load_teacher(module, "CartPole-v1", SETTINGS["CartPole-v1"])
    with torch.no_grad():
        expected = module(torch.from_numpy(observations(4)))
    expected = next(iter(expected.values())) if isinstance(expected, dict) else expected
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(teacher.played(observations(4)), expected.float(), atol=1e-5)


def test_bounds_of_each_action_are_left_to_the_evaluations():
    high = torch.tensor([2.0])
    module = Computed(lambda x: torch.clamp(x, -high, high), inputs=3, outputs=1)
    assert load_teacher(module, "Pendulum-v1", SETTINGS["Pendulum-v1"]).widths == (6,)


class Reshaped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(4, 2)

    def forward(self, x):
        return self.layers(x.view(x.size()))


class Unsqueezed(Reshaped):
    def forward(self, x):
        return self.layers(x.unsqueeze(0) if x.dim() == 1 else x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "why"), [(Reshaped, "a shape that is computed"), (Unsqueezed, "a branch")])
def test_programs_with_shapes_and_branches_are_functions(kind, why):
    module = kind()
    function = load_teacher(torch.jit.script(module), "CartPole-v1", SETTINGS["CartPole-v1"])
    assert function.why.endswith(f"(first: {why})")
    np.testing.assert_allclose(function(observations(4)), outputs(module, observations(4)), atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        Computed(lambda x: x + torch.randn(len(x), 1)),
        Computed(lambda x: x + 1e-3 * torch.randn(len(x), 1)),
        Computed(before=lambda x: nn.functional.dropout(x, 0.5, training=True)),
        Computed(lambda x: torch.distributions.Categorical(logits=x).sample()),
        Computed(lambda x: torch.softmax(x, 0)),
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)),
    ],
)
def test_what_follows_from_chance_or_the_batch_is_refused(module):
    with pytest.raises(ConfigurationError, match="gives other outputs for the same observations in another call"):
        load_teacher(module, "CartPole-v1", SETTINGS["CartPole-v1"])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Computed(lambda x: x.argmax(1) - 1), r"^the teacher, Computed: chooses action -1, and there are 0 to 1"),
        (Computed(lambda x: x.argmax(1) + 1), r"^the teacher, Computed: chooses action 2, and there are 0 to 1"),
        (Computed(before=lambda x: x[:, : 4 if x.abs().max() < 3 else 3]), "fails with some of the observations that were"),
        (Computed(lambda x: x > 0), r"none of its outputs could be .*: output \(batch, 2\) of bool"),
        (Computed(lambda x: x.numpy()), r"^the teacher, Computed: observations of .* fails \(it returned a ndarray"),
        (nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2)), "weights without values yet; call it on an observation first"),
    ],
)
def test_outputs_that_are_no_values_of_actions_are_named(module, words):
    with pytest.raises(ConfigurationError, match=words):
        load_teacher(module, "CartPole-v1", SETTINGS["CartPole-v1"])


def test_modules_for_other_shapes_are_refused_with_both():
    with pytest.raises(ConfigurationError, match=r"takes observations of shape \(6,\), those of CartPole-v1 have \(4,\)"):
        load_teacher(nn.Linear(6, 2), "CartPole-v1", SETTINGS["CartPole-v1"])
    with pytest.raises(
        ConfigurationError, match=r"CartPole-v1 takes \(4,\) and needs one output \(batch, 2\); .*\(batch, 3\)"
    ):
        load_teacher(nn.Linear(4, 3), "CartPole-v1", SETTINGS["CartPole-v1"])


class Saves(nn.Module):
    def forward(self, x):
        torch.save(x, "saved")
        return x[:, :2]


class Maps(nn.Module):
    def forward(self, x):
        return x[:, :2] + torch.from_file("mapped", True, 2)


class Restores(nn.Module):
    @torch.jit.export
    def __getstate__(self):
        return (torch.ones(1), self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        torch.save(state[0], "saved")
        self.training = state[1]

    def forward(self, x):
        return x[:, :2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("module", "what"), [(Saves, "aten::save"), (Maps, "aten::from_file"), (Restores, "__getstate__")])
def test_programs_that_reach_files_are_not_run(module, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(module()).save("a.pt")
    with pytest.raises(ConfigurationError, match=rf"a TorchScript program that uses {what}, .* so it is not run"):
        load_teacher(tmp_path / "a.pt", "CartPole-v1", SETTINGS["CartPole-v1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operators_are_refused_whatever_the_text_says(tmp_path, monkeypatch):
    """The operators that PyTorch has read are looked at as well as the text."""
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Saves()).save("a.pt")
    monkeypatch.setattr(torch_network, "_check_code", lambda path: None)
    with pytest.raises(ConfigurationError, match="uses aten::save"):
        load_teacher(tmp_path / "a.pt", "CartPole-v1", SETTINGS["CartPole-v1"])
    assert not (tmp_path / "saved").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_missing_pytorch_is_named(tmp_path, monkeypatch):
    torch.jit.script(nn.Linear(4, 2)).save(tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ConfigurationError, match="PyTorch is missing; install with: pip install -r requirements-sb3"):
        load_teacher(tmp_path / "a.pt", "CartPole-v1", SETTINGS["CartPole-v1"])


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2).double()

    def forward(self, x):
        return self.layer(x.double())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_why_a_program_fails_is_the_end_of_its_traceback(tmp_path):
    torch.jit.script(Double()).save(tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match=r"with which it fails \([^()]*dtype"):
        load_teacher(tmp_path / "a.pt", "CartPole-v1", SETTINGS["CartPole-v1"])


TINY = [*ANY, "evaluation.objective=5", "evaluation.lower_bound=1", "pops.steps=1"]


def test_a_module_is_compressed_as_it_is(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    summary = compress(module, "CartPole-v1", tmp_path / "run", settings=TINY)
    assert summary["teacher"]["widths"] == [8, 8] and summary["teacher"]["weights"] == 4 * 8 + 8 * 8 + 8 * 2
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"] == "torch.nn.modules.container.Sequential" and len(config["teacher_sha256"]) == 64
    assert compress(module, "CartPole-v1", tmp_path / "run", settings=TINY, resume=True) == summary
    with torch.no_grad():
        module[0].weight += 1
    with pytest.raises(ConfigurationError, match="holds another run: teacher_sha256"):
        compress(module, "CartPole-v1", tmp_path / "run", settings=TINY, resume=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_commands_take_torchscript_files(tmp_path):
    torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))).save(tmp_path / "a.pt")
    result = command("evaluate.py", tmp_path / "a.pt", "--env", "CartPole-v1", "--episodes", 5, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["weights"] == 4 * 6 + 6 * 2, result.stderr
    torch.jit.script(Attentive()).save(tmp_path / "b.pt")
    result = command("record.py", "CartPole-v1", tmp_path / "b.pt", "--out", tmp_path / "b.gif", "--seconds", 1)
    assert result.returncode == 0 and "b.pt: a function, reward" in result.stdout, result.stderr
    result = command("deploy_report.py", tmp_path / "b.pt", "--env", "CartPole-v1", "--out", tmp_path / "report")
    refused(result, "is no plain stack of layers (first: linear), so it has no layers to write; compress it first")


class OfBytes(nn.Module):
    """Takes frames of bytes, from which it makes numbers up to 1."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4 * 84 * 84, 9))

    def forward(self, frames):
        return self.layers(frames.float() / 255 if frames.dtype == torch.uint8 else frames.float())


def test_a_module_takes_frames_as_the_game_gives_them():
    torch.manual_seed(0)
    module, settings = OfBytes(), configuration("pacman")["model"]
    frames = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84), dtype=np.uint8)
    policy = load_teacher(module, "pacman", settings)
    np.testing.assert_allclose(policy(frames), module(torch.from_numpy(frames)).detach().numpy(), atol=1e-5)


# Models of Stable-Baselines3, which are told by the names of their classes


def model_of(path, statistics=None):
    """An object that looks like a model of Stable-Baselines3 and saves this file."""

    class BaseAlgorithm:
        policy = None

        def save(self, to):
            to.write_bytes(path.read_bytes())

        def get_vec_normalize_env(self):
            return statistics

    BaseAlgorithm.__module__ = "stable_baselines3.common.base_class"
    return type("DQN", (BaseAlgorithm,), {})()


def test_a_model_of_stable_baselines3_is_the_same_teacher_as_its_file(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2))
    path = stable_baselines(tmp_path / "a.zip", torch_layers("q_net.q_net", network, (0, 2)))
    agent = load_teacher(model_of(path), "CartPole-v1", SETTINGS["CartPole-v1"])
    expected = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    for one, other in zip(agent.network.get_weights(), expected.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigurationError, match=r"^the teacher, DQN: the policy sees observations of shape \(4,\)"):
        load_teacher(model_of(path), "Pendulum-v1", SETTINGS["Pendulum-v1"])


def test_values_that_do_not_belong_to_the_action_are_refused():
    """Of two outputs, a float one of the right width need not be the actions' values."""

    class Two(nn.Module):
        def __init__(self, features):
            super().__init__()
            self.values, self.features = nn.Linear(4, 2), features

        def forward(self, observations):
            values = self.values(observations)
            return values.argmax(dim=1), self.features(observations) if self.features else values

    load_teacher(Two(None), "CartPole-v1", SETTINGS["CartPole-v1"])
    with pytest.raises(ConfigurationError, match="is not the action that"):
        load_teacher(Two(nn.Linear(4, 2)), "CartPole-v1", SETTINGS["CartPole-v1"])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_actions_that_do_not_reach_the_bounds_are_told(capsys, scale):
    torch.manual_seed(0)
    module = Computed(lambda x: scale * torch.tanh(x), inputs=3, outputs=1)
    load_teacher(module, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    assert ("stay within -1 and 1" in capsys.readouterr().out) is (scale == 1.0)


def test_a_module_without_forward_names_its_parts():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic, self.actor = nn.Linear(4, 1), nn.Linear(4, 2)

    with pytest.raises(ConfigurationError, match=r"has no forward; give the part .* one of critic, actor"):
        load_teacher(Agent(), "CartPole-v1", SETTINGS["CartPole-v1"])
    assert load_teacher(Agent().actor, "CartPole-v1", SETTINGS["CartPole-v1"]).widths == ()
