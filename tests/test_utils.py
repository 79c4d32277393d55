"""Seeds, evaluation, replay, files: what later results rest on."""

import io

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from pops.support import console
from pops.support.environments import check_spaces
from pops.support.errors import ConfigurationError
from pops.support.playing import Player, select_actions
from pops.support.replay import FrameTransitions, ReplayMemory
from pops.support.rewards import reward_statistics
from pops.support.seeds import Seeds

CARTPOLE = {"id": "CartPole-v1", "max_episode_steps": 200}


def test_seeds_depend_on_seed_and_purpose_and_uses_never_meet():
    seeds = Seeds(5)
    assert seeds.environment("select", "a", 1) == Seeds(5).environment("select", "a", 1)
    assert len({seeds.environment("select", *p) for p in (("a", 1), ("a", 2), ("b", 1))}) == 3
    assert Seeds(6).environment("select", "a", 1) != seeds.environment("select", "a", 1)
    for number in range(100):
        for index, use in enumerate(Seeds.USES):
            assert index * 2**29 <= seeds.environment(use, "x", number) < (index + 1) * 2**29


def test_greedy_actions_are_the_largest_outputs_and_sampled_ones_follow_the_softmax():
    outputs = np.tile(np.float32([[0, 1, -1]]), (20_000, 1))
    generator = np.random.default_rng(3)
    assert set(select_actions(outputs, "greedy")) == {1}
    shares = np.bincount(select_actions(outputs, "sample", generator), minlength=3) / 20_000
    np.testing.assert_allclose(shares, np.exp([0, 1, -1]) / np.exp([0, 1, -1]).sum(), atol=0.015)
    explored = np.bincount(select_actions(outputs, "greedy", generator, 0.3), minlength=3) / 20_000
    np.testing.assert_allclose(explored, [0.1, 0.8, 0.1], atol=0.015)


@pytest.mark.parametrize("acting", ["greedy", "sample"])
def test_every_episode_counts_once_and_whole(acting):
    """The vectorised loop against episodes played one by one from the same first states."""

    def policy(observations):
        side = 10 * observations[..., 2]  # too simple to keep the pole up for long
        return np.stack([-side, side], axis=-1)

    player = Player(CARTPOLE, 20, acting, members=2)
    rewards = player.evaluate(policy, 11)
    assert rewards.shape == (2, 20)
    np.testing.assert_array_equal(rewards, player.evaluate(policy, 11))
    assert not np.array_equal(rewards, player.evaluate(policy, 12))
    assert rewards.max() <= 200
    if acting == "sample":
        return
    first, _ = gymnasium.make_vec("CartPole-v1", 40, vectorization_mode="vector_entry_point").reset(seed=11)
    single = gymnasium.make("CartPole-v1", max_episode_steps=200)
    # The single environment keeps its state in double precision, so a long episode may end a step apart.
    for start, reward in zip(first, rewards.reshape(-1), strict=True):
        single.reset(seed=0)
        single.unwrapped.state = start.astype(np.float64)
        observation, total, over = start, 0.0, False
        while not over:
            action = int(np.argmax(policy(observation[None, None])))
            observation, step_reward, terminated, truncated, _ = single.step(action)
            total, over = total + step_reward, terminated or truncated
        assert abs(total - reward) <= 1


def test_a_policy_sees_noise():
    seen = []

    def policy(observations):
        seen.append(observations[0].copy())
        return np.zeros((1, 50, 2))

    for noise in (0.0, 0.2):
        Player(CARTPOLE, 50, "greedy", noise=noise).play(policy, 3, on_step=lambda step: False)
    errors = seen[1] / seen[0] - 1  # of the same first states
    assert 0.15 < errors.std() < 0.25 and abs(errors.mean()) < 0.05


@pytest.mark.parametrize(
    ("group", "key", "value", "words"),
    [
        ("environment", "id", "NoSuch-v1", "environment.id: NoSuch-v1 is not"),
        ("environment", "id", "nosuch:Foo-v1", "environment.id: nosuch:Foo-v1 is not"),
        ("environment", "id", "Pendulum-v1", "model.observation_shape: [4] does not fit Pendulum-v1, which has [3]"),
        ("environment", "id", "Blackjack-v1", "environment.id: Blackjack-v1 has observations Tuple"),
        ("model", "observation_shape", [5], "model.observation_shape: [5] does not fit CartPole-v1, which has [4]"),
        ("model", "actions", 3, "model.actions: 3 does not fit CartPole-v1, which has 2"),
    ],
)
def test_settings_that_do_not_fit_the_environment_are_refused(config, group, key, value, words):
    check_spaces(config)
    with pytest.raises(ConfigurationError) as error:
        check_spaces(config | {group: config[group] | {key: value}})
    assert words in str(error.value)


def test_statistics_are_mean_standard_error_and_lowest():
    statistics = reward_statistics(np.array([1.0, 2.0, 3.0, 6.0]))
    error = np.std([1, 2, 3, 6], ddof=1) / 2
    assert statistics == {
        "episodes": 4,
        "reward_mean": 3,
        "reward_stderr": pytest.approx(error),
        "reward_min": 1,
        "reward_worst_tenth": 1,
    }


def test_replay_keeps_the_newest_entries_and_samples_only_what_it_holds():
    replay = ReplayMemory(5, {"a": ([], np.int32), "b": ([2], np.float32)})
    replay.add(a=[1, 2, 3], b=np.ones((3, 2)))
    generator = np.random.default_rng(0)
    a, b = replay.sample(generator, 4, 50)
    assert a.shape == (4, 50) and b.shape == (4, 50, 2) and set(a.flat) == {1, 2, 3} and b.min() == 1
    replay.add(a=[4, 5, 6, 7], b=np.ones((4, 2)))
    assert set(replay.sample(generator, 4, 50)[0].flat) == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("capacity", [1000, 100])
def test_transitions_of_frames_are_those_of_the_game(capacity):
    """Against a plain record of the same steps: states are numbered, stacks begin black, returns end as they should."""
    generator, copies, n_steps = np.random.default_rng(0), 3, 3
    memory = FrameTransitions(capacity, [4, 1, 1], {"environments": copies, "n_steps": n_steps, "discount": 0.5})
    stacks, record = np.zeros((copies, 4, 1, 1), np.uint8), {}
    over, states = np.zeros(copies, bool), np.arange(1, copies + 1)  # no state twice: 3 copies * 80 steps < 256
    stacks[:, -1, 0, 0] = states
    for step in range(80):
        actions, rewards = generator.integers(5, size=copies), generator.integers(-1, 2, copies).astype(np.float64)
        terminated, truncated = generator.random(copies) < 0.1, generator.random(copies) < 0.05
        rewards, terminated, truncated = np.where(over, 0, rewards), terminated & ~over, truncated & ~over
        points = generator.random(copies) < 0.1  # end a return and no episode
        following = np.where(over[:, None, None, None], 0, np.roll(stacks, -1, axis=1))
        following[:, -1, 0, 0] = (step + 1) * copies + np.arange(1, copies + 1)
        ends = terminated | (points & ~over)
        memory.add_step(stacks, actions, rewards, following, ends, terminated | truncated, over)
        for copy in range(copies):
            after = (terminated | truncated)[copy]
            record[step, copy] = (
                stacks[copy].ravel(),
                actions[copy],
                rewards[copy],
                following[copy].ravel(),
                ends[copy],
                after,
            )
            if over[copy]:
                record[step, copy] = None
        stacks, over = following, terminated | truncated
    observations, actions, rewards, following, factors = memory.sample(generator, 20, 50)
    places = {int(values[0][-1]): place for place, values in record.items() if values}
    seen = set()
    for row in np.ndindex(20, 50):
        step, copy = places[int(observations[row].ravel()[-1])]
        stack, action, *_ = record[step, copy]
        np.testing.assert_array_equal(observations[row].ravel(), stack)
        assert actions[row] == action
        total, factor = 0.0, 0.5**n_steps
        for number in range(n_steps):
            _, _, reward, after, end, episode_end = record[step + number, copy]
            total += 0.5**number * reward
            if end or episode_end:
                factor = 0 if end else 0.5 ** (number + 1)
                break
        assert rewards[row] == total and factors[row] == factor
        if factor:
            np.testing.assert_array_equal(following[row].ravel(), after)
        seen.add((step, copy))
    assert min(step for step, _ in seen) >= 80 - capacity // copies
    assert len(seen) > min(capacity, 240) // 2


def test_a_table_is_whole_on_a_narrow_terminal(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, width=30, soft_wrap=True))
    console.log(
        console.table([["policy", "hidden units", "weights"], ["teacher", "32-64-64-512", "1,684,992"]], "Sizes", words=2)
    )
    title, headings, line, row = (text.strip() for text in written.getvalue().splitlines() if text.strip())
    assert title == "Sizes" and set(line) == {"─"} and len(line) > 30
    assert headings.split() == ["policy", "hidden", "units", "weights"]
    assert row.split() == ["teacher", "32-64-64-512", "1,684,992"]
