"""Graphs and histograms of runs, and the TensorFlow helpers that pruning needs."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pops.support.files import replacing
from pops.support.networks import read_network
from pops.support.results import CHOICES, load_run, objective_of
from pops.support.rewards import rewards_text


def kernels(network):
    """The kernels of a plain Keras network, input to output, as NumPy arrays: what the paper counts as weights."""
    return [layer.get_weights()[0] for layer in network.layers if layer.get_weights()]


def count_weights(network):
    """(weights, nonzero weights) of a Keras network. Kernels count; biases and other vectors do not, as in the paper."""
    arrays = [weight.numpy() for weight in network.weights if len(weight.shape) > 1]
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


@tf.function(jit_compile=True, autograph=False)
def magnitude_mask(kernel, mask, sparsity, size):
    """A mask that hides the floor(sparsity · size) smallest of each member's magnitudes.

    Those that are hidden already come first and stay hidden, also where there are more of them. Of equal magnitudes the one
    further to the front comes first, so the number hidden is exact.

    Args:
        kernel: float32 [members, ...].
        mask: like `kernel`, 0 where a weight is hidden already.
        sparsity: float32 scalar in [0, 1).
        size: int32 scalar, the layer's number of weights. What the kernel has beyond it is filling, which `mask` hides.
    """
    flat, hidden = (tf.reshape(tensor, [kernel.shape[0], -1]) for tensor in (tf.abs(kernel), mask == 0))
    entries = flat.shape[1]
    count = tf.cast(tf.floor(sparsity * tf.cast(size, tf.float32)), tf.int32) + entries - size
    keys = tf.where(hidden, 0, 1 + tf.bitcast(flat, tf.int32))  # non-negative floats order like their bits
    threshold = _kth_smallest(keys, count, 2**31 - 1)
    hidden |= keys < threshold
    ties = count - tf.math.count_nonzero(keys < threshold, axis=1, keepdims=True, dtype=tf.int32)
    positions = tf.where(keys == threshold, tf.range(entries), entries)
    hidden |= (positions <= _kth_smallest(positions, ties, entries)) & (ties > 0)
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


def draw_run(folder, out=None):
    """Draws all graphs of a finished run. Returns their paths.

    The weight histograms need the models; where a folder holds no models, they are left out.
    """
    run = load_run(folder)
    out = Path(out or folder)
    paths = [draw_sizes([run], out / "size_vs_reward.png")]
    before = run["folder"] / "teacher.keras"
    for entry in run["summary"]["steps"]:
        step = entry["step"]
        if "pruned" not in entry:  # of the floor search
            continue
        paths.append(draw_sparsity(run, entry, out / f"sparsity_vs_reward_step_{step}.png"))
        after = run["folder"] / f"pruned_step_{step}.keras"
        if before.exists() and after.exists():
            paths.append(draw_weights(before, after, out / f"weights_step_{step}.png"))
        before = run["folder"] / f"student_step_{step}.keras"
    return paths


def _figure(height=4.2, rows=1, **axes):
    # Margins that fit all that is drawn here: measuring it would take half of the time.
    figure = Figure((7.0, height), dpi=150)
    figure.subplots_adjust(left=0.145, right=0.96, bottom=0.5 / height, top=1 - 0.35 / height, hspace=0.06)
    return figure, figure.subplots(rows, **axes)


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path


def _weights_axis(axes, label):
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _reward_axis(axes, run):
    objective = objective_of(run["config"], run["summary"])
    axes.axhline(objective, color="tab:green", linestyle="--", linewidth=1, label=f"objective, {objective:g}")
    axes.set_ylabel("reward (mean ± standard error)")


def draw_sparsity(run, entry, path):
    """Reward against nonzero weights while IPP prunes (the paper's figure)."""
    step = entry["step"]
    rows = [row for row in run["metrics"] if row["phase"] == "prune" and row["step"] == step]
    nonzero, mean, error = ([row[name] for row in rows] for name in ("nonzero", "reward_mean", "reward_stderr"))
    figure, axes = _figure()
    axes.errorbar(nonzero, mean, error, fmt="o", markersize=4, capsize=2, linewidth=1, label="evaluations while pruning")
    pruned = entry["pruned"]
    axes.plot(
        pruned["nonzero"],
        pruned["reward_mean"],
        "*",
        markersize=15,
        color="tab:red",
        label=f"kept: {pruned['nonzero']:,} weights, {rewards_text(pruned)} over {pruned['episodes']:,} fresh episodes",
    )
    _reward_axis(axes, run)
    _weights_axis(axes, f"nonzero weights of {pruned['weights']:,}")
    axes.set_title(f"{run['config']['environment']}: pruning in PoPS step {step}")
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_sizes(runs, path):
    """Reward against size over the PoPS steps of one or several runs (the paper's figure)."""
    figure, axes = _figure()
    matching = []
    for index, run in enumerate(runs):
        teacher = run["summary"]["teacher"]
        shrunk = [entry["shrunk"] for entry in run["summary"]["steps"] if "shrunk" in entry]
        if index == 0:
            axes.axhline(teacher["reward_mean"], color="black", linewidth=1, label=f"teacher, {rewards_text(teacher)}")
        reports = sorted([teacher, *shrunk], key=lambda report: -report["weights"])
        axes.errorbar(
            [report["weights"] for report in reports],
            [report["reward_mean"] for report in reports],
            [report["reward_stderr"] for report in reports],
            fmt="o-",
            markersize=5,
            capsize=3,
            linewidth=1,
            label=f"seed {run['config']['seed']}: down to {reports[-1]['weights']:,} weights",
        )
        if chosen := run["summary"]["smallest_matching_teacher"]:
            matching.append((chosen["weights"], chosen["reward_mean"]))
    if matching:
        label = CHOICES["smallest_matching_teacher"]
        axes.plot(*zip(*matching, strict=True), "*", markersize=13, color="gold", mec="black", zorder=3, label=label)
    _reward_axis(axes, runs[0])
    _weights_axis(axes, "weights of the dense student (log scale)")
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low), high + 0.1 * (high - min(0, low)))
    axes.set_title(f"{runs[0]['config']['environment']}: size against reward over the PoPS steps")
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_weights(before, after, path):
    """Histograms of the weights before and after pruning."""
    arrays = [np.concatenate([kernel.reshape(-1) for kernel in kernels(read_network(file))]) for file in (before, after)]
    figure, axes = _figure()
    left = arrays[1][arrays[1] != 0]
    bins = np.histogram_bin_edges(np.concatenate([arrays[0], left]), 60)
    for weights, alpha, when in ((arrays[0], 0.5, "before"), (left, 0.7, "after")):
        label = f"{when} pruning: {np.count_nonzero(weights):,} nonzero weights"
        axes.hist(weights, bins, alpha=alpha, histtype="stepfilled", label=label)  # one shape, faster than 60 bars
    axes.set_yscale("log")
    axes.set_xlabel("weight")
    axes.set_ylabel("number of weights (log scale)")
    axes.set_title(f"{Path(before).name} and {Path(after).name}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def draw_rewards(rows, config, summary, path):
    """Reward of every evaluation of a run against time, and below it the loss.

    Args:
        rows: metrics.csv as dictionaries of text.
        config, summary: what config.json and summary.json hold.
    """
    figure, (upper, lower) = _figure(5.4, 2, sharex=True, height_ratios=(2, 1))
    for phase, color in (("teacher", "tab:gray"), ("prune", "tab:orange"), ("distill", "tab:blue")):
        chosen = [row for row in rows if row["phase"] == phase]
        if chosen:
            columns = ("seconds", "reward_mean", "reward_stderr", "loss")
            seconds, mean, error, loss = (np.array([float(row[name] or "nan") for row in chosen]) for name in columns)
            label = {"teacher": "teacher", "prune": "pruning", "distill": "distilling a smaller student"}[phase]
            upper.errorbar(seconds / 60, mean, error, fmt=".", color=color, capsize=2, linewidth=1, label=label)
            lower.plot(seconds / 60, loss, ".", color=color)
    if config["command"] == "pops.py":
        objective = objective_of(config, summary)
        upper.axhline(objective, color="tab:green", linestyle="--", linewidth=1, label=f"objective, {objective:g}")
    upper.set_ylabel("reward (mean ± standard error)")
    upper.legend(fontsize="small")
    upper.set_title(f"{config['environment']}: evaluations while the run went on")
    lower.set_ylabel("loss")
    lower.set_yscale("log")
    lower.set_xlabel("minutes")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return _save(figure, path)
