"""Atari games: the environment as the paper plays it, convolutional networks, and training that goes on where it was."""

import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from pops.compress import compress
from pops.configs import configuration
from pops.model import DQNPacman, DQNPong, FramesStudent, StudentPacman, StudentPong, agents_of
from pops.policies.teacher import load_teacher
from pops.prune import PruningSchedule, _calculate_sizes_according_to_redundancy
from pops.support.atari import AtariEnvironments
from pops.support.environments import check_spaces, configuration_of, is_registered, make_environments, spaces
from pops.support.networks import read_network, save_network
from pops.support.playing import varied
from pops.support.seeds import Seeds
from pops.support.shapes import alive, strongest_units
from pops.support.states import StateMemory
from pops.support.updates import initial_state
from pops.support.vector import cores
from pops.train import train_dqn, train_student
from pops.utils import count_weights

from conftest import ROOT, command, rows_of

PONG = configuration("pong")
WIDTHS = (3, 4, 5, 6)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def frames(generator, *shape):
    return generator.integers(256, size=(*shape, 4, 84, 84), dtype=np.uint8)


def test_pong_has_three_actions_and_stacks_that_begin_black():
    check_spaces(PONG)
    observations, actions = spaces(PONG["environment"])
    assert observations.shape == (4, 84, 84) and observations.dtype == np.uint8 and actions.n == 3
    environments = make_environments(PONG["environment"], 3)
    first, _ = environments.reset(seed=5)
    assert not first[:, :3].any() and first[:, 3].any()

    def paddle_below(action):  # our paddle moves out of sight within a few steps, or to the lower border
        environments.reset(seed=5)
        for _ in range(6):
            observations = environments.step(np.full(3, action))[0]
        return abs(observations[0, 3, 70:76, 73:76].astype(int) - 87).max() > 20

    assert not paddle_below(1) and paddle_below(2)


def test_episodes_follow_from_the_seed_and_end_at_the_limit():
    settings = PONG["environment"] | {"max_episode_steps": 20}

    def play(seed, copies):
        environments = make_environments(settings, copies)
        observations, _ = environments.reset(seed=seed)
        sums, ends = [observations.sum(axis=(1, 2, 3), dtype=np.int64)], []
        for step in range(60):
            observations, _, terminated, truncated, _ = environments.step(np.full(copies, step % 3))
            sums.append(observations.sum(axis=(1, 2, 3), dtype=np.int64))
            ends.append(truncated)
            assert not terminated.any()
        return np.array(sums), np.array(ends)

    sums, ends = play(3, 4)
    np.testing.assert_array_equal(sums, play(3, 4)[0])
    np.testing.assert_array_equal(sums[:, :2], play(3, 2)[0])
    assert ends.any(axis=0).all()


def test_copies_play_what_ale_pys_own_vector_plays():
    settings, count = PONG["environment"] | {"max_episode_steps": 25}, 3
    assert is_registered(settings)
    options = {"frameskip": 4, "max_num_frames_per_episode": 100, "repeat_action_probability": 0.0}
    own = gymnasium.make_vec("ALE/Pong-v5", count, vectorization_mode="vector_entry_point", **options)
    actions = np.random.default_rng(0).integers(3, size=(60, count))
    for _ in range(2):  # the second time with copies that have been used
        copies = make_environments(settings, count)
        np.testing.assert_array_equal(copies.reset(seed=7)[0], own.reset(seed=7)[0])
        ends = 0
        for step in actions:
            results, expected = copies.step(step), own.step(np.array([0, 2, 3])[step])
            for ours, theirs in zip(results[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(results[4]["lives"], expected[4]["lives"])
            ends += results[3].sum()
        assert ends >= count
        used = copies.copies
        copies.close()
        assert all(copy in AtariEnvironments(settings, count).copies for copy in used)


def test_without_autoreset_an_ended_copy_is_not_stepped():
    copies = make_environments(PONG["environment"] | {"max_episode_steps": 20}, 3, autoreset=False)
    copies.reset(seed=0)
    ended, ends = np.zeros(3, bool), []
    for _ in range(25):
        before = copies.results.copy()
        _, _, terminated, truncated, _ = copies.step(np.zeros(3, int))
        np.testing.assert_array_equal(copies.results[ended], before[ended])
        ended = terminated | truncated
        ends.append(ended)
    assert ended.all() and not ends[0].any()


def test_copies_of_an_interrupted_step_are_not_used_again(monkeypatch):
    settings = PONG["environment"] | {"max_episode_steps": 30}
    copies = make_environments(settings, 3)
    copies.reset(seed=0)
    interrupted = copies.copies
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(interrupted[1], "recv", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        copies.step(np.zeros(3, int))
    copies.close()
    assert not any(copy in interrupted for copy in make_environments(settings, 3).copies)


def test_the_teachers_network_is_the_papers(generator):
    agent = DQNPong(PONG["model"])
    assert sum(agent.layer_sizes()) == count_weights(agent.network)[0] == 1_684_992
    assert agent.layer_sizes(WIDTHS) == [8 * 8 * 4 * 3, 4 * 4 * 3 * 4, 3 * 3 * 4 * 5, 7 * 7 * 5 * 6, 6 * 3]
    images = frames(generator, 2)
    agent.network.set_weights(agent.initial_weights(generator))
    outputs = agent.network(images)
    x = (images.transpose(0, 2, 3, 1).astype(np.float32) - 87) / 50
    weights = agent.network.get_weights()
    for kernel, bias, stride in zip(weights[0:6:2], weights[1:6:2], (4, 2, 1), strict=True):
        x = np.maximum(tf.nn.conv2d(x, kernel, stride, "VALID") + bias, 0)
    x = np.maximum(x.reshape(2, -1) @ weights[6] + weights[7], 0)
    np.testing.assert_allclose(outputs, x @ weights[8] + weights[9], rtol=1e-3, atol=1e-3)


# With one dense layer between the convolutions and the actions, none, and two.
DEPTHS = pytest.mark.parametrize("widths", [WIDTHS, WIDTHS[:3], (*WIDTHS, 7)], ids=["one", "none", "two"])


@DEPTHS
@pytest.mark.parametrize("members", [1, 2])
def test_students_do_what_their_plain_networks_do(generator, members, widths):
    student = StudentPong(PONG["model"], widths, members)
    weights, images = student.initial_weights(generator, 0.1), frames(generator, 6)
    masks = [tf.constant((generator.random(shape) < 0.7).astype(np.float32)) for shape in student.kernel_shapes()]
    outputs = student(weights, masks, tf.constant(images)[None])
    for member in range(members):
        network = student.plain(weights, masks, member)
        np.testing.assert_allclose(network(images), outputs[member], rtol=1e-4, atol=1e-4)
        nonzero = sum(int(mask[member].numpy().sum()) for mask in masks)
        assert count_weights(network) == (sum(student.layer_sizes()), nonzero)
    alone = StudentPong(PONG["model"], widths)
    copied, masks_again = alone.copy(network)
    np.testing.assert_array_equal(masks_again[3][0], masks[3][member])
    np.testing.assert_allclose(alone(copied, masks_again, images[None])[0], network(images), atol=1e-4)
    divided = alone(*alone.copy(network, 0.01), images[None])
    np.testing.assert_allclose(divided[0], network(images) / 0.01, rtol=1e-4, atol=1e-2)
    assert alone.loss(network(images), divided, 0.01)[0] < 1e-3


def test_masks_of_convolutions_stay_masked_and_grow(generator):
    student, config = StudentPong(PONG["model"], WIDTHS), PONG
    state = initial_state(student.initial_weights(generator), student.full_masks())
    memory = StateMemory(
        config | {"replay": config["replay"] | {"capacity": 64}}, DQNPong(PONG["model"], WIDTHS).network, None
    )
    memory.add(observations=frames(generator, 64), teacher_outputs=generator.normal(size=(64, 3)))
    settings, schedule = config["prune"] | {"batch_size": 8}, PruningSchedule(0.0, 0.9, 0, 10, 1)
    before = state.masks
    for _ in range(3):
        state, loss = train_student(student, state, memory, settings, generator, 5, 1e-3, schedule)
        assert np.isfinite(loss).all()
        assert all((after.numpy() <= mask.numpy()).all() for after, mask in zip(state.masks, before, strict=True))
        before = state.masks
    for mask, size in zip(state.masks, student.layer_sizes(), strict=True):
        assert int((mask == 0).numpy().sum()) == int(np.floor(np.float32(0.9) * size))


def test_live_units_are_followed_through_convolutions_to_the_actions(generator):
    agent = DQNPong(PONG["model"], WIDTHS[:3])
    weights = [np.zeros_like(array) for array in agent.network.get_weights()]
    weights[0][1, 2, 3, 0] = weights[2][0, 0, 0, 1] = weights[4][2, 2, 1, 4] = 1
    weights[6][(3 * 7 + 5) * 5 + 4, 2] = 1  # row 3, column 5, channel 4
    agent.network.set_weights(weights)
    assert [units.nonzero()[0].tolist() for units in alive(agent.connections(agent.network))] == [[0], [1], [4]]


def test_live_units_are_followed_through_convolutions_and_flattening(generator):
    agent = DQNPong(PONG["model"], WIDTHS)
    weights = [np.zeros_like(array) for array in agent.network.get_weights()]
    weights[0][1, 2, 3, 0] = weights[2][0, 0, 0, 1] = weights[4][2, 2, 1, 4] = 1
    weights[6][(3 * 7 + 5) * 5 + 4, 2] = weights[8][2, 1] = 1  # row 3, column 5, channel 4
    agent.network.set_weights(weights)
    assert [units.sum() for units in alive(agent.connections(agent.network))] == [1, 1, 1, 1]
    weights[6][(3 * 7 + 5) * 5 + 4, 2] = 0
    weights[6][(3 * 7 + 5) * 5 + 3, 2] = 1
    agent.network.set_weights(weights)
    assert [units.sum() for units in alive(agent.connections(agent.network))] == [0, 0, 0, 0]


def test_trimmed_units_keep_channels_and_give_away_what_follows_the_flattening():
    student, live = StudentPacman(configuration("pacman")["model"], (17, 34, 34, 213)), [8, 16, 16, 99]
    present = student.layer_sizes()
    redundancy = np.full(5, 1 - 17_040 / sum(present))
    sizes = [
        _calculate_sizes_according_to_redundancy(redundancy, present, student.widths, student.layer_sizes, live, rule)
        for rule in ("live_units", "trimmed_units")
    ]
    assert sizes == [(3, 7, 7, 44), (8, 16, 7, 33)]
    assert all(sum(student.layer_sizes(widths)) <= 17_040 for widths in sizes)


def test_without_its_dead_units_a_network_does_the_same(generator):
    agent = DQNPong(PONG["model"], WIDTHS)
    weights = agent.initial_weights(generator, 0.1)
    weights[2][..., 1] = weights[3][1] = 0
    weights[6].reshape(7, 7, 5, 6)[:, :, [0, 3]] = 0
    agent.network.set_weights(weights)
    units = strongest_units(agent.connections(agent.network), (3, 3, 3, 6))
    assert [chosen.tolist() for chosen in units[1:3]] == [[0, 2, 3], [1, 2, 4]]
    smaller = DQNPong(PONG["model"], (3, 3, 3, 6))
    smaller.network.set_weights(agent.of_units(agent.network, units))
    images = frames(generator, 5)
    np.testing.assert_allclose(smaller.network(images), agent.network(images), rtol=1e-4, atol=1e-4)


@DEPTHS
def test_saved_networks_load_where_the_project_is_not_and_as_teachers(generator, tmp_path, widths):
    agent, images = DQNPong(PONG["model"], widths), frames(generator, 3)
    agent.network.set_weights(agent.initial_weights(generator))
    path = tmp_path / "teacher.keras"
    save_network(agent.network, path)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import keras, numpy as np; print(keras.models.load_model('teacher.keras')(np.load('images.npy')).numpy().tolist())"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(eval(result.stdout), agent.network(images), rtol=1e-4)
    loaded = load_teacher(path, "pong", PONG["model"])
    assert loaded.widths == widths
    np.testing.assert_array_equal(loaded.network(images), agent.network(images))
    for array, saved in zip(loaded.network.get_weights(), agent.network.get_weights(), strict=True):
        assert array.tobytes() == saved.tobytes()


TINY_TEACHER = (
    "model.widths=[2,2,2,4] teacher.environments=4 teacher.steps=800 teacher.learning_starts=100 "
    "teacher.steps_per_update=20 "
    "teacher.batch_size=8 teacher.evaluate_every=400 teacher.episodes=2 teacher.restart_every=160 "
    "environment.max_episode_steps=60 replay.capacity=200 replay.observe=100 replay.student_states=0 "
    "evaluation.report_episodes=3 checkpoint.seconds=0"
).split()


def test_a_teacher_learns_and_is_evaluated_in_games_whose_actions_stick(new_run, monkeypatch):
    played = []

    def remembering(settings, *arguments, **options):
        played.append(settings["sticky"])
        return make_environments(settings, *arguments, **options)

    monkeypatch.setattr("pops.support.exploring.make_environments", remembering)
    monkeypatch.setattr("pops.support.playing.make_environments", remembering)
    config = configuration("pong", assignments=[*TINY_TEACHER, "teacher.sticky=0.5"])
    train_dqn(DQNPong(config["model"]), config, Seeds(0), new_run(config))
    assert played == [0.5, 0.5]
    assert config["environment"]["sticky"] == 0


def test_ways_to_play_change_how_actions_stick():
    config = configuration("pong", assignments=['evaluation.robust={"plain": 0.9}', "environment.sticky=0.5"])
    assert varied(config, "plain")["environment"] == config["environment"] | {"sticky": 0}
    assert varied(config, "sticky")["environment"] == config["environment"] | {"sticky": 0.25}


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_training_goes_on_to_the_bit_where_the_memory_has_to_be_built_anew(new_run):
    config = configuration("pong", assignments=TINY_TEACHER)

    def train(run, stop_after=None):
        agent, write = DQNPong(config["model"]), run.checkpoints.write

        def write_and_stop(value):
            write(value)
            if len(run.checkpoint_times) == stop_after:
                raise Interrupted

        run.checkpoints.write = write_and_stop
        train_dqn(agent, config, Seeds(0), run)
        return agent.network.get_weights(), [{**row, "seconds": 0} for row in rows_of(run)]

    expected = train(new_run(config))
    for number in (3, 30, 45, 90, 121, 170):
        run = new_run(config)
        with pytest.raises(Interrupted):
            train(run, number)
        *_, first, actions = run.checkpoints.read(None)["loop"][1]
        assert len(actions) <= 50 + 40 + 1 and first % 40 == 0  # capacity and one restart
        run.unlock()
        weights, rows = train(new_run(config, run.folder, resume=True))
        assert rows == expected[1]
        for one, other in zip(weights, expected[0], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or cores() < 2, reason="needs two cores, and Linux")
@pytest.mark.slow
def test_a_teacher_does_not_depend_on_the_number_of_cores(tmp_path):
    allowed = os.sched_getaffinity(0)
    # Smaller products are not divided among cores, and writing checkpoints of the full size at every step takes minutes.
    small = ("model.widths", "teacher.batch_size", "checkpoint.seconds")
    full_size = [f"--set={s}" for s in TINY_TEACHER if not s.startswith(small)]

    def train(name, used):
        os.sched_setaffinity(0, used)
        try:
            result = command("train_teacher.py", "pong", *full_size, "--out", tmp_path / name)
        finally:
            os.sched_setaffinity(0, allowed)
        assert result.returncode == 0, result.stderr
        return (tmp_path / name / "teacher.keras").read_bytes()

    assert train("one", {min(allowed)}) == train("all", allowed)


# A teacher that has learnt nothing; whoever plays scores about as little within 40 steps.
TINY_POPS = (
    "environment.max_episode_steps=40 evaluation.objective=-5 evaluation.lower_bound=-6 "
    "evaluation.choose_episodes=2 evaluation.report_episodes=3 replay.observe=100 replay.capacity=300 "
    "replay.environments=4 replay.student_states=30 prune.iterations=2 prune.updates=4 prune.evaluate_every=4 "
    "prune.episodes=2 prune.batch_size=8 prune.end=8 prune.frequency=2 prune.final_sparsity=0.8 distill.epochs=2 "
    "distill.evaluate_every=2 distill.updates=4 distill.episodes=2 distill.batch_size=8 "
    "distill.confidence=0 distill.confirm_episodes=2 distill.confirm_confidence=0 "
    "replay.student_steps=3 pops.steps=1"
).split()


def test_a_game_goes_through_the_same_commands(tmp_path):
    environment = "pacman"  # which ends returns at lives lost too

    def run(script, *arguments):
        result = command(script, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    settings = [f"--set={s}" for s in TINY_TEACHER if not s.startswith("teacher.steps=")]
    run("train_teacher.py", environment, *settings, "--set=teacher.steps=600", "--out", tmp_path / "teacher")
    teacher, folder = tmp_path / "teacher" / "teacher.keras", tmp_path / "run"
    assert "shrunk to" in run(
        "pops.py", environment, "--teacher", teacher, "--out", folder, *(f"--set={s}" for s in TINY_POPS)
    )
    summary = json.loads((folder / "summary.json").read_text())
    widths, full = summary["steps"][0]["shrunk"]["widths"], summary["teacher"]["widths"]
    assert len(widths) == 4 and all(1 <= width <= most for width, most in zip(widths, full, strict=True))
    assert summary["final"]["weights"] < 0.5 * summary["teacher"]["weights"]
    for report in (summary["teacher"], summary["smallest_above_objective"], summary["final"]):
        assert {"reward_mean", "reward_stderr"} <= set(report["greedy"]) & set(report["sticky"])
    student = folder / "student.keras"
    assert read_network(student).layers[3].kernel.shape == (4, 4, widths[0], widths[1])  # sizes and strides as before
    arguments = ("evaluate.py", student, "--episodes", 3, "--json", "--set=environment.max_episode_steps=40")
    greedy = json.loads(run(*arguments, "--greedy"))
    assert greedy["weights"] == summary["final"]["weights"]
    assert greedy != json.loads(run(*arguments, "--set=evaluation.epsilon=1"))


def test_any_other_game_is_compressed(tmp_path):
    name = "ALE/Breakout-v5"
    kinds = agents_of(name)
    assert agents_of(kinds.teacher.environment).student.mro()[1] is FramesStudent
    teacher = kinds.teacher(configuration_of(name)["model"], [4, 4, 4, 8]).network
    settings = [*(setting for setting in TINY_POPS if not setting.startswith("replay.student_steps")), "evaluation.also=[]"]
    summary = compress(teacher, name, tmp_path / "run", settings=settings)
    student = read_network(tmp_path / "run" / "student.keras")
    assert student.name == "ALE.Breakout-v5_student" and summary["final"]["step"] == 1
    assert student.count_params() < teacher.count_params()
    script = "import sys; from pops.policies.teacher import read_policy; print(read_policy(sys.argv[1]).environment)"
    path = tmp_path / "run" / "student.keras"  # read where nobody has imported the games
    assert (
        subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True).stdout == f"{name}\n"
    )


def test_pacmans_network_and_lives(generator):
    config = configuration("pacman")
    assert sum(DQNPacman(config["model"]).layer_sizes()) == 1_688_064
    check_spaces(config)
    environments = make_environments(config["environment"], 2)
    _, info = environments.reset(seed=0)
    lives, ends = info["lives"], np.zeros(2, bool)
    for _ in range(400):
        *_, terminated, _, info = environments.step(generator.integers(9, size=2))
        ends |= terminated
    assert (info["lives"] < lives).any() and not ends.all()  # a life lost is not the game's end
