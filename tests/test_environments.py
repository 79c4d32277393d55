"""Environments in processes: each copy plays what a single environment plays, whatever the number of processes."""

import dataclasses
import functools
import gc
import importlib
import importlib.util
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from pops.configs import configuration
from pops.model import ActorLunarLander
from pops.support import vector
from pops.support.environments import check_spaces, configuration_of, describe, make_environments, named
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.forward import network_policy
from pops.support.playing import Player, evaluate_network, report_rewards, varied
from pops.support.seeds import Seeds, action_generator
from pops.support.vector import GymnasiumEnvironments, PoolEnvironments

LUNARLANDER = {"id": "LunarLander-v3", "max_episode_steps": 90}


def actions_of(copies, steps=200):
    return np.random.default_rng(0).integers(4, size=(steps, copies))


def single_copy(seed, actions):
    """What one environment gives, starting over one step after its end: observations, rewards, terminated, truncated."""
    environment = gymnasium.make("LunarLander-v3", max_episode_steps=90)
    observation, _ = environment.reset(seed=seed)
    yield observation
    ended = False
    for action in actions:
        results = (environment.reset()[0], 0.0, False, False) if ended else environment.step(int(action))[:4]
        ended = results[2] or results[3]
        yield results


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_copies_play_what_single_environments_play(processes, monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: processes)
    monkeypatch.setattr(GymnasiumEnvironments, "COPIES", 1)
    copies = make_environments(LUNARLANDER, 5)
    assert isinstance(copies, GymnasiumEnvironments) and copies.vector.num_envs == processes
    actions = actions_of(5)
    for _ in range(2):  # the second time with copies that have been used
        observations, _ = copies.reset(seed=7)
        results = [copies.step(step) for step in actions]
        for copy in range(5):
            first, *expected = single_copy(7 + copy, actions[:, copy])
            np.testing.assert_array_equal(observations[copy], first)
            for step, alone in zip(results, expected, strict=True):
                np.testing.assert_array_equal(step[0][copy], alone[0])
                assert tuple(part[copy] for part in step[1:4]) == alone[1:]
    ends = sum(step[2] for step in results), sum(step[3] for step in results)
    assert min(ends[0].sum(), ends[1].sum()) > 0  # episodes ended both ways


def test_without_autoreset_an_ended_copy_stays_as_it_is():
    copies = make_environments(LUNARLANDER, 4, autoreset=False)
    copies.reset(seed=1)
    before, ended = copies.step(np.zeros(4, int)), np.zeros(4, bool)
    for step in actions_of(4):
        after = copies.step(step)
        for then, now in zip(before[:4], after[:4], strict=True):
            np.testing.assert_array_equal(now[ended], then[ended])
        before, ended = after, after[2] | after[3]
    assert ended.all()


def test_processes_end_when_nobody_uses_their_copies(monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    closed, dropped = make_environments(LUNARLANDER, 16), make_environments(LUNARLANDER, 16)
    processes = [*closed.vector.processes, *dropped.vector.processes]
    closed.close()
    del dropped
    gc.collect()
    assert len(processes) == 4 and not any(process.is_alive() for process in processes)


def test_many_episodes_are_played_in_parts(monkeypatch):
    config = configuration("lunarlander", assignments=["environment.max_episode_steps=60", "model.widths=[4]"])
    network = ActorLunarLander(config["model"]).network
    config = varied(config, "greedy")
    together = evaluate_network(network, config, Seeds(0), 7, "report")
    monkeypatch.setattr("pops.support.playing.EVALUATION_COPIES", 3)
    over = []
    parts = evaluate_network(network, config, Seeds(0), 7, "report", watch=lambda *now: over.append(now))
    np.testing.assert_array_equal(parts, together)
    # Of the last part's three copies two are beyond the seven episodes.
    assert over == sorted(over) and {(3, 7), (6, 7)} <= set(over) and over[-1] == (7, 7)


def policy():
    return network_policy(ActorLunarLander(configuration("lunarlander")["model"], [4]).network)


def test_a_policy_sees_only_copies_that_still_play_and_nothing_changes(monkeypatch):
    seen = []

    def two_policies(observations):
        seen.append(observations.shape[1])
        falls = np.eye(4)[np.zeros(observations.shape[1:2], int)]  # the engines stay off
        steers = np.stack(
            [0 * observations[1, :, 4] + 0.1, observations[1, :, 4], -observations[1, :, 3], -observations[1, :, 4]]
        )
        return np.stack([falls, steers.T])

    def rewards():
        player = Player(LUNARLANDER | {"max_episode_steps": 300}, 3, "greedy", members=2)
        return player.evaluate(two_policies, 0), player.played

    skipping = rewards()
    assert seen[0] == 3 and seen[-1] < 3 and seen == sorted(seen, reverse=True)
    monkeypatch.setattr(Player, "_outputs", lambda player, policy, seen: policy(seen.reshape(2, 3, 8)).reshape(6, 4))
    for one, other in zip(skipping, rewards(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_process_that_ended_fails_the_run_in_one_line(monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    player = Player(LUNARLANDER, 16, "greedy")
    process = player.environments.vector.processes[1]

    def on_step(step):
        process.kill()
        return True

    with pytest.raises(RunFailed, match=r"a process that steps the environment ended \(exit code -9\)"):
        player.play(policy(), 0, on_step)
    assert Player(LUNARLANDER, 16, "greedy").evaluate(policy(), 0).shape == (1, 16)  # with new processes


def test_an_interrupted_step_leaves_no_answer_for_the_next_one(monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    copies = make_environments(LUNARLANDER, 16)
    first, _ = copies.reset(seed=0)
    processes = copies.vector.processes
    monkeypatch.setattr(copies.vector, "step_wait", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        copies.step(np.zeros(16, int))
    assert not any(process.is_alive() for process in processes)
    again, _ = make_environments(LUNARLANDER, 16).reset(seed=0)
    np.testing.assert_array_equal(first, again)


class Thousand(gymnasium.RewardWrapper):
    """A reward of 1,000 in every step."""

    def reward(self, _):
        return 1000.0


class Shifted(gymnasium.ObservationWrapper):
    """Observations plus 5."""

    def observation(self, observation):
        return observation + np.float32(5)


# Environments that Gymnasium has, registered again in this process: changes, and what the first two steps then give.
CHANGED = {
    "wrapper": ("Acrobot-v1", {"additional_wrappers": (Thousand.wrapper_spec(),)}),
    "kwargs": ("LunarLander-v3", {"kwargs": {"gravity": -2.0}}),
    "limit": ("Acrobot-v1", {"max_episode_steps": 2}),
    "vectorised": ("CartPole-v1", {"additional_wrappers": (Shifted.wrapper_spec(),)}),
    "vectorised kwargs": ("CartPole-v1", {"kwargs": {"sutton_barto_reward": True}}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_played_is_what_gymnasium_makes_in_this_process(case, monkeypatch):
    name, changes = CHANGED[case]
    monkeypatch.setattr(vector, "cores", lambda: 2)
    monkeypatch.setattr(GymnasiumEnvironments, "COPIES", 1)
    settings = {"id": name, "max_episode_steps": gymnasium.spec(name).max_episode_steps}
    make_environments(settings, 4).reset(seed=0)  # as Gymnasium has it, with another process where there is one
    changed = dataclasses.replace(gymnasium.spec(name), **changes)
    monkeypatch.setitem(gymnasium.registry, name, changed)
    settings["max_episode_steps"] = changed.max_episode_steps
    copies, alone = make_environments(settings, 4), [gymnasium.make(name) for _ in range(4)]
    expected = [environment.reset(seed=3 + index)[0] for index, environment in enumerate(alone)]
    np.testing.assert_array_equal(copies.reset(seed=3)[0], expected)
    for _ in range(3):
        results = copies.step(np.ones(4, int))
        for index, environment in enumerate(alone):
            observation, *others = environment.step(1)[:4]
            np.testing.assert_array_equal(results[0][index], observation)
            assert [part[index] for part in results[1:4]] == others
        if results[3].any():
            break


STEADY = """
import gymnasium
import numpy as np

REWARD = 1.0


class Steady(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), REWARD, False, False, {}
"""


def test_what_other_processes_would_not_have_is_played_in_this_one(tmp_path, monkeypatch, registry):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    (tmp_path / "steady.py").write_text(STEADY)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("steady")
    registry["Steady-v0"] = EnvSpec("Steady-v0", "steady:Steady", max_episode_steps=5)
    for reward, processes in ((1.0, 2), (3.0, 1)):
        module.REWARD = reward
        copies = make_environments({"id": "Steady-v0", "max_episode_steps": 5}, 16)
        copies.reset(seed=0)
        assert copies.vector.num_envs == processes
        assert set(copies.step(np.zeros(16, int))[1]) == {reward}
        copies.close()


def test_a_new_name_for_a_changed_environment_is_played_by_all_copies(monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    entry, wrappers = gymnasium.spec("Acrobot-v1").entry_point, CHANGED["wrapper"][1]["additional_wrappers"]
    spec = EnvSpec("Changed-v0", entry, max_episode_steps=500, additional_wrappers=wrappers)
    monkeypatch.setitem(gymnasium.registry, "Changed-v0", spec)
    copies = make_environments({"id": "Changed-v0", "max_episode_steps": 500}, 32)
    copies.reset(seed=0)
    assert set(copies.step(np.ones(32, int))[1]) == {1000.0}


# EnvPool


needs_envpool = pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="needs requirements-envpool.txt")
MUJOCO = (
    "HalfCheetah-v4",
    "HalfCheetah-v5",
    "Hopper-v4",
    "Hopper-v5",
    "Swimmer-v4",
    "Swimmer-v5",
    "Walker2d-v4",
    "Walker2d-v5",
)


def put_into_state(environment, observation):
    """Brings an environment into the state in which another one gave its first observation."""
    inside, name = environment.unwrapped, environment.spec.name
    if hasattr(inside, "set_state"):
        hidden = np.zeros(2 if name == "Swimmer" else 1)  # where it is, which does not matter
        position, velocity = np.split(np.concatenate([hidden, observation]), [inside.model.nq])
        inside.set_state(position, velocity)
    elif name == "Acrobot":
        cosine, sine, cosine_2, sine_2, *velocities = observation
        inside.state = np.array([np.arctan2(sine, cosine), np.arctan2(sine_2, cosine_2), *velocities])
    elif name == "Pendulum":
        inside.state = np.array([np.arctan2(observation[1], observation[0]), observation[2]])
    else:
        inside.state = np.array(observation)


@needs_envpool
@pytest.mark.parametrize("name", ["Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", *MUJOCO])
def test_envpool_does_what_gymnasium_does(name):
    if name in MUJOCO:
        pytest.importorskip("mujoco")
    settings = configuration_of(name)["environment"]
    assert settings["simulator"] == "envpool"
    copies, generator = make_environments(settings, 8, autoreset=False), np.random.default_rng(0)
    assert isinstance(copies, PoolEnvironments)
    with warnings.catch_warnings(action="ignore"):
        alone = [gymnasium.make(name, disable_env_checker=True) for _ in range(8)]
    space = alone[0].action_space
    space.seed(0)
    with warnings.catch_warnings(action="error"):  # EnvPool's own would be printed in every evaluation
        first, _ = copies.reset(seed=3)
    for environment, observation in zip(alone, first, strict=True):
        environment.reset(seed=0)
        put_into_state(environment, observation.astype(np.float64))
    ended = np.zeros(8, bool)
    for _ in range(12):
        actions = np.array([space.sample() for _ in alone] if space.shape else generator.integers(space.n, size=8))
        results = copies.step(actions)
        for index in np.flatnonzero(~ended):
            observation, *others = alone[index].step(actions[index])[:4]
            np.testing.assert_allclose(results[0][index], observation, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose([part[index] for part in results[1:4]], others, rtol=1e-3, atol=1e-3)
        ended = results[2] | results[3]


@needs_envpool
@pytest.mark.parametrize("autoreset", [True, False])
def test_copies_in_envpool_follow_from_their_own_seeds(autoreset):
    settings = LUNARLANDER | {"simulator": "envpool"}
    few, many = make_environments(settings, 3, autoreset), make_environments(settings, 5, autoreset)
    actions = actions_of(5)
    for _ in range(2):  # the second time with copies that have been used
        np.testing.assert_array_equal(few.reset(seed=9)[0], many.reset(seed=7)[0][2:])
        ended, ends = np.zeros(5, bool), np.zeros(2, int)
        for step in actions:
            results = many.step(step)
            for part, other in zip(few.step(step[2:])[:4], results[:4], strict=True):
                np.testing.assert_array_equal(part, other[2:])
            if autoreset:  # a step that only starts an episode
                assert not any(part[ended].any() for part in results[1:4])
            ended = results[2] | results[3]
            ends += results[2].sum(), results[3].sum()
        assert ended.all() or autoreset
        assert ends.min() > 0  # episodes ended both ways


@needs_envpool
def test_rewards_are_reported_in_gymnasium():
    config = configuration_of("LunarLander-v3", assignments=["model.widths=[4]"])
    network = ActorLunarLander(config["model"]).network
    assert config["environment"]["simulator"] == "envpool"
    reports = [report_rewards(network, config, Seeds(0), 4, "report")]
    config["environment"]["simulator"] = "gymnasium"
    assert reports == [report_rewards(network, config, Seeds(0), 4, "report")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment.simulator": "envpool"}, "envpool does not have CartPole-v1 as Gymnasium does"),
        ({"environment.simulator": "bullet"}, 'environment.simulator: "bullet" is not one of auto, gymnasium, envpool'),
    ],
)
def test_a_simulator_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        check_spaces(configuration_of("CartPole-v1", assignments=[f"{key}={value}" for key, value in changes.items()]))


@needs_envpool
def test_an_environment_that_was_changed_is_not_taken_from_envpool(monkeypatch):
    assert configuration_of("Acrobot-v1")["environment"]["simulator"] == "envpool"
    kwargs = configuration_of("LunarLander-v3", assignments=['environment.kwargs={"gravity":-5.0}'])
    assert kwargs["environment"]["simulator"] == "gymnasium"
    changed = dataclasses.replace(gymnasium.spec("Acrobot-v1"), **CHANGED["wrapper"][1])
    monkeypatch.setitem(gymnasium.registry, "Acrobot-v1", changed)
    assert configuration_of("Acrobot-v1")["environment"]["simulator"] == "gymnasium"
    with pytest.raises(ConfigurationError, match="envpool does not have Acrobot-v1 as Gymnasium does"):
        check_spaces(configuration_of("Acrobot-v1", assignments=["environment.simulator=envpool"]))


# Environments that are given as objects or by what makes them


class Unrecorded(gymnasium.ObservationWrapper):
    """Observations plus an argument that is not recorded."""

    def __init__(self, environment, shift):
        super().__init__(environment)
        self.shift = np.float32(shift)

    def observation(self, observation):
        return observation + self.shift


def shifted_acrobot():
    return Unrecorded(gymnasium.make("Acrobot-v1", max_episode_steps=30), 7)


class Still(gymnasium.Env):
    """Nothing happens here."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward=2.0):
        self.reward = reward

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.reward, False, False, {}


ONE = Still()


@pytest.fixture
def registry():
    """Leaves Gymnasium's registry as it was."""
    before = dict(gymnasium.registry)
    yield gymnasium.registry
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_the_copies_played_are_what_a_factory_makes(registry, monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    name, settings = named(shifted_acrobot)
    assert (name, settings) == ("pops/shifted_acrobot-v0", [])
    described = describe(name)["environment"]
    assert described["max_episode_steps"] == 30
    copies, alone = make_environments(described, 20, autoreset=False), shifted_acrobot()
    observations, _ = copies.reset(seed=3)
    np.testing.assert_array_equal(observations[0], alone.reset(seed=3)[0])
    for _ in range(30):
        results = copies.step(np.ones(20, int))
        observation, reward, terminated, truncated, _ = alone.step(1)
        np.testing.assert_array_equal(results[0][0], observation)
        assert [part[0] for part in results[1:4]] == [reward, terminated, truncated]
    assert results[3].all()


def test_factories_of_one_name_make_way_for_one_another(registry):
    for reward in (2.0, 3.0):
        name, _ = named(lambda reward=reward: Still(reward))
        copies = make_environments({"id": name, "max_episode_steps": 5}, 2)
        copies.reset(seed=0)
        assert name == "pops/lambda-v0" and (copies.step(np.zeros(2, int))[1] == reward).all()
    assert named(functools.partial(Still, 5.0))[0] == named(Still)[0] == "pops/Still-v0"


def test_an_object_goes_by_gymnasiums_name_and_its_arguments(registry):
    assert named(gymnasium.make("CartPole-v1", render_mode="rgb_array")) == ("CartPole-v1", [])
    name, settings = named(gymnasium.make("LunarLander-v3", gravity=-5.0, max_episode_steps=80))
    assert name == "LunarLander-v3"
    environment = configuration_of(name, assignments=settings)["environment"]
    assert environment["kwargs"] == {"gravity": -5.0} and environment["max_episode_steps"] == 80


@pytest.mark.parametrize("reward", [{1: 2.0}, (1, 2), np.ones(2), float("nan")])
def test_arguments_that_json_would_change_stay_as_they_are(registry, reward):
    gymnasium.register("Still-v0", Still, max_episode_steps=9)
    name, settings = named(gymnasium.make("Still-v0", reward=reward))
    assert (name, settings) == ("pops/Still-v0", [])
    np.testing.assert_equal(registry[name].kwargs["reward"], reward)


def test_arguments_in_arrays_are_compared(registry):
    gymnasium.register("Still-v0", Still, max_episode_steps=9, kwargs={"reward": np.ones(2)})
    assert named(gymnasium.make("Still-v0", reward=np.zeros(2)))[0] == "pops/Still-v0"


def test_an_objects_wrappers_are_made_again(registry):
    made = gymnasium.wrappers.TransformReward(gymnasium.make("Acrobot-v1", max_episode_steps=9), lambda reward: reward * 3)
    name, settings = named(made)
    assert (name, settings) == ("pops/Acrobot-v0", [])
    described = describe(name)["environment"]
    assert described["max_episode_steps"] == 9
    copies = make_environments(described, 3)
    observations, _ = copies.reset(seed=4)
    np.testing.assert_array_equal(observations[0], made.reset(seed=4)[0])
    assert (copies.step(np.ones(3, int))[1] == -3).all()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (Still(), "a Still, has no spec of which copies can be made; give a function that makes one"),
        (shifted_acrobot(), "Unrecorded does not record its arguments; give a function that makes one"),
        (gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1")), "Observation keeps running statistics"),
        (gymnasium.make_vec("CartPole-v1", 2), "the environment is a CartPoleVectorEnv; give Gymnasium's name"),
        (lambda: ONE, "gives the same object each time"),
        (lambda: 3, "gives int, no gymnasium.Env"),
        (lambda size: Still(), "raised TypeError: .* it is called without arguments"),
    ],
)
def test_what_copies_cannot_be_made_of_is_refused(environment, words, registry):
    with pytest.raises(ConfigurationError, match=words):
        named(environment)


def test_random_actions_do_not_follow_from_the_environments_own_numbers():
    own, _ = gymnasium.utils.seeding.np_random(7)
    assert not np.isin(action_generator(7).random(100), own.random(100)).any()
    players = Player(configuration("cartpole")["environment"], 200, "greedy", epsilon=0.5)
    explored, first = [], []

    def watch(step):
        explored.append(step.actions == 1)  # the policy's own action is 0
        first.append(step.observations[:, 0])
        return False

    players.play(lambda seen: np.tile(np.float32([1, 0]), (*seen.shape[:2], 1)), 7, watch)
    assert abs(np.corrcoef(explored[0], first[0])[0, 1]) < 0.25  # four standard errors
