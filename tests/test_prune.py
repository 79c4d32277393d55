"""Schedule, masks, redundancy and sizes: the rules of IPP and shrinking, against the paper's formulas and by properties."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pops import prune
from pops.configs import configuration
from pops.model import CartPoleDQN, StudentCartPole, StudentPong
from pops.prune import (
    Freeze,
    PruningSchedule,
    _calculate_sizes_according_to_redundancy,
    calculate_redundancy,
    redundant_layer,
    shapes_to_try,
    shrink,
    smaller_shapes,
    without_layer,
)
from pops.support.records import choices
from pops.support.recovery import Rollback
from pops.support.shapes import alive, input_shares, joined_at, strongest_units, widths_between
from pops.support.updates import initial_state
from pops.train import Distilled, Task
from pops.utils import kernels, magnitude_mask

SETTINGS = configuration("cartpole")["model"]


def count(widths):
    return [before * after for before, after in zip([4, *widths], [*widths, 2], strict=True)]


# Schedule


def test_schedule_has_the_papers_values():
    schedule = PruningSchedule(0.0, 0.99, 0, 500_000, 10)
    for t, sparsity in ((0, 0), (125_000, 0.99 * (1 - 0.75**3)), (250_000, 0.99 * 0.875), (500_000, 0.99), (10**6, 0.99)):
        assert float(schedule.sparsity(t)) == pytest.approx(sparsity, abs=1e-6)


def test_schedule_waits_for_its_begin():
    schedule = PruningSchedule(0.2, 0.5, 100, 200, 10)
    assert float(schedule.sparsity(0)) == pytest.approx(0.2)
    assert float(schedule.sparsity(100)) == pytest.approx(0.2)
    assert float(schedule.sparsity(150)) == pytest.approx(0.5 - 0.3 / 8)


# Masks


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 9999), st.integers(0, 10_000), st.booleans())
def test_mask_hides_exactly_the_smallest(members, size, sparsity, seed, ties):
    sparsity = np.float32(sparsity / 10_000)
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(members, size, 2)).astype(np.float32)
    if ties:
        kernel = np.round(kernel)
    mask = magnitude_mask(kernel, np.ones_like(kernel), sparsity, np.int32(2 * size)).numpy()
    hidden = math.floor(sparsity * np.float32(2 * size))
    for weights, kept in zip(abs(kernel).reshape(members, -1), mask.reshape(members, -1), strict=True):
        assert np.count_nonzero(kept == 0) == hidden and set(kept) <= {0, 1}
        if 0 < hidden < len(weights):
            assert weights[kept == 0].max() <= weights[kept == 1].min()


def test_weights_that_are_hidden_already_come_before_zeros_that_are_not():
    kernel, mask = np.float32([[[0, 0, 0, 0, 5]]]), np.float32([[[1, 1, 0, 1, 1]]])
    for sparsity, hidden in ((0.2, [2]), (0.4, [0, 2]), (0.9, [0, 1, 2, 3])):
        found = magnitude_mask(kernel, mask, np.float32(sparsity), np.int32(5)).numpy()
        np.testing.assert_array_equal(np.flatnonzero(found == 0), hidden)


def test_masks_never_give_a_weight_back_while_sparsity_grows():
    schedule = PruningSchedule(0.0, 0.9, 0, 100, 1)
    generator = np.random.default_rng(0)
    weights = [tf.constant(generator.normal(size=(1, 6, 5)), tf.float32), tf.zeros([1, 1, 5])]
    masks = [tf.ones([1, 6, 5])]
    for t in range(0, 101, 10):
        new = schedule.masks(weights, masks, float(t), np.int32([30]))
        assert np.all(new[0] <= masks[0])
        masks = new
        weights = [weights[0] + generator.normal(size=(1, 6, 5)), weights[1]]  # training goes on
    assert np.count_nonzero(masks[0] == 0) == 27


def test_a_start_sparser_than_the_schedule_keeps_its_masks():
    weights = [tf.ones([1, 3, 2]), tf.zeros([1, 1, 2])]
    sparse = [tf.constant([[[1.0, 0], [0, 0], [0, 0]]])]
    kept = PruningSchedule(0.0, 0.5, 0, 10, 1).masks(weights, sparse, 0.0, np.int32([6]))
    np.testing.assert_array_equal(kept[0], sparse[0])


def test_shares_of_inputs_follow_the_paths_to_the_outputs():
    first = np.array([[2.0, 0, 0], [1, 1, 0], [0, 0, 5], [0, 0, 0]])
    second = np.array([[1.0, 2], [4, 0], [0, 0]])  # nothing leads on from the last unit
    np.testing.assert_allclose(input_shares([first, second]), [6 / 13, 7 / 13, 0, 0])
    np.testing.assert_array_equal(input_shares([first, 0 * second]), 0)


# How IPP answers bad scores


def state_at(clock):
    return initial_state([tf.zeros([1, 1, 1]), tf.zeros([1, 1, 1])])._replace(clock=tf.constant(float(clock)))


def test_freeze_turns_pruning_off_and_on_and_ends_after_five():
    recovery = Freeze({"patience": 5}, state_at(0))
    state = state_at(7)
    assert recovery.after_evaluation(state, met=False, below=True) == (state, False)
    assert recovery.speed == 0
    recovery.after_evaluation(state, met=False, below=False)
    assert recovery.speed == 0  # between the bound and the objective nothing changes
    recovery.after_evaluation(state, met=True, below=False)
    assert recovery.speed == 1
    answers = [recovery.after_evaluation(state, met=False, below=True)[1] for _ in range(5)]
    assert answers == [False] * 4 + [True]


def test_freeze_ends_ipp_when_the_mean_stays_below_the_bound():
    recovery = Freeze({"patience": 5}, state_at(0))
    assert [recovery.after_iteration(True, 0.1 * i) for i in range(5)] == [False] * 4 + [True]


def test_freeze_kicks_the_learning_rate_and_then_ends_ipp():
    recovery = Freeze({"patience": 5}, state_at(0))
    recovery.after_evaluation(state_at(0), met=False, below=True)
    ends, factors = [], []
    for _ in range(6):
        ends.append(recovery.after_iteration(False, 0.5))
        factors.append(recovery.rate_factor)
    assert factors == [1, 1, 1, 1, 10, 10]
    assert ends == [False] * 5 + [True]
    recovery.after_evaluation(state_at(0), met=True, below=False)
    recovery.after_iteration(False, 0.6)
    recovery.after_evaluation(state_at(0), met=False, below=True)
    for _ in range(5):
        recovery.after_iteration(False, 0.7)
    assert recovery.rate_factor == pytest.approx(0.1)  # divided by 100


def test_rollback_restores_the_last_good_state_and_prunes_more_slowly():
    recovery = Rollback({"patience": 2, "rollbacks": 2, "end": 100}, state_at(0))
    good, bad = state_at(10), state_at(20)
    assert recovery.after_evaluation(good, met=True, below=False) == (good, False)
    assert recovery.after_evaluation(bad, met=False, below=True) == (bad, False)
    assert recovery.after_evaluation(bad, met=False, below=True) == (good, False)
    assert recovery.speed == 0.5
    for left in (1, 0):
        recovery.after_evaluation(bad, met=False, below=True)
        assert recovery.after_evaluation(bad, met=False, below=True) == (good, left == 0)


def test_rollback_ends_when_the_schedule_is_done_and_the_score_is_good():
    recovery = Rollback({"patience": 2, "rollbacks": 2, "end": 100}, state_at(0))
    assert not recovery.after_evaluation(state_at(100), met=False, below=False)[1]
    assert recovery.after_evaluation(state_at(100), met=True, below=False)[1]


# Redundancy


def test_redundancy_is_the_share_of_zeros_of_the_original():
    agent = CartPoleDQN(SETTINGS, (3, 2, 2))
    weights = [np.ones_like(w) for w in agent.network.get_weights()]
    weights[0][:, 0] = 0  # 4 of 12
    weights[6][0, 0] = 0  # 1 of 4
    agent.network.set_weights(weights)
    assert calculate_redundancy(agent.network, [12, 6, 4, 4]) == pytest.approx([1 / 3, 0, 0, 1 / 4])
    assert calculate_redundancy(agent.network, [24, 12, 8, 8]) == pytest.approx([2 / 3, 1 / 2, 1 / 2, 5 / 8])


def test_live_units_lie_on_a_path_from_input_to_output():
    first = np.array([[1, 1, 0], [0, 1, 0]], bool)  # unit 2 gets nothing
    second = np.array([[1, 0], [0, 0], [1, 1]], bool)  # unit 1 leads nowhere; unit 1 of the next gets only from unit 2
    third = np.array([[1], [1]], bool)
    first_hidden, second_hidden = alive([first, second, third])
    assert first_hidden.tolist() == [True, False, False] and second_hidden.tolist() == [True, False]
    assert not np.concatenate(alive([first, second & False, third])).any()


def test_the_strongest_units_are_those_through_which_most_passes():
    first = np.array([[1.0, 2.0, 3.0, 9.0]])
    second = np.array([[4.0, 0.0], [1.0, 2.0], [1.0, 0.5], [0.0, 0.0]])  # products 4, 6, 4.5, 0: the last one is dead
    third = np.array([[1.0], [1.0]])
    chosen = [[units.tolist() for units in strongest_units([first, second, third], widths)] for widths in ((2, 1), (4, 2))]
    assert chosen == [[[1, 2], [0]], [[0, 1, 2, 3], [0, 1]]]


def test_without_its_dead_units_a_network_does_the_same():
    generator = np.random.default_rng(0)
    agent = CartPoleDQN(SETTINGS, (6, 5, 4))
    weights = agent.initial_weights(generator)
    weights[0][:, [1, 4]] = 0
    weights[1][[1, 4]] = 0
    weights[4][[0, 3]] = 0  # units 0 and 3 of the second layer lead nowhere
    agent.network.set_weights(weights)
    units = strongest_units(agent.connections(agent.network), (4, 3, 4))
    assert [chosen.tolist() for chosen in units] == [[0, 2, 3, 5], [1, 2, 4], [0, 1, 2, 3]]
    smaller = CartPoleDQN(SETTINGS, (4, 3, 4))
    smaller.network.set_weights(agent.of_units(agent.network, units))
    states = generator.normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_allclose(smaller.network(states), agent.network(states), rtol=1e-5, atol=1e-6)


# Sizes from redundancy


WIDTHS = st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple)
# TensorFlow turns subnormal numbers off for the whole process.
REDUNDANCY = st.floats(0, 1, exclude_max=True, allow_subnormal=False)


@st.composite
def pruned_models(draw):
    """Widths, live units, a rule, N_l (of a network at least as large), two redundancies, the second nowhere smaller."""
    widths = draw(WIDTHS)
    live = [draw(st.integers(0, width)) for width in widths]
    growth = draw(st.sampled_from([1, 1, 3]))
    sizes = count([width * growth for width in widths])
    less = [draw(REDUNDANCY) for _ in sizes]
    more = [max(r, draw(REDUNDANCY)) for r in less]
    rule = draw(st.sampled_from(["live_units", "trimmed_units", "budgets"]))
    return widths, live, rule, sizes, less, more


@settings(deadline=None, max_examples=500)
@given(pruned_models())
@example(  # where rounding errors of one layer's budget once narrowed another layer
    (
        *((239, 19, 1, 58), [0, 0, 0, 0], "budgets", [956, 4541, 19, 58, 116]),
        *([0.0, 0.875, 0.0, 0.0, 0.5], [0.5, 0.875, 0.0, 0.0, 0.5]),
    )
)
def test_sizes_from_redundancy_always_work(model):
    widths, live, rule, sizes, less, more = model
    result = _calculate_sizes_according_to_redundancy(less, sizes, widths, count, live, rule)
    assert result == _calculate_sizes_according_to_redundancy(less, sizes, widths, count, live, rule)
    assert len(result) == len(widths)
    assert all(isinstance(new, int) and 1 <= new <= old for new, old in zip(result, widths, strict=True))
    smallest, present, new = (sum(count(w)) for w in ([1] * len(widths), widths, result))
    budget = float(np.dot(1 - np.array(less), sizes))
    assert new == smallest or (new < present and new <= budget + 1e-6)
    redundant = _calculate_sizes_according_to_redundancy(more, sizes, widths, count, live, rule)
    assert sum(count(redundant)) <= new


@settings(deadline=None, max_examples=100)
@given(pruned_models(), st.data())
def test_sizes_without_a_layer_always_work(model, data):
    widths, live, rule, sizes, less, more = model
    layer = data.draw(st.integers(0, len(widths) - 1))
    result = without_layer(layer, less, sizes, widths, count, live, rule)
    kept = [*widths[:layer], *widths[layer + 1 :]]
    assert len(result) == len(kept)
    assert all(isinstance(new, int) and 1 <= new <= old for new, old in zip(result, kept, strict=True))
    smallest, new = (sum(count(w)) for w in ([1] * len(kept), result))
    assert new == smallest or new <= float(np.dot(1 - np.array(less), sizes)) + 1e-6
    assert sum(count(without_layer(layer, more, sizes, widths, count, live, rule))) <= new


@pytest.mark.parametrize(
    ("widths", "live", "nonzero", "layer", "result"),
    [
        ((2, 2), (2, 2), [8, 4, 4], 1, (2,)),  # 12 weights: at most 15, one less than before
        ((8, 8, 8), (8, 8, 8), [32, 64, 64, 16], 1, (8, 8)),
        ((8, 8, 8), (6, 5, 4), [24, 20, 16, 8], 2, (6, 5)),  # 64 weights for 68
        ((8, 8, 8), (8, 8, 8), [12, 2, 2, 2], 0, (2, 2)),  # 16 for 18
    ],
)
def test_without_a_layer_as_many_live_units_stay_as_the_budget_allows(widths, live, nonzero, layer, result):
    original = count((400, 300, 7)[: len(widths)])  # where shares of N_l are no round numbers
    redundancy = 1 - np.array(nonzero) / original
    assert without_layer(layer, redundancy, original, widths, count, live, "live_units") == result


@settings(deadline=None, max_examples=100)
@given(pruned_models(), st.booleans())
def test_shapes_to_try_are_all_smaller_and_that_with_fewer_layers_comes_first(model, fewer_layers):
    widths, live, rule, sizes, less, _ = model
    student = StudentCartPole(SETTINGS, widths)
    shapes, layer = smaller_shapes(student, less, sizes, live, {"sizes": rule, "fewer_layers": fewer_layers})
    assert all(sum(count(shape)) < sum(count(widths)) for shape in shapes)
    assert [len(shape) for shape in shapes] == sorted(len(shape) for shape in shapes)
    assert {len(shape) for shape in shapes} <= {len(widths), len(widths) - (layer is not None)}
    assert fewer_layers or layer is None
    tried = list(shapes_to_try(shapes, student, retries=3))
    assert tried[: len(shapes)] == shapes and len(tried) <= len(shapes) + 3
    assert all(len(shape) == len(widths) for shape in tried[len(shapes) :])


class Steps:
    """Stands in for Records: keeps what PoPS tells it."""

    def __init__(self):
        self.told = []

    def started(self, step, student):
        pass

    def pruned(self, step, network, redundancy, live_units, inputs):
        self.told.append((network, redundancy))

    def shrunk(self, step, network, widths, attempts):
        self.told.append(widths)

    def failed(self, step, attempts):
        self.told.append(None)


def test_redundancy_counts_the_original_layers_around_a_removed_one_together(monkeypatch, config, new_run):
    def prune_half(student, state, task, step):
        weights = student.plain(state.weights, state.masks).get_weights()
        for kernel in weights[::2]:
            kernel[:, kernel.shape[1] // 2 :] = 0
        return weights

    def learnt(student, *_):
        network = student.plain_network("student")
        generator = np.random.default_rng(0)
        return Distilled([generator.normal(size=w.shape) for w in network.get_weights()], True, 1, np.zeros(2))

    monkeypatch.setattr(prune, "iterative_pruning_policy_distillation", prune_half)
    monkeypatch.setattr(prune, "fit_supervised", learnt)
    config["pops"] |= {"steps": 2, "fewer_layers": True}
    teacher = CartPoleDQN(SETTINGS, (8, 8, 8))
    teacher.network.set_weights(teacher.initial_weights(np.random.default_rng(1)))
    records = Steps()
    prune.pops(teacher, Task(config, None, None, None, 176, None, new_run(config)), records)
    (_, first), widths, (network, second), _ = records.told
    assert len(first) == 4 and len(widths) == 2 and len(second) == 3
    left = [np.count_nonzero(kernel) for kernel in kernels(network)]
    layer = redundant_layer(first, count((8, 8, 8)), [4, 4, 4], StudentCartPole(SETTINGS, (8, 8, 8)))
    np.testing.assert_allclose(second, 1 - np.array(left) / joined_at(layer, count((8, 8, 8))))


@settings(deadline=None, max_examples=100)
@given(pruned_models())
def test_a_redundant_layer_is_one_that_a_kernel_in_its_place_could_replace(model):
    widths, live, _, sizes, less, _ = model
    left = (1 - np.array(less)) * sizes
    units = [4, *(max(1, units) for units in live), 2]
    around = [max(1, np.floor(left[i - 1] + left[i] + 1e-6)) for i in range(1, len(units) - 1)]  # weights are whole
    excess = [units[i] * units[i + 2] / around[i] for i in range(len(around))]
    layer = redundant_layer(less, sizes, live, StudentCartPole(SETTINGS, (1,) * len(widths)))
    assert min(excess) > 1 - 1e-9 if layer is None else excess[layer] == pytest.approx(min(excess)) and excess[layer] <= 1


def test_layers_are_redundant_for_what_is_left_of_them():
    student = StudentCartPole(SETTINGS, (8, 8, 8))
    sizes = count((8, 8, 8))
    dense = [0, 0, 0, 0]
    assert redundant_layer(dense, sizes, [8, 8, 8], student) == 2  # 8 x 2 weights for 64 + 16
    bottlenecks = 1 - np.array([4, 8, 8, 2]) / sizes  # 4-1-8-1-2
    assert redundant_layer(bottlenecks, sizes, [1, 8, 1], student) == 1
    assert redundant_layer(1 - np.array([32, 8, 8, 2]) / sizes, sizes, [8, 1, 8], student) == 0
    assert redundant_layer(1 - np.array([4, 2]) / count((1,)), count((1,)), [1], StudentCartPole(SETTINGS, (1,))) is None
    assert redundant_layer([0.5], [8], [], StudentCartPole(SETTINGS, ())) is None
    assert joined_at(1, [1, 2, 4, 8]) == [1, 6, 8]


def test_of_a_games_layers_only_the_dense_one_is_redundant():
    game = configuration("pong")["model"]
    student = StudentPong(game, (4, 4, 4, 64))
    sizes = student.layer_sizes()
    assert redundant_layer([0.0] * 5, sizes, [4, 4, 4, 64], student) == 3  # 49 x 4 x 3 weights for 49 x 4 x 64
    assert redundant_layer([0.0] * 5, sizes, [4, 4, 4, 2], student) == 3
    narrow = StudentPong(game, (4, 4, 4, 2))
    assert redundant_layer([0.0] * 5, narrow.layer_sizes(), [4, 4, 4, 2], narrow) is None
    flat = StudentPong(game, (4, 4, 4))
    assert redundant_layer([0.0] * 4, flat.layer_sizes(), [4, 4, 4], flat) is None
    assert sum(flat.layer_sizes()) == sum(np.size(kernel) for kernel in kernels(flat.plain_network("student")))


def test_sizes_scale_the_live_shape_to_the_budget():
    sizes = count((256, 256, 128))
    budget = 1500
    redundancy = 1 - np.array([budget / sum(sizes)] * 4)
    live = [40, 60, 20]
    result = _calculate_sizes_according_to_redundancy(redundancy, sizes, (256, 256, 128), count, live, "live_units")
    family = {tuple(max(1, factor * full // 120) for full in (40, 60, 20)) for factor in range(1, 121)}
    assert result == max((w for w in family if sum(count(w)) <= budget), key=lambda w: sum(count(w)))


@pytest.mark.parametrize("budget", [100, 300, 1000, 3000])
def test_trimmed_units_are_nearly_the_widest_network_within_the_budget(budget):
    live, sizes = [40, 15, 20], count((256, 256, 128))
    redundancy = 1 - np.array([budget / sum(sizes)] * 4)
    result = _calculate_sizes_according_to_redundancy(redundancy, sizes, (256, 256, 128), count, live, "trimmed_units")
    everything = itertools.product(*(range(1, units + 1) for units in live))
    widest = max(math.prod(widths) for widths in everything if sum(count(widths)) <= budget)
    assert all(new <= units for new, units in zip(result, live, strict=True))
    assert sum(count(result)) <= budget and math.prod(result) >= 0.9 * widest


def test_sizes_from_budgets_keep_each_layer_to_its_own():
    sizes = count((256, 256, 128))
    result = _calculate_sizes_according_to_redundancy([0.95] * 4, sizes, (256, 256, 128), count, [9, 9, 9], "budgets")
    assert result == (12, 51, 6)
    assert all(new <= 0.05 * old for new, old in zip(count(result), sizes, strict=True))


@settings(deadline=None)
@given(st.data())
def test_between_lies_strictly_between(data):
    larger = data.draw(WIDTHS)
    smaller = tuple(data.draw(st.integers(1, width)) for width in larger)
    between = widths_between(smaller, larger, count)
    if between is None:
        assert sum(larger) - sum(smaller) <= 1
    else:
        assert all(low <= new <= high for low, new, high in zip(smaller, between, larger, strict=True))
        assert sum(count(smaller)) < sum(count(between)) < sum(count(larger))


@pytest.mark.parametrize(
    ("worked", "retries", "sizes"),
    [((5,), 2, [5]), ((7,), 2, [5, 7]), ((8,), 2, [5, 7, 8]), ((), 2, [5, 7, 8]), ((), 0, [5]), ((), 9, [5, 7, 8, 9])],
)
def test_shrink_tries_sizes_in_between_and_then_stops(monkeypatch, config, new_run, worked, retries, sizes):
    starts = []

    def fit(student, task, step, attempt, start, schedule):
        starts.append(start)
        return Distilled(None, student.widths[0] in worked, 1, np.zeros(2))

    monkeypatch.setattr(prune, "fit_supervised", fit)
    config = config | {
        "pops": config["pops"] | {"retries": retries},
        "distill": config["distill"] | {"warm_start": retries > 0},
    }
    task = Task(config, None, None, None, 99_584, None, new_run(config))
    pruned = StudentCartPole(SETTINGS, (10, 1, 1))
    network = pruned.plain_network("pruned")
    smaller, distilled, attempts = shrink(pruned, network, [(5, 1, 1)], task, step=1)
    assert smaller.widths[0] == sizes[-1] and smaller.members == 1
    for start, size in zip(starts, sizes, strict=True):
        assert (start is None) if retries == 0 else (start[0].shape == (4, size))
    assert [attempt["widths"][0] for attempt in attempts] == sizes
    assert distilled.met is attempts[-1]["met_objective"] is bool(worked)


def test_a_student_copies_its_teacher_and_its_zeros_become_masks():
    agent = CartPoleDQN(SETTINGS, (3, 2, 2))
    agent.network.set_weights(agent.initial_weights(np.random.default_rng(0), 0.3))
    weights = agent.network.get_weights()
    weights[0][1, 2] = 0
    agent.network.set_weights(weights)
    student = StudentCartPole(SETTINGS, (3, 2, 2))
    weights, masks = student.copy(agent.network)
    assert [int((mask == 0).numpy().sum()) for mask in masks] == [1, 0, 0, 0]
    states = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_allclose(student(weights, masks, states[None])[0], agent.network(states), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(student.plain(weights, masks)(states), agent.network(states))


def test_choices_are_the_smallest_above_the_objective_and_the_smallest_that_matches():
    teacher = {"weights": 100, "reward_mean": 9.0}

    def entry(step, weights, matching):
        return {"step": step, "matches_teacher": matching, "shrunk": {"weights": weights}}

    steps = [entry(1, 50, True), entry(2, 40, True), entry(3, 30, False), {"step": 4, "attempts": []}, entry(5, 45, True)]
    chosen = choices({"teacher": teacher, "steps": steps})
    assert chosen["smallest_above_objective"] == {"file": "student_step_3.keras", "step": 3, "weights": 30}
    assert chosen["smallest_matching_teacher"] == {"file": "student_step_2.keras", "step": 2, "weights": 40}
    assert chosen["final"] == {"file": "student.keras", "step": 2, "weights": 40}
    chosen = choices({"teacher": teacher, "steps": steps[2:4]})
    assert chosen["smallest_matching_teacher"] is None and chosen["final"]["weights"] == 30
    chosen = choices({"teacher": teacher, "steps": steps[3:4]})
    assert chosen["smallest_above_objective"] is None
    assert chosen["final"] == {"file": "student.keras", "step": 0, **teacher}
