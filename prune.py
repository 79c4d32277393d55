"""PoPS: iterative policy pruning (IPP), redundancy, sizes from redundancy, and the outer loop (paper, section IV)."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import tensorflow as tf

from pops.configs import by_size
from pops.model import FRESH, agents_of
from pops.support.console import log
from pops.support.recovery import Rollback
from pops.support.rewards import lower_confidence, reward_statistics
from pops.support.run import Resumable, remembered
from pops.support.shapes import alive, input_shares, joined_at, scaled, strongest_units, trimmed, whole, widths_between
from pops.support.updates import TrainingState, initial_state
from pops.train import Distilled, StudentTraining, fit_supervised
from pops.utils import kernels, magnitude_mask


@dataclass(frozen=True)
class PruningSchedule:
    """How sparse each layer is after t student updates, and which weights that hides (paper, section IV-A).

    s(t) = s_f + (s_0 − s_f)(1 − (t − t_0)/(t_1 − t_0))³, with t clipped to [t_0, t_1].

    Args:
        initial: s_0, final: s_f, begin: t_0, end: t_1.
        frequency: student updates between mask updates (pruning_freq).
    """

    initial: float
    final: float
    begin: int
    end: int
    frequency: int

    @classmethod
    def of(cls, settings):
        """The schedule that the configuration's group `prune` says."""
        keys = ("initial_sparsity", "final_sparsity", "begin", "end", "frequency")
        return cls(*(settings[key] for key in keys))

    def sparsity(self, t):
        """s(t), a float or a tensor like `t`."""
        left = 1 - (tf.clip_by_value(tf.cast(t, tf.float32), self.begin, self.end) - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3

    def masks(self, weights, masks, t, sizes):
        """The masks at time t: in each layer the floor(s(t) N_l) smallest |w| are hidden.

        Hidden weights count as zero and stay hidden, also where there are more of them than s(t) asks for.

        Args:
            weights: kernel and bias of each layer; masks: present ones, one for each kernel.
            t: float32 scalar, in updates.
            sizes: N_l of each layer, int32 [layers].
        """
        sparsity = self.sparsity(t)
        layers = zip(weights[::2], masks, tf.unstack(sizes, len(masks)), strict=True)
        return [magnitude_mask(kernel, mask, sparsity, size) for kernel, mask, size in layers]


# Iterative policy pruning


class Freeze(Resumable):
    """The paper's answer to a bad score: stop pruning until the score is good again (section IV-A)."""

    def __init__(self, settings, state):
        self.patience = settings["patience"]
        self.speed = 1.0  # of the schedule's clock; 0 is off
        self.rate_factor = 1.0
        self.rate_steps = 0
        self.evaluations_below = self.iterations_below = self.iterations_off = self.iterations_unchanged = 0  # in a row
        self.sparsity = None

    def after_evaluation(self, state, met, below):
        """Returns the state to go on with and whether the iteration ends early."""
        if met:
            self.speed = 1.0
        elif below:
            self.speed = 0.0
        self.evaluations_below = self.evaluations_below + 1 if below else 0
        return state, self.evaluations_below >= self.patience

    def after_iteration(self, below, sparsity):
        """Returns whether IPP ends. `below`: the iteration's mean score was below the lower bound."""
        off = self.speed == 0
        self.evaluations_below = 0
        self.iterations_below = self.iterations_below + 1 if below else 0
        self.iterations_off = self.iterations_off + 1 if off else 0
        self.iterations_unchanged = self.iterations_unchanged + 1 if off and sparsity == self.sparsity else 0
        self.sparsity = sparsity
        if self.iterations_off == self.patience:  # get unstuck: the rate times 10, by 100, times 1000, ...
            self.rate_steps += 1
            self.rate_factor *= 10.0 ** (self.rate_steps if self.rate_steps % 2 else -self.rate_steps)
        return max(self.iterations_below, self.iterations_unchanged) >= self.patience


RECOVERIES = {"freeze": Freeze, "rollback": Rollback}


class Sparsest(Resumable):
    """The sparsest student so far that met the objective."""

    def __init__(self):
        self.state, self.nonzero = None, math.inf

    def offer(self, state, nonzero):
        if nonzero <= self.nonzero:
            self.state, self.nonzero = state, nonzero

    def network_weights(self, student):
        """Its weights with the masks multiplied in, as `set_weights` takes them; None if there is none."""
        if self.state is None:
            return None
        state = TrainingState(*self.state)  # a checkpoint gives it back as a plain tuple
        return student.plain(state.played, state.masks).get_weights()


@remembered("pruned")
def iterative_pruning_policy_distillation(student, state, task, step):
    """IPP (paper, section IV-A): prunes a student step by step while the teacher's behaviour is distilled into it.

    Args:
        student: a student of model.py with one member.
        state: its TrainingState to start from.
        task: Task.
        step: number of the PoPS step (from 1).

    Returns:
        The weights of the sparsest network that met the objective, masks multiplied in, as `set_weights` takes them; None
        if no evaluation met it.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    settings, goal = task.config["prune"], task.config["evaluation"]
    schedule = PruningSchedule.of(settings)
    recovery, sparsest = RECOVERIES[settings["recovery"]](settings, state), Sparsest()
    training = StudentTraining(student, state, task, "prune", step, recovery=recovery, sparsest=sparsest)
    for _ in training.rounds(settings["iterations"]):  # iterations; before each the teacher fills the replay
        rate = recovery.rate_factor * training.rate()
        for part in training.parts(settings["updates"] // settings["evaluate_every"]):
            loss = training.update(settings["evaluate_every"], rate, schedule, recovery.speed)
            rewards = training.evaluate(part)[0]
            nonzero = sum(int(tf.math.count_nonzero(mask)) for mask in training.state.masks)
            training.record(rewards, rate, loss[0], nonzero)
            met = lower_confidence(rewards, settings["confidence"]) > goal["objective"]
            if met:
                sparsest.offer(training.state, nonzero)
            below = rewards.mean() < goal["lower_bound"]
            training.state, ended = recovery.after_evaluation(training.state, met, below)
            if ended:
                break
        sparsity = nonzero / sum(student.layer_sizes())
        if recovery.after_iteration(np.mean(training.means) < goal["lower_bound"], sparsity):
            break
    training.close()
    return sparsest.network_weights(student)


# Redundancy and sizes


def calculate_redundancy(network, original_sizes):
    """Redundancy of each layer (paper, section IV-B): ρ_l = 1 − NNZ_l / N_l.

    Args:
        network: plain Keras network, pruned.
        original_sizes: N_l, the number of weights of each layer in the original student.

    Returns:
        float64 [layers].
    """
    nonzero = [np.count_nonzero(kernel) for kernel in kernels(network)]
    return 1 - np.array(nonzero) / np.array(original_sizes)


def weights_left(redundancy, original_sizes):
    """The budget of each layer (paper, section IV-B), float64 [layers]: (1 − ρ_l) N_l."""
    return (1 - np.asarray(redundancy, float)) * original_sizes


def _calculate_sizes_according_to_redundancy(redundancy, original_sizes, widths, count, live_units, rule, below=None):
    """Widths of a smaller dense student, from the redundancy of a pruned one (paper, section IV-B).

    For every redundancy in [0, 1) the widths are integers from 1 to the pruned student's; the total number of weights is
    below the pruned student's and at most the budget Σ (1 − ρ_l) N_l, unless the network of width 1 is larger than that;
    and it never grows with redundancy.

    Args:
        redundancy: ρ_l of each layer.
        original_sizes: N_l, what `redundancy` refers to.
        widths: units of each hidden layer of the pruned student.
        count: widths -> number of weights of each layer of such a network.
        live_units: units of each hidden layer that are still alive.
        rule: "budgets" for widths that follow from each layer's budget alone, as in the paper; else how the live units
            become fewer until all layers together are within the budget, "live_units" or "trimmed_units".
        below: number of weights of the pruned student, if that is another one than of these widths.

    Returns:
        Units of each hidden layer, a tuple.
    """
    left, sizes = weights_left(redundancy, original_sizes), np.array(count(widths), float)
    if rule == "budgets":
        # A budget is never more than the present layer, and all together are at least one weight below the present network.
        return _widths_from_budgets(np.minimum(left, sizes * (1 - 1 / sizes.sum())), widths, count)
    most = min(whole(left.sum()), (below or sizes.sum()) - 1)
    fewer = scaled(live_units) if rule == "live_units" else trimmed(live_units, count)
    smallest = tuple(1 for _ in widths)
    return next((units for units in fewer if sum(count(units)) <= most), smallest)


def _widths_from_budgets(budgets, widths, count):
    """Widths such that each layer keeps to its own budget, or nearly so where the budget is below width 1.

    A layer of budget b may be b/m times as large as at width 1 (m weights). The factor is split between the units on
    its two sides in the proportion of the present widths' logarithms, and of the two layers that meet in a width the
    smaller claim counts. What layers of width 1 have above their budget is taken from what the others have above width 1,
    in proportion.
    """
    smallest = np.array(count([1] * len(widths)), float)
    if budgets.sum() <= smallest.sum():
        return tuple(1 for _ in widths)
    surplus, deficit = np.maximum(budgets - smallest, 0), np.maximum(smallest - budgets, 0).sum()
    factors = 1 + surplus * (1 - deficit / surplus.sum()) / smallest
    logs = np.log([1, *widths, 1])
    result = []
    for unit in range(1, len(widths) + 1):
        claims = []
        for factor, here, there in (
            (factors[unit - 1], logs[unit], logs[unit - 1]),
            (factors[unit], logs[unit], logs[unit + 1]),
        ):
            claims.append(factor ** (here / (here + there)) if here > 0 else 1.0)
        result.append(min(widths[unit - 1], max(1, math.floor(min(claims)))))
    return tuple(result)


def redundant_layer(redundancy, original_sizes, live_units, student):
    """The hidden layer that carries nothing that its neighbours could not: its index, or None. Not in the paper.

    The neighbours could where one kernel between the live units on both sides of the layer would have no more weights than
    are left in the two kernels around it. Of several layers it is the one where that kernel is smallest in proportion.

    Args:
        redundancy: ρ_l of each layer.
        original_sizes: N_l, what `redundancy` refers to.
        live_units: units of each hidden layer that are still alive.
        student: the student that was pruned.
    """
    left = weights_left(redundancy, original_sizes)
    units, shares = [max(1, live) for live in live_units], {}
    for layer in student.removable():
        direct = student.layer_sizes((*units[:layer], *units[layer + 1 :]))[layer]
        around = max(1, whole(left[layer] + left[layer + 1]))
        if direct <= around:
            shares[layer] = Fraction(int(direct), around)
    return min(shares, key=shares.get, default=None)


def without_layer(layer, redundancy, original_sizes, widths, count, live_units, rule):
    """`_calculate_sizes_according_to_redundancy` for a student with one hidden layer less and the same budget."""
    sizes, below = joined_at(layer, original_sizes), sum(count(widths))
    left = joined_at(layer, list(weights_left(redundancy, original_sizes)))
    widths, live_units = ((*units[:layer], *units[layer + 1 :]) for units in (widths, live_units))
    return _calculate_sizes_according_to_redundancy(
        1 - np.divide(left, sizes), sizes, widths, count, live_units, rule, below
    )


def smaller_shapes(student, redundancy, original_sizes, live_units, settings):
    """Widths of the next student to try, in order: without the redundant layer if there is one, and with all layers.

    Args:
        settings: the configuration's group `pops`; the others: see `redundant_layer`.

    Returns:
        The widths, all of students with fewer weights; and the redundant layer, or None.
    """
    count, rule = student.layer_sizes, settings["sizes"]
    evidence = redundancy, original_sizes, student.widths, count, live_units, rule
    shapes, layer = [_calculate_sizes_according_to_redundancy(*evidence)], None
    if settings["fewer_layers"]:
        layer = redundant_layer(redundancy, original_sizes, live_units, student)
    if layer is not None:
        shapes.insert(0, without_layer(layer, *evidence))
    return [widths for widths in shapes if sum(count(widths)) < sum(count())], layer


# The outer loop


def pops(teacher, task, records):
    """Policy pruning and shrinking (paper, algorithm 1): prune, read off the redundancy, shrink, distil, repeat.

    Args:
        teacher: DQNAgent with trained weights.
        task: Task.
        records: Records, told of each step: `started`, `pruned`, `shrunk`.

    Returns:
        Why it ended, in words.

    Raises:
        RunFailed: a loss is no longer a number.
    """
    settings = task.config["pops"]
    student, network, original_sizes = student_of(teacher), teacher.network, teacher.layer_sizes()
    for step in range(1, settings["steps"] + 1):
        thinner = settings["fewer_layers"] and student.removable()
        if max(student.widths, default=1) == 1 and not thinner:
            return f"{'one unit in each' if student.widths else 'no hidden'} layer: no narrower network exists"
        pruned = prune_student(student, network, task, records, step)
        if pruned is None:
            return f"step {step}: no pruned student met the objective"
        redundancy, live_units = read_off(student, pruned, original_sizes, records, step)

        before = sum(student.layer_sizes())
        shapes, layer = smaller_shapes(student, redundancy, original_sizes, live_units, settings)
        if not shapes:
            records.failed(step, [])
            return f"step {step}: no smaller network follows from the redundancy"
        smaller, distilled, attempts = shrink(student, pruned, shapes, task, step)
        if not distilled.met:
            records.failed(step, attempts)
            tried = ", ".join(str(attempt["weights"]) for attempt in attempts)
            return f"step {step}: students of fewer weights, {tried}, did not meet the objective"
        if len(smaller.widths) < len(student.widths):
            original_sizes = joined_at(layer, original_sizes)
        student, network = smaller, smaller.plain_network("student", distilled.weights)
        records.shrunk(step, network, student.widths, attempts)
        change = 100 * (before - sum(student.layer_sizes())) / task.original_weights
        if change < settings["min_change"]:
            return f"step {step}: the size changed by {change:.3g} points only"
    return f"{settings['steps']} steps done"


def student_of(teacher):
    """The student of the teacher's own shape."""
    return agents_of(teacher.environment).student(teacher.settings, teacher.widths)


def prune_student(student, network, task, records, step):
    """The first half of a PoPS step: IPP of a student that starts as a copy of a plain network.

    Returns:
        The pruned network, or None if no evaluation met the objective.
    """
    records.started(step, student)
    state = state_to_prune(student, network, task, step)
    weights = iterative_pruning_policy_distillation(student, state, task, step)
    return None if weights is None else student.plain_network("pruned", weights)


def read_off(student, pruned, original_sizes, records, step):
    """Tells the records of a pruned network. Returns the redundancy of each layer and the live units of each hidden one."""
    redundancy, connections = calculate_redundancy(pruned, original_sizes), student.connections(pruned)
    live_units = [int(units.sum()) for units in alive(connections)]
    records.pruned(step, pruned, redundancy, live_units, input_shares(connections))
    return redundancy, live_units


def state_to_prune(student, network, task, step):
    """The TrainingState of a student that starts as a copy of a plain network."""
    settings = task.config["prune"]
    divisor = settings["tau"] if step == 1 and settings["divide_outputs"] else 1.0
    return initial_state(*student.copy(network, divisor), averaged=settings["averaging"] > 0)


def shrink(pruned, network, shapes, task, step):
    """Distils the teacher into a dense student; while that fails, into one of a size in between, as often as set.

    Args:
        pruned, network: the student that was pruned, the last one that worked, and its plain network.
        shapes: widths of the students to try first, in order; see `shapes_to_try`.

    Returns:
        A student of the size that was tried last, the only one that can have met the objective; its Distilled; and what
        was tried, in order, for the summary.
    """
    attempts, warm = [], task.config["distill"]["warm_start"]
    for widths in shapes_to_try(shapes, pruned, task.config["pops"]["retries"]):
        start = None
        if warm and len(widths) == len(pruned.widths):
            start = pruned.of_units(network, strongest_units(pruned.connections(network), widths))
        student, distilled = attempt(pruned, widths, task, step, attempts, start)
        if distilled.met:
            break
    return student, distilled, attempts


def shapes_to_try(shapes, pruned, retries):
    """These widths, and then always those between the last ones with all layers and the pruned student's."""
    yield from shapes
    widths = next((widths for widths in shapes if len(widths) == len(pruned.widths)), None)
    for _ in range(retries):
        widths = widths and widths_between(widths, pruned.widths, pruned.layer_sizes)
        if widths is None:
            return
        yield widths


def attempt(larger, widths, task, step, attempts, start=None):
    """Distils the teacher into a dense student of these widths, and adds what came of it to the attempts of a step.

    Args:
        larger: a student of the same kind.
        start: weights that the first member starts from, as `set_weights` takes them.

    Returns:
        The student with one member, and its Distilled.
    """
    weights = sum(larger.layer_sizes(widths))
    members = by_size(task.config["distill"]["members"], 100 * weights / task.original_weights)
    student, schedule = type(larger)(larger.settings | FRESH, widths, members), PruningSchedule.of(task.config["prune"])
    distilled = Distilled(*fit_supervised(student, task, step, len(attempts) + 1, start, schedule))
    attempts.append(tried(widths, weights, distilled))
    if not distilled.met:
        failed = [way for way, kept in distilled.robust.items() if not kept["holds"]]
        what = f"did not hold with {', '.join(failed)}" if failed else "did not meet the objective"
        log(f"step {step}: {weights} weights {what} in {distilled.epochs} epochs")
    return student.alone, distilled


def tried(widths, weights, distilled):
    """For the summary: a network that was tried, its number of weights, and its Distilled."""
    return {
        "widths": widths,
        "weights": weights,
        "met_objective": distilled.met,
        "epochs": distilled.epochs,
        "chosen_by": reward_statistics(distilled.rewards),
        **({"robust": distilled.robust} if distilled.robust else {}),
    }
