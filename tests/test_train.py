"""Losses, optimisers and training: against references in NumPy and Keras, and what must hold after training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pops import model, train
from pops.configs import configuration
from pops.model import ActorLunarLander, CartPoleDQN, CriticLunarLander, StudentCartPole
from pops.prune import PruningSchedule, iterative_pruning_policy_distillation
from pops.support.errors import RunFailed
from pops.support.forward import student_policy
from pops.support.playing import Player, evaluation_player
from pops.support.replay import ReplayMemory
from pops.support.rewards import Reference, matches, rewards_text
from pops.support.seeds import Seeds
from pops.support.states import StateMemory, StudentGames, Visited
from pops.support.updates import adam, average, generalised_advantages, initial_state, rmsprop
from pops.train import (
    Task,
    check_loss,
    evaluate_student,
    fit_supervised,
    train_actor_critic,
    train_dqn,
    train_student,
)

from conftest import rows_of

WIDTHS = (6, 5, 4)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def replay_of(states, outputs):
    replay = ReplayMemory(len(states), {"observations": ([4], np.float32), "teacher_outputs": ([2], np.float32)})
    replay.add(observations=states, teacher_outputs=outputs)
    return replay


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def replay(generator):
    states = generator.normal(size=(1000, 4))
    return replay_of(states, np.stack([states.sum(axis=1), states[:, 0]], axis=1))


def test_loss_is_the_kl_divergence_of_the_paper(generator):
    student = StudentCartPole(configuration("cartpole")["model"], WIDTHS, members=3)
    teacher, outputs = generator.normal(size=(8, 2)), generator.normal(size=(3, 8, 2))
    p, q = softmax(teacher / 0.1) + 1e-5, softmax(outputs) + 1e-5
    expected = (p * np.log(p / q)).sum(axis=(1, 2))
    loss = student.loss(tf.constant(teacher, tf.float32), tf.constant(outputs, tf.float32), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_q_learning_loss_is_huber(generator):
    agent = CartPoleDQN(configuration("cartpole")["model"], WIDTHS)
    outputs = generator.normal(size=(16, 2)).astype(np.float32) * 3
    actions, targets = generator.integers(2, size=16).astype(np.int32), generator.normal(size=16).astype(np.float32)
    expected = keras.losses.Huber()(targets[:, None], outputs[np.arange(16), actions][:, None])
    np.testing.assert_allclose(agent.loss(outputs, actions, targets), expected, rtol=1e-5)


def test_actor_loss_is_the_clipped_policy_gradient_with_entropy(generator):
    actor = ActorLunarLander(configuration("lunarlander")["model"], WIDTHS)
    outputs, actions = generator.normal(size=(64, 4)), generator.integers(4, size=64).astype(np.int32)
    advantages, p = generator.normal(size=64), softmax(outputs)
    before = np.log(p[np.arange(64), actions]) + generator.normal(size=64) * 0.3
    ratio = p[np.arange(64), actions] / np.exp(before)
    assert (ratio < 0.8).any() and (ratio > 1.2).any()
    gain = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    expected = -(gain.mean() - 0.5 * (p * np.log(p)).sum(axis=1).mean())
    arrays = (tf.constant(array, tf.float32) for array in (advantages, before))
    loss = actor.loss(tf.constant(outputs, tf.float32), actions, *arrays, clip=0.2, entropy=0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_critic_loss_is_the_mean_squared_error(generator):
    critic = CriticLunarLander(configuration("lunarlander")["model"])
    assert critic.network.output_shape == (None, 1) and critic.network.name == "lunarlander_critic"
    values, returns = generator.normal(size=(9, 1)).astype(np.float32), generator.normal(size=9).astype(np.float32)
    np.testing.assert_allclose(critic.loss(values, returns), ((values[:, 0] - returns) ** 2).mean(), rtol=1e-5)


def test_advantages_are_sums_of_surprises_that_end_with_the_episode(generator):
    steps, copies, discount, decay = 12, 3, 0.9, 0.8
    values = generator.normal(size=(steps + 1, copies))
    rewards = generator.normal(size=(steps, copies))
    terminated, truncated = np.zeros((steps, copies)), np.zeros((steps, copies))
    terminated[4, 0] = truncated[7, 1] = 1
    ended = terminated + truncated
    expected = np.zeros((steps, copies))
    for copy in range(copies):
        for start in range(steps):
            for step in range(start, steps):
                value = rewards[step, copy] + discount * (1 - terminated[step, copy]) * values[step + 1, copy]
                expected[start, copy] += (discount * decay) ** (step - start) * (value - values[step, copy])
                if ended[step, copy]:
                    break
    arrays = (tf.constant(array, tf.float32) for array in (values, rewards, terminated, ended))
    np.testing.assert_allclose(generalised_advantages(*arrays, discount, decay), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("difference", "good"), [(2.0, True), (-0.4, True), (-0.6, False)])
def test_rewards_match_others_if_their_mean_difference_is_at_most_a_standard_error_below(difference, good):
    others = np.array([-300.0, 200.0])  # easy and hard episodes do not count
    rewards = others + difference + np.array([-0.5, 0.5])  # the error is 0.5
    assert matches(rewards, others, margin=0.0) is good
    assert matches(rewards, others, margin=0.55) is good
    assert matches(rewards, others, margin=0.65) is True
    assert matches(others, others, margin=0.0) is True


def test_an_objective_that_follows_from_the_teacher_is_met_by_differences_in_the_same_episodes():
    teacher, student = np.array([300.0, 20.0]), np.array([299.0, 21.0])
    assert Reference(200.0, teacher, None, 0.0, {}).adjusted(student).tolist() == [199.0, 201.0]
    assert Reference(None, teacher, None, 0.0, {}).adjusted(student) is student  # the settings say it


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (499.7, 0.21, "499.7 ± 0.2"),
        (47.3824, 0.0181, "47.382 ± 0.018"),
        (500.0, 0.0, "500.0 ± 0.0"),
        (9457, 18, "9457.0 ± 18.0"),
    ],
)
def test_rewards_have_as_many_digits_as_their_error_needs(mean, error, text):
    assert rewards_text({"reward_mean": mean, "reward_stderr": error}) == text


@pytest.mark.parametrize(
    ("ours", "keras_optimizer"),
    [(adam, keras.optimizers.Adam(0.01)), (rmsprop, keras.optimizers.RMSprop(0.01, rho=0.9))],
)
def test_optimizers_do_what_keras_does(ours, keras_optimizer, generator):
    weight = mean = square = tf.zeros([3])
    variable = keras.Variable(np.zeros(3, np.float32))
    for update in range(1, 20):
        gradient = tf.constant(generator.normal(size=3), tf.float32)
        weight, mean, square = ours(weight, gradient, mean, square, tf.constant(float(update)), 0.01)
        keras_optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(weight, variable.value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("widths", [WIDTHS, (20, 5, 20)])  # small kernels and large ones are multiplied in two ways
def test_members_are_independent_networks(widths, generator, replay):
    settings = configuration("cartpole")
    together = StudentCartPole(settings["model"], widths, members=3)
    alone = StudentCartPole(settings["model"], widths)
    weights = together.initial_weights(generator, 0.3)
    state = initial_state(weights, together.full_masks())
    state, losses = train_student(together, state, replay, settings["distill"], np.random.default_rng(1), 5, 1e-2)
    for member in range(3):
        own = initial_state([w[member][None] for w in weights], alone.full_masks())
        own, loss = train_student(alone, own, replay, settings["distill"], np.random.default_rng(1), 5, 1e-2)
        assert loss[0] == pytest.approx(losses[member], rel=1e-4)
        for trained, one in zip(state.weights, own.weights, strict=True):
            np.testing.assert_allclose(trained[member], one[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_what_fills_narrow_layers_up_changes_no_update(activation, generator, replay, monkeypatch):
    settings = configuration("cartpole", assignments=["prune.averaging=0.99"])
    student = StudentCartPole(settings["model"] | {"hidden_activation": activation}, (3, 12, 2))
    start = initial_state(student.initial_weights(generator, 0.3), student.full_masks(), averaged=True)
    schedule = PruningSchedule(0.0, 0.6, 0, 30, 3)
    states = []
    for width in (1, 8):
        monkeypatch.setattr(model, "LEAST_WIDTH", width)
        states.append(
            train_student(student, start, replay, settings["prune"], np.random.default_rng(1), 30, 1e-2, schedule)[0]
        )
    for one, other in zip(*map(tf.nest.flatten, states), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    wide = train.filled(states[0], student.wide)
    assert wide.weights[2].shape == (1, 8, 12)
    following = train.cropped(wide, student)
    for one, other in zip(*map(tf.nest.flatten, (following, states[0])), strict=True):
        np.testing.assert_array_equal(one, other)


def test_updates_in_several_blocks_are_the_same_updates(generator, replay, monkeypatch):
    settings = configuration("cartpole")
    student, schedule = StudentCartPole(settings["model"], WIDTHS), PruningSchedule(0.0, 0.8, 0, 9, 4)
    start = initial_state(student.initial_weights(generator, 0.3), student.full_masks())
    states = []
    for block in (8, 3):  # the masks are due before updates 1, 5 and 9, in the midst of blocks of 3
        monkeypatch.setattr(train, "BLOCK_BYTES", block * 128 * replay.entry_bytes())
        draws = np.random.default_rng(1)
        states.append(train_student(student, start, replay, settings["distill"], draws, 12, 1e-2, schedule)[0])
    assert int(states[0].update) == float(states[0].clock) == 12
    assert any(np.any(mask == 0) for mask in states[0].masks)
    for one, other in zip(*map(tf.nest.flatten, states), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_lowers_the_loss(generator, replay):
    settings = configuration("cartpole")
    student = StudentCartPole(settings["model"], WIDTHS)
    state = initial_state(student.initial_weights(generator, 0.3), student.full_masks())
    losses = []
    for _ in range(5):
        state, loss = train_student(student, state, replay, settings["distill"], generator, 100, 1e-2)
        losses.append(loss[0])
    assert losses[-1] < losses[0] / 2
    assert int(state.update) == 500


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_masked_weights_stay_masked_and_sparsity_follows_the_schedule(optimizer, generator, replay):
    settings = configuration("cartpole", assignments=[f"prune.optimizer={optimizer}"])
    student = StudentCartPole(settings["model"], WIDTHS)
    state = initial_state(student.initial_weights(generator), student.full_masks())
    schedule = PruningSchedule(0.0, 0.8, 0, 100, 10)
    hidden = [np.zeros(shape, bool) for shape in student.kernel_shapes()]
    for done in (30, 60, 90, 120):
        state, _ = train_student(student, state, replay, settings["prune"], generator, 30, 1e-2, schedule)
        masks = [mask.numpy() == 0 for mask in state.masks]
        assert all(np.all(now[before]) for now, before in zip(masks, hidden, strict=True))
        last_mask_update = (done - 1) // 10 * 10
        for size, mask in zip(student.layer_sizes(), masks, strict=True):
            assert mask.sum() == np.floor(schedule.sparsity(last_mask_update).numpy() * np.float32(size))
        hidden = masks
    plain = student.plain(state.weights, state.masks)
    assert all(np.all(w[mask[0]] == 0) for w, mask in zip(plain.get_weights()[::2], hidden, strict=True))
    assert not any(np.signbit(w[w == 0]).any() for w in plain.get_weights())


def test_speed_zero_turns_pruning_off_and_freezes_the_clock(generator, replay):
    settings = configuration("cartpole")
    student = StudentCartPole(settings["model"], WIDTHS)
    state = initial_state(student.initial_weights(generator), student.full_masks())
    schedule = PruningSchedule(0.5, 0.9, 0, 100, 10)
    state, _ = train_student(student, state, replay, settings["prune"], generator, 20, 1e-3, schedule, speed=0.0)
    assert float(state.clock) == 0 and all(np.all(mask == 1) for mask in state.masks)
    state, _ = train_student(student, state, replay, settings["prune"], generator, 20, 1e-3, schedule, speed=0.5)
    assert float(state.clock) == 10


@pytest.fixture
def teacher_task(new_run):
    return lambda config: make_teacher_task(config, new_run)


def make_teacher_task(config, new_run):
    """A Task with a small untrained teacher, and that teacher."""
    agent = CartPoleDQN(config["model"], WIDTHS)
    agent.network.set_weights(agent.initial_weights(np.random.default_rng(3), 0.1))
    rewards = np.array([9.0, 10.0])
    reference = Reference(None, rewards, rewards, 0.0, {})
    task = Task(config, Seeds(0), agent.network, reference, sum(agent.layer_sizes()), None, new_run(config))
    return task, agent


def filled(task):
    replay = StateMemory(task.config, task.teacher, task.seeds)
    replay.fill()
    return replay


def test_teacher_fills_the_replay_with_its_outputs(config, teacher_task):
    task, agent = teacher_task(config)
    seen = []
    task.run.progress = lambda *now: seen.append(now)
    replay, again = task.new_replay(), filled(task)
    replay.fill()
    assert replay.size == config["replay"]["observe"]
    assert seen[0][1] < seen[-1][1] and seen[-1] == ("the teacher fills the replay", replay.added, replay.size)
    states = replay.arrays["observations"]
    np.testing.assert_allclose(replay.arrays["teacher_outputs"], agent.network(states), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(states, again.arrays["observations"])
    # A state beyond the limits ends an episode. No action is taken there, so it does not belong into the replay.
    assert abs(states[:, 0]).max() <= 2.4 and abs(states[:, 2]).max() <= 0.2095


def test_all_small_students_share_one_compiled_block(config, teacher_task):
    config = config | {"distill": config["distill"] | {"updates": 70, "epochs": 2, "confirm_episodes": 0}}
    config["prune"] |= {"updates": 30, "evaluate_every": 30, "iterations": 1}
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task))
    before = train._student_block.cache_info().misses
    for widths in ((2, 2, 2), (1, 2, 1)):
        student = StudentCartPole(config["model"], widths, members=2)
        fit_supervised(student, task, step=1, schedule=PruningSchedule.of(config["prune"]))
        state = initial_state(student.alone.initial_weights(np.random.default_rng(0)), student.alone.full_masks())
        iterative_pruning_policy_distillation(student.alone, state, task, step=2)
    assert train._student_block.cache_info().misses == before + 1
    settings = config["prune"]
    keys = settings["optimizer"], settings["tau"], PruningSchedule.of(settings), settings["averaging"]
    assert train._student_block(student.wide, *keys).experimental_get_tracing_count() == 1


@pytest.mark.parametrize("refill", [True, False])
def test_fit_supervised_reports_whether_the_objective_was_met(config, teacher_task, refill):
    for objective, met in ((0, True), (1000, False)):
        settings = config | {"evaluation": config["evaluation"] | {"objective": objective}}
        task, _ = teacher_task(settings)
        task = task._replace(replay=None if refill else filled(task))
        distilled = fit_supervised(StudentCartPole(config["model"], (2, 2, 2), members=2), task, step=1)
        assert distilled.met is met
        assert distilled.epochs == task.run.evaluations == (1 if met else config["distill"]["epochs"])
        assert distilled.rewards.shape == (config["distill"]["episodes"],)


def test_states_are_drawn_in_proportion_to_how_far_the_teachers_outputs_lie_apart(config, teacher_task):
    outputs = np.array([[0, 0.1], [0.5, 0.2], [1, 1], [-1, 1]], np.float32)
    for least, shares in ((0.0, [1, 1, 1, 1]), (0.2, [0.2, 0.3, 0.2, 2])):
        task, _ = teacher_task(config | {"replay": config["replay"] | {"least_spread": least}})
        replay = StateMemory(task.config, task.teacher, task.seeds)
        replay.add(observations=np.zeros((4, 4)), teacher_outputs=outputs)
        rows = replay.rows(np.random.default_rng(0), (100, 400))
        counts = np.bincount(rows.flat, minlength=4)
        np.testing.assert_allclose(counts / 40_000, np.array(shares) / np.sum(shares), atol=0.01)
        assert rows.shape == (100, 400) and len(counts) == 4  # nothing beyond what it holds


def test_averages_are_means_of_the_weights_that_soon_forget_the_first():
    state, mean = initial_state([np.array([4.0], np.float32)], averaged=True), 4.0
    for update in range(1, 60):
        state = average(state._replace(weights=[tf.constant([np.sin(update)], tf.float32)], update=update * 1.0), 0.8)
        decay = min(0.8, update / (update + 10))
        mean = decay * mean + (1 - decay) * np.sin(update)
    np.testing.assert_allclose(state.played[0], [mean], rtol=1e-5)
    assert initial_state([np.zeros(1)]).played[0].shape == [1]  # the weights, where nothing is averaged


def test_a_student_whose_weights_are_averaged_is_the_average(config, teacher_task):
    config = config | {"distill": config["distill"] | {"epochs": 1, "averaging": 0.9}}
    task, _ = teacher_task(config)
    student, seen = StudentCartPole(config["model"], (2, 2, 2), members=2), []
    plain = student.plain
    student.plain = lambda weights, masks, member: seen.append(weights) or plain(weights, masks, member)
    state, step = None, train.train_student

    def noting_state(*arguments, **named):
        nonlocal state
        state, losses = step(*arguments, **named)
        return state, losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_student", noting_state)
        fit_supervised(student, task, step=1)
    assert seen[0] is state.averages
    assert not np.allclose(state.averages[0], state.weights[0])


def test_visited_states_are_all_of_them_or_those_of_every_second_fourth_step(monkeypatch, generator):
    monkeypatch.setattr(Visited, "LIMIT", 100 * 8)
    visited, steps = Visited(), [np.full((8 - index // 8, 2), index, np.float32) for index in range(60)]
    for _ in range(2):  # the second time in the same memory
        visited.clear()
        for count, step in enumerate(steps, 1):
            visited.add(step)
            states = np.concatenate(steps[: count : visited.stride])
            np.testing.assert_array_equal(visited.states(), states)
            assert len(states) <= 100
        assert visited.stride == 4 and visited.steps == 60


@pytest.mark.parametrize("states", [3, 390])
def test_a_copied_memory_keeps_what_is_added_to_itself_and_can_be_restored(states, config, teacher_task, generator):
    task = teacher_task(config)[0].apart()
    before = {name: array.copy() for name, array in task.begun.arrays.items()}
    used, other = task.new_replay(), task.new_replay()
    used.add_visited(generator.normal(size=(states, 4)).astype(np.float32))
    for name, array in before.items():
        np.testing.assert_array_equal(task.begun.arrays[name], array)
        np.testing.assert_array_equal(other.arrays[name][: other.size], array[: other.size])
        assert not np.array_equal(used.arrays[name], other.arrays[name])
    other.restore(used.content())
    assert (other.size, other.next, other.added) == (used.size, used.next, used.added)
    for name, array in used.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array)


def test_games_that_students_go_on_with_join_the_replay(config, teacher_task):
    changes = {"capacity": 2000, "student_steps": 30, "environments": 5}
    task, agent = teacher_task(config | {"replay": config["replay"] | changes})
    student = StudentCartPole(config["model"], (2, 2, 2), members=2)
    state = initial_state(student.initial_weights(np.random.default_rng(0), 0.3), student.full_masks())
    replay = StateMemory(task.config, task.teacher, task.seeds)
    games = StudentGames(student, task, 1)
    games.go_on(state, replay, 1)
    ended = 30 * 4 - replay.size  # two copies for each member; the last state of an episode does not count
    assert 2 <= ended <= 20
    games.go_on(state, replay, 2)
    states = replay.arrays["observations"][: replay.size]
    np.testing.assert_allclose(replay.arrays["teacher_outputs"][: replay.size], agent.network(states), rtol=1e-4, atol=1e-5)
    assert abs(states[:, 0]).max() <= 2.4 and abs(states[:, 2]).max() <= 0.2095
    starts = np.abs(states).max(axis=1) <= 0.05  # where an episode begins
    assert starts[:4].all() and 4 + 2 * ended - 8 <= starts.sum() <= 4 + 2 * ended + 8  # games went on in between
    again = StudentGames(student, task, 1)
    again.restore(games.content())
    np.testing.assert_array_equal(again.player.observations, games.player.observations)
    np.testing.assert_array_equal(again.player.over, games.player.over)
    averaged = StudentGames(student, task, 1)
    averaged.go_on(state._replace(weights=[-w for w in state.weights], averages=state.weights), replay, 1)
    np.testing.assert_array_equal(averaged.content(), games.content()[:30])  # played with the averages


def test_states_that_students_visit_join_the_replay_with_the_teachers_outputs(config, teacher_task):
    changes = {"capacity": 2000, "student_states": 50}
    task, agent = teacher_task(config | {"replay": config["replay"] | changes})
    replay = filled(task)
    before = replay.size
    student = StudentCartPole(config["model"], (2, 2, 2), members=2)
    state = initial_state(student.initial_weights(np.random.default_rng(0), 0.3), student.full_masks())
    player = evaluation_player(config, 3, student.members)
    policy = student_policy(student)(state.weights, state.masks)
    rewards = evaluate_student(player, policy, task, replay, "distill", 1)
    np.testing.assert_array_equal(rewards, player.evaluate(policy, task.seeds.environment("select", "distill", 1)))
    assert replay.size == before + min(50, int(rewards.sum()))  # CartPole gives 1 for each state that is acted on
    states = replay.arrays["observations"][before : replay.size]
    assert len(np.unique(states, axis=0)) == len(states)
    outputs = replay.arrays["teacher_outputs"][before : replay.size]
    np.testing.assert_allclose(outputs, agent.network(states), rtol=1e-4, atol=1e-5)


class Scores:
    """Stands in for a Player: gives the scores it was made with, one row of members an epoch."""

    def __init__(self, epochs):
        self.epochs = iter(epochs)

    def evaluate(self, policy, seed, visited):
        return np.array([np.broadcast_to(score, 2) for score in next(self.epochs)], float)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("until", "patience", "confirmed", "epochs", "met", "kept"),
    [
        ("objective", 1, None, [(50, 60), (110, 90)], True, 110),
        ("objective", 3, None, [(200, 0), (110, 0), (120, 0)], True, 200),  # the best is kept, not the last
        ("objective", 2, None, [(150, 0), (0, 150), (0, 140)], True, 150),  # in a row counts for each member
        ("objective", 1, [90, 130], [(150, 0), (140, 0)], True, 130),  # not confirmed, then confirmed
        ("objective", 1, [90, 80, 70], [(150, 0), (140, 0), (0, 160)], False, 90),
        ("objective", 1, None, [(10, 20), (30, 5), (7, 8)], False, 30),
        ("teacher", 1, [130, 170], [(150, 0), (140, 0)], True, 170),  # the teacher has 160
        ("teacher", 1, [130, 120, 125], [(150, 0), (140, 0), (190, 0)], True, 130),  # never matched: the best is kept
        ("teacher", 1, [130, 90], [(150, 0), (140, 0), (80, 0)], True, 130),  # what is confirmed goes before high scores
        ("teacher", 1, [170, 300], [(190, 0)], True, 170),  # what matches ends it at once
    ],
)
def test_distillation_ends_as_the_scores_say(
    monkeypatch, config, teacher_task, until, patience, confirmed, epochs, met, kept
):
    config = config | {
        "evaluation": config["evaluation"] | {"objective": 100},
        "distill": config["distill"]
        | {"until": until, "patience": patience, "epochs": 3, "updates": 2, "confirm_episodes": 2 if confirmed else 0},
    }
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task), reference=Reference(None, np.full(2, 160.0), None, 0.0, {}))
    confirmed = iter(confirmed or [])
    monkeypatch.setattr(train, "evaluation_player", lambda *_: Scores(epochs))
    monkeypatch.setattr(train, "evaluate_network", lambda *_: np.full(2, float(next(confirmed))))
    distilled = fit_supervised(StudentCartPole(config["model"], (1, 1, 1), members=2), task, step=1)
    assert (distilled.met, distilled.epochs) == (met, len(epochs))
    assert distilled.rewards.mean() == kept


def test_states_of_disturbed_games_join_the_replay(config, teacher_task):
    config["evaluation"]["robust"] = {"noise": 0.5, "epsilon": 0.5}
    config["replay"] |= {"capacity": 5000, "student_states": 7}
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task))
    student = StudentCartPole(config["model"], (2, 2, 2))
    state = initial_state(student.initial_weights(np.random.default_rng(0), 0.3), student.full_masks())
    training, before = train.StudentTraining(student, state, task, "distill", 1, 1), task.replay.added
    training.round = 1
    training.evaluate()
    assert task.replay.added == before + 3 * 7  # undisturbed and in both ways
    training.close()


@pytest.mark.parametrize(("disturbed", "met"), [((118, 118), True), ((100, 110), True), ((100, 108), False)])
def test_a_student_that_is_not_robust_does_not_meet_the_objective(monkeypatch, config, teacher_task, disturbed, met):
    config = config | {
        "evaluation": config["evaluation"] | {"objective": 100, "robust": {"noise": 0.5}},
        "distill": config["distill"] | {"patience": 1, "epochs": 1, "updates": 2, "confirm_episodes": 2},
    }
    task, _ = teacher_task(config)
    reference = task.reference._replace(robust={"noise": {"students": np.full(2, 110.0), "choose": None}})
    task = task._replace(replay=filled(task), reference=reference)

    def evaluate(network, settings, seeds, episodes, *purpose):
        return np.array(disturbed, float) if settings["evaluation"]["noise"] else np.full(2, 200.0)

    monkeypatch.setattr(train, "evaluation_player", lambda *_: Scores([(150, 0)]))
    monkeypatch.setattr(train, "evaluate_network", evaluate)
    distilled = fit_supervised(StudentCartPole(config["model"], (1, 1, 1), members=2), task, step=1)
    assert distilled.met is met


def test_of_equal_members_that_with_the_better_worst_episodes_is_kept(monkeypatch, config, teacher_task):
    config = config | {"distill": config["distill"] | {"epochs": 1, "updates": 2, "confirm_episodes": 0, "confidence": 0}}
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task))
    epochs = Scores([[np.array([50.0, 150.0]), np.array([90.0, 110.0])]])
    monkeypatch.setattr(train, "evaluation_player", lambda *_: epochs)
    distilled = fit_supervised(StudentCartPole(config["model"], (1, 1, 1), members=2), task, step=1)
    assert distilled.rewards.tolist() == [90.0, 110.0]


@pytest.mark.parametrize(
    ("give_up", "epochs", "trained"),
    [
        (0, [(10, 20), (10, 20), (10, 20)], 3),
        (2, [(10, 20), (10, 20), (10, 20)], 2),
        (2, [(10, 20), (10, 60), (10, 20)], 3),  # one member above the lower bound is enough
        (1, [(10, 20), (10, 200), (10, 20)], 1),
        (2, [(10, 20), (10, 36), (10, 40)], 3),  # one epoch more like the second leads above it
        (2, [(10, 20), (10, 34), (10, 40)], 2),
    ],
)
def test_distillation_is_given_up_when_all_members_would_stay_below_the_lower_bound(
    monkeypatch, config, teacher_task, give_up, epochs, trained
):
    config = config | {
        "evaluation": config["evaluation"] | {"objective": 100, "lower_bound": 50},
        "distill": config["distill"] | {"epochs": 3, "updates": 2, "give_up": give_up, "confirm_episodes": 0},
    }
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task))
    monkeypatch.setattr(train, "evaluation_player", lambda *_: Scores(epochs))
    distilled = fit_supervised(StudentCartPole(config["model"], (1, 1, 1), members=2), task, step=1)
    assert (distilled.met, distilled.epochs) == (False, trained)


@pytest.mark.parametrize(("confidence", "confirm_confidence", "epochs"), [(0, 0, 1), (1, 0, 2), (0, 1, 2), (1, 1, 3)])
def test_an_evaluation_and_its_confirmation_ask_for_margins_of_their_own(
    monkeypatch, config, teacher_task, confidence, confirm_confidence, epochs
):
    margins = {"confidence": confidence, "confirm_confidence": confirm_confidence}
    config = config | {
        "evaluation": config["evaluation"] | {"objective": 100},
        "distill": config["distill"] | {"epochs": 3, "updates": 2, "patience": 1, "confirm_episodes": 2} | margins,
    }
    task, _ = teacher_task(config)
    task = task._replace(replay=filled(task))
    uncertain, certain = np.array([95.0, 115.0]), np.array([105.0, 105.0])  # 105 +- 10 and 105 +- 0
    evaluations, confirmations = Scores([[uncertain], [certain], [certain]]), iter([uncertain, certain])
    monkeypatch.setattr(train, "evaluation_player", lambda *_: evaluations)
    monkeypatch.setattr(train, "evaluate_network", lambda *_: next(confirmations))
    distilled = fit_supervised(StudentCartPole(config["model"], (1, 1, 1)), task, step=1)
    assert (distilled.met, distilled.epochs) == (True, epochs)


def test_ipp_returns_the_sparsest_good_network_or_none(config, teacher_task, new_run):
    task, agent = teacher_task(config)
    task = task._replace(replay=filled(task))
    student = StudentCartPole(config["model"], WIDTHS)
    state = initial_state(*student.copy(agent.network))
    never = task._replace(config=config | {"evaluation": config["evaluation"] | {"objective": 1000, "lower_bound": 0}})
    assert iterative_pruning_policy_distillation(student, state, never, step=1) is None
    always = config | {"evaluation": config["evaluation"] | {"objective": 1, "lower_bound": 0}}
    task = task._replace(config=always, run=new_run(config))  # a run remembers what its first step gave
    pruned = iterative_pruning_policy_distillation(student, state, task, step=1)
    nonzero = sum(np.count_nonzero(kernel) for kernel in pruned[::2])
    assert nonzero == min(row["nonzero"] for row in rows_of(task.run)) < sum(student.layer_sizes())


@pytest.fixture
def players(monkeypatch):
    """Two lists of the players, those that were made and those that were closed."""
    made, closed, start = [], [], Player.__init__

    def make(player, *arguments, **options):
        start(player, *arguments, **options)
        made.append(player)

    monkeypatch.setattr(Player, "__init__", make)
    monkeypatch.setattr(Player, "close", lambda player: closed.append(player))
    return made, closed


def test_pruning_and_distilling_free_their_environments(config, teacher_task, players):
    config["evaluation"]["robust"] = {"noise": 0.5}
    task, agent = teacher_task(config | {"replay": config["replay"] | {"student_steps": 5, "student_states": 5}})
    task = task._replace(replay=filled(task))
    student = StudentCartPole(config["model"], WIDTHS)
    iterative_pruning_policy_distillation(student, initial_state(*student.copy(agent.network)), task, step=1)
    fit_supervised(StudentCartPole(config["model"], (2, 2, 2)), task, step=1)
    made, closed = players
    assert len(made) == len(closed) >= 6 and set(made) == set(closed)
    assert sum(player.noise > 0 for player in made) >= 2


def test_a_student_whose_weights_are_averaged_while_it_is_pruned_is_the_average(config, teacher_task):
    config = config | {
        "prune": config["prune"] | {"iterations": 1, "updates": 20, "evaluate_every": 20, "averaging": 0.9},
        "evaluation": config["evaluation"] | {"objective": 1, "lower_bound": 0},
    }
    task, agent = teacher_task(config)
    task = task._replace(replay=filled(task))
    student, seen = StudentCartPole(config["model"], WIDTHS), []
    plain = student.plain
    student.plain = lambda weights, masks: seen.append(weights) or plain(weights, masks)
    start = initial_state(*student.copy(agent.network), averaged=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_student", lambda *a, **b: seen.append(train_student(*a, **b)) or seen[-1])
        iterative_pruning_policy_distillation(student, start, task, step=1)
    (state, _), played = seen
    assert played is state.averages
    assert not np.allclose(state.averages[0], state.weights[0])


def test_a_loss_that_is_no_number_ends_the_run_by_name(generator, replay):
    settings = configuration("cartpole")
    student = StudentCartPole(settings["model"], WIDTHS)
    state = initial_state(student.initial_weights(generator), student.full_masks())
    replay.arrays["observations"][:] = np.nan
    state, loss = train_student(student, state, replay, settings["distill"], generator, 3, 1e-3)
    with pytest.raises(RunFailed, match="distill, step 2, update 3: the loss is nan"):
        check_loss(loss, "distill", 2, state)


def test_teacher_training_is_reproducible_and_learns(config, new_run):
    config = config | {
        "teacher": config["teacher"]
        | {"steps": 2000, "learning_starts": 200, "evaluate_every": 1000, "episodes": 10, "epsilon_steps": 1000},
        "model": config["model"] | {"widths": [32, 32, 16]},
        "replay": config["replay"] | {"capacity": 4000},
    }
    histories = []
    for seed in (0, 0, 1):
        run = new_run(config)
        train_dqn(CartPoleDQN(config["model"]), config, Seeds(seed), run)
        histories.append([(row["loss"], row["reward_mean"], row["reward_stderr"]) for row in rows_of(run)])
    assert histories[0] == histories[1] != histories[2]
    assert max(reward for _, reward, _ in histories[0]) > 12  # a policy without training scores 9 to 10


def test_training_goes_on_from_given_weights(config, new_run):
    rates = {"learning_rate_first": 1e-9, "learning_rate_last": 1e-9}  # so small that nothing moves
    short = {"steps": 60, "learning_starts": 30, "evaluate_every": 20, "episodes": 2} | rates
    config = config | {"teacher": config["teacher"] | short}
    agent = CartPoleDQN(config["model"])
    start = agent.initial_weights(np.random.default_rng(5), 0.3)
    train_dqn(agent, config, Seeds(0), new_run(config), start)
    for before, after in zip(start, agent.network.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)

    rates = "teacher.actor_learning_rate=1e-9 teacher.critic_learning_rate=1e-9".split()
    config = configuration("lunarlander", assignments=[*TINY_ACTOR_CRITIC, *rates])
    agents = ActorLunarLander(config["model"]), CriticLunarLander(config["model"])
    start = agents[0].initial_weights(np.random.default_rng(5), 0.3)
    train_actor_critic(*agents, config, Seeds(0), new_run(config), start)
    for before, after in zip(start, agents[0].network.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_diverged_network_is_not_kept(config, new_run, tmp_path):
    short = {"steps": 60, "learning_starts": 30, "evaluate_every": 20, "episodes": 2}
    config = config | {"teacher": config["teacher"] | short}
    agent, run = CartPoleDQN(config["model"]), new_run(config)
    start = [np.full_like(array, np.nan) for array in agent.network.get_weights()]
    before = agent.network.get_weights()
    with pytest.raises(RunFailed, match=r"the loss is nan; try a lower teacher\.learning_rate_first"):
        train_dqn(agent, config, Seeds(0), run, start)
    for array, kept in zip(before, agent.network.get_weights(), strict=True):
        np.testing.assert_array_equal(array, kept)


def test_training_a_teacher_frees_its_environments(config, new_run, players):
    short = {"steps": 60, "learning_starts": 30, "steps_per_update": 3, "evaluate_every": 9, "episodes": 2}
    config = config | {"teacher": config["teacher"] | short | {"environments": 3}}
    train_dqn(CartPoleDQN(config["model"]), config, Seeds(0), new_run(config))
    config = configuration("lunarlander", assignments=TINY_ACTOR_CRITIC)
    agents = ActorLunarLander(config["model"]), CriticLunarLander(config["model"])
    train_actor_critic(*agents, config, Seeds(0), new_run(config))
    made, closed = players
    assert len(made) == 3 and set(made) == set(closed)


def test_actor_critic_training_is_reproducible_and_learns(new_run):
    config = configuration(
        "lunarlander",
        assignments="model.widths=[32,32] teacher.environments=8 teacher.rollout=256 teacher.batch_size=128 "
        "teacher.steps=20480 teacher.evaluate_every=4096 teacher.episodes=10".split(),
    )
    histories = []
    for seed in (0, 0, 1):
        run = new_run(config)
        train_actor_critic(ActorLunarLander(config["model"]), CriticLunarLander(config["model"]), config, Seeds(seed), run)
        histories.append([(row["loss"], row["reward_mean"], row["reward_stderr"]) for row in rows_of(run)])
    assert histories[0] == histories[1] != histories[2]
    assert len(histories[0]) == 5 and rows_of(run)[-1]["update"] == 10 * 4 * 16
    means = [reward for _, reward, _ in histories[0]]
    assert means[-1] > means[0] + 50, means
    assert histories[0][-1][0] < histories[0][0][0]


TINY_ACTOR_CRITIC = (
    "model.widths=[4] teacher.environments=4 teacher.rollout=64 teacher.batch_size=64 teacher.steps=1280 "
    "teacher.evaluate_every=256 teacher.episodes=2 environment.max_episode_steps=64"
).split()


def test_steps_that_only_start_an_episode_are_not_trained_on(monkeypatch, new_run):
    """With episodes of 64 steps at most, as long as a rollout, some end with its last step."""
    config, last, seen = configuration("lunarlander", assignments=TINY_ACTOR_CRITIC), [np.zeros(4)], []

    def block(states, observations, actions, rewards, terminated, ended, rows, rates, entropy):
        only_start = np.concatenate([last[-1][None], ended[:-1]]).reshape(-1) == 1
        assert not only_start[rows].any()
        assert set(rows.reshape(-1)) == set(np.flatnonzero(~only_start))
        assert (rewards.reshape(-1)[only_start] == 0).all()
        seen.append(only_start)
        last.append(ended[-1].copy())
        return states, tf.constant(0.0)

    monkeypatch.setattr(train, "actor_critic_block", lambda *_: block)
    agents = ActorLunarLander(config["model"]), CriticLunarLander(config["model"])
    train_actor_critic(*agents, config, Seeds(0), new_run(config))
    assert len(seen) == 5 and any(only_start[:4].any() for only_start in seen)


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_an_actor_or_critic_that_is_no_number_any_more_is_named(part, new_run):
    config = configuration("lunarlander", assignments=TINY_ACTOR_CRITIC)
    agents = {"actor": ActorLunarLander(config["model"]), "critic": CriticLunarLander(config["model"])}
    loss = agents[part].loss
    agents[part].loss = lambda *arguments: loss(*arguments) * np.nan
    with pytest.raises(RunFailed, match=f"the {part}'s weights are no numbers .*teacher.{part}_learning_rate"):
        train_actor_critic(*agents.values(), config, Seeds(0), new_run(config))


# Going on after an interruption


class Interrupted(Exception):
    pass


class RandomScores:
    """Stands in for a Player: scores that follow from the seed alone, good and bad ones."""

    def __init__(self, members, episodes):
        self.shape = members, episodes

    def evaluate(self, policy, seed, visited):
        if visited:
            visited(np.random.default_rng(seed).normal(size=(20, 4)).astype(np.float32))
        return np.random.default_rng(seed).normal(10, 4, self.shape)

    def close(self):
        pass


def interrupted_everywhere(phase, task, new_run):
    """Runs a phase whole, and again for every fourth checkpoint: cut off after it, and resumed. Yields the results."""

    def go(run):
        replay = None
        if not task.config["replay"]["refill"]:
            replay = StateMemory(task.config, task.teacher, task.seeds)
            if not run.include("replay", replay):
                replay.fill()
        result = run.once(("phase",), phase, task._replace(run=run, replay=replay))
        return result, [row[1:] for row in run.rows]

    whole = new_run(task.config)
    expected = go(whole)
    count = len(whole.checkpoint_times)
    assert count > 5
    for number in range(1, count, 4):
        run = new_run(task.config)
        write = run.checkpoints.write

        def write_and_stop(value, run=run, write=write, number=number):
            write(value)
            if len(run.checkpoint_times) + 1 == number:
                raise Interrupted

        run.checkpoints.write = write_and_stop
        with pytest.raises(Interrupted):
            go(run)
        run.unlock()
        yield expected, go(new_run(task.config, run.folder, resume=True))


def same(first, second):
    assert first[1] == second[1]  # metrics
    assert repr(first[0][1:]) == repr(second[0][1:])
    for one, other in zip(first[0][0], second[0][0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("recovery", "refill"),
    [
        *(("freeze", True), ("rollback", False)),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("freeze", False), ("rollback", True))),
    ],
)
def test_ipp_goes_on_to_the_bit_from_its_checkpoints(monkeypatch, config, teacher_task, new_run, recovery, refill):
    settings = {"recovery": recovery, "patience": 2, "rollbacks": 9, "iterations": 3, "updates": 60, "evaluate_every": 20}
    averaging = 0.0 if refill else 0.9
    config = config | {
        "prune": config["prune"] | settings | {"end": 1000, "episodes": 3, "averaging": averaging},
        "replay": config["replay"] | {"refill": refill, "observe": 100, "student_states": 0 if refill else 10},
        "evaluation": config["evaluation"] | {"objective": 10, "lower_bound": 9.5},
        "checkpoint": {"seconds": 0},
    }
    task, agent = teacher_task(config)
    monkeypatch.setattr(train, "BLOCK_BYTES", 8 * task.config["prune"]["batch_size"] * 24)  # blocks of 8 updates, then 4
    monkeypatch.setattr(train, "evaluation_player", lambda *_: RandomScores(1, 3))
    student = StudentCartPole(config["model"], WIDTHS)
    speeds = set()

    def ipp(task):
        start = initial_state(*student.copy(agent.network), averaged=averaging > 0)
        return iterative_pruning_policy_distillation(student, start, task, step=1), None

    def noting_speed(*arguments, **named):
        speeds.add(arguments[8])
        return train_student(*arguments, **named)

    monkeypatch.setattr(train, "train_student", noting_speed)
    for expected, resumed in interrupted_everywhere(ipp, task, new_run):
        same(expected, resumed)
    assert speeds > {1.0} and (0.0 in speeds) == (recovery == "freeze"), speeds


@pytest.mark.parametrize("refill", [True, False])
def test_distillation_goes_on_to_the_bit_from_its_checkpoints(monkeypatch, config, teacher_task, new_run, refill):
    config = config | {
        "distill": config["distill"]
        | {"epochs": 3, "updates": 20, "patience": 2, "averaging": 0 if refill else 0.9, "confidence": 1},
        "replay": config["replay"]
        | {"refill": refill, "observe": 100}
        | ({} if refill else {"student_states": 10, "student_steps": 30, "least_spread": 0.1}),
        "evaluation": config["evaluation"] | {"objective": 10},
        "checkpoint": {"seconds": 0},
    }
    task, _ = teacher_task(config)
    monkeypatch.setattr(train, "BLOCK_BYTES", 8 * task.config["distill"]["batch_size"] * 24)
    monkeypatch.setattr(train, "evaluation_player", lambda *_: RandomScores(2, 3))

    student = StudentCartPole(config["model"], (2, 2, 2), members=2)  # one, whose updates are compiled once

    def distil(task):
        return fit_supervised(student, task, step=1)

    for expected, resumed in interrupted_everywhere(distil, task, new_run):
        same(expected, resumed)
        assert expected[0][2] == 3  # epochs: three blocks each


def test_a_block_of_updates_is_limited_by_its_work(monkeypatch, generator, replay):
    settings, blocks = configuration("cartpole"), []
    student = StudentCartPole(settings["model"], WIDTHS, members=2)
    state = initial_state(student.initial_weights(generator), student.full_masks())
    monkeypatch.setattr(train, "BLOCK_WORK", 7 * 128 * 2 * (sum(student.layer_sizes()) + 1000))

    def on_block(state, done):
        blocks.append(done[0])

    train_student(student, state, replay, settings["distill"], generator, 20, 1e-3, on_block=on_block)
    assert blocks == [7, 14, 20]


def test_the_first_member_starts_from_given_weights(monkeypatch, config, teacher_task, new_run):
    slow = {"epochs": 1, "updates": 1, "members": 2, "learning_rate": 1e-9}
    task, agent = teacher_task(config | {"distill": config["distill"] | slow})
    start = agent.initial_weights(np.random.default_rng(8), 0.1)
    for best in range(2):
        scores = RandomScores(2, 3)
        scores.evaluate = lambda *_, best=best, **__: np.eye(2)[best][:, None] + np.arange(3.0)  # that member is kept
        monkeypatch.setattr(train, "evaluation_player", lambda *_, scores=scores: scores)
        student, again = StudentCartPole(config["model"], WIDTHS, members=2), task._replace(run=new_run(task.config))
        weights = fit_supervised(student, again, 1, 1, start).weights
        distance = max(np.abs(one - other).max() for one, other in zip(weights, start, strict=True))
        assert (distance < 1e-6) if best == 0 else (distance > 0.1)


def test_a_run_does_a_step_once(config, teacher_task):
    task, _ = teacher_task(config)
    student = StudentCartPole(config["model"], (2, 2, 2), members=2)
    first, again, other = (fit_supervised(student, task, 1, attempt) for attempt in (1, 1, 2))
    assert again is first and other is not first
