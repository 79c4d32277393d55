"""How time and memory of a PoPS step grow with the teacher's weights, with the members of students, and with the cores.

Nothing heavy is imported here, as each step is made in a process of its own, whose memory and cores are counted.
"""

import csv
import math
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pops.support.console import log
from pops.support.files import make_folder, replacing
from pops.support.vector import cores

# Widths of dense teachers of about 10³ to 10⁷ weights for CartPole, and units of the dense layer of Pong's, ¼ to 4 times.
DENSE = ((29, 29), (97, 97), (313, 313), (997, 997), (3159, 3159))
UNITS = (128, 512, 2048)
MEMBERS = (1, 4, 16, 64)

# A fixed number of updates, and an objective that everything meets.
SETTINGS = (
    "pops.steps=1 pops.fewer_layers=false evaluation.objective=-1000000 evaluation.lower_bound=-2000000 evaluation.also=[] "
    "evaluation.choose_episodes=2 evaluation.report_episodes=2 environment.max_episode_steps=50 "
    "replay.observe=5000 replay.capacity=10000 replay.environments=50 replay.student_states=0 replay.epsilon=1 "
    "prune.updates=200 prune.evaluate_every=100 prune.iterations=1 prune.end=200 prune.episodes=2 prune.batch_size=64 "
    "distill.updates=200 distill.epochs=1 distill.evaluate_every=1 distill.episodes=2 distill.batch_size=64 "
    "distill.confirm_episodes=0 distill.until=objective"
).split()
COLUMNS = ("environment", "weights", "members", "cores", "seconds", "megabytes")


def grow(out):
    """Measures all steps, and writes growth.csv and growth.png into a folder."""
    make_folder(out)
    most = cores()
    cases = [("cartpole", widths, 8, most) for widths in DENSE]
    cases += [("pong", (32, 64, 64, units), 2, most) for units in UNITS]
    cases += [("cartpole", DENSE[2], members, most) for members in MEMBERS]
    cases += [("cartpole", DENSE[3], 8, count) for count in range(1, most)]
    rows = []
    for case in cases:
        # A process that starts anew, as this one's memory would count, too.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            rows.append(process.submit(step, *case).result())
        log("{}, {:,} weights, {} members, {} cores: {:.1f} s, {:,.0f} MB".format(*rows[-1]))
    with replacing(Path(out) / "growth.csv") as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    draw(rows, Path(out) / "growth.png")


def step(environment, widths, members, count):
    """One PoPS step from an untrained teacher, on so many cores: a row of `COLUMNS`, with the process's peak memory."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    from pops.support.console import import_tensorflow, quiet

    import_tensorflow()
    import numpy as np

    from pops.compress import compress
    from pops.configs import configuration
    from pops.model import AGENTS
    from pops.support.networks import save_network

    agent = AGENTS[environment].teacher(configuration(environment)["model"], widths)
    agent.network.set_weights(agent.initial_weights(np.random.default_rng(0)))
    with tempfile.TemporaryDirectory() as folder, quiet():
        save_network(agent.network, Path(folder) / "teacher.keras")
        settings = [*SETTINGS, f"distill.members={members}"]
        summary = compress(Path(folder) / "teacher.keras", environment, Path(folder) / "run", settings=settings)
    return environment, summary["teacher"]["weights"], members, count, summary["steps"][0]["seconds"], peak_megabytes()


def peak_megabytes():
    """The most memory that this process has had; not a number on Windows, which counts it elsewhere."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def slope(rows, column):
    """The slope in log-log between the two largest teachers: 1 is linear."""
    (weights, small), (more, large) = sorted((row[1], row[column]) for row in rows)[-2:]
    return math.log(large / small) / math.log(more / weights)


def draw(rows, path):
    """Time and memory against the teacher's weights; time against members and against cores.

    Args:
        rows: of `COLUMNS`.
    """
    most = max(row[3] for row in rows)
    by_size = {
        "dense, CartPole": [row for row in rows if row[0] == "cartpole" and row[2:4] == (8, most)],
        "convolutional, Pong": [row for row in rows if row[0] == "pong"],
    }
    figure = Figure((9.0, 6.4), dpi=150, layout="constrained")
    time, memory, members, on_cores = figure.subplots(2, 2).flat
    for label, chosen in by_size.items():
        for axes, column in ((time, 4), (memory, 5)):
            weights, values = zip(*sorted((row[1], row[column]) for row in chosen), strict=True)
            axes.loglog(weights, values, "o-", label=f"{label}; slope at the end {slope(chosen, column):.2f}")
    _one(members, [(row[2], row[4]) for row in rows if row[:2] == rows[2][:2]], "members of the student")
    _one(on_cores, [(row[3], row[4]) for row in rows if row[:3] == rows[3][:3]], "cores")
    time.set_ylabel("seconds for a PoPS step")
    members.set_ylabel("seconds for a PoPS step")
    memory.set_ylabel("peak memory, MB")
    for axes in (time, memory):
        axes.set_xlabel("weights of the teacher")
        axes.legend(fontsize="small")
    for axes in (time, memory, members, on_cores):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _one(axes, points, label):
    axes.plot(*zip(*sorted(points), strict=True), "o-")
    axes.set_xlabel(label)
    axes.set_ylim(0, 1.1 * max(seconds for _, seconds in points))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
