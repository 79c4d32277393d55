"""The benchmark: its runs, whatever is killed, its statistics against values worked out by hand, and its page."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from pops.support import cluster  # noqa: I001
from pops.support.cluster import Killed, Lease, _largest, cores_of_its_own, last_line, make, one_by_one
from pops.support.errors import ConfigurationError
from pops.support.evidence import (
    FOLDER,
    PAGE,
    README,
    Runs,
    _networks,
    dense_size,
    draw,
    page,
    readme,
    reward_at,
    size,
    table,
)
from pops.support.experiments import (
    ABLATIONS,
    ENVIRONMENTS,
    SUITES,
    TINY,
    Experiment,
    experiments,
    failed_row,
    random_widths,
    read_rows,
    rows,
    write_rows,
)
from pops.support.tuning import draw_trials
from pops.support.statistics import interquartile_mean, interval, performance_profile, probability_of_improvement

from conftest import ROOT, command, refused


# Which runs there are, and what they are started with


@pytest.mark.parametrize("suite", SUITES)
def test_a_run_comes_after_the_one_that_it_needs(suite):
    made = experiments(SUITES[suite]["methods"], SUITES[suite]["environments"], range(2))
    assert len(made) == len(set(made))
    for index, experiment in enumerate(made):
        assert experiment.needed is None or experiment.needed in made[:index]


def test_only_what_a_seed_adds_is_new():
    fewer, more = (experiments(["pops", "direct"], ["cartpole"], range(count)) for count in (2, 3))
    assert set(more) - set(fewer) == {Experiment("pops", "cartpole", 2), Experiment("direct", "cartpole", 2)}


@pytest.mark.parametrize(("methods", "environments"), [(["guess"], ["cartpole"]), (["pops"], ["Tetris"])])
def test_unknown_names_are_refused(methods, environments):
    with pytest.raises(ConfigurationError, match="there are"):
        experiments(methods, environments, [0])


def test_agents_of_the_zoo_are_those_of_its_page():
    page = (ROOT / "docs" / "zoo.md").read_text()
    agents = [ENVIRONMENTS[name][0] for name in SUITES["zoo"]["environments"]]
    assert len(agents) == 3
    for _, environment, _, path in agents:
        assert f"--env-id {environment} " in page and f"--teacher {path}" in page


def found(folder, choices, widths=(256, 256, 128)):
    """A folder that looks like a finished run of PoPS."""
    folder.mkdir(parents=True)
    summary = {"seconds": 60.0, "steps": [], "random": {"reward_mean": 0.0}} | choices
    (folder / "summary.json").write_text(json.dumps(summary))
    description = Experiment(folder.parent.name, "cartpole", 0).describes()
    Path(f"{folder}.json").write_text(json.dumps(description))
    model = {"observation_shape": [4], "actions": 2, "widths": widths}
    (folder / "config.json").write_text(json.dumps({"settings": {"model": model}}))


def test_networks_are_given_the_shapes_that_pops_found(tmp_path):
    small, smaller = {"widths": [3, 1], "weights": 17}, {"widths": [1], "weights": 6}
    found(tmp_path / "cartpole/pops/seed0", {"smallest_matching_teacher": small, "smallest_above_objective": smaller})
    line = Experiment("direct", "cartpole", 0).command(tmp_path)
    assert "pops.shapes=[[3, 1], [1]]" in line and "pops.method=direct" in line
    line = Experiment("scratch", "cartpole", 0).command(tmp_path)
    assert "model.widths=[1]" in line and line[1].endswith("train_teacher.py")  # the smallest
    line = Experiment("random", "cartpole", 0).command(tmp_path)
    shapes = json.loads(next(part for part in line if part.startswith("pops.shapes=")).partition("=")[2])
    assert len(shapes) == 2 and shapes[0] != [3, 1]
    found(tmp_path / "cartpole/pops/seed1", {"smallest_matching_teacher": None, "smallest_above_objective": None})
    with pytest.raises(ConfigurationError, match="found no network"):
        Experiment("direct", "cartpole", 1).command(tmp_path)


@pytest.mark.parametrize("most", [6, 12, 40, 700])
def test_random_widths_have_nearly_as_many_weights(most):
    generator = np.random.default_rng(0)
    shapes = [random_widths(generator, (4, 2), most, 3) for _ in range(20)]
    for shape in shapes:
        units = np.array([4, *shape, 2])
        assert 0.6 * most <= (units[:-1] * units[1:]).sum() <= most and len(shape) <= 3
    assert len({tuple(shape) for shape in shapes}) > (1 if most > 8 else 0)


# Statistics


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_intervals_cover_the_true_value_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        low, high = interval([generator.normal(size=20), 1 + generator.normal(size=20)], np.mean)[1:]
        hits += low <= 0.5 <= high
    assert 85 <= hits <= 100


def test_resampling_is_stratified():
    # Environments with one value each, again and again: nothing varies but within them.
    value, low, high = interval([[1.0] * 5, [5.0] * 5], np.mean)
    assert value == low == high == 3.0
    assert np.isnan(interval([[1.0] * 4, [2.0, 3.0] * 4])[1])


def test_the_probability_of_improvement():
    assert probability_of_improvement([[1, 2, 3]], [[4, 5, 6]])[0] == 1.0
    assert probability_of_improvement([[1, 1]], [[1, 1]])[0] == 0.5
    value, low, high = probability_of_improvement([[1, 3, 1, 3, 1], [1, 3, 2, 2, 2]], [[2] * 5, [0, 4, 2, 2, 2]])
    assert value == pytest.approx((0.6 + 0.5) / 2) and low <= value <= high


def test_the_performance_profile():
    profile = performance_profile([[1, 10], [100, 100, 100, 1]], np.array([0.5, 1, 50, 100]))
    np.testing.assert_allclose(profile, [0, (0.5 + 0.25) / 2, (1 + 0.25) / 2, 1])


# Tables


def row(percent, share, kind="shrunk", method="pops", seed=0):
    numbers = {"step": 1, "weights": percent, "episodes": 10, "reward_mean": share, "reward_stderr": 0, "seconds": 60}
    named = {"environment": "cartpole", "method": method, "seed": seed, "kind": kind, "widths": ""}
    return {**named, **numbers, "percent": percent, "share": share}


def test_sizes_and_rewards_of_a_run():
    run = [row(100, 1.0, "teacher"), row(10, 0.99), row(1, 0.96), row(0.1, 0.9), row(0.5, 0.2, "pruned")]
    assert size(run) == 1
    assert size(run[:1] + run[3:]) == 100
    assert dense_size(run) == 1 and dense_size([row(100, 1.0, "teacher"), row(1, 1.0, "pruned")]) == 100
    assert reward_at(0.6, run) == 0.9 and reward_at(5, run) == 0.96 and np.isnan(reward_at(0.01, run))


def test_a_table_says_how_sure_it_is():
    sizes = [1.0, 1.0, 2.0, 4.0]
    text = table(Runs([row(percent, 1.0, seed=seed) for seed, percent in enumerate(sizes)]), "cartpole")
    assert "| 1.41 (1 to 4) | 1.41 (1 to 4) |" in text  # the root of 1 and 2, the middle ones; too few for an interval
    sizes = [1.0, 1.0, 2.0, 4.0, 4.0]
    text = table(Runs([row(percent, 1.0, seed=seed) for seed, percent in enumerate(sizes)]), "cartpole")
    assert "| 2 (1 to 4) |" in text
    pruned = [row(100, 1.0, "teacher"), row(1, 1.0, "pruned")]
    assert "| 1 | 100 |" in table(Runs(pruned), "cartpole")


@pytest.mark.skipif(not (FOLDER / "classic.csv").exists(), reason="the suite has not been run")
def test_the_readme_shows_what_was_found():
    text = README.read_text(encoding="utf-8")
    assert readme(text) == text
    with pytest.raises(ConfigurationError, match="no table with the headings"):
        readme("")


def test_results_of_several_runs_are_given_as_ranges():
    small, large = (
        {"weights": weights, "percent": weights / 10, "reward_mean": 300.0 - weights, "reward_stderr": 1.0}
        for weights in (6, 20)
    )
    assert _networks([large, None, small]) == "6 to 20 (0.6 to 2 %), 280.0 ± 1.0 to 294.0 ± 1.0; none in 1 of 3"
    assert _networks([small, small]) == "6 (0.6 %), 294.0 ± 1.0" and _networks([None]) == "none"


def test_the_page_follows_from_the_files():
    assert PAGE.read_text(encoding="utf-8") == page()
    for path in FOLDER.glob("*.csv"):
        again = Path(f"{path}.again")
        try:
            write_rows(again, read_rows(path))
            assert len(again.read_text().split()) == len(path.read_text().split())
        finally:
            again.unlink(missing_ok=True)


# Runs


@pytest.fixture
def quick(monkeypatch):
    """Runs that are a line of Python in place of pops.py: it counts its starts, sleeps, and writes a summary."""

    def prepare(seconds=0.0, ends=""):
        program = f"""
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True)
starts = folder / "starts"; starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
time.sleep({seconds})
{ends}
(folder / "summary.json").write_text(json.dumps({{"seconds": 1.0}}))
"""
        monkeypatch.setattr(
            Experiment, "command", lambda self, storage: [sys.executable, "-c", program, str(storage / str(self))]
        )
        return program

    return prepare


def starts(storage, experiment):
    return len((storage / str(experiment) / "starts").read_text())


EXPERIMENT = Experiment("pops", "cartpole", 0)


def test_a_run_that_is_done_is_not_made_again(tmp_path, quick):
    quick()
    for _ in range(2):
        assert not make(EXPERIMENT, tmp_path, 0).failed
    assert starts(tmp_path, EXPERIMENT) == 1


def test_a_run_that_is_killed_is_started_again(tmp_path, quick):
    quick(ends="import os, signal\nif len(starts.read_text()) < 3: os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Killed):
        make(EXPERIMENT, tmp_path, 0)
    (begun, nothing), (ended, outcome) = one_by_one([EXPERIMENT], tmp_path)
    assert (begun, nothing, ended) == (EXPERIMENT, None, EXPERIMENT) and not outcome.failed
    assert starts(tmp_path, EXPERIMENT) == 3


def test_a_run_whose_lease_another_has_is_ended(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(cluster, "RENEWED", 0.1)
    quick(seconds=30)
    taken = threading.Timer(1.0, (tmp_path / f"{EXPERIMENT}.lease").write_text, ["another machine"])
    taken.start()
    with pytest.raises(Killed, match="signal 9"):
        make(EXPERIMENT, tmp_path, 0)
    assert (tmp_path / f"{EXPERIMENT}.lease").read_text() == "another machine"


def test_a_run_that_is_killed_again_and_again_is_given_up(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(cluster, "KILLS", 2)
    quick(ends="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    *_, (_, outcome) = one_by_one([EXPERIMENT], tmp_path)
    assert "ended by signal 11, 2 times" in outcome.failed and starts(tmp_path, EXPERIMENT) == 2


def test_runs_with_other_settings_are_not_taken_for_these(tmp_path):
    found(tmp_path / "cartpole/pops/seed0", {})
    assert EXPERIMENT.summary(tmp_path)["seconds"] == 60
    with pytest.raises(ConfigurationError, match="other settings; give another --storage"):
        EXPERIMENT._replace(settings=("distill.members=2",)).summary(tmp_path)


def test_a_cluster_without_room_for_a_run_is_told():
    machines = [{"Resources": {"CPU": 2.0, "memory": 3 * 2.0**30}}, {"Resources": {"CPU": 1.0, "memory": 9 * 2.0**30}}]
    assert _largest(machines, 2, 2) == 2 and _largest(machines, 1, 8) == 2
    for cores, memory in ((3, 2), (2, 8)):
        with pytest.raises(ConfigurationError, match="no machine has"):
            _largest(machines, cores, memory)


def test_a_run_that_failed_counts_as_the_teacher(tmp_path):
    write_rows(tmp_path / "x.csv", [failed_row(EXPERIMENT)])
    (line,) = read_rows(tmp_path / "x.csv")
    assert size([line]) == 100 and np.isnan(reward_at(50, [line]))


@pytest.mark.parametrize("failed", [1, 3])
def test_what_is_there_is_shown_where_runs_failed(failed, tmp_path, monkeypatch):
    monkeypatch.setattr("pops.support.evidence.FOLDER", tmp_path)
    wanted = experiments(["pops", "prune"], ["cartpole", "acrobot"], range(3))
    done = [row(1.0, 1.0) | part._asdict() for part in wanted if part.seed >= failed]
    write_rows(tmp_path / "classic.csv", [*done, *(failed_row(part) for part in wanted if part.seed < failed)])
    assert all(path.exists() for path in draw(tmp_path / "classic.csv"))
    text = page()
    assert "| PoPS | 3 |" in text and "nan" not in text


@pytest.mark.parametrize("suite", SUITES)
def test_pages_of_all_suites_can_be_made(suite, tmp_path, monkeypatch):
    monkeypatch.setattr("pops.support.evidence.FOLDER", tmp_path)
    lines = []
    for experiment in experiments(SUITES[suite]["methods"], SUITES[suite]["environments"], range(SUITES[suite]["seeds"])):
        line = row(1.0 + experiment.seed, 1.0, method=experiment.method, seed=experiment.seed)
        lines.append(line | {"environment": experiment.environment})
    write_rows(tmp_path / f"{suite}.csv", lines)
    assert all(path.exists() for path in draw(tmp_path / f"{suite}.csv"))
    assert suite == "smoke" or f"benchmark.py {suite} --publish`" in page()


def test_what_needs_a_run_that_failed_fails_with_its_name(tmp_path, quick):
    quick(ends="print('no teacher there'); sys.exit(1)")
    outcomes = [outcome for _, outcome in one_by_one(experiments(["direct"], ["cartpole"], [0]), tmp_path) if outcome]
    assert [outcome.failed for outcome in outcomes] == ["no teacher there", "needs cartpole/pops/seed0, which failed"]


def test_a_lease_is_one_machines_until_it_gives_no_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RENEWED", 0.05)
    monkeypatch.setattr(cluster, "EXPIRED", 1.0)
    path, held = tmp_path / "run.lease", []
    with Lease(path):
        time.sleep(1.5)
        assert not Lease(path)._take()  # it is renewed
    assert not path.exists()
    path.write_text("who came while another judged the lease before")
    Lease(path)._remove("a machine that died")
    assert path.read_text().startswith("who came")
    path.write_text("a machine that died")
    began = time.perf_counter()
    with Lease(path) as lease:
        held.append(path.read_text() == lease.token)
    assert held == [True] and 0.5 < time.perf_counter() - began < 10
    assert not list(tmp_path.iterdir())


def test_of_many_that_wait_for_a_lease_one_has_it_at_a_time(tmp_path):
    program = f"""
import sys, time, pathlib
sys.path[:0] = [{str(ROOT)!r}]
from pops.support import cluster
cluster.RENEWED, cluster.EXPIRED = 0.05, 0.5
for _ in range(5):
    with cluster.Lease(sys.argv[1]):
        with open(sys.argv[2], "a") as file: file.write("in\\n")
        time.sleep(0.02)
        with open(sys.argv[2], "a") as file: file.write("out\\n")
"""
    (tmp_path / "x.lease").write_text("dead")
    arguments = [sys.executable, "-c", program, str(tmp_path / "x.lease"), str(tmp_path / "seen")]
    processes = [subprocess.Popen(arguments) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert (tmp_path / "seen").read_text().split() == ["in", "out"] * 20


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are not given out there")
def test_cores_are_given_out_once():
    count = len(os.sched_getaffinity(0))
    with cores_of_its_own(1) as first, cores_of_its_own(count) as too_many:
        assert first is None or (len(first) == 1 and too_many is None)
        with cores_of_its_own(1) as second:
            assert None in (first, second) or first != second
    with cores_of_its_own(0) as all_of_them:
        assert all_of_them is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a run outlives its maker, and has its folder's lock")
def test_a_run_ends_with_whoever_made_it(tmp_path, quick):
    program = quick(seconds=60)
    maker = f"""
import sys, pathlib
sys.path[:0] = [{str(ROOT)!r}]
from pops.support import cluster
from pops.support.experiments import Experiment
Experiment.command = lambda self, storage: [sys.executable, "-c", {program!r}, str(storage / str(self))]
cluster.make(Experiment("pops", "cartpole", 0), pathlib.Path(sys.argv[1]), 0)
"""
    process = subprocess.Popen([sys.executable, "-c", maker, str(tmp_path)])
    folder = tmp_path / str(EXPERIMENT)
    while not (folder / "starts").exists():
        time.sleep(0.05)
    started = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()
    assert started
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    assert not subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()


def test_the_last_line_of_a_log(tmp_path):
    (tmp_path / "log").write_text("first\n20 s: pruning\r40 s: pruning\n\n")
    assert last_line(tmp_path / "log") == "40 s: pruning"
    assert last_line(tmp_path / "none") == ""


def test_the_suite_smoke(tmp_path):
    """A whole suite of real runs, of which one seed is there already; then a seed more."""
    arguments = "run", "pops,direct", "cartpole", "--one-by-one", "--storage", tmp_path
    sets = [f"--set={setting}" for setting in TINY]
    result = command("benchmark.py", *arguments, *sets)
    assert result.returncode == 0, result.stderr
    assert "2 runs made" in result.stdout and (tmp_path / "run-cartpole.png").exists()
    made = read_rows(tmp_path / "run.csv")
    assert {(line["method"], line["kind"]) for line in made} >= {("pops", "pruned"), ("direct", "shrunk")}
    assert all(0 < line["percent"] <= 100 for line in made)
    summary = Experiment("pops", "cartpole", 0, tuple(TINY)).summary(tmp_path)
    (shrunk,) = [line for line in made if (line["method"], line["kind"]) == ("pops", "shrunk")]
    assert shrunk["reward_mean"] == summary["steps"][0]["shrunk"]["reward_mean"]
    again = command("benchmark.py", *arguments, *sets)
    assert again.returncode == 0 and "2 are done" in again.stdout
    assert read_rows(tmp_path / "run.csv") == made


@pytest.mark.skipif(os.name == "nt", reason="there is no signal for one process there")
def test_an_interrupted_benchmark_writes_what_is_there(tmp_path):
    sets = [f"--set={setting}" for setting in TINY]
    arguments = "run", "one_shot,prune", "cartpole", "--one-by-one", "--storage", str(tmp_path), *sets
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts/benchmark.py"), *arguments], stderr=subprocess.PIPE)
    while not (tmp_path / "cartpole/prune/seed0").exists():
        assert process.poll() is None
        time.sleep(0.05)
    for run in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split():
        os.kill(int(run), signal.SIGINT)  # as Ctrl-C in a terminal does
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1 and b"interrupted; start it again" in process.stderr.read()
    assert {line["method"] for line in read_rows(tmp_path / "run.csv")} == {"one_shot"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("everything",), "none of"),
        (("run", "pops"), "run METHODS ENVS: 1 names"),
        (("classic", "pops", "cartpole"), "classic: 2 names"),
        (("tune",), "tune ENV: 0 names"),
        (("tune", "cartpole", "--one-by-one"), "needs Ray"),
        (("tune", "cartpole"), "pops.shapes"),
        (("tune", "cartpole", "--set=pops.shapes=[[1],[2]]"), "one network"),
        (("tune", "chess"), "'chess' is no environment"),
        (("tune", "cartpole", "--set=pops.shapes=[[1]]", "--over=distill.tua=[1,2]"), "distill.tua"),
        (("tune", "cartpole", "--over=distill.tau=0.1"), "in brackets"),
        (("tune", "cartpole", "--seeds=0-3"), "one seed"),
        (("smoke", "--seeds", "3-1", "--one-by-one"), "--seeds 3-1"),
        (("run", "pops", "chess", "--one-by-one"), "'chess' is no environment"),
        (("run", "pops", "cartpole", "--publish"), "whole suites"),
        (("classic", "--publish", "--set=pops.steps=1"), "whole suites"),
    ],
)
def test_wrong_arguments(arguments, word, tmp_path):
    refused(command("benchmark.py", *arguments, "--storage", tmp_path), word)


def test_ablations_that_change_nothing_are_not_made():
    made = {(part.method, part.environment) for part in experiments(ABLATIONS, ["cartpole", "lunarlander"], [0])}
    assert {method for method, _ in made} == set(ABLATIONS)
    assert ("teacher_states", "lunarlander") in made and ("teacher_states", "cartpole") not in made  # it has none


def test_rows_of_a_teacher_that_was_trained_small(tmp_path):
    teacher = {"reward_mean": 200.0, "weights": 99_584, "widths": [256, 256, 128]}
    found(tmp_path / "cartpole/pops/seed0", {"teacher": teacher, "random": {"reward_mean": 20.0}})
    small = {"weights": 6, "reward_mean": 110.0, "reward_stderr": 1.0, "episodes": 100}
    found(tmp_path / "cartpole/scratch/seed0", {})
    (tmp_path / "cartpole/scratch/seed0/summary.json").write_text(json.dumps({"teacher": small, "seconds": 5.0}))
    (line,) = rows(Experiment("scratch", "cartpole", 0), tmp_path)
    assert line["share"] == "0.5" and line["percent"] == f"{600 / 99_584:.6g}" and line["kind"] == "trained"


# Tuning


def test_trials_are_drawn_once_each():
    values = {"distill.tau": [0.1, 1.0], "distill.members": [2, 3, 4]}
    few, all_of_them = (draw_trials("cartpole", values, count, ["pops.shapes=[[1]]"], 0) for count in (4, 100))
    assert len(few) == 4 and set(few) <= set(all_of_them) and len(all_of_them) == 6
    for trial, drawn in all_of_them.items():
        assert trial.settings[-2:] == (f"distill.tau={drawn['distill.tau']}", f"distill.members={drawn['distill.members']}")
    assert list(few) == list(draw_trials("cartpole", values, 4, ["pops.shapes=[[1]]"], 0))


def test_trials_are_checked_against_their_own_environment():
    settings = ["pops.shapes=[[1]]", "evaluation.objective=-200"]  # below CartPole's lower bound
    assert len(draw_trials("acrobot", {"distill.tau": [0.1]}, 1, settings, 0)) == 1


def test_tuning(tmp_path, monkeypatch):
    """Two trials in Ray Tune, which gives up the worse one if it comes second."""
    pytest.importorskip("ray.tune")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests run beside it
    sets = [
        f"--set={setting}" for setting in (*TINY, "pops.shapes=[[2]]", "distill.epochs=4", "evaluation.objective=199.5")
    ]
    over = "--over=distill.learning_rate=[[[0,[[null,0.01]]]],[[0,[[null,1e-9]]]]]"
    result = command("benchmark.py", "tune", "cartpole", over, *sets, "--storage", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "tune.csv" in result.stdout
    with open(tmp_path / "tune.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2
    for line in found:
        assert 1 <= int(line["epochs"]) <= 4
    finished = [float(line["reported"]) for line in found if float(line["reported"]) > 0]
    assert finished and finished == sorted(finished, reverse=True)


@pytest.mark.slow
def test_a_node_that_dies_loses_no_run(tmp_path):
    """A cluster of three nodes on this machine, one of which is killed while all of them work."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    wanted = experiments(["pops", "direct"], ["cartpole"], range(3), TINY)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    node = {"num_cpus": 1, "memory": 4 * 2**30, "env_vars": {"PYTHONPATH": paths}}
    machines = Cluster(initialize_head=True, head_node_args=node)
    others = [machines.add_node(**node) for _ in range(2)]
    outcomes, killed = {}, False
    try:
        for experiment, outcome in cluster.on_ray(wanted, tmp_path / "ray", 1, machines.address):
            if outcome:
                outcomes[experiment] = outcome
            if not killed and len(list((tmp_path / "ray").glob("**/config.json"))) == 3:
                machines.remove_node(others.pop(), allow_graceful=False)
                killed = True
    finally:
        machines.shutdown()
    assert killed and set(outcomes) == set(wanted) and not any(outcome.failed for outcome in outcomes.values())
    for experiment, outcome in cluster.one_by_one(wanted, tmp_path / "here", 1):
        assert outcome is None or not outcome.failed
        if outcome:
            one, other = (list(rows(experiment, tmp_path / name)) for name in ("ray", "here"))
            assert [line | {"seconds": 0} for line in one] == [line | {"seconds": 0} for line in other]
