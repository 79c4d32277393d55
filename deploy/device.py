"""Policies as a device would run them: file sizes, arithmetic, time for an action by runtime, and reward."""

import gzip
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from pops.deploy.c import CompiledPolicy, c_compiler, c_header
from pops.deploy.litert import CALIBRATION, litert_runtime, write_litert
from pops.deploy.onnx import missing_packages, onnx_runtime, write_onnx
from pops.policies.functions import TeacherFunction
from pops.policies.keras_network import leaves
from pops.policies.teacher import read_policy
from pops.support.console import log, table
from pops.support.errors import ConfigurationError
from pops.support.files import make_folder, replacing, write_json
from pops.support.playing import report_rewards
from pops.support.rewards import rewards_text
from pops.support.seeds import Seeds
from pops.support.states import played_observations
from pops.utils import count_weights

CALLS = 1000  # timed actions of a runtime, or as many as fit in

SECONDS = 5

WARM_UP = 20  # actions before, which are not timed


def report(models, environment, assignments, out, seed, episodes):
    """Measures policies and writes report.json and report.png.

    Args:
        models: paths; see `named_models`.
        environment, assignments: see `read_policy`.
        out: folder for the files.
        seed: of the episodes; episodes: behind each reward, the environment's own number if None.

    Returns:
        Tables for the terminal.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    models = list(named_models(models))
    policies = [(name, path, read_policy(path, environment, assignments)) for name, path in models]
    for _, path, policy in policies:
        policy.check_layers(path)
    environments = {policy.environment for _, _, policy in policies}
    if len(environments) > 1:
        raise ConfigurationError(f"these are policies for different environments: {', '.join(sorted(environments))}")
    make_folder(out)
    if missing := missing_packages():
        log(f"ONNX is left out: {', '.join(missing)} missing (pip install -r requirements-export.txt)")
    rows = []
    for name, path, policy in policies:
        log(f"{path} ...")
        rows.append({"policy": name, "file": str(path), **measured(path, policy, seed, episodes)})
    write_json(out / "report.json", rows)
    draw(rows, out / "report.png")
    return tables(rows)


def named_models(paths):
    """(name, path) of each policy; a folder of pops.py stands for three."""
    for path in paths:
        if path.is_dir():
            pruned = sorted(path.glob("pruned_step_*.keras"), key=lambda found: (len(found.name), found.name))
            if not pruned or not (path / "student.keras").exists():
                raise ConfigurationError(f"{path}: holds no finished run of pops.py with its models")
            folder = f"{path.name}: " if len(paths) > 1 else ""
            yield from (
                (f"{folder}teacher", path / "teacher.keras"),
                (f"{folder}pruned only", pruned[0]),
                (f"{folder}shrunk", path / "student.keras"),
            )
        else:
            yield path.stem, path


def measured(path, policy, seed, episodes):
    """Everything about a policy, as `read_policy` gives it, for report.json."""
    network, config, seeds = policy.network, policy.config, Seeds(seed)
    observations, outputs = played_observations(network, config, seeds, CALLS, "deploy")
    weights, nonzero = count_weights(network)
    result = {"weights": weights, "nonzero": nonzero, "multiply_accumulates": multiply_accumulates(network)}
    bounds, compiler = config["model"]["bounds"], c_compiler()
    with tempfile.TemporaryDirectory() as folder:
        litert, onnx, header = (Path(folder, f"policy{suffix}") for suffix in (".tflite", ".onnx", ".h"))
        int8 = Path(folder, f"int8{litert.suffix}")
        write_litert(network, litert)
        write_litert(network, int8, observations[:CALIBRATION])
        files = {"keras": path, "litert": litert, "litert_int8": int8}
        runtimes = {"keras": keras_runtime(network)}
        runtimes |= {name: litert_runtime(files[name]) for name in ("litert", "litert_int8")}
        times = {name: time_of(run, observations) for name, run in runtimes.items()}
        if not missing_packages():
            write_onnx(network, onnx)
            files["onnx"], times["onnx"] = onnx, time_of(onnx_runtime(onnx), observations)
        if written_as_c(policy.agent):
            header.write_text(c_header(policy.agent.network, network.name, "policy", bounds=bounds))
            files["c"] = header
            if compiler:
                times["c"] = c_time(CompiledPolicy(header, observations, outputs, compiler, bounds), observations)
        result["bytes"] = {name: path.stat().st_size for name, path in files.items()}
        result["gzip_bytes"] = {name: len(gzip.compress(path.read_bytes(), mtime=0)) for name, path in files.items()}
    episodes = episodes or config["evaluation"]["report_episodes"]
    rewards = report_rewards(network, config, seeds, episodes, "deploy")
    return result | {"microseconds": times, "reward": rewards}


def written_as_c(agent):
    """Whether a policy is one that `c_header` writes."""
    stacked = not isinstance(agent, TeacherFunction)
    return stacked and agent.settings["hidden_activation"] == "relu" and not agent.settings["squash"]


def multiply_accumulates(network):
    """Multiplications with a weight in one action, as runtimes do them, zeros included."""
    total = 0
    for layer in leaves(network):
        places = np.prod(layer.output.shape[1:-1], dtype=int)
        total += int(places) * sum(weight.size for weight in layer.get_weights() if weight.ndim > 1)
    return total


def keras_runtime(network):
    """A Keras network as the `..._runtime` functions of export.py give theirs, compiled for one observation."""
    call = tf.function(network, jit_compile=False, reduce_retracing=True)
    return lambda observations: (outputs := call(tf.constant(observations)).numpy(), outputs.argmax(-1))


def time_of(run, observations):
    """Time from an observation to its action, one at a time, in microseconds: median and 99th percentile."""
    times = []
    end = time.perf_counter() + SECONDS
    for index in range(-WARM_UP, len(observations)):
        start = time.perf_counter_ns()
        run(observations[index : index + 1] if index >= 0 else observations[:1])
        if index >= 0:
            times.append(time.perf_counter_ns() - start)
        if time.perf_counter() > end and len(times) >= WARM_UP:
            break
    return percentiles(times)


def c_time(policy, observations):
    """The same for a C policy. An action takes less than reading the clock, so these are of means over all observations."""
    policy(observations)  # not timed
    observations, room = np.ascontiguousarray(observations, policy.type), policy.room(len(observations))
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < CALLS and time.perf_counter() < end:
        start = time.perf_counter_ns()
        policy.function(observations.ctypes.data, len(observations), None, room.ctypes.data)
        times.append((time.perf_counter_ns() - start) / len(observations))
    return percentiles(times)


def percentiles(nanoseconds):
    median, high = np.percentile(nanoseconds, [50, 99]) / 1000
    return {"median": round(float(median), 4), "p99": round(float(high), 4)}


NAMES = {"keras": "Keras", "litert": "LiteRT", "litert_int8": "LiteRT int8", "onnx": "ONNX", "c": "C"}


def tables(rows):
    """Tables for the terminal: size and reward; files; files compressed; times."""
    runtimes = [name for name in NAMES if any(name in row["bytes"] for row in rows)]

    def of_runtimes(title, key, text):
        lines = [[row["policy"], *(text(row[key][name]) if name in row[key] else "" for name in runtimes)] for row in rows]
        return table([["policy", *(NAMES[name] for name in runtimes)], *lines], title)

    sizes = [["policy", "nonzero weights", "multiplications", "reward ± s.e."]]
    for row in rows:
        weights = f"{row['nonzero']:,} of {row['weights']:,}" if row["nonzero"] < row["weights"] else f"{row['weights']:,}"
        sizes.append([row["policy"], weights, f"{row['multiply_accumulates']:,}", rewards_text(row["reward"])])
    return (
        table(sizes, ""),
        of_runtimes("bytes of the file", "bytes", "{:,}".format),
        of_runtimes("bytes of the file, compressed by gzip", "gzip_bytes", "{:,}".format),
        of_runtimes("microseconds for an action on one thread, median", "microseconds", "{0[median]:,.4g}".format),
        of_runtimes("microseconds for an action on one thread, 99th percentile", "microseconds", "{0[p99]:,.4g}".format),
    )


def draw(rows, path):
    """Sizes, times and reward of the policies side by side. Returns the path."""
    figure = Figure((9.0, 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, 3)
    places = np.arange(len(rows))
    names = [row["policy"] for row in rows]
    files = {"file": [row["bytes"]["litert"] for row in rows], "compressed": [row["gzip_bytes"]["litert"] for row in rows]}
    times = {
        title: [row["microseconds"].get(name, {}).get("median", np.nan) for row in rows]
        for name, title in NAMES.items()
        if any(name in row["microseconds"] for row in rows)
    }
    for panel, title, groups in (panels[0], "LiteRT file, bytes", files), (panels[1], "time for an action, µs", times):
        width = 0.8 / len(groups)
        for index, (label, values) in enumerate(groups.items()):
            panel.bar(places + (index - (len(groups) - 1) / 2) * width, values, width, label=label)
        panel.set_yscale("log")
        panel.set_title(f"{title} (log scale)", fontsize="medium")
        panel.legend(
            fontsize="small", ncols=min(3, len(groups)), loc="upper center", bbox_to_anchor=(0.5, -0.08), columnspacing=1
        )
    reward = [row["reward"] for row in rows]
    panels[2].errorbar(places, [r["reward_mean"] for r in reward], [r["reward_stderr"] for r in reward], fmt="o", capsize=4)
    panels[2].set_title("reward, mean ± standard error", fontsize="medium")
    panels[2].set_ylim(min(0, panels[2].get_ylim()[0]), max(0, panels[2].get_ylim()[1]) * 1.1)
    panels[2].set_xlim(-0.5, len(rows) - 0.5)
    for panel in panels:
        panel.set_xticks(places, names)
        panel.grid(alpha=0.3, axis="y")
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path
