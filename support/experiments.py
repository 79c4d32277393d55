"""Experiments: the runs that a benchmark consists of, what each is started with, and what came out of it."""

import csv
import json
import sys
from typing import NamedTuple

import numpy as np

from pops import configs
from pops.support.errors import ConfigurationError
from pops.support.files import ROOT, replacing

# Agents of RL Baselines3 Zoo that its default settings compress (docs/zoo.md says where they are from).
_ZOO = (
    ("zoo-cartpole", "CartPole-v1", "dqn/CartPole-v1_1/CartPole-v1.zip"),
    ("zoo-lunarlander", "LunarLander-v3", "ppo/LunarLander-v2_1/LunarLander-v2.zip"),
    ("zoo-continuous", "LunarLanderContinuous-v3", "ppo/LunarLanderContinuous-v2_1/LunarLanderContinuous-v2.zip"),
)

# What pops.py is told of an environment, and the memory that a run takes at most, in GB.
ENVIRONMENTS = {
    "cartpole": (["cartpole"], 2),
    "lunarlander": (["lunarlander"], 2),
    "acrobot": (["--env-id", "Acrobot-v1", "--teacher", "saved_models/acrobot/teacher.zip"], 2),
    "mountaincar": (["--env-id", "MountainCar-v0", "--teacher", "saved_models/mountaincar/teacher.zip"], 2),
    "pendulum": (["--env-id", "Pendulum-v1", "--teacher", "saved_models/pendulum/teacher.zip"], 2),
    "pong": (["pong"], 8),
    "pacman": (["pacman"], 8),
    **{name: (["--env-id", environment, "--teacher", f"rl-trained-agents/{path}"], 2) for name, environment, path in _ZOO},
}


def id_of(environment):
    """What `configuration_of` calls one of the `ENVIRONMENTS`."""
    arguments = ENVIRONMENTS[environment][0]
    return arguments[arguments.index("--env-id") + 1] if "--env-id" in arguments else environment


class Method(NamedTuple):
    """A way from a teacher to a small network.

    Attributes:
        title: in tables.
        settings: `group.key=value`, of pops.py.
        arguments: further ones of pops.py.
        shapes: which networks it is given, made of those that PoPS found with the same seed: "same" or "random" ones.
        trains: its command is train_teacher.py.
    """

    title: str
    settings: tuple = ()
    arguments: tuple = ()
    shapes: str = ""
    trains: bool = False


# Methods whose only aim is the objective get what all are judged by: 95 % of the way from random play to the teacher.
_JUDGED = ("evaluation.objective=null", "evaluation.lower_bound=null", "evaluation.margin=0.05")

METHODS = {
    "pops": Method("PoPS"),
    "paper": Method("PoPS as in the paper", arguments=("--profile", "paper")),
    "steps": Method("PoPS, no search at its end", ("pops.floor=0",)),
    "once": Method("prune once, shrink once", ("pops.steps=1", "pops.floor=0")),
    "search": Method("search by distillation, no pruning", ("pops.method=search", "pops.floor=24")),
    "direct": Method("distillation into PoPS's sizes", ("pops.method=direct",), shapes="same"),
    "random": Method("distillation into random widths", ("pops.method=direct",), shapes="random"),
    "prune": Method("pruning while distilling, no shrinking", ("pops.method=prune", *_JUDGED)),
    "one_shot": Method("pruning at once, nothing trained", ("pops.method=one_shot",)),
    "ars": Method("linear policy by random search (ARS)", ("pops.method=ars", *_JUDGED)),
    "scratch": Method("reinforcement learning at PoPS's size", shapes="same", trains=True),
}

# `fast` with one of its departures from the paper taken back.
ABLATIONS = {
    "freeze": ("freeze instead of roll back", ("prune.recovery=freeze",)),
    "single": ("one initialisation", ("distill.members=1",)),
    "rmsprop": ("RMSProp", ("prune.optimizer=rmsprop", "distill.optimizer=rmsprop")),
    "bias": ("hidden biases start at 0", ("distill.hidden_bias=0",)),
    "unconfirmed": (
        "students are not confirmed",
        ("distill.confidence=0", "distill.confirm_episodes=0", "distill.until=objective"),
    ),
    "teacher_states": ("no states of students", ("replay.student_states=0",)),
    "budgets": ("sizes from each layer's budget", ("pops.sizes=budgets",)),
    "layers": ("all layers are kept", ("pops.fewer_layers=false",)),
    "retries": ("one size a step", ("pops.retries=0",)),
}
METHODS |= {name: Method(f"PoPS, but: {title}", settings) for name, (title, settings) in ABLATIONS.items()}

CLASSIC = ("cartpole", "lunarlander", "acrobot", "mountaincar", "pendulum")
COMPARED = ("pops", "steps", "once", "search", "direct", "random", "prune", "one_shot", "scratch", "ars")

# A tiny run of PoPS, whose figures mean nothing.
TINY = (
    "evaluation.objective=8.5 evaluation.lower_bound=1 evaluation.report_episodes=4 evaluation.choose_episodes=4 "
    "replay.observe=400 replay.capacity=400 replay.environments=20 prune.iterations=2 prune.updates=20 "
    "prune.evaluate_every=20 prune.episodes=3 prune.confidence=0 prune.end=40 prune.frequency=5 "
    "prune.final_sparsity=0.5 distill.members=2 distill.epochs=1 distill.updates=20 distill.episodes=3 "
    "distill.confidence=0 distill.confirm_episodes=0 pops.steps=1"
).split()

# {suite: {methods, environments, seeds, settings of all its runs}}
SUITES = {
    "smoke": {"methods": ("pops", "direct", "one_shot"), "environments": ("cartpole",), "seeds": 2, "settings": TINY},
    "classic": {"methods": COMPARED, "environments": CLASSIC, "seeds": 5},
    "ablation": {"methods": ("pops", *ABLATIONS), "environments": ("cartpole", "lunarlander"), "seeds": 5},
    "paper": {"methods": ("paper",), "environments": ("cartpole", "lunarlander"), "seeds": 3},
    "atari": {"methods": ("pops", "once", "direct", "prune", "one_shot"), "environments": ("pong",), "seeds": 3},
    "zoo": {"methods": ("pops", "once", "search", "direct"), "environments": tuple(name for name, *_ in _ZOO), "seeds": 3},
}


class Experiment(NamedTuple):
    """One run: a method on an environment with a seed, and settings of the whole suite."""

    method: str
    environment: str
    seed: int
    settings: tuple = ()

    def __str__(self):
        return f"{self.environment}/{self.method}/seed{self.seed}"

    @property
    def needed(self):
        """The run whose networks it needs, or None."""
        return self._replace(method="pops") if METHODS[self.method].shapes else None

    def summary(self, storage):
        """What its run found, or None if that has not ended."""
        try:
            summary = json.loads((storage / str(self) / "summary.json").read_text())
            made_with = json.loads((storage / f"{self}.json").read_text())
        except FileNotFoundError:
            return None
        if made_with != self.describes():
            raise ConfigurationError(f"{storage / str(self)}: was made with other settings; give another --storage")
        return summary if "seconds" in summary else None

    def describes(self):
        """What makes it the run that it is, for the file beside its folder."""
        method = METHODS[self.method]
        return {"settings": [*self.settings, *method.settings], "arguments": list(method.arguments)}

    def command(self, storage):
        """What starts or resumes it, a list of arguments.

        Raises:
            ConfigurationError: the run that it needs found no network.
        """
        method, (arguments, _) = METHODS[self.method], ENVIRONMENTS[self.environment]
        settings = self.describes()["settings"]
        if method.shapes:
            shapes = self._shapes(storage, method.shapes)
            settings.append(
                f"model.widths={json.dumps(shapes[-1])}" if method.trains else f"pops.shapes={json.dumps(shapes)}"
            )
        script = "train_teacher.py" if method.trains else "pops.py"
        sets = [part for setting in settings for part in ("--set", setting)]
        arguments = [*arguments, *method.arguments, *sets, "--seed", str(self.seed)]
        return [sys.executable, str(ROOT / "scripts" / script), *arguments, "--out", str(storage / str(self)), "--resume"]

    def _shapes(self, storage, kind):
        """Widths of the networks that PoPS ended with, or random ones with as many weights."""
        summary = self.needed.summary(storage)
        chosen = [summary[key] for key in ("smallest_matching_teacher", "smallest_above_objective") if summary[key]]
        chosen = {tuple(choice["widths"]): choice["weights"] for choice in chosen}
        if not chosen:
            raise ConfigurationError(f"{self.needed} found no network")
        if kind == "same":
            return [list(shape) for shape in chosen]
        model = json.loads((storage / str(self.needed) / "config.json").read_text())["settings"]["model"]
        ends = int(np.prod(model["observation_shape"])), model["actions"]
        generator = np.random.default_rng([self.seed, 1])
        return [random_widths(generator, ends, weights, len(model["widths"])) for weights in chosen.values()]


def random_widths(generator, ends, most, depth):
    """Widths of a dense network with at most so many weights and at least three quarters of them, if chance finds any.

    Args:
        generator: NumPy generator.
        ends: numbers of inputs and outputs.
        most: weights.
        depth: hidden layers at most.
    """
    best, size = [], 0
    for _ in range(10_000):
        widths = np.exp(generator.uniform(0, np.log(most), generator.integers(1, depth + 1))).astype(int).tolist()
        units = np.array([ends[0], *widths, ends[1]])
        weights = int((units[:-1] * units[1:]).sum())
        if size < weights <= most:
            best, size = widths, weights
        if size >= 0.75 * most:
            break
    return best or [1]


def experiments(methods, environments, seeds, settings=()):
    """All runs of these, and those whose networks they need, in the order in which they can be made.

    Raises:
        ConfigurationError: a name is unknown.
    """
    check_names("method", methods, METHODS)
    check_names("environment", environments, ENVIRONMENTS)
    asked = [
        Experiment(method, environment, seed, tuple(settings))
        for seed in seeds
        for environment in environments
        for method in methods
        if differs(method, environment)
    ]
    needed = [experiment.needed for experiment in asked if experiment.needed]
    return list(dict.fromkeys([*needed, *asked]))


def check_names(kind, names, known):
    """Raises ConfigurationError unless all names are known ones."""
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{name!r} is no {kind}; there are {', '.join(known)}")


def differs(method, environment):
    """Whether a method can be tried on an environment, and is another one there than PoPS."""
    if environment not in configs.ENVIRONMENTS:
        return not METHODS[method].trains  # train_teacher.py does not know it
    plain = configs.configuration(environment)
    if method in ("random", "ars") and configs.is_atari(plain["environment"]):
        return False  # these are dense networks
    return method not in ABLATIONS or configs.configuration(environment, assignments=METHODS[method].settings) != plain


COLUMNS = (
    *("environment", "method", "seed", "step", "kind", "widths", "weights", "percent"),
    *("episodes", "reward_mean", "reward_stderr", "share", "seconds"),
)


def rows(experiment, storage):
    """What a run reported: a row for each network; `share` is its part of the way from random play to the teacher."""
    summary = experiment.summary(storage)
    if "steps" not in summary:  # of train_teacher.py
        needed = experiment.needed.summary(storage)
        kinds = [(1, "trained", summary["teacher"] | {"nonzero": summary["teacher"]["weights"]}, None)]
    else:
        needed, kinds = summary, [(0, "teacher", summary["teacher"], summary["teacher"]["widths"])]
        for entry in summary["steps"]:
            for kind in ("pruned", "shrunk", "refused"):
                if kind in entry:
                    kinds.append((entry["step"], kind, entry[kind], entry[kind].get("widths", entry["from_widths"])))
    random, teacher = needed["random"]["reward_mean"], needed["teacher"]
    for step, kind, report, widths in kinds:
        yield {
            **experiment._asdict(),
            "step": step,
            "kind": kind,
            "widths": "-".join(map(str, widths or [])),
            "weights": report["nonzero"],
            "percent": f"{100 * report['nonzero'] / teacher['weights']:.6g}",
            "share": f"{(report['reward_mean'] - random) / (teacher['reward_mean'] - random):.6g}",
            **{key: report[key] for key in ("episodes", "reward_mean", "reward_stderr")},
            "seconds": summary["seconds"],
        }


def failed_row(experiment):
    """The row of a run that found nothing: the teacher's size counts."""
    nothing = {"step": 0, "kind": "failed", "widths": "", "weights": "nan", "percent": 100, "share": 0}
    return experiment._asdict() | nothing | dict.fromkeys(("episodes", "reward_mean", "reward_stderr", "seconds"), "nan")


def write_rows(path, all_rows, columns=COLUMNS):
    """Writes a benchmark's CSV file, or another one of rows with these columns."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(all_rows)


def read_rows(path):
    """The rows of a benchmark's CSV file, numbers as numbers."""
    texts = ("environment", "method", "kind", "widths")
    with open(path, newline="") as file:
        return [
            {key: value if key in texts else float(value) for key, value in row.items()} for row in csv.DictReader(file)
        ]
