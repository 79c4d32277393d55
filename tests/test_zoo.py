"""Published agents (RL Baselines3 Zoo): what is played is what each file's own arithmetic gives."""

import json
import re

import gymnasium
import numpy as np
import pytest

from conftest import ROOT, TINY, command

pytest.importorskip("torch", reason="pip install -r requirements-sb3.txt")
pytest.importorskip("mujoco", reason="pip install -r requirements-mujoco.txt")

from reference import Agent

from pops.policies.teacher import read_policy
from pops.support.errors import ConfigurationError
from pops.support.playing import select_actions

ZOO = ROOT.parent / "shared" / "zoo"
pytestmark = pytest.mark.skipif(not ZOO.is_dir(), reason=f"the Zoo's files are not in {ZOO}")
REWARDS = json.loads((ZOO / "rewards.json").read_text())["agents"] if ZOO.is_dir() else {}
# Behind a wrapper that the environment does not have, or of observations that no environment has any more.
REFUSED = {
    "ppo/Walker2d-v3": r"sb3_contrib\.common\.wrappers\.TimeFeatureWrapper",
    "ppo/Swimmer-v3": r"sb3_contrib\.common\.wrappers\.TimeFeatureWrapper",
    "a2c/Ant-v3": r"\(111,\), those of Ant-v4 have \(27,\)",
}
MUJOCO = ("Hopper", "HalfCheetah", "Walker2d", "Swimmer", "Ant")


def environment_of(name):
    """The environment that an agent is played in: the successors of those that are gone."""
    name = name.partition("/")[2]
    if name.startswith("LunarLander"):
        return name.replace("-v2", "-v3")
    return name.replace("-v3", "-v4") if name.startswith(MUJOCO) else name


def met(agent, name, count=1000):
    """Observations that an agent meets, a tenth of them after random actions."""
    environment, generator = gymnasium.make(environment_of(name)), np.random.default_rng(0)
    environment.action_space.seed(0)
    observations, observation = [], environment.reset(seed=0)[0]
    while len(observations) < count:
        observations.append(observation)
        action = agent.act(observation[None])[0] if generator.random() > 0.1 else environment.action_space.sample()
        observation, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            observation = environment.reset()[0]
    return np.array(observations), environment.action_space


@pytest.mark.parametrize("name", sorted(set(REWARDS) - set(REFUSED)))
def test_actions_are_those_of_the_file(name):
    path = ZOO / f"{name}.zip"
    statistics = path.with_suffix(".vecnormalize.pkl")
    agent = Agent(path, statistics if statistics.exists() else None)
    observations, space = met(agent, name)
    policy = read_policy(path, environment_of(name))
    outputs = policy.network(observations.astype(np.float32))
    actions = select_actions(np.asarray(outputs), "greedy", bounds=policy.config["model"]["bounds"])
    expected = agent.act(observations)
    if isinstance(space, gymnasium.spaces.Discrete):
        assert (actions == expected).sum() == 1000
    else:
        assert np.abs((actions - np.clip(expected, space.low, space.high)) / (space.high - space.low)).max() < 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_is_refused_by_name(name):
    with pytest.raises(ConfigurationError, match=REFUSED[name]):
        read_policy(ZOO / f"{name}.zip", environment_of(name))


def test_the_folded_network_is_the_normalised_one_but_for_its_clipping():
    name = "ppo/BipedalWalker-v3"
    agent = Agent(ZOO / f"{name}.zip", ZOO / f"{name}.vecnormalize.pkl")
    observations, _ = met(agent, name)
    policy = read_policy(ZOO / f"{name}.zip", environment_of(name))
    played, folded = (net(observations.astype(np.float32)).numpy() for net in (policy.network, policy.agent.network))
    inside = (np.abs(agent.normalise(observations)) < 10).all(axis=1)
    assert inside.sum() > 900
    np.testing.assert_allclose(played[inside], folded[inside], atol=1e-3)


def test_a_run_says_what_it_was_given_and_what_folding_changes(tmp_path):
    teacher = ZOO / "ppo" / "MountainCar-v0.zip"
    settings = [
        *TINY,
        "evaluation.objective=-201",
        "evaluation.lower_bound=-202",
        "distill.until=objective",
        "replay.student_states=0",
        "pops.steps=1",
    ]
    arguments = ["--env-id", "MountainCar-v0", "--teacher", teacher, "--out", tmp_path / "run"]
    result = command("pops.py", *arguments, *(f"--set={setting}" for setting in settings))
    assert result.returncode == 0, result.stderr
    assert "PPO; 2-64-64-3, tanh; observations normalised by " in result.stdout
    assert re.search(r"\d+ of 1,000 actions are the same", result.stdout)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["normalizer"].endswith("MountainCar-v0.vecnormalize.pkl") and len(config["normalizer_sha256"]) == 64
    # The teacher in the run folder is the one that normalises.
    observations, _ = met(Agent(teacher, teacher.with_suffix(".vecnormalize.pkl")), "ppo/MountainCar-v0")
    policies = (read_policy(path, "MountainCar-v0") for path in (teacher, tmp_path / "run" / "teacher.keras"))
    played, saved = (policy.network(observations).numpy() for policy in policies)
    np.testing.assert_array_equal(played, saved)
