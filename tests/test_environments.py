"""Environments in processes: each copy plays what a single environment plays, whatever the number of processes."""

import dataclasses
import functools
import gc

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from pops.configs import configuration
from pops.model import ActorLunarLander
from pops.support import workers
from pops.support.environments import configuration_of, describe, make_environments, named
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.playing import Player, evaluate_network, single, varied
from pops.support.seeds import Seeds
from pops.support.workers import ProcessEnvironments

LUNARLANDER = {"id": "LunarLander-v3", "max_episode_steps": 90}


@pytest.fixture(autouse=True)
def no_processes_left():
    yield
    workers._stop_workers()


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
    monkeypatch.setattr(workers, "cores", lambda: processes)
    monkeypatch.setattr(ProcessEnvironments, "COPIES", 1)
    copies = make_environments(LUNARLANDER, 5)
    assert isinstance(copies, ProcessEnvironments) and len(copies.shares) == processes
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
    ended = np.zeros(4, bool)
    for step in actions_of(4):
        before = copies.results.copy()
        _, _, terminated, truncated, _ = copies.step(step)
        np.testing.assert_array_equal(copies.results[ended], before[ended])
        ended = terminated | truncated
    assert ended.all()


def groups():
    """Numbers of the groups of copies that this process holds."""
    return [number for group in workers._running.values() for number in group[0].copies.groups]


def test_copies_that_nobody_uses_are_dropped():
    first, second = make_environments(LUNARLANDER, 4), make_environments(LUNARLANDER, 4)
    first.reset(seed=0)
    second.reset(seed=0)
    assert groups() == [first.number, second.number]
    first.close()
    number = second.number
    del second
    gc.collect()
    third = make_environments(LUNARLANDER, 4)
    third.reset(seed=0)
    assert groups() == [third.number] != [number]


def test_evaluations_leave_at_most_their_last_copies_behind():
    config = configuration("lunarlander", assignments=["environment.max_episode_steps=5", "model.widths=[4]"])
    network = ActorLunarLander(config["model"]).network
    for number in range(3):
        evaluate_network(network, config, Seeds(0), 2, "report", number)
    assert len(groups()) == 1


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
    return single(ActorLunarLander(configuration("lunarlander")["model"], [4]).network)


def test_a_process_that_ended_fails_the_run_in_one_line(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    player = Player(policy(), LUNARLANDER, 16, "greedy")
    worker = player.environments.workers[1]

    def on_step(step):
        worker.process.kill()
        return True

    with pytest.raises(RunFailed, match=r"a process that steps the environment ended \(exit code -9\)"):
        player.play(0, on_step)
    assert Player(policy(), LUNARLANDER, 16, "greedy").evaluate(0).shape == (1, 16)  # with new processes


def test_an_interrupted_step_leaves_no_answer_for_the_next_one(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    copies = make_environments(LUNARLANDER, 16)
    first, _ = copies.reset(seed=0)
    here = copies.workers[0]
    monkeypatch.setattr(here, "receive", lambda results: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        copies.step(np.zeros(16, int))
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
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(ProcessEnvironments, "COPIES", 1)
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


def test_a_new_name_for_a_changed_environment_is_played_by_all_copies(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    entry, wrappers = gymnasium.spec("Acrobot-v1").entry_point, CHANGED["wrapper"][1]["additional_wrappers"]
    spec = EnvSpec("Changed-v0", entry, max_episode_steps=500, additional_wrappers=wrappers)
    monkeypatch.setitem(gymnasium.registry, "Changed-v0", spec)
    copies = make_environments({"id": "Changed-v0", "max_episode_steps": 500}, 32)
    copies.reset(seed=0)
    assert set(copies.step(np.ones(32, int))[1]) == {1000.0}


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
    monkeypatch.setattr(workers, "cores", lambda: 2)
    name, settings = named(shifted_acrobot)
    assert (name, settings) == ("pops/shifted_acrobot-v0", [])
    described = describe(name)["environment"]
    assert described["max_episode_steps"] == 30
    copies, alone = make_environments(described, 20, autoreset=False), shifted_acrobot()
    assert len(copies.shares) == 1  # other processes do not know it
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
