"""Tuning: settings drawn at random for the distillation into one network; Ray Tune gives up the worse ones early.

Each trial is a run of pops.py in a folder of its own. What it writes down of its epochs is what Tune compares (ASHA).
"""

import csv
import json
import math
import threading
import time
from itertools import starmap

import numpy as np

from pops.configs import value_of
from pops.support.cluster import KILLS, make, needs, started
from pops.support.environments import configuration_of
from pops.support.errors import ConfigurationError
from pops.support.experiments import ENVIRONMENTS, Experiment, check_names, id_of

# What is drawn from where --over names nothing.
SPACE = {
    "distill.tau": [0.01, 0.1, 1.0],
    "distill.members": [4, 8, 16, 24],
    "distill.learning_rate": [[[0, [[None, rate]]]] for rate in (1e-3, 3e-3, 1e-2)],  # for all sizes and epochs
}
FOLLOWED = 1.0  # seconds between two looks at what a trial wrote down
NAME = "trial{:03}"
FIRST, KEPT = 2, 3  # ASHA: epochs before the first are given up; one in so many goes on


def space(over):
    """The values of each setting to draw from: {"group.key": list}, of strings `group.key=[...]`.

    Raises:
        ConfigurationError: a string is none of these.
    """
    found = {}
    for text in over:
        name, _, values = text.partition("=")
        found[name] = value_of(values)
        if not isinstance(found[name], list) or not found[name]:
            raise ConfigurationError(f"--over {text}: give values in brackets, such as distill.tau=[0.01,0.1]")
    return found or SPACE


def draw_trials(environment, values, count, settings, seed):
    """Different trials, as many as asked for or as there are: Experiments, and what was drawn for each.

    Args:
        values: as `space` gives them.
        count: of trials.
        settings: strings `group.key=value` of all of them; they name the shapes.
        seed: of the draws and of all runs.

    Raises:
        ConfigurationError: a setting is wrong, or there are no shapes.
    """
    check_names("environment", [environment], ENVIRONMENTS)
    settings = ["pops.method=direct", *settings]
    for name, choices in values.items():  # each alone, to name the one that is wrong
        for choice in choices:
            config = configuration_of(id_of(environment), assignments=[*settings, assignment(name, choice)])
    if len(config["pops"]["shapes"]) != 1:
        raise ConfigurationError("tune: name the hidden layers of one network to tune for, such as --set pops.shapes=[[2]]")
    counts, trials = [len(choices) for choices in values.values()], {}
    if (combinations := math.prod(counts)) > 10**6:
        raise ConfigurationError(f"--over: {combinations:,} combinations; give at most a million")
    for one in np.random.default_rng(seed).permutation(combinations)[:count]:
        picked = np.unravel_index(one, counts)
        drawn = {name: choices[index] for (name, choices), index in zip(values.items(), picked, strict=True)}
        trials[Experiment("pops", environment, seed, (*settings, *starmap(assignment, drawn.items())))] = drawn
    return trials


def assignment(name, value):
    """A setting as `--set` takes it."""
    return f"{name}={json.dumps(value)}"


def epochs(folder):
    """Mean rewards of the epochs that a run has written down so far."""
    try:
        with open(folder / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["phase"] == "distill" and row["reward_stderr"]]
    except FileNotFoundError:
        return []
    return [float(row["reward_mean"]) for row in rows]  # whole where the column after it has begun


def follow(config, trials, storage, cores):
    """A trial: makes its run, and tells Tune of each epoch. `config`: {"number": of the trial}."""
    from ray import tune

    trial, folder, outcomes = trials[config["number"]], storage / NAME.format(config["number"]), []
    # A daemon, so that the process of a trial that is given up can end; with it ends the run.
    making = threading.Thread(target=lambda: outcomes.append(make(trial, folder, cores)), daemon=True)
    making.start()
    told = 0
    while True:
        ended = not making.is_alive()
        for reward in epochs(folder / str(trial))[told:]:
            told += 1
            tune.report({"reward": reward, "epoch": told})
        if ended:
            break
        time.sleep(FOLLOWED)
    if not outcomes:
        raise RuntimeError(f"{trial}: its process was killed")  # Tune starts it again
    if outcomes[0].failed or not told:
        tune.report({"reward": -math.inf, "epoch": told, "failed": outcomes[0].failed})


def tune_settings(trials, storage, cores, address=None):
    """Makes the trials, as many at a time as there are cores. Returns a row for each, best first, and why others failed.

    Args:
        trials: as `draw_trials` gives them.
        storage, cores, address: as in `cluster.on_ray`.
    """
    with started(address) as ray:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        count, memory = needs(trials, cores, ray.nodes())[next(iter(trials))]
        one = tune.with_parameters(follow, trials=list(trials), storage=storage, cores=cores)
        tuner = tune.Tuner(
            tune.with_resources(one, {"cpu": count, "memory": memory}),
            param_space={"number": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(
                metric="reward",
                mode="max",
                scheduler=ASHAScheduler(time_attr="epoch", max_t=1000, grace_period=FIRST, reduction_factor=KEPT),
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(storage), failure_config=tune.FailureConfig(max_failures=KILLS), verbose=1
            ),
        )
        failed = [
            f"{NAME.format(one.config['number'])}: {one.metrics['failed']}"
            for one in tuner.fit()
            if one.metrics.get("failed")
        ]
    found = [result(trial, drawn, storage / NAME.format(number)) for number, (trial, drawn) in enumerate(trials.items())]
    return sorted(found, key=lambda row: (row["reported"], row["epochs"], row["reward"]), reverse=True), failed


def result(trial, drawn, folder):
    """The row of a trial: what was drawn, its epochs and the last one's reward, and what was reported if it ended."""
    made, summary = epochs(folder / str(trial)), trial.summary(folder)
    row = drawn | {
        "epochs": len(made),
        "reward": made[-1] if made else -math.inf,
        "reported": -math.inf,
        "stderr": math.nan,
    }
    if summary:
        (entry,) = summary["steps"]
        report = entry.get("shrunk") or entry["refused"]
        row |= {"reported": report["reward_mean"], "stderr": report["reward_stderr"]}
    return row
