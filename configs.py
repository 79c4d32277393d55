"""Every setting of PoPS: one dictionary per environment, grouped by phase, and the rules that check it.

An environment has two profiles. `paper` holds the settings of the paper (section V) as published, but for LunarLander's
teacher, which learns in another way. `fast` is `paper` with changes that reach a smaller student in minutes on two CPU
cores; the README says what each is for.

This module imports nothing heavy, so that a wrong setting is reported at once.
"""

import copy
import difflib
import json
import math


class ConfigurationError(ValueError):
    """A setting, argument or input file is wrong. The message is one line: what is wrong, where, what would be right."""


class RunFailed(Exception):
    """A run cannot go on. The message is one line."""


# Rules. Each says in words what it accepts, and tells whether a value fits.


class Rule:
    def __init__(self, accepts, fits):
        self.accepts, self.fits = accepts, fits


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    return (_is_integer(value) or isinstance(value, float)) and abs(value) < math.inf and abs(value) <= 1e300


def integer(low, high=10**9):
    return Rule(f"an integer from {low} to {high}", lambda v: _is_integer(v) and low <= v <= high)


def number(low, high=1e9):
    return Rule(f"a number from {low:g} to {high:g}", lambda v: _is_number(v) and low <= v <= high)


def positive(high=1e9):
    return Rule(f"a number above 0, up to {high:g}", lambda v: _is_number(v) and 0 < v <= high)


def one_of(*names):
    return Rule("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


NONE_OR_SEVERAL = Rule("0, or an integer from 2", lambda v: _is_integer(v) and (v == 0 or 2 <= v <= 10**9))
TEXT = Rule("a name", lambda v: isinstance(v, str) and v != "" and v.isprintable())
REWARD = Rule("a number", _is_number)
REWARD_OR_NONE = Rule("a number, or null", lambda v: v is None or _is_number(v))
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
SPARSITY = Rule("a number from 0 up to, not including, 1", lambda v: _is_number(v) and 0 <= v < 1)
WIDTHS = Rule(
    "a list of integers from 1 to 100000",
    lambda v: isinstance(v, list) and 0 < len(v) <= 100 and all(_is_integer(w) and 1 <= w <= 100_000 for w in v),
)

INDICES = Rule(
    "a list of different integers from 0 to 999",
    lambda v: isinstance(v, list) and all(_is_integer(i) and 0 <= i < 1000 for i in v) and len(set(v)) == len(v),
)


def _is_bounds(value):
    """[[least, ...], [greatest, ...]]"""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, list) and side and all(map(_is_number, side)) for side in value)
        and len(value[0]) == len(value[1])
        and all(low < high for low, high in zip(*value, strict=True))
    )


BOUNDS = Rule(
    "[], or two lists of numbers of one length, the second one above the first",
    lambda v: v == [] or _is_bounds(v),
)

VARIATIONS = Rule(
    'a list of "greedy", "sticky", both or neither',
    lambda v: v in ([], ["greedy"], ["sticky"], ["greedy", "sticky"]),
)


def _is_rates(rates):
    """[[last_epoch, rate], ..., [null, rate]]: a learning rate that is constant by pieces."""
    if not (isinstance(rates, list) and rates and all(isinstance(row, list) and len(row) == 2 for row in rates)):
        return False
    ends = [row[0] for row in rates]
    return (
        all(_is_number(row[1]) and 0 < row[1] <= 1 for row in rates)
        and ends[-1] is None
        and all(_is_integer(end) and end >= 1 for end in ends[:-1])
        and ends[:-1] == sorted(set(ends[:-1]))
    )


def _is_size_table(table, fits):
    """[[above_percent, entry], ..., [0, entry]]: entries, each of which fits, by size of the student."""
    if not (isinstance(table, list) and table and all(isinstance(row, list) and len(row) == 2 for row in table)):
        return False
    bounds = [row[0] for row in table]
    return (
        all(_is_number(bound) and 0 <= bound <= 100 for bound in bounds)
        and bounds == sorted(set(bounds), reverse=True)
        and bounds[-1] == 0
        and all(fits(row[1]) for row in table)
    )


def by_size(setting, percent):
    """The entry of a table for a student of `percent` % of the original weights; what is no table is for all."""
    if not isinstance(setting, list):
        return setting
    return next(entry for above, entry in setting if percent > above)


def _is_rate_table(table):
    return 0 < table <= 1 if _is_number(table) else _is_size_table(table, _is_rates)


MEMBERS = Rule(
    "an integer from 1 to 256, or a table [[above_percent, integer], ..., [0, integer]]",
    lambda v: integer(1, 256).fits(v) or _is_size_table(v, integer(1, 256).fits),
)

RATE_TABLE = Rule(
    "a number above 0, up to 1, or a table [[above_percent, [[last_epoch, rate], ..., [null, rate]]], ..., [0, ...]]",
    _is_rate_table,
)


def linear(first, last, epochs):
    """A learning rate that falls in a straight line from `first` at epoch 1 to `last` at epoch `epochs` and stays there."""
    step = (last - first) / (epochs - 1)
    rows = [[epoch, first + step * (epoch - 1)] for epoch in range(1, epochs)]
    return [*rows, [None, last]]


def learning_rate(table, percent, epoch):
    """The learning rate for a student of `percent` % of the original weights in its `epoch`-th epoch (from 1)."""
    rates = by_size(table, percent)
    if _is_number(rates):
        return float(rates)
    return float(next(rate for last_epoch, rate in rates if last_epoch is None or epoch <= last_epoch))


# What there is to set: group, key, rule, what it means. The paper's symbol stands in brackets.
SETTINGS = {
    "environment": {
        "id": (TEXT, "Gymnasium's name of the environment"),
        "max_episode_steps": (integer(1, 10**6), "steps after which an episode is cut off"),
        "actions": (INDICES, "the environment's actions that the policy chooses from; [] for all (Atari games only)"),
        "sticky": (number(0, 0.99), "probability that the last action is repeated instead (Atari games only)"),
    },
    "model": {
        "observation_shape": (WIDTHS, "shape of one observation"),
        "actions": (integer(1, 1000), "number of discrete actions; with bounds, of numbers in one action"),
        "bounds": (BOUNDS, "least and greatest values of the numbers in an action; [] for discrete actions"),
        "widths": (WIDTHS, "units of each hidden layer of the teacher"),
        "hidden_activation": (one_of("relu", "tanh"), "of the teacher; students that are shrunk have relu"),
        "output_activation": (one_of("linear", "relu"), "linear; relu is what the paper's published CartPole teacher has"),
    },
    "evaluation": {
        "objective": (
            REWARD_OR_NONE,
            "mean reward above which a student is good; null: the teacher's less one standard error",
        ),
        "lower_bound": (
            REWARD_OR_NONE,
            "mean reward below which pruning has gone too far; null: three quarters of the way from random play up",
        ),
        "acting": (one_of("greedy", "sample"), "greedy: the largest output; sample: from the softmax of the outputs"),
        "epsilon": (number(0, 1), "share of random actions in evaluations"),
        "also": (VARIATIONS, "other ways to play that are reported too: greedy; sticky (Atari games only)"),
        "choose_episodes": (integer(2), "episodes that decide whether a student matches the teacher"),
        "report_episodes": (integer(2), "fresh episodes behind every reported reward"),
    },
    "replay": {
        "capacity": (integer(1), "states, or transitions, that the replay memory holds"),
        "observe": (integer(1), "steps that the teacher plays to fill it (the paper's `observe`)"),
        "environments": (integer(1, 4096), "environments that the teacher plays side by side"),
        "refill": (FLAG, "fill it again before every iteration and epoch (paper), or once for the whole run"),
        "epsilon": (number(0, 1), "share of random actions while the teacher fills it"),
        "student_states": (integer(0), "states that students visit in an evaluation, and that join it (DAgger)"),
        "student_steps": (integer(0), "steps that students go on with games of theirs after each epoch, for the same"),
        "student_epsilon": (number(0, 1), "share of random actions in these games"),
        "least_spread": (
            number(0),
            "states are drawn in proportion to how far the teacher's outputs lie apart, at least this; 0: all alike",
        ),
    },
    "prune": {
        "iterations": (integer(1), "IPP iterations at most (n)"),
        "updates": (integer(1), "minibatch updates in an iteration"),
        "evaluate_every": (integer(1), "updates between evaluations"),
        "episodes": (integer(2), "episodes in an evaluation"),
        "confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "batch_size": (integer(1, 65536), "states in a minibatch"),
        "tau": (positive(1000), "temperature of the teacher's softmax (τ)"),
        "divide_outputs": (FLAG, "divide the first student's outputs by τ, so that it starts with the teacher's softmax"),
        "averaging": (number(0, 0.999999), "decay of the running mean of the weights, which is the student; 0: none"),
        "optimizer": (one_of("rmsprop", "adam"), "how gradients become updates"),
        "learning_rate": (RATE_TABLE, "by size of the student in percent and by iteration"),
        "initial_sparsity": (SPARSITY, "s_0"),
        "final_sparsity": (SPARSITY, "s_f"),
        "begin": (integer(0), "student update at which sparsity starts to grow (t_0)"),
        "end": (integer(1), "student update at which it reaches s_f (t_1)"),
        "frequency": (integer(1), "updates between mask updates (pruning_freq)"),
        "recovery": (
            one_of("freeze", "rollback"),
            "below the lower bound: freeze the sparsity (paper), or go back to the last good state and prune more slowly",
        ),
        "patience": (integer(1), "evaluations or iterations in a row after which a rule of IPP acts"),
        "rollbacks": (integer(0), "rollbacks after which IPP ends"),
    },
    "distill": {
        "members": (MEMBERS, "initialisations trained side by side, by size of the student; the best one is kept"),
        "hidden_bias": (number(-10, 10), "value that hidden biases start from"),
        "warm_start": (FLAG, "the first initialisation has the weights of the pruned network's strongest units"),
        "epochs": (integer(1), "epochs at most (n)"),
        "updates": (integer(1), "minibatch updates in an epoch"),
        "evaluate_every": (integer(1), "epochs between evaluations"),
        "episodes": (integer(2), "episodes in an evaluation, for each member"),
        "confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "confirm_episodes": (NONE_OR_SEVERAL, "further episodes on which the chosen member must meet the objective again"),
        "confirm_confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "patience": (integer(1), "evaluations in a row above the objective after which it counts as met"),
        "until": (one_of("objective", "teacher"), "ends when the objective is met, or when the teacher is matched too"),
        "batch_size": (integer(1, 65536), "states in a minibatch"),
        "tau": (positive(1000), "temperature of the teacher's softmax (τ)"),
        "averaging": (number(0, 0.999999), "decay of the running mean of the weights, which is the student; 0: none"),
        "optimizer": (one_of("rmsprop", "adam"), "how gradients become updates"),
        "learning_rate": (RATE_TABLE, "by size of the student in percent and by epoch"),
    },
    "pops": {
        "steps": (integer(1, 1000), "PoPS steps (prune, shrink, distill) at most"),
        "sizes": (
            one_of("live_units", "trimmed_units", "budgets"),
            "widths when shrinking, within the nonzero budget: the live units scaled by one factor, the live units less "
            "those that cost most weights, or each layer's budget alone (paper)",
        ),
        "min_change": (number(0, 100), "points of percent of the original size; a smaller change ends PoPS"),
        "retries": (integer(0, 100), "sizes tried when a shrunk student fails, each between it and the last that worked"),
    },
    "checkpoint": {
        "seconds": (number(0, 60), "least time from one checkpoint to the next; 0: one at every opportunity"),
    },
}

# The group `teacher` has these settings, and those of its algorithm.
TEACHER = {
    "algorithm": (one_of("dqn", "actor_critic"), "how the teacher learns"),
    "environments": (integer(1, 4096), "environments that the teacher plays side by side"),
    "steps": (integer(1), "environment steps after which training ends at the latest"),
    "batch_size": (integer(1, 65536), "transitions in a minibatch"),
    "discount": (number(0, 1), "gamma (γ)"),
    "evaluate_every": (integer(1), "environment steps between evaluations"),
    "episodes": (integer(2), "episodes in an evaluation"),
    "stop_above": (REWARD, "mean reward above which training ends"),
}
TEACHERS = {
    "dqn": {
        "learning_starts": (integer(1), "environment steps before the first update"),
        "steps_per_update": (integer(1), "environment steps for one update"),
        "double_q": (FLAG, "choose the next action with the online network, value it with the target network"),
        "epsilon_first": (number(0, 1), "share of random actions at the start (ε)"),
        "epsilon_last": (number(0, 1), "share of random actions in the end"),
        "epsilon_steps": (integer(1), "environment steps over which ε falls"),
        "learning_rate_first": (positive(1), "Adam's learning rate at the start"),
        "learning_rate_last": (positive(1), "Adam's learning rate in the end; it falls in a straight line"),
        "target_sync": (integer(1), "updates between copies into the target network"),
        "adam_epsilon": (positive(1), "Adam's ε"),
        "n_steps": (integer(1, 100), "steps of reward before a state's value counts (more than 1: Atari games only)"),
        "clip_rewards": (FLAG, "learn from the signs of rewards"),
        "terminal": (one_of("episode", "point", "life"), "what ends a return: the episode, each reward, or each life lost"),
        "restart_every": (
            integer(1),
            "environment steps after which the environments start over, so that resuming is quick",
        ),
    },
    "actor_critic": {
        "rollout": (integer(2, 100_000), "steps that each environment goes on before the updates that follow"),
        "restart_every": (integer(1), "rollouts after which the environments start over, so that resuming is quick"),
        "passes": (integer(1, 100), "how often those updates go through the rollout"),
        "advantage_decay": (number(0, 1), "lambda (λ) of generalised advantage estimation"),
        "clip": (positive(1), "how far an update may move the ratio of action probabilities from 1"),
        "entropy": (number(0, 10), "weight of the entropy bonus at the start; it falls to 0 in a straight line"),
        "actor_learning_rate": (positive(1), "Adam's learning rate at the start; it falls to 0 in a straight line"),
        "critic_learning_rate": (positive(1), "the critic's"),
        "reward_scale": (positive(1000), "factor on the rewards that the critic learns from"),
    },
}


def _by_epoch(epochs, rates):
    return [[end, rate] for end, rate in zip([*epochs, None], rates, strict=True)]


_EPOCHS = (20, 50, 80)
_DISTILLATION_RATES = [
    [40, _by_epoch(_EPOCHS, (1e-5, 5e-6, 2e-6, 1e-6))],
    [10, _by_epoch(_EPOCHS, (1e-4, 5e-5, 2e-5, 1e-5))],
]

_LAYERS = {"bounds": [], "hidden_activation": "relu", "output_activation": "linear"}

CARTPOLE = {
    "environment": {"id": "CartPole-v1", "max_episode_steps": 200, "actions": [], "sticky": 0.0},
    "model": {"observation_shape": [4], "actions": 2, "widths": [256, 256, 128]} | _LAYERS,
    "evaluation": {
        "objective": 190,
        "lower_bound": 80,
        "acting": "greedy",
        "epsilon": 0.0,
        "also": [],
        "choose_episodes": 100,
        "report_episodes": 100,
    },
    "teacher": {
        "algorithm": "dqn",
        "environments": 1,
        "steps": 500_000,
        "learning_starts": 25_000,
        "steps_per_update": 1,
        "batch_size": 128,
        "discount": 0.99,
        "double_q": False,
        "epsilon_first": 1.0,
        "epsilon_last": 0.05,
        "epsilon_steps": 100_000,
        "learning_rate_first": 1e-3,
        "learning_rate_last": 5e-5,
        "target_sync": 600,
        "adam_epsilon": 1e-7,
        "n_steps": 1,
        "clip_rewards": False,
        "terminal": "episode",
        "restart_every": 10**9,
        "evaluate_every": 5_000,
        "episodes": 100,
        "stop_above": 195,
    },
    "replay": {
        "capacity": 100_000,
        "observe": 10_000,
        "environments": 1,
        "refill": True,
        "epsilon": 0.0,
        "student_states": 0,
        "student_steps": 0,
        "student_epsilon": 0.0,
        "least_spread": 0.0,
    },
    "prune": {
        "iterations": 125,
        "updates": 20_000,
        "evaluate_every": 1_000,
        "episodes": 25,
        "confidence": 0,
        "batch_size": 128,
        "tau": 0.01,
        "divide_outputs": False,
        "averaging": 0.0,
        "optimizer": "rmsprop",
        "learning_rate": [*_DISTILLATION_RATES, [0, _by_epoch(_EPOCHS, (1e-7, 8e-8, 5e-8, 1e-9))]],
        "initial_sparsity": 0.0,
        "final_sparsity": 0.99,
        "begin": 0,
        "end": 500_000,
        "frequency": 10,
        "recovery": "freeze",
        "patience": 5,
        "rollbacks": 0,
    },
    "distill": {
        "members": 1,
        "hidden_bias": 0.0,
        "warm_start": False,
        "epochs": 125,
        "updates": 20_000,
        "evaluate_every": 1,
        "episodes": 10,
        "confidence": 0,
        "confirm_episodes": 0,
        "confirm_confidence": 0,
        "patience": 5,
        "until": "objective",
        "batch_size": 128,
        "tau": 0.01,
        "averaging": 0.0,
        "optimizer": "rmsprop",
        "learning_rate": [*_DISTILLATION_RATES, [0, _by_epoch(_EPOCHS, (1e-3, 5e-4, 2e-4, 1e-4))]],
    },
    "pops": {"steps": 20, "sizes": "budgets", "min_change": 0.05, "retries": 0},
    "checkpoint": {"seconds": 30},
}

# What `fast` changes. The reasons and their measured effect stand in the README's list of departures from the paper.
CARTPOLE_FAST = {
    "evaluation": {"objective": 195, "lower_bound": 190, "choose_episodes": 1000, "report_episodes": 1000},
    "teacher": {
        "environments": 16,
        "steps": 200_000,
        "learning_starts": 2_000,
        "steps_per_update": 2,
        "double_q": True,
        "epsilon_steps": 20_000,
        "learning_rate_first": 5e-4,
        "target_sync": 250,
        "evaluate_every": 1_000,
        "episodes": 300,
        "stop_above": 199.9,
    },
    "replay": {"observe": 100_000, "environments": 500, "refill": False, "epsilon": 0.1},
    "prune": {
        "iterations": 50,
        "updates": 250,
        "evaluate_every": 250,
        "confidence": 2,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "end": 5_000,
        "recovery": "rollback",
        "patience": 2,
        "rollbacks": 2,
    },
    "distill": {
        "members": 8,
        "hidden_bias": 0.3,
        "epochs": 15,
        "updates": 1_000,
        "episodes": 25,
        "confidence": 2,
        "confirm_episodes": 200,
        "confirm_confidence": 2,
        "patience": 1,
        "optimizer": "adam",
        "learning_rate": [[0, linear(3e-3, 3e-4, 15)]],
    },
    "pops": {"sizes": "live_units", "min_change": 0, "retries": 3},
}

_LUNARLANDER_EPOCHS = (20, 40, 60)
_RATES_ABOVE_10 = [10, _by_epoch(_LUNARLANDER_EPOCHS, (1e-5, 5e-6, 1e-6, 5e-7))]

LUNARLANDER = {
    "environment": CARTPOLE["environment"] | {"id": "LunarLander-v3", "max_episode_steps": 1000},
    "model": {"observation_shape": [8], "actions": 4, "widths": [64, 64, 64]} | _LAYERS,
    "evaluation": CARTPOLE["evaluation"] | {"objective": 200, "lower_bound": 100, "acting": "sample", "also": ["greedy"]},
    "teacher": {
        "algorithm": "actor_critic",
        "environments": 16,
        "steps": 2_000_000,
        "batch_size": 512,
        "discount": 0.99,
        "rollout": 1024,
        "restart_every": 64,
        "passes": 4,
        "advantage_decay": 0.98,
        "clip": 0.2,
        "entropy": 0.01,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "reward_scale": 0.01,
        "evaluate_every": 65_536,
        "episodes": 200,
        "stop_above": 260,
    },
    "replay": CARTPOLE["replay"],
    "prune": CARTPOLE["prune"]
    | {
        "iterations": 100,
        "batch_size": 512,
        "learning_rate": [_RATES_ABOVE_10, [0, _by_epoch(_LUNARLANDER_EPOCHS, (1e-6, 5e-7, 1e-7, 5e-8))]],
    },
    "distill": CARTPOLE["distill"]
    | {
        "epochs": 100,
        "batch_size": 512,
        "learning_rate": [_RATES_ABOVE_10, [0, _by_epoch(_LUNARLANDER_EPOCHS, (1e-3, 5e-4, 1e-4, 5e-5))]],
    },
    "pops": CARTPOLE["pops"],
    "checkpoint": CARTPOLE["checkpoint"],
}

LUNARLANDER_FAST = {
    "evaluation": {"lower_bound": 190, "choose_episodes": 1000, "report_episodes": 300},
    "replay": CARTPOLE_FAST["replay"] | {"capacity": 400_000, "student_states": 25_000},
    "prune": CARTPOLE_FAST["prune"],
    "distill": CARTPOLE_FAST["distill"]
    | {
        "members": 16,
        "epochs": 4,
        "updates": 3_000,
        "episodes": 16,
        "until": "teacher",
        "learning_rate": [[0, linear(3e-3, 3e-4, 4)]],
    },
    "pops": CARTPOLE_FAST["pops"],
}

_PONG_EPOCHS = (5, 10, 15, 20, 30, 40, 45, 50)

PONG = {
    "environment": {"id": "ALE/Pong-v5", "max_episode_steps": 27_000, "actions": [0, 2, 3], "sticky": 0.0},
    "model": {"observation_shape": [4, 84, 84], "actions": 3, "widths": [32, 64, 64, 512]} | _LAYERS,
    "evaluation": CARTPOLE["evaluation"]
    | {"objective": 18, "lower_bound": 0, "choose_episodes": 10, "report_episodes": 30},
    "teacher": CARTPOLE["teacher"]
    | {
        "steps": 5_000_000,
        "steps_per_update": 4,
        "batch_size": 256,
        "epsilon_last": 0.02,
        "learning_rate_first": 1e-4,
        "learning_rate_last": 1e-6,
        "target_sync": 1_000,
        "n_steps": 4,
        "clip_rewards": True,
        "restart_every": 200_000,
        "evaluate_every": 50_000,
        "episodes": 10,
        "stop_above": 20,
    },
    "replay": CARTPOLE["replay"] | {"observe": 25_000},
    "prune": CARTPOLE["prune"]
    | {
        "iterations": 100,
        "episodes": 10,
        "batch_size": 256,
        "learning_rate": [
            [10, _by_epoch((20, 40, 60), (5e-6, 1e-6, 5e-7, 1e-7))],
            [0, _by_epoch((20, 40, 60), (1e-5, 5e-6, 1e-6, 5e-7))],
        ],
        "end": 750_000,
        "frequency": 50,
    },
    "distill": CARTPOLE["distill"]
    | {
        "epochs": 100,
        "batch_size": 256,
        "learning_rate": [
            [10, _by_epoch((5, 10, 20), (1e-5, 5e-6, 1e-6, 5e-7))],
            [0, _by_epoch(_PONG_EPOCHS, (8e-4, 7e-4, 5e-4, 1e-4, 5e-5, 2e-6, 1e-6, 5e-7, 1e-7))],
        ],
    },
    "pops": CARTPOLE["pops"] | {"min_change": 0.5},
    "checkpoint": CARTPOLE["checkpoint"],
}
PONG_FAST = {
    "evaluation": {
        "epsilon": 0.01,
        "also": ["greedy", "sticky"],
        "lower_bound": 12,
        "choose_episodes": 30,
    },
    "teacher": {
        "environments": 16,
        "steps": 1_280_000,
        "steps_per_update": 16,
        "learning_starts": 32_000,
        "batch_size": 32,
        "double_q": True,
        "epsilon_last": 0.01,
        "epsilon_steps": 240_000,
        "learning_rate_first": 2.5e-4,
        "learning_rate_last": 1e-5,
        "target_sync": 500,
        "adam_epsilon": 1e-5,
        "terminal": "point",
        "restart_every": 800_000,
        "evaluate_every": 80_000,
        "episodes": 16,
        "stop_above": 20.2,
    },
    "replay": {
        "observe": 50_000,
        "environments": 64,
        "refill": False,
        "epsilon": 0.2,
        "student_states": 5_000,
        "student_steps": 50,
        "student_epsilon": 0.1,
        "least_spread": 0.02,
    },
    "prune": {
        "iterations": 12,
        "updates": 200,
        "evaluate_every": 200,
        "batch_size": 128,
        "tau": 0.05,
        "divide_outputs": True,
        "averaging": 0.99,
        "optimizer": "adam",
        "learning_rate": [[50, linear(3e-4, 1e-3, 5)], [0, [[None, 1e-3]]]],
        "end": 2_000,
        "frequency": 20,
        "recovery": "rollback",
        "patience": 1,
        "rollbacks": 2,
    },
    "distill": {
        "members": [[1, 1], [0, 2]],
        "hidden_bias": 0.1,
        "warm_start": True,
        "epochs": 20,
        "updates": 500,
        "evaluate_every": 5,
        "batch_size": 64,
        "tau": 0.05,
        "averaging": 0.999,
        "episodes": 10,
        "confirm_episodes": 30,
        "confirm_confidence": 1,
        "patience": 1,
        "until": "objective",
        "optimizer": "adam",
        "learning_rate": [[1, linear(1e-3, 1e-4, 20)], [0, linear(2e-3, 1e-4, 20)]],
    },
    "pops": {"steps": 4, "sizes": "live_units", "min_change": 0.05, "retries": 3},
}

# The published code has no settings for MsPacman. Those of Pong serve, but for the game's own.
PACMAN = PONG | {
    "environment": PONG["environment"] | {"id": "ALE/MsPacman-v5", "actions": []},
    "model": PONG["model"] | {"actions": 9},
    "evaluation": PONG["evaluation"] | {"objective": 2_000, "lower_bound": 1_000, "report_episodes": 50},
    "teacher": PONG["teacher"] | {"terminal": "life", "stop_above": 20_000},
}
PACMAN_FAST = PONG_FAST | {
    # The objective is 95 % of the shipped teacher's reward; a game's standard deviation is 700. From one evaluation to the
    # next a student's reward moves by hundreds, so many are tried, and only a collapse is below the lower bound.
    "evaluation": PONG_FAST["evaluation"] | {"objective": 1_914, "lower_bound": 500, "choose_episodes": 50},
    "teacher": PONG_FAST["teacher"]
    | {
        "steps": 360_000,
        "steps_per_update": 4,
        "learning_starts": 8_000,
        "epsilon_steps": 100_000,
        "learning_rate_first": 2e-4,
        "terminal": "life",
        "restart_every": 200_000,
        "evaluate_every": 40_000,
        "episodes": 32,
        "stop_above": 20_000,
    },
    "replay": PONG_FAST["replay"] | {"student_states": 20_000},
    "prune": PONG_FAST["prune"]
    | {
        "iterations": 24,
        "updates": 1_000,
        "evaluate_every": 1_000,
        "episodes": 30,
        "batch_size": 64,
        "learning_rate": [[0, [[2, 5e-5], [4, 1e-4], [6, 1.5e-4], [9, 2e-4], [None, 3e-4]]]],
        "end": 20_000,
        "frequency": 100,
    },
    "distill": PONG_FAST["distill"]
    | {
        "epochs": 30,
        "updates": 1_000,
        "evaluate_every": 3,
        "episodes": 30,
        "confirm_episodes": 100,
        "learning_rate": [[1, linear(1e-3, 1e-4, 30)], [0, linear(2e-3, 1e-4, 30)]],
    },
    "pops": PONG_FAST["pops"] | {"steps": 20, "sizes": "trimmed_units"},
}

# Any other environment of Gymnasium with a flat observation. Groups `environment` and `model` come from the environment and
# the teacher; nothing here was chosen for one environment. The objective leaves a standard error only, so that many
# episodes have to decide.
ANY = CARTPOLE | {
    "model": CARTPOLE["model"] | {"widths": [64, 64]},
    "evaluation": CARTPOLE["evaluation"] | {"objective": None, "lower_bound": None},
}
ANY_FAST = {
    "evaluation": {"choose_episodes": 1000, "report_episodes": 1000},
    "replay": LUNARLANDER_FAST["replay"],
    "prune": LUNARLANDER_FAST["prune"] | {"episodes": 300, "confidence": 0},
    "distill": LUNARLANDER_FAST["distill"]
    | {
        "members": 8,
        "epochs": 8,
        "episodes": 50,
        "confidence": 0,
        "confirm_episodes": 1000,
        "confirm_confidence": 0,
        "learning_rate": [[0, linear(3e-3, 3e-4, 8)]],
    },
    "pops": LUNARLANDER_FAST["pops"],
}

ENVIRONMENTS = {
    "cartpole": {"paper": CARTPOLE, "fast": CARTPOLE_FAST},
    "lunarlander": {"paper": LUNARLANDER, "fast": LUNARLANDER_FAST},
    "pong": {"paper": PONG, "fast": PONG_FAST},
    "pacman": {"paper": PACMAN, "fast": PACMAN_FAST},
}
PROFILES = ("fast", "paper")


def is_atari(environment):
    """Whether the group `environment` names an Atari game."""
    return environment["id"].startswith("ALE/")


def _nearest(name, names):
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def check_environment(name):
    """Raises ConfigurationError unless `name` is a key of `ENVIRONMENTS`."""
    if name not in ENVIRONMENTS:
        raise ConfigurationError(f"unknown environment {name!r}{_nearest(name, list(ENVIRONMENTS))}")


def settings_of(config):
    """What there is to set in a configuration: {group: {key: (rule, meaning)}}."""
    algorithm = config["teacher"].get("algorithm") if isinstance(config.get("teacher"), dict) else None
    special = TEACHERS.get(algorithm, {}) if isinstance(algorithm, str) else {}
    return SETTINGS | {"teacher": TEACHER | special}


def _parse(assignment, config):
    """`group.key=value` as (group, key, value). The value is JSON; what is not JSON is taken as a word."""
    name, equals, text = assignment.partition("=")
    group, dot, key = name.partition(".")
    if not (equals and dot):
        raise ConfigurationError(f"--set {assignment}: write it as group.key=value, for example prune.iterations=3")
    names = [f"{g}.{k}" for g, keys in settings_of(config).items() for k in keys]
    if name not in names:
        raise ConfigurationError(f"--set {name}: unknown setting{_nearest(name, names)}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return group, key, value


def configuration(environment, profile="fast", assignments=(), described=None):
    """Returns the checked configuration of an environment: {group: {key: value}}.

    Args:
        environment: a key of `ENVIRONMENTS`; any name if the environment is described.
        profile: "fast" or "paper".
        assignments: strings `group.key=value` that change single settings, the last one winning.
        described: {group: {key: value}}, the settings that an environment without settings of its own gives
            (`environments.describe`).

    Raises:
        ConfigurationError: unknown environment, profile or setting, or a value that does not fit.
    """
    if described is None:
        check_environment(environment)
    if profile not in PROFILES:
        raise ConfigurationError(f"unknown profile {profile!r}{_nearest(profile, list(PROFILES))}")
    profiles = {"paper": ANY, "fast": ANY_FAST} if described else ENVIRONMENTS[environment]
    config = copy.deepcopy(profiles["paper"])
    for changes in [profiles["fast"]] * (profile == "fast") + [described or {}]:
        for group, settings in changes.items():
            config[group].update(copy.deepcopy(settings))
    algorithm = config["teacher"]["algorithm"]
    for assignment in assignments:
        group, key, value = _parse(assignment, config)
        config[group][key] = value
        if config["teacher"]["algorithm"] != algorithm:
            raise ConfigurationError(f"teacher.algorithm: {environment} has a teacher that learns by {algorithm} only")
    validate(config)
    return config


def validate(config):
    """Raises ConfigurationError, naming the key, unless `config` has exactly the settings that there are, each fitting."""
    settings = settings_of(config)
    for group in (*settings, *config):
        if group not in config or group not in settings or not isinstance(config[group], dict):
            raise ConfigurationError(f"configuration: group {group!r} is missing, unknown or not a dictionary")
        for key in (*settings[group], *config[group]):
            if key not in settings[group]:
                raise ConfigurationError(f"{group}.{key}: unknown setting{_nearest(key, list(settings[group]))}")
            if key not in config[group]:
                raise ConfigurationError(f"{group}.{key}: missing")
            rule, meaning = settings[group][key]
            if not rule.fits(config[group][key]):
                value = json.dumps(config[group][key], default=repr)
                raise ConfigurationError(f"{group}.{key}: {value[:60]} is not {rule.accepts} ({meaning})")

    def require(group, key, holds, what):
        if not holds:
            raise ConfigurationError(f"{group}.{key}: {config[group][key]} {what}")

    evaluation, replay, prune, teacher = (config[g] for g in ("evaluation", "replay", "prune", "teacher"))
    objective, lower_bound, model = evaluation["objective"], evaluation["lower_bound"], config["model"]
    if objective is None:
        require("evaluation", "lower_bound", lower_bound is None, "needs evaluation.objective")
    elif lower_bound is not None:
        require("evaluation", "lower_bound", lower_bound < objective, "is not below the objective")
    if model["bounds"]:
        require("model", "actions", model["actions"] == len(model["bounds"][0]), "does not fit model.bounds")
        require("evaluation", "acting", evaluation["acting"] == "greedy", "is for discrete actions")
        require("prune", "divide_outputs", not prune["divide_outputs"], "is for discrete actions")
    else:
        require("model", "actions", model["actions"] > 1, "is less than two discrete actions")
    require("prune", "end", prune["end"] > prune["begin"], "is not after prune.begin")
    if not is_atari(config["environment"]):
        for group, key in (("environment", "actions"), ("environment", "sticky")):
            require(group, key, not config[group][key], "is for Atari games only")
        require("evaluation", "also", "sticky" not in evaluation["also"], "has sticky, which is for Atari games only")
    require(
        "prune",
        "final_sparsity",
        prune["final_sparsity"] >= prune["initial_sparsity"],
        "is below prune.initial_sparsity",
    )
    require(
        "prune", "updates", prune["updates"] % prune["evaluate_every"] == 0, "is not a multiple of prune.evaluate_every"
    )
    distill = config["distill"]
    whole = distill["epochs"] % distill["evaluate_every"] == 0
    require("distill", "epochs", whole, "is not a multiple of distill.evaluate_every")
    require(
        "replay", "student_steps", not (config["model"]["bounds"] and replay["student_steps"]), "is for discrete actions"
    )
    require("replay", "capacity", replay["capacity"] >= replay["observe"], "is below replay.observe")
    require("replay", "student_states", replay["student_states"] <= replay["capacity"], "is above replay.capacity")
    require("replay", "observe", replay["observe"] >= replay["environments"], "is below replay.environments")
    if teacher["algorithm"] == "dqn":
        environments = teacher["environments"]
        if is_atari(config["environment"]):
            steps = config["model"]["observation_shape"][0] + teacher["n_steps"] + 2
            require("replay", "capacity", replay["capacity"] >= steps * environments, f"is below {steps * environments}")
            require(
                "teacher",
                "learning_starts",
                teacher["learning_starts"] >= steps * environments,
                f"is below {steps * environments}, what a return needs",
            )
        else:
            require("teacher", "n_steps", teacher["n_steps"] == 1, "is more than 1, which is for Atari games only")
            require("teacher", "terminal", teacher["terminal"] != "life", "is for Atari games only")
        require("teacher", "restart_every", teacher["restart_every"] >= environments, "is below teacher.environments")
        shortest = sum(teacher[key] for key in ("learning_starts", "steps_per_update", "evaluate_every"))
        require("replay", "capacity", replay["capacity"] >= environments, "is below teacher.environments")
        require(
            "teacher",
            "steps",
            teacher["steps"] >= shortest + 2 * environments,
            "leaves no time for an evaluation after teacher.learning_starts",
        )
        require(
            "teacher",
            "epsilon_last",
            teacher["epsilon_last"] <= teacher["epsilon_first"],
            "is above teacher.epsilon_first",
        )
    else:
        rollout = teacher["environments"] * teacher["rollout"]
        require("teacher", "batch_size", teacher["batch_size"] > 1, "is too small: advantages are compared in a minibatch")
        require(
            "teacher",
            "batch_size",
            rollout % teacher["batch_size"] == 0,
            f"does not divide the {rollout} steps of a rollout, teacher.environments times teacher.rollout",
        )
        require(
            "teacher",
            "steps",
            teacher["steps"] >= teacher["evaluate_every"] + rollout,
            "leaves no time for an evaluation after teacher.evaluate_every",
        )
