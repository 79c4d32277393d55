"""Every setting of PoPS: one dictionary per environment, grouped by phase, and the rules that check it.

An environment has two profiles. `paper` holds the settings of the paper (section V) as published, but for LunarLander's
teacher, which learns in another way. `fast` is `paper` with changes that reach a smaller student in minutes on two CPU
cores; docs/cartpole.md says what each is for.

This module imports nothing heavy, so that a wrong setting is reported at once.
"""

import copy
import difflib
import json

from pops.support.errors import ConfigurationError
from pops.support.rules import REWARD, conditions, is_number
from pops.support.settings import SETTINGS, TEACHER, TEACHERS


def by_size(setting, percent):
    """The entry of a table for a student of `percent` % of the original weights; what is no table is for all."""
    if not isinstance(setting, list):
        return setting
    return next(entry for above, entry in setting if percent > above)


def linear(first, last, epochs):
    """A learning rate that falls in a straight line from `first` at epoch 1 to `last` at epoch `epochs` and stays there."""
    step = (last - first) / (epochs - 1)
    rows = [[epoch, first + step * (epoch - 1)] for epoch in range(1, epochs)]
    return [*rows, [None, last]]


def learning_rate(table, percent, epoch):
    """The learning rate for a student of `percent` % of the original weights in its `epoch`-th epoch (from 1)."""
    rates = by_size(table, percent)
    if is_number(rates):
        return float(rates)
    return float(next(rate for last_epoch, rate in rates if last_epoch is None or epoch <= last_epoch))


def _by_epoch(epochs, rates):
    return [[end, rate] for end, rate in zip([*epochs, None], rates, strict=True)]


_EPOCHS = (20, 50, 80)

_DISTILLATION_RATES = [
    [40, _by_epoch(_EPOCHS, (1e-5, 5e-6, 2e-6, 1e-6))],
    [10, _by_epoch(_EPOCHS, (1e-4, 5e-5, 2e-5, 1e-5))],
]

_LAYERS = {
    "background": 0,
    "factors": [],
    "bounds": [],
    "hidden_activation": "relu",
    "output_activation": "linear",
    "squash": {},
}

CARTPOLE = {
    "environment": {
        "id": "CartPole-v1",
        "kwargs": {},
        "imports": [],
        "max_episode_steps": 200,
        "actions": [],
        "sticky": 0.0,
        "simulator": "auto",
    },
    "model": {"observation_shape": [4], "actions": 2, "widths": [256, 256, 128]} | _LAYERS,
    "evaluation": {
        "objective": 190,
        "lower_bound": 80,
        "margin": 0.01,
        "acting": "greedy",
        "epsilon": 0.0,
        "noise": 0.0,
        "also": [],
        "robust": {},
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
        "sticky": 0.0,
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
        "give_up": 0,
        "batch_size": 128,
        "tau": 0.01,
        "averaging": 0.0,
        "optimizer": "rmsprop",
        "learning_rate": [*_DISTILLATION_RATES, [0, _by_epoch(_EPOCHS, (1e-3, 5e-4, 2e-4, 1e-4))]],
    },
    "pops": {
        "method": "pops",
        "shapes": [],
        "steps": 20,
        "sizes": "budgets",
        "fewer_layers": False,
        "min_change": 0.05,
        "retries": 0,
        "floor": 0,
    },
    "checkpoint": {"seconds": 30},
}

# What `fast` changes. The reasons and their measured effect stand in docs/cartpole.md, under departures from the paper.
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
    "pops": {"sizes": "live_units", "fewer_layers": True, "min_change": 0, "retries": 3, "floor": 12},
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
    "evaluation": {"lower_bound": 190, "margin": 0.02, "choose_episodes": 1000, "report_episodes": 300},
    "replay": CARTPOLE_FAST["replay"] | {"capacity": 400_000, "student_states": 25_000},
    "prune": CARTPOLE_FAST["prune"],
    "distill": CARTPOLE_FAST["distill"]
    | {
        "members": 16,
        "epochs": 4,
        "updates": 3_000,
        "episodes": 16,
        "confirm_episodes": 500,
        "until": "teacher",
        "give_up": 2,
        "learning_rate": [[0, linear(3e-3, 3e-4, 4)]],
    },
    "pops": CARTPOLE_FAST["pops"],
}

_PONG_EPOCHS = (5, 10, 15, 20, 30, 40, 45, 50)

PONG = {
    "environment": CARTPOLE["environment"] | {"id": "ALE/Pong-v5", "max_episode_steps": 27_000, "actions": [0, 2, 3]},
    "model": {"observation_shape": [4, 84, 84], "actions": 3, "widths": [32, 64, 64, 512]} | _LAYERS | {"background": 87},
    "evaluation": CARTPOLE["evaluation"]
    | {"objective": 18, "lower_bound": 0, "choose_episodes": 10, "report_episodes": 100},
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
        "give_up": 2,
        "optimizer": "adam",
        "learning_rate": [[1, linear(1e-3, 1e-4, 20)], [0, linear(2e-3, 1e-4, 20)]],
    },
    "pops": {"steps": 4, "sizes": "live_units", "min_change": 0.05, "retries": 3, "floor": 0},
}

# The published code has no settings for MsPacman. Those of Pong serve, but for the game's own.
PACMAN = PONG | {
    "environment": PONG["environment"] | {"id": "ALE/MsPacman-v5", "actions": []},
    "model": PONG["model"] | {"actions": 9, "background": 32},  # of the corridors
    "evaluation": PONG["evaluation"] | {"objective": 2_000, "lower_bound": 1_000, "report_episodes": 100},
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

# Any other environment of Gymnasium. Groups `environment` and `model` come from the environment and
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
        "members": [[0.1, 8], [0, 24]],
        "epochs": 8,
        "give_up": 4,
        "episodes": 50,
        "confidence": 0,
        "confirm_episodes": 1000,
        "confirm_confidence": 1,
        "learning_rate": [[0, linear(3e-3, 3e-4, 8)]],
    },
    "pops": LUNARLANDER_FAST["pops"],
}

# And any other Atari game, with MsPacman's settings. A game's rewards vary, so many games have to decide.
ANY_GAME = PACMAN | {"evaluation": PACMAN["evaluation"] | {"objective": None, "lower_bound": None}}
# MsPacman's lower bound is a collapse, another game's three quarters of the way, where noise alone may lead below it twice.
ANY_GAME_FAST = {group: PACMAN_FAST[group] for group in ("replay", "prune", "pops")} | {
    "evaluation": PONG_FAST["evaluation"] | {"lower_bound": None, "choose_episodes": 100},
    "distill": PACMAN_FAST["distill"] | {"give_up": ANY_FAST["distill"]["give_up"]},
}

ENVIRONMENTS = {
    "cartpole": {"paper": CARTPOLE, "fast": CARTPOLE_FAST},
    "lunarlander": {"paper": LUNARLANDER, "fast": LUNARLANDER_FAST},
    "pong": {"paper": PONG, "fast": PONG_FAST},
    "pacman": {"paper": PACMAN, "fast": PACMAN_FAST},
}

PROFILES = ("fast", "paper")


def is_atari(environment):
    """Whether the group `environment` names an Atari game, also with a dot for its slash, as networks' names have it."""
    return environment["id"].startswith(("ALE/", "ALE."))


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
    return group, key, value_of(text)


def value_of(text):
    """A setting's value from text: JSON; what is not JSON is taken as a word."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def configuration(environment, profile="fast", assignments=(), described=None, objective=None):
    """Returns the checked configuration of an environment: {group: {key: value}}.

    Args:
        environment: a key of `ENVIRONMENTS`; any name if the environment is described.
        profile: "fast" or "paper".
        assignments: strings `group.key=value` that change single settings, the last one winning.
        described: {group: {key: value}}, the settings that an environment without settings of its own gives
            (`support.environments.describe`).
        objective: replaces evaluation.objective; the lower bound moves with it, unless an assignment sets it.

    Raises:
        ConfigurationError: unknown environment, profile or setting, or a value that does not fit.
    """
    if described is None:
        check_environment(environment)
    if profile not in PROFILES:
        raise ConfigurationError(f"unknown profile {profile!r}{_nearest(profile, list(PROFILES))}")
    if described is None:
        profiles = ENVIRONMENTS[environment]
    elif is_atari(described["environment"]):
        profiles = {"paper": ANY_GAME, "fast": ANY_GAME_FAST}
    else:
        profiles = {"paper": ANY, "fast": ANY_FAST}
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
    if objective is not None:
        evaluation = config["evaluation"]
        before, evaluation["objective"] = evaluation["objective"], objective
        fixed = any(assignment.startswith("evaluation.lower_bound=") for assignment in assignments)
        if not fixed and REWARD.fits(evaluation["lower_bound"]) and REWARD.fits(objective):
            evaluation["lower_bound"] += objective - before
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
    for holds, group, key, what in conditions(config, is_atari(config["environment"])):
        if not holds:
            raise ConfigurationError(f"{group}.{key}: {config[group][key]} {what}")
