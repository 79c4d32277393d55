"""The published agents of RL Baselines3 Zoo: what is said of them, what they score here, and their students."""

import csv
import json
from pathlib import Path

from pops.policies.teacher import read_policy
from pops.support.errors import ConfigurationError
from pops.support.files import ROOT, replacing
from pops.support.playing import report_rewards, varied
from pops.support.rewards import rewards_text, shares
from pops.support.seeds import Seeds
from pops.utils import count_weights

RESULTS = ROOT / "results" / "zoo"
COLUMNS = ("agent", "environment", "weights", "episodes", "reward_mean", "reward_stderr", "refused")


def published():
    """What the Zoo says of its agents: a list of {agent, environment, reward, deviation}, texts."""
    return _read(RESULTS / "published.csv")


def _read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def play_agents(folder, episodes, seed):
    """Plays each of the Zoo's agents that `published` knows, greedily, and writes what came out to rewards.csv.

    Args:
        folder: ALGO/ENV_1/ENV.zip below it, as in the Zoo's repository, or ALGO/ENV.zip.
        episodes: for each agent.
    """
    rows = []
    for agent in published():
        row, (algorithm, name) = {key: agent[key] for key in ("agent", "environment")}, agent["agent"].split("/")
        found = [*Path(folder, algorithm).glob(f"{name}.zip"), *Path(folder, algorithm).glob(f"{name}_*/{name}.zip")]
        if not found:
            continue
        path = found[0]
        try:
            policy = read_policy(path, agent["environment"])
            rewards = report_rewards(policy.network, varied(policy.config, "greedy"), Seeds(seed), episodes, "zoo")
            row |= rewards | {"weights": count_weights(policy.network)[0]}
        except ConfigurationError as error:
            row["refused"] = str(error).removeprefix(f"{path}: ")
        rows.append(row)
        yield row
    with replacing(RESULTS / "rewards.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def table():
    """The agents as a table in Markdown, from published.csv, rewards.csv and the runs in the same folder."""
    played = {row["agent"]: row for row in _read(RESULTS / "rewards.csv")}
    lines = [
        "| agent | environment | published, ± deviation | here, ± standard error | student | of the weights | its reward |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for agent in published():
        if row := played.get(agent["agent"]):
            lines.append(f"| {' | '.join(_cells(agent, row))} |")
    return "\n".join(lines)


def _cells(agent, row):
    yield from (agent["agent"], agent["environment"])
    yield f"{float(agent['reward']):.1f} ± {float(agent['deviation']):.1f}" if agent["reward"] else ""
    if row["refused"]:
        yield from ("refused", "", "", "")
        return
    yield rewards_text({key: float(row[key]) for key in ("reward_mean", "reward_stderr")})
    summary = RESULTS / agent["agent"].replace("/", "-") / "summary.json"
    if not summary.exists():
        yield from ("", "", "")
        return
    student = json.loads(summary.read_text())["final"]
    yield from (f"{student['weights']:,}", shares(student), rewards_text(student))
