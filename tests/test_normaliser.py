"""Statistics of VecNormalize, read without running anything."""

import builtins
import collections
import os
import pickle
import sys
import types

import gymnasium
import numpy as np
import pytest
import torch
from test_stable_baselines import dense, sequential, write

from pops.policies.normaliser import find_normaliser, read_normaliser
from pops.policies.teacher import load_teacher, read_policy
from pops.policies.zoo import ZooConfig, read_zoo_config, refuse_wrappers
from pops.support.environments import configuration_of
from pops.support.errors import ConfigurationError

from conftest import read_or_refused


def named(module, name):
    """A class that is pickled by a name which is not installed here."""
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1])))
    kind = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, kind)
    return kind


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A function that writes a VecNormalize of these attributes."""
    before = set(sys.modules)
    kind = named("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
    statistics = named("stable_baselines3.common.running_mean_std", "RunningMeanStd")

    def write(protocol=4, mean=None, var=None, **attributes):
        found, rms = kind(), statistics()
        rms.mean = np.array([1.0, -2.0, 3.0]) if mean is None else mean
        rms.var = np.array([4.0, 0.25, 1.0]) if var is None else var
        rms.count = np.float64(12.0)
        space = gymnasium.spaces.Box(-1, 1, (3,))
        space.seed(0)
        found.__dict__.update(observation_space=space, action_space=gymnasium.spaces.Discrete(2, seed=1), obs_rms=rms)
        found.__dict__.update(norm_obs=True, clip_obs=10.0, epsilon=1e-8, old_obs=np.zeros((1, 3)), **{})
        found.__dict__.update(attributes)
        path = tmp_path / "vecnormalize.pkl"
        path.write_bytes(pickle.dumps(found, protocol))
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_statistics_of_any_protocol(save, protocol):
    normaliser = read_normaliser(save(protocol))
    assert (normaliser.mean == [1, -2, 3]).all() and (normaliser.variance == [4, 0.25, 1]).all()
    assert (normaliser.epsilon, normaliser.clip, normaliser.enabled) == (1e-8, 10.0, True)
    seen = normaliser(np.array([[3.0, -1.5, 100.0]]))
    assert seen.dtype == np.float32 and np.allclose(seen, [[1, 1, 10]])


def test_observations_that_are_not_normalised_stay(save):
    normaliser = read_normaliser(save(norm_obs=False, obs_rms=None))
    assert not normaliser.enabled
    assert (normaliser(np.ones((2, 3))) == 1).all()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"obs_rms": {"a": None}}, "dictionary"),
        ({"norm_obs_keys": ["a"]}, "dictionary"),
        ({"obs_rms": None}, "obs_rms"),
        ({"var": np.array([1.0, np.nan, 1.0])}, "not finite"),
        ({"var": np.array([1.0, -1.0, 1.0])}, "positive"),
        ({"var": np.ones(2)}, "one shape"),
        ({"mean": np.array([object()] * 3, object)}, "type 'O8'"),
        ({"mean": np.array(["a", "b", "c"])}, "type 'U1'"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(save, attributes, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read_normaliser(save(**attributes))
    assert "\n" not in str(caught.value)


class Calls:
    """An object whose unpickling would call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def object_scalar(payload):
    """NumPy's scalar of objects, which NumPy itself unpickles within: a pickle in the pickle."""
    scalar = np.core.multiarray.scalar if hasattr(np, "core") else np._core.multiarray.scalar
    return Calls(scalar, np.dtype(object), payload)


def malicious(marker):
    touch = Calls(open, str(marker), "w")
    inner = pickle.dumps(touch)
    return {
        "posix.system": Calls(os.system, f"touch {marker}"),
        "io.open": touch,
        "builtins.eval": Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Calls(getattr, np.ndarray, "dumps"),
        "type 'O8'": object_scalar(inner),
        "numpy.load": Calls(np.load, str(marker)),
        "_pickle.loads": Calls(pickle.loads, inner),
        "collections.deque": collections.deque([1]),
    }


@pytest.mark.parametrize("name", malicious("x"))
def test_nothing_is_run_and_the_name_is_told(save, tmp_path, name):
    marker = tmp_path / "ran"
    for attributes in ({"extra": malicious(marker)[name]}, {"obs_rms": malicious(marker)[name]}):
        with pytest.raises(ConfigurationError) as caught:
            read_normaliser(save(**attributes))
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert not marker.exists()


def test_a_pickle_cannot_change_the_reader(save, tmp_path):
    path = save()
    good = path.read_bytes()
    # GLOBAL, then BUILD of a state onto the class itself.
    for name in ("numpy.core.multiarray\nscalar", "numpy\ndtype", "gymnasium.spaces.box\nBox", "collections\nOrderedDict"):
        path.write_bytes(b"\x80\x02c" + name.encode() + b"\n}N\x86}X\x05\x00\x00\x00valueK\x01s\x86b.")
        with pytest.raises(ConfigurationError):
            read_normaliser(path)
    path.write_bytes(good)
    assert (read_normaliser(path).mean == [1, -2, 3]).all()


def test_damaged_pickles_are_refused_whatever_is_wrong(save):
    path = save()
    read_or_refused(read_normaliser, path, 500, 3)


@pytest.mark.parametrize(
    ("agent", "statistics"),
    [
        ("a2c/Hopper-v3.zip", "a2c/Hopper-v3.vecnormalize.pkl"),
        ("ppo/Hopper-v3_1/Hopper-v3.zip", "ppo/Hopper-v3_1/Hopper-v3/vecnormalize.pkl"),
        ("ppo/Hopper-v3_1/best_model.zip", "ppo/Hopper-v3_1/Hopper-v3/vecnormalize.pkl"),
        ("ppo/Hopper-v3_1/rl_model_2000_steps.zip", "ppo/Hopper-v3_1/rl_model_vecnormalize_2000_steps.pkl"),
        ("mine/agent.zip", "mine/vecnormalize.pkl"),
        ("hub/ppo-Hopper-v3.zip", "hub/vec_normalize.pkl"),
    ],
)
def test_statistics_are_found_where_others_put_them(tmp_path, agent, statistics):
    for name in (agent, statistics):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_normaliser(tmp_path / agent) == tmp_path / statistics
    (tmp_path / statistics).unlink()
    assert find_normaliser(tmp_path / agent) is None


def agent_file(path, kind="PPO", **data):
    """A file of Stable-Baselines3 for Pendulum, whose layers are 3-4-1; and these layers."""
    space = gymnasium.make("Pendulum-v1").action_space
    if kind == "SAC":
        hidden, first = sequential("actor.latent_pi", 3, 4)
        head, last = dense("actor.mu", 4, 1)
        options = {}
    else:
        hidden, first = sequential("mlp_extractor.policy_net", 3, 4)
        head, last = dense("action_net", 4, 1)
        options = {"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>"}
    observations = gymnasium.make("Pendulum-v1").observation_space
    write(path, kind, first | last, observations, space, options, num_timesteps=2048, **data)
    return lambda seen: head(hidden(torch.as_tensor(seen))).detach().numpy()


def loaded(path, normalizer=None):
    return load_teacher(path, "Pendulum-v1", configuration_of("Pendulum-v1")["model"], normalizer)


SET = {":type:": "<class 'numpy.ndarray'>"}  # an observation before VecNormalize


@pytest.mark.parametrize("clip", [0.5, 10.0, 1e20, 1e38, np.inf])
def test_normalised_observations_reach_the_layers(save, tmp_path, clip):
    layers = agent_file(tmp_path / "agent.zip", _last_original_obs=SET)
    normaliser = read_normaliser(save(clip_obs=clip))
    observations = np.random.default_rng(0).normal(size=(200, 3), scale=20).astype(np.float32)
    outputs = np.asarray(loaded(tmp_path / "agent.zip").played(observations))
    expected = layers(normaliser(observations))
    assert np.abs(outputs - expected).max() < 1e-5 * np.abs(expected).max()


def test_statistics_that_are_too_extreme_are_refused(save, tmp_path):
    agent_file(tmp_path / "agent.zip", _last_original_obs=SET)
    save(mean=np.full(3, 1e12), var=np.full(3, 1e-12))
    with pytest.raises(ConfigurationError, match="too extreme for float32"):
        loaded(tmp_path / "agent.zip")


def test_an_agent_of_normalised_observations_needs_its_statistics(save, tmp_path):
    agent_file(tmp_path / "agent.zip", _last_original_obs=SET)
    with pytest.raises(ConfigurationError, match="statistics are missing"):
        loaded(tmp_path / "agent.zip")
    assert loaded(tmp_path / "agent.zip", "none").given["normalizer"] is None
    statistics = save().rename(tmp_path / "stats of mine.pkl")
    assert loaded(tmp_path / "agent.zip").given["normalizer"] == statistics
    agent_file(tmp_path / "another.zip", _last_original_obs=SET)  # now it may be either one's
    with pytest.raises(ConfigurationError, match=r"stats of mine\.pkl"):
        loaded(tmp_path / "agent.zip")
    (tmp_path / "config.yml").write_text("seed: 0")  # says nothing of it
    with pytest.raises(ConfigurationError, match="statistics are missing"):
        loaded(tmp_path / "agent.zip")
    (tmp_path / "config.yml").write_text("normalize: dict(norm_obs=False, norm_reward=True)")
    assert loaded(tmp_path / "agent.zip").given["normalizer"] is None


@pytest.mark.parametrize(
    ("kind", "data", "taken"), [("PPO", {"_last_original_obs": None}, False), ("PPO", {}, True), ("SAC", {}, True)]
)
def test_statistics_of_others_are_left_out(save, tmp_path, capsys, kind, data, taken):
    agent_file(tmp_path / "agent.zip", kind, **data)
    statistics = save()
    assert (loaded(tmp_path / "agent.zip").given["normalizer"] == statistics) is taken
    assert ("is left out" in capsys.readouterr().out) is not taken
    assert loaded(tmp_path / "agent.zip", statistics).given["normalizer"] == statistics  # as it is asked for


@pytest.mark.parametrize("text", ["", "- a", "n_timesteps: auto", "frame_stack: {n: 4}", "a: {{ b }}"])
def test_settings_of_other_programs_are_left_out(tmp_path, capsys, text):
    agent_file(tmp_path / "agent.zip", _last_original_obs=None)
    (tmp_path / "config.yml").write_text(text)
    assert loaded(tmp_path / "agent.zip")
    assert "no settings of the RL Baselines3 Zoo" in capsys.readouterr().out


def test_wrappers_that_change_nothing_are_taken():
    refuse_wrappers("x.zip", ZooConfig(("stable_baselines3.common.monitor.Monitor", "gymnasium.wrappers.TimeLimit")))


def test_values_are_not_sampled_from(tmp_path, capsys):
    space = gymnasium.make("LunarLander-v3")
    _, tensors = sequential("q_net.q_net", 8, 4)
    write(tmp_path / "dqn.zip", "DQN", tensors, space.observation_space, space.action_space)
    assert read_policy(tmp_path / "dqn.zip", "lunarlander").config["evaluation"]["acting"] == "greedy"
    widths = configuration_of("lunarlander")["model"]["widths"]  # of the network that sizes are compared with
    assert read_policy(tmp_path / "dqn.zip", "lunarlander").config["model"]["widths"] == widths
    assert "evaluation.acting=greedy" in capsys.readouterr().out
    _, hidden = sequential("mlp_extractor.policy_net", 8, 4)
    _, head = dense("action_net", 4, 4)
    write(tmp_path / "ppo.zip", "PPO", hidden | head, space.observation_space, space.action_space)
    assert read_policy(tmp_path / "ppo.zip", "lunarlander").config["evaluation"]["acting"] == "sample"


CONFIG = """!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - {wrapper}
  - - frame_stack
    - 4
  - - n_timesteps
    - 1e6
  - - normalize
    - {normalize}
  - - policy_kwargs
    - !!python/name:torch.nn.modules.activation.ReLU ''
  - - shape
    - !!python/tuple [1, 2]
"""


@pytest.mark.parametrize(
    ("wrapper", "names"),
    [
        ("a.b.C", ("a.b.C",)),
        ("[a.C, b.D]", ("a.C", "b.D")),
        ("[{a.C: {x: 1}}, b.D]", ("a.C", "b.D")),
        ("{a.C: {x: 1}}", ("a.C",)),
        ("null", ()),
    ],
)
def test_wrappers_of_any_form(tmp_path, wrapper, names):
    (tmp_path / "config.yml").write_text(CONFIG.format(wrapper=wrapper, normalize="true"))
    config = read_zoo_config(tmp_path / "config.yml")
    assert (config.wrappers, config.frame_stack, config.n_timesteps, config.normalised) == (names, 4, 1000000, True)
    assert config.settings["shape"] == (1, 2)
    if names:
        with pytest.raises(ConfigurationError, match=names[0]):
            refuse_wrappers("x.zip", config)
    refuse_wrappers("x.zip", config, known=names)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("false", False),
        ("\"{'norm_obs': False}\"", False),
        ("dict(norm_obs=True, norm_reward=False)", True),
        ("true", True),
    ],
)
def test_normalisation_of_any_form(tmp_path, text, normalised):
    (tmp_path / "config.yml").write_text(CONFIG.format(wrapper="null", normalize=text))
    assert read_zoo_config(tmp_path / "config.yml").normalised is normalised


def test_configs_run_nothing(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(f"!!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(ConfigurationError, match="no settings"):
        read_zoo_config(path)
    path.write_text(f"env_wrapper: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    assert isinstance(read_zoo_config(path), ZooConfig) and not (tmp_path / "ran").exists()
    path.write_text("a: [")
    with pytest.raises(ConfigurationError, match="no settings"):
        read_zoo_config(path)
