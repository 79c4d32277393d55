"""PoPS: iterative policy pruning (IPP), redundancy, sizes from redundancy, and the outer loop (paper, section IV)."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import tensorflow as tf

from configs import RunFailed, by_size, learning_rate
from model import agents_of, count_weights, kernels
from train import (
    Distilled,
    Task,
    TrainingState,
    check_loss,
    evaluate_network,
    evaluate_student,
    fit_supervised,
    go_on_within,
    initial_state,
    lower_confidence,
    matches,
    position_within,
    replay_memory,
    report_rewards,
    student_player,
    train_student,
    varied,
)
from utils import log, reward_line, reward_statistics, rewards_text


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

    def sparsity(self, t):
        """s(t), a float or a tensor like `t`."""
        left = 1 - (tf.clip_by_value(tf.cast(t, tf.float32), self.begin, self.end) - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3

    def masks(self, weights, masks, t):
        """The masks at time t: in each layer the floor(s(t) N_l) smallest |w| are hidden.

        Hidden weights count as zero and stay hidden, also where there are more of them than s(t) asks for.
        """
        sparsity = self.sparsity(t)
        return [mask * magnitude_mask(kernel * mask, sparsity) for kernel, mask in zip(weights[::2], masks, strict=True)]


@tf.function(jit_compile=True, autograph=False)
def magnitude_mask(kernel, sparsity):
    """Mask, float32 like `kernel`, that hides the floor(sparsity · N) smallest of the N magnitudes of each member.

    Of equal magnitudes the one further to the front is hidden first, so the number hidden is exact.

    Args:
        kernel: float32 [members, ...].
        sparsity: float32 scalar in [0, 1).
    """
    flat = tf.reshape(kernel, [kernel.shape[0], -1])
    size = flat.shape[1]
    count = tf.cast(tf.floor(sparsity * size), tf.int32)
    bits = tf.bitcast(tf.abs(flat), tf.int32)  # non-negative floats order like their bits
    threshold = _kth_smallest(bits, count, 2**31 - 1)
    hidden = bits < threshold
    ties = count - tf.math.count_nonzero(hidden, axis=1, keepdims=True, dtype=tf.int32)
    positions = tf.where(bits == threshold, tf.range(size), size)
    hidden |= (positions <= _kth_smallest(positions, ties, size)) & (ties > 0)
    return tf.reshape(tf.cast(~hidden, tf.float32), kernel.shape)


def _kth_smallest(keys, k, largest):
    """The k-th smallest of each row of keys, int32 [rows, 1], by bisection; a sort takes ten times as long.

    Args:
        keys: int32 [rows, n] in [0, largest].
        k: int32, from 1; for 0 the result is 0.
    """

    def halve(low, high):
        middle = low + (high - low) // 2
        enough = tf.math.count_nonzero(keys <= middle, axis=1, keepdims=True, dtype=tf.int32) >= k
        return tf.where(enough, low, middle + 1), tf.where(enough, middle, high)

    shape = [keys.shape[0], 1]
    bounds = tf.zeros(shape, tf.int32), tf.fill(shape, largest)
    return tf.while_loop(lambda *_: True, halve, bounds, maximum_iterations=largest.bit_length())[0]


# Iterative policy pruning


class Freeze:
    """The paper's answer to a bad score: stop pruning until the score is good again (section IV-A)."""

    def __init__(self, settings, state):
        self.patience = settings["patience"]
        self.speed = 1.0  # of the schedule's clock; 0 is off
        self.rate_factor = 1.0
        self.kicks = 0
        self.below = self.bad = self.off = self.still = 0  # how often in a row
        self.sparsity = None

    def after_evaluation(self, state, met, below):
        """Returns the state to go on with and whether the iteration ends early."""
        if met:
            self.speed = 1.0
        elif below:
            self.speed = 0.0
        self.below = self.below + 1 if below else 0
        return state, self.below >= self.patience

    def after_iteration(self, below, sparsity):
        """Returns whether IPP ends. `below`: the iteration's mean score was below the lower bound."""
        self.below = 0
        self.bad = self.bad + 1 if below else 0
        self.off = self.off + 1 if self.speed == 0 else 0
        self.still = self.still + 1 if self.speed == 0 and sparsity == self.sparsity else 0
        self.sparsity = sparsity
        if self.off == self.patience:  # get unstuck: the learning rate times 10, then by 100, then times 1000, ...
            self.kicks += 1
            self.rate_factor *= 10.0 ** (self.kicks if self.kicks % 2 else -self.kicks)
        return self.bad >= self.patience or self.still >= self.patience


class Rollback:
    """Our answer to a bad score: go back to the last good state and prune half as fast.

    Hidden weights get no gradient, so a network that has collapsed at a sparsity does not recover while it is frozen there.
    """

    rate_factor = 1.0

    def __init__(self, settings, state):
        self.patience, self.left = settings["patience"], settings["rollbacks"]
        self.end = settings["end"]
        self.speed = 1.0
        self.good, self.below, self.done = state, 0, False

    def after_evaluation(self, state, met, below):
        self.below = self.below + 1 if below else 0
        if met:
            self.good = state
            self.done = float(state.clock) >= self.end  # as sparse as the schedule goes
        if self.below >= self.patience:
            self.below = 0
            self.done = self.left == 0
            self.left -= 1
            self.speed /= 2
            state = TrainingState(*self.good)  # a checkpoint gives it back as a plain tuple
        return state, self.done

    def after_iteration(self, below, sparsity):
        return self.done


RECOVERIES = {"freeze": Freeze, "rollback": Rollback}


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
    schedule = PruningSchedule(
        settings["initial_sparsity"],
        settings["final_sparsity"],
        settings["begin"],
        settings["end"],
        settings["frequency"],
    )
    player = student_player(student, task, settings["episodes"])
    recovery = RECOVERIES[settings["recovery"]](settings, state)
    weights, percent = sum(student.layer_sizes()), task.percent(student)
    replay = task.replay or replay_memory(task)
    best, fewest, means = None, math.inf, []
    first, first_number, within = 1, 0, None
    if saved := task.run.interrupted("prune", step):
        state, changed, best, fewest, means, first, first_number, within = saved
        state, best = TrainingState(*state), best and TrainingState(*best)
        vars(recovery).update(changed)

    def on_block(state, done):
        def content():
            within = position_within(done, generator, task, replay)
            return state, vars(recovery), best, fewest, means, iteration, number, within

        updates = (iteration - 1) * settings["updates"] + number * settings["evaluate_every"] + done[0]
        task.run.progress(f"step {step}: pruning", updates, settings["iterations"] * settings["updates"])
        task.run.checkpoint(content, "prune", step)

    for iteration in range(first, settings["iterations"] + 1):
        purpose = ("prune", step, iteration)
        rate = recovery.rate_factor * learning_rate(settings["learning_rate"], percent, iteration)
        generator = task.seeds.generator("minibatches", *purpose)
        if task.replay is None and within is None:
            replay.fill(*purpose)
        for number in range(first_number, settings["updates"] // settings["evaluate_every"]):
            done, within = go_on_within(within, generator, task, replay), None
            state, loss = train_student(
                *(student, state, replay, settings, generator, settings["evaluate_every"], rate, schedule, recovery.speed),
                done=done,
                on_block=on_block,
            )
            check_loss(loss, "prune", step, state)
            rewards = evaluate_student(player, state, task, replay, *purpose, number)[0]
            nonzero = sum(int(tf.math.count_nonzero(mask)) for mask in state.masks)
            task.run.metrics(
                phase="prune",
                step=step,
                iteration=iteration,
                update=int(state.update),
                weights=weights,
                nonzero=nonzero,
                learning_rate=rate,
                loss=float(loss[0]),
                rewards=rewards,
            )
            means.append(rewards.mean())
            met = lower_confidence(rewards, settings["confidence"]) > goal["objective"]
            if met and nonzero <= fewest:
                best, fewest = state, nonzero
            state, ended = recovery.after_evaluation(state, met, rewards.mean() < goal["lower_bound"])
            if ended:
                break
        if recovery.after_iteration(np.mean(means) < goal["lower_bound"], nonzero / weights):
            break
        first_number, means = 0, []
    player.close()
    return best and student.plain(best.played, best.masks).get_weights()


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


def alive(connections):
    """Which units of each hidden layer still lie on a path of nonzero weights from an input to an output.

    Args:
        connections: for each layer, [units in, units out]: not 0 where a weight joins the two.

    Returns:
        bool [units] for each hidden layer.
    """
    joined = [layer != 0 for layer in connections]
    reached = [np.ones(joined[0].shape[0], bool)]
    for layer in joined:
        reached.append(layer[reached[-1]].any(axis=0))
    used = [np.ones(joined[-1].shape[1], bool)]
    for layer in reversed(joined):
        used.append(layer[:, used[-1]].any(axis=1))
    used.reverse()
    return [r & u for r, u in zip(reached[1:-1], used[1:-1], strict=True)]


def strongest_units(connections, widths):
    """The units of each hidden layer through which most passes: magnitudes of the weights into it times those out of it.

    Args:
        connections: for each layer, the sums of magnitudes [units in, units out].
        widths: how many units of each hidden layer.

    Returns:
        Indices in order, int [width] for each hidden layer. Of equal units the one further to the front comes first.
    """
    chosen = []
    for into, out, live, width in zip(connections, connections[1:], alive(connections), widths, strict=False):
        strength = into.sum(axis=0) * out.sum(axis=1) * live
        chosen.append(np.sort(np.argsort(-strength, kind="stable")[:width]))
    return chosen


def _calculate_sizes_according_to_redundancy(redundancy, original_sizes, widths, count, live_units, rule):
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

    Returns:
        Units of each hidden layer, a tuple.
    """
    sizes = np.array(count(widths), float)
    # A budget is never more than the present layer, and all together are at least one weight below the present network.
    budgets = np.minimum((1 - np.asarray(redundancy, float)) * original_sizes, sizes * (1 - 1 / sizes.sum()))
    if rule == "budgets":
        return _widths_from_budgets(budgets, widths, count)
    fewer = _scaled(live_units) if rule == "live_units" else _trimmed(live_units, count)
    smallest = tuple(1 for _ in widths)
    return next((units for units in fewer if sum(count(units)) <= budgets.sum()), smallest)


def _scaled(units):
    """`units` times one factor, rounded down, at least 1, for every factor from 1 down that makes a difference."""
    factors = {Fraction(part, full) for full in units for part in range(1, full + 1)}
    for factor in sorted(factors, reverse=True):
        yield tuple(max(1, math.floor(factor * full)) for full in units)


def _trimmed(units, count):
    """`units`, and then always one unit fewer, the one that frees most weights for its share of its layer's units.

    Shares are taken in the logarithm: so of all widths with about as many weights those of the largest product are left,
    and the layers with most weights, as after a flattening, become narrow first.
    """
    units = tuple(max(1, layer) for layer in units)
    while max(units) > 1:
        yield units
        weights = sum(count(units))
        shares = {
            (*units[:i], layer - 1, *units[i + 1 :]): math.log(layer / (layer - 1))
            for i, layer in enumerate(units)
            if layer > 1
        }
        units = max(shares, key=lambda fewer: (weights - sum(count(fewer))) / shares[fewer])


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
    surplus = np.maximum(budgets - smallest, 0)
    factors = 1 + surplus * (budgets.sum() - smallest.sum()) / surplus.sum() / smallest
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


def widths_between(smaller, larger, count):
    """Widths about half-way (in the logarithm of the weights) between two networks, or None if nothing lies between.

    Args:
        smaller, larger: units of each hidden layer; none of `smaller` above that of `larger`.
        count: widths -> number of weights of each layer.
    """
    path, current = [], list(smaller)
    while current != list(larger):
        ratios = [full / units for units, full in zip(current, larger, strict=True)]
        current[ratios.index(max(ratios))] += 1
        path.append(tuple(current))
    path = path[:-1]
    middle = math.sqrt(sum(count(smaller)) * sum(count(larger)))
    return min(path, key=lambda widths: abs(math.log(sum(count(widths)) / middle)), default=None)


# The outer loop


def pops(teacher, config, seeds, run):
    """Policy pruning and shrinking (paper, algorithm 1): prune, read off the redundancy, shrink, distil, repeat.

    Args:
        teacher: DQNAgent with trained weights.
        config: the configuration.
        seeds: Seeds.
        run: Run, which takes the models, the metrics and the summary as they come.

    Returns:
        The summary, as in summary.json.

    Raises:
        RunFailed: the teacher does not meet the objective, or a loss is no longer a number.
    """

    def seconds_since(start):
        return round(run.seconds() - start, 1)

    student_class = agents_of(teacher.environment).student
    original_sizes = teacher.layer_sizes()
    teacher_rewards = choosing_rewards(teacher.network, config, seeds, run, "teacher")
    task = Task(config, seeds, teacher.network, teacher_rewards, sum(original_sizes), None, run)
    if not config["replay"]["refill"]:
        task = task._replace(replay=replay_memory(task))
        if not run.include("replay", task.replay):
            task.replay.fill()

    log(f"PoPS: a teacher of {task.original_weights:,} weights")
    goal = {key: config["evaluation"][key] for key in ("objective", "lower_bound")}
    teacher_report = report(teacher.network, task, "teacher") | other_ways(teacher.network, task, "teacher")
    summary = {**goal, "teacher": {"widths": teacher.widths, **teacher_report}, "steps": []}
    if summary["teacher"]["reward_mean"] <= config["evaluation"]["objective"]:
        raise RunFailed(
            f"the teacher's reward, {rewards_text(summary['teacher'])}, is not above the objective, "
            f"{config['evaluation']['objective']}; train it further or lower evaluation.objective"
        )
    run.save_model("teacher.keras", teacher.network)
    network, widths, settings = teacher.network, teacher.widths, teacher.settings
    networks = {0: network}
    ended = f"{config['pops']['steps']} steps done"
    for step in range(1, config["pops"]["steps"] + 1):
        started = run.once(("started", step), run.seconds)
        if max(widths) == 1:
            ended = "one unit in each layer: no smaller network exists"
            break
        student = student_class(settings, widths)
        divisor = config["prune"]["tau"] if step == 1 and config["prune"]["divide_outputs"] else 1.0
        state = initial_state(*student.copy(network, divisor), averaged=config["prune"]["averaging"] > 0)
        pruned = run.once(("pruned", step), iterative_pruning_policy_distillation, student, state, task, step)
        if pruned is None:
            ended = f"step {step}: no pruned student met the objective"
            break
        pruned_network = student.plain_network("pruned", pruned)
        run.save_model(f"pruned_step_{step}.keras", pruned_network)
        redundancy = calculate_redundancy(pruned_network, original_sizes)
        live_units = [int(units.sum()) for units in alive(student.connections(pruned_network))]
        entry = {
            "step": step,
            "from_widths": widths,
            "pruned": report(pruned_network, task, "pruned", step),
            "redundancy": [round(float(r), 6) for r in redundancy],
            "live_units": live_units,
        }
        log(f"step {step}: pruned to {reward_line(entry['pruned'])}")
        smaller = _calculate_sizes_according_to_redundancy(
            redundancy,
            original_sizes,
            widths,
            student.layer_sizes,
            live_units,
            config["pops"]["sizes"],
        )
        # A fresh student needs no ReLU there, and learns better with ReLU than with tanh.
        settings = settings | {"output_activation": "linear", "hidden_activation": "relu"}
        distilled, entry["attempts"] = shrink(student, pruned_network, settings, smaller, task, step)
        summary["steps"].append(entry)
        if not distilled.met:
            entry["seconds"] = run.once(("seconds", step), seconds_since, started)
            sizes = ", ".join(str(attempt["weights"]) for attempt in entry["attempts"])
            ended = f"step {step}: students of fewer weights, {sizes}, did not meet the objective"
            break

        previous, widths = sum(student.layer_sizes()), entry["attempts"][-1]["widths"]
        network = student_class(settings, widths).plain_network("student", distilled.weights)
        networks[step] = network
        run.save_model(f"student_step_{step}.keras", network)
        rewards = choosing_rewards(network, config, seeds, run, "shrunk", step)
        entry["matches_teacher"] = matches(rewards, teacher_rewards)
        entry["shrunk"] = {"widths": widths, **report(network, task, "shrunk", step)}
        entry["seconds"] = run.once(("seconds", step), seconds_since, started)
        shape = "-".join(map(str, widths))
        log(f"step {step}: shrunk to {shape}, {reward_line(entry['shrunk'])}, {entry['seconds']} s")
        run.save_summary(summary)
        change = 100 * (previous - entry["shrunk"]["weights"]) / task.original_weights
        if change < config["pops"]["min_change"]:
            ended = f"step {step}: the size changed by {change:.3g} points only"
            break
    for step in sorted({choice["step"] for choice in choices(summary).values() if choice} - {0}):
        summary["steps"][step - 1]["shrunk"] |= other_ways(networks[step], task, "shrunk", step)
    summary |= choices(summary) | {"ended": ended, "seconds": run.seconds()}
    run.save_model("student.keras", networks[summary["final"]["step"]])
    run.save_summary(summary)
    return summary


def choosing_rewards(network, config, seeds, run, *purpose):
    """Rewards that tell whether a student matches the teacher. Not those that are reported, which choose nothing."""
    episodes, purpose = config["evaluation"]["choose_episodes"], ("choose", *purpose)
    return run.once_watched(purpose, evaluate_network, network, config, seeds, episodes, "confirm", *purpose)


def report(network, task, *purpose):
    """Size and rewards of a plain network, for the summary."""
    weights, nonzero = count_weights(network)
    size = {"weights": weights, "nonzero": nonzero, "percent": 100 * weights / task.original_weights}
    return size | reported(network, task, task.config, purpose)


def other_ways(network, task, *purpose):
    """Rewards of a plain network in the other ways to play that the settings name: {name: rewards}."""
    also = task.config["evaluation"]["also"]
    return {name: reported(network, task, varied(task.config, name), purpose, name) for name in also}


def reported(network, task, config, purpose, *way):
    episodes, whole = config["evaluation"]["report_episodes"], ("report", *purpose, *way)
    return task.run.once_watched(whole, report_rewards, network, config, task.seeds, episodes, *purpose)


def choices(summary):
    """The smallest student above the objective; the smallest one that matches the teacher; and of these the final one.

    That is the one that matches the teacher, where there is one.
    """
    shrunk = [entry for entry in summary["steps"] if "shrunk" in entry]
    matching = [entry for entry in shrunk if entry["matches_teacher"]]

    def last(entries):
        if entries:
            return {
                "file": f"student_step_{entries[-1]['step']}.keras",
                "step": entries[-1]["step"],
                **entries[-1]["shrunk"],
            }
        return None

    above, matching = last(shrunk), last(matching)
    final = matching or above or {"step": 0, **summary["teacher"]}
    return {
        "smallest_above_objective": above,
        "smallest_matching_teacher": matching,
        "final": final | {"file": "student.keras"},
    }


def shrink(pruned, network, settings, widths, task, step):
    """Distils the teacher into a dense student; while that fails, into one of a size in between, as often as set.

    Args:
        pruned, network: the student that was pruned, the last one that worked, and its plain network.
        settings: the new student's group `model`.
        widths: of the student to try first.

    Returns:
        The last Distilled, the only one that can have met the objective, and what was tried, in order, for the summary.
    """
    attempts, count = [], pruned.layer_sizes
    while widths and len(attempts) <= task.config["pops"]["retries"]:
        percent = 100 * sum(count(widths)) / task.original_weights
        student = type(pruned)(settings, widths, members=by_size(task.config["distill"]["members"], percent))
        start = None
        if task.config["distill"]["warm_start"]:
            start = pruned.of_units(network, strongest_units(pruned.connections(network), widths))
        attempt = len(attempts) + 1
        purpose = ("distilled", step, attempt)
        distilled = Distilled(*task.run.once(purpose, fit_supervised, student, task, step, attempt, start))
        weights = sum(count(widths))
        attempts.append(
            {
                "widths": widths,
                "weights": weights,
                "met_objective": distilled.met,
                "epochs": distilled.epochs,
                "chosen_by": reward_statistics(distilled.rewards),
            }
        )
        if distilled.met:
            break
        log(f"step {step}: {weights} weights did not meet the objective in {distilled.epochs} epochs")
        widths = widths_between(widths, pruned.widths, count)
    return distilled, attempts
