"""What settings may be: rules that say in words what they accept, and the conditions that join one setting to another."""

import json
import math


class Rule:
    def __init__(self, accepts, fits):
        self.accepts, self.fits = accepts, fits


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value):
    return (_is_integer(value) or isinstance(value, float)) and abs(value) < math.inf and abs(value) <= 1e300


def integer(low, high=10**9):
    return Rule(f"an integer from {low} to {high}", lambda v: _is_integer(v) and low <= v <= high)


def number(low, high=1e9):
    return Rule(f"a number from {low:g} to {high:g}", lambda v: is_number(v) and low <= v <= high)


def positive(high=1e9):
    return Rule(f"a number above 0, up to {high:g}", lambda v: is_number(v) and 0 < v <= high)


def one_of(*names):
    return Rule("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


NONE_OR_SEVERAL = Rule("0, or an integer from 2", lambda v: _is_integer(v) and (v == 0 or 2 <= v <= 10**9))

TEXT = Rule("a name", lambda v: isinstance(v, str) and v != "" and v.isprintable())

REWARD = Rule("a number", is_number)

REWARD_OR_NONE = Rule("a number, or null", lambda v: v is None or is_number(v))

FLAG = Rule("true or false", lambda v: isinstance(v, bool))

SPARSITY = Rule("a number from 0 up to, not including, 1", lambda v: is_number(v) and 0 <= v < 1)

WIDTHS = Rule(
    "a list of integers from 1 to 100000",
    lambda v: isinstance(v, list) and 0 < len(v) <= 100 and all(_is_integer(w) and 1 <= w <= 100_000 for w in v),
)

COUNTS = Rule("[], or " + WIDTHS.accepts, lambda v: v == [] or WIDTHS.fits(v))

SHAPES = Rule("a list of lists as of widths, also empty ones", lambda v: isinstance(v, list) and all(map(COUNTS.fits, v)))

# Keras's names, and one of ours: see model.OWN_ACTIVATIONS.
ACTIVATIONS = (
    "relu tanh elu celu selu relu6 leaky_relu_0.01 sigmoid silu gelu mish softplus softsign "
    "hard_tanh hard_sigmoid hard_silu log_sigmoid tanh_shrink linear"
).split()

NAMES = Rule(
    "a list of names", lambda v: isinstance(v, list) and all(isinstance(n, str) and n and n.isprintable() for n in v)
)


def _is_json(value):
    try:
        return json.dumps(value, allow_nan=False) is not None
    except (TypeError, ValueError, RecursionError):
        return False


KWARGS = Rule(
    "a dictionary of JSON values by name",
    lambda v: isinstance(v, dict) and all(isinstance(name, str) and name.isidentifier() for name in v) and _is_json(v),
)


def _is_squash(value):
    return (
        isinstance(value, dict)
        and set(value) == {"clip", "scale", "offset"}
        and (value["clip"] is None or (is_number(value["clip"]) and value["clip"] > 0))
        and all(isinstance(value[key], list) and all(map(is_number, value[key])) for key in ("scale", "offset"))
        and len(value["scale"]) == len(value["offset"])
    )


SQUASH = Rule("{}, or {clip: a number or null, scale: [...], offset: [...]}", lambda v: v == {} or _is_squash(v))

INDICES = Rule(
    "a list of different integers from 0 to 999",
    lambda v: isinstance(v, list) and all(_is_integer(i) and 0 <= i < 1000 for i in v) and len(set(v)) == len(v),
)


def _is_bounds(value):
    """[[least, ...], [greatest, ...]]"""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, list) and side and all(map(is_number, side)) for side in value)
        and len(value[0]) == len(value[1])
        and all(low < high for low, high in zip(*value, strict=True))
    )


BOUNDS = Rule(
    "[], or two lists of numbers of one length, the second one above the first",
    lambda v: v == [] or _is_bounds(v),
)

# What other ways to play change in the configuration.
VARIATIONS = {
    "greedy": {"evaluation": {"acting": "greedy", "epsilon": 0.0}},
    "epsilon": {"evaluation": {"epsilon": 0.05}},
    "sticky": {"environment": {"sticky": 0.25}},  # Machado et al. (2018)
    "plain": {"environment": {"sticky": 0.0}},
    "noise": {"evaluation": {"noise": 0.05}},
}

WAYS = tuple(VARIATIONS)

SOME_WAYS = Rule(
    "a list of different ones of " + ", ".join(WAYS),
    lambda v: isinstance(v, list) and all(isinstance(n, str) and n in WAYS for n in v) and len(set(v)) == len(v),
)

SHARES = Rule(
    "a dictionary of " + ", ".join(WAYS) + ", each with a number above 0, up to 1",
    lambda v: isinstance(v, dict) and SOME_WAYS.fits(list(v)) and all(is_number(s) and 0 < s <= 1 for s in v.values()),
)


def _is_rates(rates):
    """[[last_epoch, rate], ..., [null, rate]]: a learning rate that is constant by pieces."""
    if not (isinstance(rates, list) and rates and all(isinstance(row, list) and len(row) == 2 for row in rates)):
        return False
    ends = [row[0] for row in rates]
    return (
        all(is_number(row[1]) and 0 < row[1] <= 1 for row in rates)
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
        all(is_number(bound) and 0 <= bound <= 100 for bound in bounds)
        and bounds == sorted(set(bounds), reverse=True)
        and bounds[-1] == 0
        and all(fits(row[1]) for row in table)
    )


def _is_rate_table(table):
    return 0 < table <= 1 if is_number(table) else _is_size_table(table, _is_rates)


MEMBERS = Rule(
    "an integer from 1 to 256, or a table [[above_percent, integer], ..., [0, integer]]",
    lambda v: integer(1, 256).fits(v) or _is_size_table(v, integer(1, 256).fits),
)

RATE_TABLE = Rule(
    "a number above 0, up to 1, or a table [[above_percent, [[last_epoch, rate], ..., [null, rate]]], ..., [0, ...]]",
    _is_rate_table,
)


# Conditions between settings: (whether it holds, group, key, what is wrong otherwise).


def conditions(config, atari):
    """All conditions of a configuration whose single settings fit.

    Args:
        config: {group: {key: value}}.
        atari: whether its environment is an Atari game.
    """
    yield from _of_the_policy(config, atari)
    yield from _of_the_students(config)
    algorithm = {"dqn": _of_q_learning, "actor_critic": _of_actor_critic}[config["teacher"]["algorithm"]]
    yield from algorithm(config, atari)


def _of_the_policy(config, atari):
    environment, model, evaluation = config["environment"], config["model"], config["evaluation"]
    objective, lower_bound = evaluation["objective"], evaluation["lower_bound"]
    if objective is None:
        yield lower_bound is None, "evaluation", "lower_bound", "needs evaluation.objective"
    elif lower_bound is not None:
        yield lower_bound < objective, "evaluation", "lower_bound", "is not below the objective"
    if model["bounds"]:
        yield model["actions"] == len(model["bounds"][0]), "model", "actions", "does not fit model.bounds"
        yield evaluation["acting"] == "greedy", "evaluation", "acting", "is for discrete actions"
        yield not config["prune"]["divide_outputs"], "prune", "divide_outputs", "is for discrete actions"
        yield not config["replay"]["student_steps"], "replay", "student_steps", "is for discrete actions"
        yield not model["factors"], "model", "factors", "is for discrete actions"
    else:
        yield not model["squash"], "model", "squash", "is for continuous actions"
        yield model["actions"] > 1, "model", "actions", "is less than two discrete actions"
        whole = sum(model["factors"]) in (0, model["actions"])
        yield whole, "model", "factors", "do not add up to model.actions"
    if atari:
        yield len(model["widths"]) >= 3, "model", "widths", "are less than the three convolutions"
    else:
        for key in ("actions", "sticky"):
            yield not environment[key], "environment", key, "is for Atari games only"
    others, where = (("noise",), "not for Atari games") if atari else (("sticky", "plain"), "for Atari games only")
    yield not (atari and evaluation["noise"]), "evaluation", "noise", f"is {where}"
    for key in ("also", "robust"):
        for way in others:
            yield way not in evaluation[key], "evaluation", key, f"has {way}, which is {where}"
    confirmed = not evaluation["robust"] or config["distill"]["confirm_episodes"] > 0
    yield confirmed, "evaluation", "robust", "needs distill.confirm_episodes, on which it is tested"


def _of_the_students(config):
    prune, distill, replay = config["prune"], config["distill"], config["replay"]
    yield prune["end"] > prune["begin"], "prune", "end", "is not after prune.begin"
    grows = prune["final_sparsity"] >= prune["initial_sparsity"]
    yield grows, "prune", "final_sparsity", "is below prune.initial_sparsity"
    whole = prune["updates"] % prune["evaluate_every"] == 0
    yield whole, "prune", "updates", "is not a multiple of prune.evaluate_every"
    whole = distill["epochs"] % distill["evaluate_every"] == 0
    yield whole, "distill", "epochs", "is not a multiple of distill.evaluate_every"
    confirmed = distill["until"] == "objective" or distill["confirm_episodes"] > 0
    yield confirmed, "distill", "until", "needs distill.confirm_episodes, on which the teacher can be matched"
    yield replay["capacity"] >= replay["observe"], "replay", "capacity", "is below replay.observe"
    yield replay["student_states"] <= replay["capacity"], "replay", "student_states", "is above replay.capacity"
    yield replay["observe"] >= replay["environments"], "replay", "observe", "is below replay.environments"
    pops = config["pops"]
    direct = pops["method"] == "direct"
    needed = "names no network, such as [[2]], for pops.method=direct" if direct else "is for pops.method=direct only"
    yield direct == bool(pops["shapes"]), "pops", "shapes", needed
    searched = pops["method"] != "search" or pops["floor"] > 0
    yield searched, "pops", "floor", "lets pops.method=search try no network"


def _of_q_learning(config, atari):
    teacher, capacity, environments = config["teacher"], config["replay"]["capacity"], config["teacher"]["environments"]
    if atari:
        steps = (config["model"]["observation_shape"][0] + teacher["n_steps"] + 2) * environments
        yield capacity >= steps, "replay", "capacity", f"is below {steps}"
        yield teacher["learning_starts"] >= steps, "teacher", "learning_starts", f"is below {steps}, what a return needs"
    else:
        yield teacher["n_steps"] == 1, "teacher", "n_steps", "is more than 1, which is for Atari games only"
        yield teacher["terminal"] != "life", "teacher", "terminal", "is for Atari games only"
        yield not teacher["sticky"], "teacher", "sticky", "is for Atari games only"
    yield teacher["restart_every"] >= environments, "teacher", "restart_every", "is below teacher.environments"
    yield capacity >= environments, "replay", "capacity", "is below teacher.environments"
    shortest = sum(teacher[key] for key in ("learning_starts", "steps_per_update", "evaluate_every")) + 2 * environments
    enough = teacher["steps"] >= shortest
    yield enough, "teacher", "steps", "leaves no time for an evaluation after teacher.learning_starts"
    falls = teacher["epsilon_last"] <= teacher["epsilon_first"]
    yield falls, "teacher", "epsilon_last", "is above teacher.epsilon_first"


def _of_actor_critic(config, atari):
    teacher, batch = config["teacher"], config["teacher"]["batch_size"]
    rollout = teacher["environments"] * teacher["rollout"]
    yield batch > 1, "teacher", "batch_size", "is too small: advantages are compared in a minibatch"
    what = f"does not divide the {rollout} steps of a rollout, teacher.environments times teacher.rollout"
    yield rollout % batch == 0, "teacher", "batch_size", what
    enough = teacher["steps"] >= teacher["evaluate_every"] + rollout
    yield enough, "teacher", "steps", "leaves no time for an evaluation after teacher.evaluate_every"
