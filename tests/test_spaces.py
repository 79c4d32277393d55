"""Spaces: what policies see and do here, for every kind that Gymnasium has, and modules that register environments."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from pops.configs import configuration
from pops.model import agents_of
from pops.support.environments import configuration_of, make_environments
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.playing import Player, select_actions


class Echo(gymnasium.Env):
    """Says what action it got, and shows one observation again and again."""

    def __init__(self, observations, actions, shown):
        self.observation_space, self.action_space, self.shown, self.got = observations, actions, shown, []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.shown, {}

    def step(self, action):
        self.got.append(action)
        assert self.action_space.contains(action), action
        return self.shown, float(np.sum(action)), False, False, {}


PLANE, TWO = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)


@pytest.fixture
def echo(monkeypatch):
    """Registers an environment with these spaces. Returns its copies, its settings, and the first environment itself."""
    made = []

    def start(observations=PLANE, actions=TWO, shown=None):
        def make():
            made.append(Echo(observations, actions, np.zeros(2, np.float32) if shown is None else shown))
            return made[-1]

        spec = gymnasium.envs.registration.EnvSpec("Echo-v0", make, max_episode_steps=9)
        monkeypatch.setitem(gymnasium.registry, "Echo-v0", spec)
        config = configuration_of("Echo-v0")
        copies = make_environments(config["environment"], 2)
        return copies, config["model"], made

    return start


@pytest.mark.parametrize(
    ("space", "shown", "seen"),
    [
        (spaces.Box(-1, 1, (2, 2), np.float32), np.float32([[0.1, 0.2], [0.3, 0.4]]), [0.1, 0.2, 0.3, 0.4]),
        (spaces.Box(-9, 9, (2,), np.float64), np.array([0.5, 1 / 3]), np.float32([0.5, 1 / 3])),
        (spaces.Discrete(3), np.int64(2), [0, 0, 1]),
        (spaces.Discrete(3, start=5), np.int64(6), [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    ],
    ids=str,
)
def test_observations_are_flat_numbers(echo, space, shown, seen):
    copies, model, _ = echo(observations=space, shown=shown)
    observations, _ = copies.reset(seed=0)
    assert observations.dtype == np.float32 and model["observation_shape"] == [len(seen)]
    np.testing.assert_array_equal(observations, np.float32([seen, seen]))


@pytest.mark.parametrize(
    ("space", "settings", "chosen", "taken"),
    [
        (spaces.Discrete(3, start=-1), {"actions": 3, "factors": []}, 2, 1),
        (spaces.MultiDiscrete([2, 3]), {"actions": 5, "factors": [2, 3]}, [1, 2], [1, 2]),
        (spaces.MultiDiscrete([2, 3], start=[1, 4]), {"actions": 5, "factors": [2, 3]}, [1, 0], [2, 4]),
        (spaces.MultiDiscrete([[2, 2], [3, 2]]), {"actions": 9, "factors": [2, 2, 3, 2]}, [1, 0, 2, 1], [[1, 0], [2, 1]]),
        (spaces.MultiBinary(3), {"actions": 6, "factors": [2, 2, 2]}, [1, 0, 1], [1, 0, 1]),
        (spaces.Box(-1, 2, (1, 2), np.float32), {"actions": 2, "bounds": [[-1, -1], [2, 2]]}, [-0.5, 1.5], [[-0.5, 1.5]]),
    ],
    ids=str,
)
def test_actions_come_as_the_environment_takes_them(echo, space, settings, chosen, taken):
    copies, model, made = echo(actions=space)
    assert settings.items() <= model.items()
    copies.reset(seed=0)
    rewards = copies.step(np.array([chosen, chosen]))[1]
    np.testing.assert_array_equal(made[-1].got, [np.array(taken)])
    np.testing.assert_array_equal(rewards, [np.sum(taken)] * 2)


def test_several_actions_are_each_the_largest_or_drawn_from_the_softmax_of_their_outputs():
    outputs = np.float32([[0, 2, 1, 3, 2]])
    np.testing.assert_array_equal(select_actions(outputs, "greedy", factors=(2, 3)), [[1, 1]])
    many = np.repeat(outputs, 20_000, axis=0)
    drawn = select_actions(many, "sample", np.random.default_rng(3), factors=(2, 3))
    for column, part in enumerate(np.split(outputs[0], [2])):
        shares = np.bincount(drawn[:, column], minlength=len(part)) / len(drawn)
        np.testing.assert_allclose(shares, np.exp(part) / np.exp(part).sum(), atol=0.015)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03  # independently


def test_the_loss_of_several_actions_is_the_sum_of_their_divergences():
    settings = configuration("cartpole")["model"] | {"actions": 5, "factors": [2, 3]}
    student = agents_of("Echo-v0").student(settings, [3])
    generator = np.random.default_rng(0)
    teacher, outputs = (generator.normal(size=shape).astype(np.float32) for shape in ((7, 5), (1, 7, 5)))
    expected = 0.0
    for part in (slice(0, 2), slice(2, 5)):
        p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) + 1e-5 for x in (teacher[:, part] / 0.5, outputs[0, :, part]))
        expected += (p * np.log(p / q)).sum()
    np.testing.assert_allclose(student.loss(teacher, outputs, 0.5), [expected], rtol=1e-4)


MODULE = """
import gymnasium


class Slope(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, angle=1.0):
        self.angle = angle

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low * 0, {}

    def step(self, action):
        return self.observation_space.low * 0, self.angle * action, False, False, {}


gymnasium.register("Slope-v0", Slope, max_episode_steps=4)
"""


@pytest.mark.parametrize("way", ["file", "module", "name"])
def test_own_environments_are_imported_by_file_by_module_and_by_name(way, tmp_path, monkeypatch):
    name = f"slopes_{way}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("Slope-v0", f"Slope{way}-v0"))
    monkeypatch.chdir(tmp_path)
    imports = {"file": [str(tmp_path / f"{name}.py")], "module": [name], "name": []}[way]
    environment = f"Slope{way}-v0" if way != "name" else f"{name}:Slope{way}-v0"
    assignments = ['environment.kwargs={"angle": 2.5}', *([f'environment.imports=["{imports[0]}"]'] if imports else [])]
    config = configuration_of(environment, assignments=assignments)
    assert config["environment"]["id"] == f"Slope{way}-v0"
    assert config["environment"]["imports"] == (imports or [name]) and config["environment"]["kwargs"] == {"angle": 2.5}
    copies = make_environments(config["environment"], 20)
    copies.reset(seed=0)
    np.testing.assert_array_equal(copies.step(np.ones(20, int))[1], [2.5] * 20)
    gymnasium.registry.pop(f"Slope{way}-v0")


def test_what_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    for name, words in (
        (str(tmp_path / "broken.py"), "ZeroDivisionError: division by zero"),
        ("no_such_module", "No module"),
    ):
        with pytest.raises(ConfigurationError, match=words) as error:
            configuration_of("Acrobot-v1", assignments=[f'environment.imports=["{name}"]'])
        assert f"--import {name}: cannot be imported" in str(error.value)


def test_arguments_that_an_environment_does_not_take_are_named():
    with pytest.raises(ConfigurationError, match=r"environment\.id: Acrobot-v1 cannot be made .*no_such"):
        configuration_of("Acrobot-v1", assignments=['environment.kwargs={"no_such": 1}'])


# What an environment does wrong in its third step, and what is said of it.
WRONG = {
    "reward nan": (lambda: (np.zeros(2, np.float32), math.nan), r"Wrong-v0: step 3 of copy 0: the reward is nan"),
    "reward array": (lambda: (np.zeros(2, np.float32), np.ones(2)), r"Wrong-v0: the reward is an array of shape \(2,\)"),
    "observation": (lambda: (np.float32([0, np.inf]), 0.0), r"step 3 of copy 0: the observation, number 1 is inf"),
    "raises": (lambda: 1 / 0, r"Wrong-v0: step raised ZeroDivisionError: division by zero"),
}


class Wrong(Echo):
    """Does something wrong in its third step."""

    def __init__(self, what):
        super().__init__(PLANE, TWO, np.zeros(2, np.float32))
        self.what = what

    def step(self, action):
        *result, terminated, truncated, info = super().step(action)
        if len(self.got) == 3:
            result = self.what()
        return *result, terminated, truncated, info


@pytest.mark.parametrize("case", WRONG)
def test_what_an_environment_does_wrong_is_named(case, monkeypatch):
    what, words = WRONG[case]
    spec = gymnasium.envs.registration.EnvSpec("Wrong-v0", lambda: Wrong(what), max_episode_steps=9)
    monkeypatch.setitem(gymnasium.registry, "Wrong-v0", spec)
    settings = configuration_of("Wrong-v0")["environment"]
    player = Player(settings, 2, "greedy")
    with pytest.raises(RunFailed, match=words) as error:
        player.evaluate(lambda observations: np.zeros([1, 2, 2]), 0)
    assert "\n" not in str(error.value)
