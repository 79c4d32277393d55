"""Tables and graphs of a benchmark, from the rows of its CSV file."""

import math
import re
from itertools import groupby
from operator import itemgetter

import numpy as np
from matplotlib.figure import Figure

from pops.support.errors import ConfigurationError
from pops.support.experiments import ENVIRONMENTS, METHODS, read_rows
from pops.support.files import ROOT, replacing
from pops.support.results import CHOICES, load_run
from pops.support.rewards import rewards_text
from pops.support.statistics import interquartile_mean, interval, performance_profile, probability_of_improvement

FOLDER = ROOT / "results" / "benchmark"
PAGE = ROOT / "docs" / "benchmark.md"
README = ROOT / "README.md"
SHARE = 0.95  # of the way from random play to the teacher
LIMITS = -0.25, 1.2  # of the shares that graphs show


class Runs:
    """The rows of a benchmark, run by run.

    Args:
        rows: as `experiments.read_rows` gives them.
    """

    def __init__(self, rows):
        name = itemgetter("environment", "method", "seed")
        self.runs = {run: list(group) for run, group in groupby(sorted(rows, key=name), name)}
        known = [environment for environment in ENVIRONMENTS if any(name[0] == environment for name in self.runs)]
        self.environments = known
        self.methods = [method for method in METHODS if any(name[1] == method for name in self.runs)]

    def of(self, environment, method):
        """The runs of a method on an environment, in the order of their seeds: a list of lists of rows."""
        return [rows for (where, how, _), rows in self.runs.items() if (where, how) == (environment, method)]

    def rows(self, environment):
        """The rows of all runs on an environment."""
        return [row for (where, *_), run in self.runs.items() if where == environment for row in run]

    def values(self, method, value, environments=None):
        """`value` of each run of a method that has one: a list for each environment."""
        found = [map(value, self.of(name, method)) for name in environments or self.environments]
        return [[known for known in group if math.isfinite(known)] for group in found]

    def original(self, environment):
        """The number of the teacher's weights."""
        sizes = (round(100 * row["weights"] / row["percent"]) for row in self.rows(environment) if row["weights"] > 0)
        return next(sizes, math.nan)

    def weights(self, environment, method, measure):
        """The weights that each run of a method is measured by, with `size` or `dense_size`: a list of numbers."""
        return [self.original(environment) * measure(rows) / 100 for rows in self.of(environment, method)]

    def shared(self, *methods):
        """The environments that all of these methods have runs on."""
        return [name for name in self.environments if all(self.of(name, method) for method in methods)]


def size(rows):
    """Percent of the teacher's weights that the smallest network has which keeps `SHARE` of the reward; 100 for none.

    Of a pruned network the nonzero weights count.
    """
    return min((row["percent"] for row in rows if row["share"] >= SHARE), default=100.0)


def dense_size(rows):
    """The same of dense networks alone: a pruned one is as large as it was."""
    return size([row for row in rows if row["kind"] != "pruned"])


def reward_at(percent, rows):
    """The best reward of a run's networks that have at most so many percent of the weights, as a share; nan for none."""
    return max((row["share"] for row in rows if row["percent"] <= percent), default=math.nan)


def minutes(rows):
    return rows[0]["seconds"] / 60


def geometric(values, axis=-1):
    """Interquartile mean of sizes, taken in the logarithm: sizes differ by factors."""
    return np.exp(interquartile_mean(np.log(values), axis=axis))


def table(runs, environment):
    """The methods on one environment, in Markdown: how small, at what reward, how sure, how long."""
    reference = {rows[0]["seed"]: dense_size(rows) for rows in runs.of(environment, "pops")}
    heads = ["method", "runs", "nonzero weights", "weights of a dense network"]
    heads += ["reward at PoPS's dense size"] if reference else []
    lines = [[*heads, "minutes"]]
    for method in runs.methods:
        if found := runs.of(environment, method):
            row = [METHODS[method].title, str(len(found))]
            row += [_weights(runs.weights(environment, method, measure)) for measure in (size, dense_size)]
            if reference:
                at = [(reference[rows[0]["seed"]], rows) for rows in found if rows[0]["seed"] in reference]
                row.append(_shares([reward_at(*pair) for pair in at]))
            row.append(_minutes(found))
            lines.append(row)
    return _markdown(lines)


RESULTS = {
    "cartpole": "[CartPole](docs/cartpole.md)",
    "lunarlander": "[LunarLander](docs/lunarlander.md)",
    "pong": "[Pong](docs/pong.md)",
    "pacman": "[MsPacman](docs/mspacman.md)",
    "acrobot": "[Acrobot](docs/your-own-policy.md#results)",
    "mountaincar": "[MountainCar](docs/your-own-policy.md#results)",
    "pendulum": "[Pendulum](docs/your-own-policy.md#results)",
}  # folders of results/, in the README


def results(runs):
    """How small the networks of the runs in results/ are, in Markdown, for the README.

    Args:
        runs: `Runs` of a benchmark, for what a search by distillation alone finds.
    """
    heads = ["environment", "teacher: weights, reward", *CHOICES.values()]
    lines = [[*heads, "search without pruning", "seeds", "minutes"]]
    for name, title in RESULTS.items():
        folders = sorted((ROOT / "results" / name).glob("seed*"))
        summaries = [load_run(folder)["summary"] for folder in folders]
        teacher = f"{summaries[0]['teacher']['weights']:,}; {rewards_text(summaries[0]['teacher'])}"
        above, matching = ([summary[choice] for summary in summaries] for choice in CHOICES)
        chosen = [_networks(above), "the same" if above == matching else _networks(matching)]
        taken = _span(sorted(summary["seconds"] / 60 for summary in summaries), "{:.1f}".format)
        lines.append([title, teacher, *chosen, _searched(runs, name), str(len(summaries)), taken])
    return _markdown(lines)


def _networks(reports):
    """Sizes and rewards of the students of some runs in words; None for a run without one."""
    found = [report for report in reports if report]
    if not found:
        return "none"
    sizes = sorted((report["weights"], report["percent"]) for report in found)
    weights, percents = ([size[part] for size in sizes] for part in (0, 1))
    rewards = _span(sorted(found, key=lambda report: report["reward_mean"]), rewards_text)
    text = f"{_span(weights, '{:,}'.format)} ({_span(percents, '{:.3g}'.format)} %), {rewards}"
    return text if len(found) == len(reports) else f"{text}; none in {len(reports) - len(found)} of {len(reports)}"


def _span(values, words):
    """The first and the last of sorted values, with `words` for each; one where both read the same."""
    first, last = words(values[0]), words(values[-1])
    return first if first == last else f"{first} to {last}"


def _searched(runs, environment):
    """What a search by distillation alone finds, and its share of PoPS's time."""
    if environment not in runs.shared("pops", "search"):
        return ""
    weights = _number(geometric(runs.weights(environment, "search", dense_size)))
    alone, whole = (_median_minutes(runs.of(environment, method)) for method in ("search", "pops"))
    return f"{weights} in {alone / whole:.2f} of the time"


SHOWN = ("pops", "once", "search", "ars")  # in the README


def overview(runs):
    """The weights of dense networks and the minutes of some methods on all environments, in Markdown, for the README."""
    lines = [["environment", *(METHODS[method].title for method in SHOWN), "seeds"]]
    for environment in runs.environments:
        found = {method: runs.of(environment, method) for method in SHOWN}
        cells = [
            f"{_number(geometric(runs.weights(environment, method, dense_size)))}, {_minutes(made)} min" if made else ""
            for method, made in found.items()
        ]
        lines.append([environment, *cells, str(len(found["pops"]))])
    return _markdown(lines)


def comparison(runs):
    """PoPS beside each other method over all environments that both have, in Markdown; but for methods that are given
    PoPS's sizes, which are no larger by design."""
    heads = ["PoPS beside", "environments", "nonzero weights, times PoPS's", "dense, times PoPS's"]
    lines = [[*heads, "PoPS's dense network is smaller with probability", "time, times PoPS's"]]
    for method in runs.methods:
        shared = runs.shared("pops", method)
        if method == "pops" or not shared or METHODS[method].shapes:
            continue
        nonzero, dense, slower = (
            _number(_mean_ratio(*(runs.values(name, measure, shared) for name in (method, "pops"))))
            for measure in (size, dense_size, minutes)
        )
        probability = probability_of_improvement(*(runs.values(name, dense_size, shared) for name in ("pops", method)))
        lines.append([METHODS[method].title, str(len(shared)), nonzero, dense, _share(*probability), slower])
    return _markdown(lines)


def _mean_ratio(groups, others):
    """Geometric mean, over environments that both have values of, of the ratio of two methods' interquartile means."""
    pairs = [pair for pair in zip(groups, others, strict=True) if all(pair)]
    return math.exp(np.mean([np.log(geometric(group) / geometric(other)) for group, other in pairs])) if pairs else math.nan


def _weights(values):
    """Numbers of weights in words: the mean, and an interval; of too few for that, the smallest and the largest."""
    value, low, high = interval([values], geometric)
    if not math.isfinite(low):
        low, high = min(values), max(values)
    return _in_brackets(*map(_number, (value, low, high)))


def _median_minutes(found):
    """The median of some runs' minutes; runs that failed have none, nan if all have."""
    known = [taken for taken in map(minutes, found) if math.isfinite(taken)]
    return float(np.median(known)) if known else math.nan


def _minutes(found):
    """The same in words."""
    median = _median_minutes(found)
    return f"{median:.2g}" if math.isfinite(median) else ""


def _number(value):
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _in_brackets(value, low, high):
    return value if low == high else f"{value} ({low} to {high})"


def _shares(values):
    """The mean of some runs' shares and its interval, in words; nan for a run without one."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "none" if values else ""
    text = _share(*interval([known]))
    return text if len(known) == len(values) else f"{text}; none in {len(values) - len(known)} of {len(values)}"


def _share(value, low, high):
    if not math.isfinite(low):
        return f"{value:.2f}"
    return _in_brackets(f"{value:.2f}", f"{low:.2f}", f"{high:.2f}")


def _markdown(lines):
    head, *others = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *others])


def draw_sizes(runs, environment, path):
    """Reward against size: a point for each network that a method reported."""
    figure = Figure((8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for index, method in enumerate(runs.methods):
        found = runs.of(environment, method)
        rows = [row for run in found for row in run if row["kind"] != "teacher"]
        if rows:
            percents, shares = [row["percent"] for row in rows], np.clip([row["share"] for row in rows], *LIMITS)
            marker, label = "os^vDP*X<>"[index % 10], f"{METHODS[method].title}: {len(found)} seeds"
            axes.plot(percents, shares, marker, markersize=5, alpha=0.7, label=label)
    axes.axhline(1, color="black", linewidth=1)
    axes.axhline(
        SHARE, color="tab:green", linestyle="--", linewidth=1, label=f"{100 * SHARE:.0f} % of the teacher's reward"
    )
    axes.set(xscale="log", xlabel="nonzero weights, percent of the teacher's", ylabel="reward (random play 0, teacher 1)")
    axes.set_ylim(LIMITS[0] - 0.03, LIMITS[1] + 0.03)
    played = {row["episodes"] for row in runs.rows(environment)}
    episodes = sorted(int(count) for count in played if math.isfinite(count))  # runs that failed have none
    counts = " or ".join(f"{count:,}" for count in episodes)
    title = f"{environment}: every network reported, over {counts} episodes; those beyond lie on the edge"
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    _save(figure, path)


def draw_profile(runs, path):
    """Performance profiles: the share of runs that reach a size, at 95 % of the reward, on the environments all have."""
    methods = [method for method in runs.methods if runs.shared(method) == runs.environments]
    figure = Figure((8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    thresholds = np.geomspace(1e-3, 100, 400)
    for method in methods:
        groups = runs.values(method, size)
        counts = sorted({len(group) for group in groups})
        label = f"{METHODS[method].title}: {' or '.join(map(str, counts))} seeds"
        axes.plot(thresholds, performance_profile(groups, thresholds), label=label)
    axes.set(
        xscale="log",
        xlabel="at most so many percent of the teacher's weights",
        ylabel=f"share of runs with {100 * SHARE:.0f} % of the reward",
        title=f"Performance profiles over {', '.join(runs.environments)}",
    )
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary)


def page():
    """The text of docs/benchmark.md, from the CSV files that are there."""
    parts = [HEAD]
    for suite in TITLES:
        path = FOLDER / f"{suite}.csv"
        if not path.exists():
            continue
        parts.append(f"\n## {TITLES[suite]}\n\n`python scripts/benchmark.py {suite} --publish`\n")
        parts.append(section(path, "../results/benchmark/"))
    return "".join(parts)


def section(path, graphs=""):
    """The tables and graphs of a benchmark's CSV file, in Markdown. `graphs`: where those of `draw` are."""
    runs, parts = Runs(read_rows(path)), []
    if len(runs.methods) > 1 and "pops" in runs.methods:
        parts.append(f"\n{comparison(runs)}\n")
    for environment in runs.environments:
        weights = runs.original(environment)
        title = f"{environment}: a teacher of {weights:,} weights" if math.isfinite(weights) else environment
        graph = f"![{environment}]({graphs}{path.stem}-{environment}.png)"
        parts.append(f"\n### {title}\n\n{table(runs, environment)}\n\n{graph}\n")
    if len(runs.environments) > 1:
        parts.append(f"\n![Performance profiles]({graphs}{path.stem}-profile.png)\n\n{PROFILED}\n")
    return "".join(parts)


def readme(text):
    """The README's text with its two tables of results made anew.

    Raises:
        ConfigurationError: it has no such table.
    """
    runs = Runs(read_rows(FOLDER / "classic.csv"))
    for made in (results(runs), overview(runs)):
        head = made.partition("\n")[0]
        text, found = re.subn(rf"^{re.escape(head)}\n(\|.*\n)+", f"{made}\n", text, flags=re.MULTILINE)
        if not found:
            raise ConfigurationError(f"README.md: no table with the headings {head}")
    return text


def draw(path):
    """Draws the graphs of a benchmark's CSV file, beside it. Returns their paths."""
    runs = Runs(read_rows(path))
    paths = [path.with_name(f"{path.stem}-{environment}.png") for environment in runs.environments]
    for environment, graph in zip(runs.environments, paths, strict=True):
        draw_sizes(runs, environment, graph)
    if len(runs.environments) > 1:
        paths.append(path.with_name(f"{path.stem}-profile.png"))
        draw_profile(runs, paths[-1])
    return paths


TITLES = {
    "classic": "Which way gives the smallest networks?",
    "ablation": "What does each departure from the paper do?",
    "paper": "What does the paper's own schedule give?",
    "atari": "And from pixels?",
    "zoo": "And from other people's agents?",
}

PROFILED = "Methods that were not tried on all of these environments are left out of the profiles."

HEAD = """# What is PoPS worth beside simpler methods?

All methods get the same teacher, and their networks are reported in the same way, on fresh episodes. A size is that of
the smallest network that keeps 95 % of the way from random play to the teacher: the interquartile mean over seeds (in
the logarithm). In brackets stands a 95 % interval of a stratified bootstrap where there are five seeds or more (for so
few runs it is somewhat narrow), else the smallest and the largest. Where a run failed or has no such network, the
teacher's size counts. A pruned network is full of zeros: it counts with its nonzero weights in one column and not at
all in the other. The reported rewards choose the network, which favours methods that report many. Rewards at PoPS's
size are shares of that way, of the best network that is at most as large as PoPS's dense one with the same seed; a
pruned one counts with its nonzero weights. Distillation into given sizes and ARS report a network even where it misses
their objective, and it counts all the same, which favours them. ARS, and pruning without shrinking, have 95 % as their
objective, all others the environment's own. Where few shapes have so few weights, random widths are PoPS's own.
Training from scratch has one initialisation. Times of methods that are given PoPS's sizes do not count the run that
found these. Each run had one core.

This page is written by `python scripts/benchmark.py report` from the CSV files in results/benchmark.
"""
