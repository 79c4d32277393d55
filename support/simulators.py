"""EnvPool beside Gymnasium: whether policies score the same in both, and how fast each steps."""

import math
import time

from pops.policies.teacher import read_policy
from pops.support.console import log, table
from pops.support.environments import check_simulator
from pops.support.playing import evaluate_network
from pops.support.rewards import reward_statistics, rewards_text
from pops.support.seeds import Seeds


def compare(models, environment, episodes):
    """Plays policies in both, and prints the rewards and the steps a second that each gave.

    Args:
        models: policies of any kind that are read.
        environment: Gymnasium's name, for those that do not tell.
        episodes: for each policy, in each of the two.

    Raises:
        ConfigurationError: EnvPool does not have the environment, or is not installed.
    """
    rows = [("policy", "Gymnasium", "EnvPool", "difference", "seconds", "seconds", "ratio")]
    for model in models:
        network, name, config, _ = read_policy(model, environment)
        results, seconds = [], []
        for simulator in ("gymnasium", "envpool"):
            played = config | {"environment": config["environment"] | {"simulator": simulator}}
            check_simulator(played["environment"])
            evaluate_network(network, played, Seeds(1), 2, "report")  # compiles
            start = time.perf_counter()
            results.append(reward_statistics(evaluate_network(network, played, Seeds(0), episodes, "report")))
            seconds.append(time.perf_counter() - start)
        (mean, error), (other, other_error) = ([result["reward_mean"], result["reward_stderr"]] for result in results)
        errors = math.hypot(error, other_error)
        apart = f"{(other - mean) / errors:+.1f} s.e." if errors else f"{other - mean:+g}"
        shown = [f"{part:.1f}" for part in (*seconds, seconds[0] / seconds[1])]
        rows.append((str(model), *map(rewards_text, results), apart, *shown))
    log(table(rows, f"{name}, {episodes:,} episodes each"))
