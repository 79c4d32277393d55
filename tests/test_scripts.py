"""The commands end to end, as a user runs them: files, exit codes, one-line errors, reproducibility, Ctrl-C."""

import csv
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

from pops import __version__
from pops.__main__ import COMMANDS
from pops.configs import configuration
from pops.policies.teacher import load_teacher
from pops.support import speed
from pops.support.errors import ConfigurationError
from pops.support.results import load_run
from pops.support.shapes import joined_at
from pops.utils import count_weights

from conftest import ROOT, TEACHER, TINY, command, refused, tiny_pops

MODELS = ("pruned_step_1.keras", "student_step_1.keras", "student.keras")


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_pops_writes_the_files_of_the_contract(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert {"config.json", "metrics.csv", "summary.json", "size_vs_reward.png", "teacher.keras", *MODELS} <= names
    assert {"sparsity_vs_reward_step_1.png", "weights_step_1.png"} <= names
    assert "checkpoint" not in names and not any(name.startswith(".") for name in names)
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["seed"] == 0 and config["settings"]["pops"]["steps"] == 2 and "tensorflow" in config["versions"]
    rows = metrics(tiny_run)
    assert {row["phase"] for row in rows} == {"prune", "distill"}
    assert all(0 <= float(row["sparsity"]) < 1 and int(row["nonzero"]) <= int(row["weights"]) for row in rows)


def test_summary_adds_up(tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text())
    assert summary["teacher"]["weights"] == 99_584
    last = 99_584
    assert len(summary["steps"]) == 2
    for entry in summary["steps"]:
        units = [4, *entry["shrunk"]["widths"], 2]
        weights = sum(before * after for before, after in itertools.pairwise(units))
        assert weights == entry["shrunk"]["weights"] < last
        assert entry["shrunk"]["percent"] == pytest.approx(100 * weights / 99_584)
        assert entry["pruned"]["weights"] == last
        # N_l of two layers count as one where a layer was removed.
        sizes = [[1024, 65536, 32768, 256]]
        while len(sizes[0]) > len(entry["redundancy"]):
            sizes = [joined_at(layer, now) for now in sizes for layer in range(len(now) - 1)]
        nonzero = [sum((1 - np.array(entry["redundancy"])) * now) for now in sizes]
        assert min(abs(np.array(nonzero) - entry["pruned"]["nonzero"])) < 0.1
        last = weights
    assert summary["smallest_above_objective"]["weights"] == last
    assert summary["final"]["weights"] == (summary["smallest_matching_teacher"] or {"weights": last})["weights"]
    assert summary["ended"]


def test_saved_models_load_where_the_project_is_not(tiny_run, tmp_path):
    program = """
import sys, numpy as np, keras
for path in sys.argv[1:]:
    network = keras.models.load_model(path)
    outputs = network(np.zeros((3, 4), np.float32))
    assert tuple(outputs.shape) == (3, 2), outputs.shape
    assert {type(layer).__module__.split(".")[0] for layer in network.layers} == {"keras"}
    print(sum(int(np.count_nonzero(layer.get_weights()[0])) for layer in network.layers))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *[tiny_run / name for name in MODELS]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tiny_run / "summary.json").read_text())
    first = summary["steps"][0]
    expected = [first["pruned"]["nonzero"], first["shrunk"]["weights"], summary["final"]["weights"]]
    assert [int(line) for line in result.stdout.split()] == expected


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(part) for key, part in value.items() if key != "seconds"}
    return [without_seconds(part) for part in value] if isinstance(value, list) else value


def test_the_floor_search_goes_on_where_no_step_leads_further(tmp_path):
    result = tiny_pops(tmp_path / "run", "--set", "pops.min_change=100", "--set", "pops.floor=2")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    first, *found = summary["steps"]
    assert "pruned" in first and len(found) == 1
    weights = [entry["shrunk"]["weights"] for entry in summary["steps"]]
    assert weights == sorted(set(weights), reverse=True) and summary["smallest_above_objective"]["weights"] == weights[-1]
    for entry in found:
        assert entry["floor"] == "objective" and "pruned" not in entry and 1 <= len(entry["attempts"]) <= 2
        assert len(entry["shrunk"]["widths"]) < 3  # flatter than the teacher
        student = keras.saving.load_model(tmp_path / "run" / f"student_step_{entry['step']}.keras")
        assert count_weights(student)[0] == entry["shrunk"]["weights"]
    assert f"shrunk {found[-1]['step']}" in result.stdout and "report.html" in result.stdout


def test_the_papers_profile_runs(tmp_path):
    settings = [*TINY, "distill.patience=1", "pops.min_change=99"]
    result = command(
        "pops.py", "cartpole", "--profile", "paper", "--out", tmp_path / "run", *(f"--set={s}" for s in settings)
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [entry["shrunk"]["weights"] < 99_584 for entry in summary["steps"]] == [True]
    assert "the size changed by" in summary["ended"]


def model_bytes(folder, name):
    return (folder / name).read_bytes()


def test_same_seed_same_result_to_the_bit(tiny_run, tmp_path):
    same = tmp_path / "same"
    assert tiny_pops(same, "--seed", 0).returncode == 0
    assert without_seconds(metrics(same)) == without_seconds(metrics(tiny_run))
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (tiny_run, same))
    assert without_seconds(first) == without_seconds(second)
    for name in MODELS:
        assert model_bytes(same, name) == model_bytes(tiny_run, name)


@pytest.mark.slow
def test_another_seed_gives_another_result(tiny_run, tmp_path):
    assert tiny_pops(tmp_path / "other", "--seed", 1, "--set", "pops.steps=1").returncode == 0
    for name in MODELS:
        assert model_bytes(tmp_path / "other", name) != model_bytes(tiny_run, name)


def test_evaluate_prints_one_object(tiny_run):
    result = command("evaluate.py", tiny_run / "student.keras", "--episodes", 7, "--json", "--sample")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {
        *("episodes", "reward_mean", "reward_stderr", "reward_min", "reward_worst_tenth", "weights"),
        *("nonzero", "percent", "policy"),
    }
    assert (report["episodes"], report["policy"]) == (7, "sampled")
    summary = json.loads((tiny_run / "summary.json").read_text())
    assert report["weights"] == summary["final"]["weights"]
    assert report["percent"] == pytest.approx(summary["final"]["percent"])


def test_the_shipped_teacher_reaches_199():
    result = command("evaluate.py", TEACHER, "--seed", 123, "--json")
    report = json.loads(result.stdout)
    assert report["weights"] == 99_584
    assert report["policy"] == "greedy" and report["reward_mean"] >= 199


def test_train_teacher_writes_a_teacher_that_pops_takes(tmp_path):
    settings = (
        "model.widths=[16,16,8] teacher.steps=1200 teacher.learning_starts=200 teacher.evaluate_every=400 "
        "teacher.episodes=5 evaluation.report_episodes=5"
    ).split()
    folder = tmp_path / "teacher"
    result = command("train_teacher.py", "cartpole", "--out", folder, *(f"--set={s}" for s in settings))
    assert result.returncode == 0, result.stderr
    names = {"config.json", "metrics.csv", "summary.json", "teacher.keras", "SHA256SUMS", "rewards.png", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert len(metrics(folder)) == 3 and metrics(folder)[0]["phase"] == "teacher"
    assert load_teacher(folder / "teacher.keras", "cartpole", configuration("cartpole")["model"]).widths == (16, 16, 8)


@pytest.fixture(scope="module")
def tiny_lunarlander(tmp_path_factory):
    """A tiny actor-critic training and a tiny run of pops.py from its teacher: the two folders."""
    folder = tmp_path_factory.mktemp("lunarlander")
    settings = (
        "model.widths=[16,16] teacher.environments=4 teacher.rollout=64 teacher.batch_size=64 teacher.steps=1024 "
        "teacher.evaluate_every=512 teacher.episodes=4 evaluation.report_episodes=4"
    ).split()
    result = command("train_teacher.py", "lunarlander", "--out", folder / "teacher", *(f"--set={s}" for s in settings))
    assert result.returncode == 0, result.stderr
    result = run_tiny_lunarlander(folder / "teacher" / "teacher.keras", folder / "run")
    assert result.returncode == 0, result.stderr
    assert "smallest that matches the teacher: " in result.stdout
    return folder / "teacher", folder / "run"


def run_tiny_lunarlander(teacher, out):
    settings = [
        *TINY,
        *("evaluation.objective=-2000", "evaluation.lower_bound=-3000", "replay.capacity=600", "replay.student_states=50"),
        "distill.confirm_episodes=3",
    ]
    return command("pops.py", "lunarlander", "--teacher", teacher, "--out", out, *(f"--set={s}" for s in settings))


def test_an_actor_critic_teacher_goes_through_the_same_pops(tiny_lunarlander):
    teacher, run = tiny_lunarlander
    names = {"config.json", "metrics.csv", "summary.json", "teacher.keras", "critic.keras", "SHA256SUMS"}
    names |= {"rewards.png", "report.html"}
    assert {path.name for path in teacher.iterdir()} == names
    assert len(metrics(teacher)) == 2 and metrics(teacher)[-1]["update"] == "64"
    summary = json.loads((run / "summary.json").read_text())
    assert {path.name for path in run.iterdir()} >= {*MODELS, "size_vs_reward.png", "weights_step_1.png"}
    above, matching = summary["smallest_above_objective"], summary["smallest_matching_teacher"]
    for report in (summary["teacher"], above, summary["final"]):
        assert report["episodes"] == report["greedy"]["episodes"] == 4
        assert report["reward_mean"] != report["greedy"]["reward_mean"]
    assert all(entry["pruned"]["episodes"] == 4 and "greedy" not in entry["pruned"] for entry in summary["steps"])
    assert all(entry["shrunk"]["episodes"] == 4 for entry in summary["steps"])
    chosen = {choice["step"] for choice in (above, matching) if choice}
    assert {entry["step"] for entry in summary["steps"] if "greedy" in entry["shrunk"]} == chosen
    assert above["step"] == len(summary["steps"]) and above["file"] == f"student_step_{above['step']}.keras"
    final = matching or above
    assert summary["final"] == final | {"file": "student.keras"}
    assert model_bytes(run, "student.keras") == model_bytes(run, final["file"])


@pytest.mark.slow
def test_lunarlander_too_gives_the_same_result_to_the_bit(tiny_lunarlander, tmp_path):
    teacher, run = tiny_lunarlander
    assert run_tiny_lunarlander(teacher / "teacher.keras", tmp_path / "run").returncode == 0
    assert without_seconds(metrics(tmp_path / "run")) == without_seconds(metrics(run))
    assert model_bytes(tmp_path / "run", "student.keras") == model_bytes(run, "student.keras")


def test_a_critic_is_refused_by_name(tiny_lunarlander, tmp_path):
    critic = tiny_lunarlander[0] / "critic.keras"
    result = command("pops.py", "lunarlander", "--teacher", critic, "--out", tmp_path / "run")
    refused(result, str(critic), "is a critic, lunarlander_critic, which chooses no actions")
    refused(command("evaluate.py", critic), str(critic), "lunarlander_critic", "gives (None, 1)")


@pytest.mark.parametrize("acting", ["sample", "greedy"])
def test_the_shipped_lunarlander_teacher_reaches_250(acting):
    teacher = ROOT / "saved_models" / "lunarlander" / "teacher.keras"
    report = json.loads(command("evaluate.py", teacher, "--seed", 123, "--json", f"--{acting}").stdout)
    assert report["weights"] == 8_960 and report["percent"] == 100
    assert report["reward_mean"] >= 250


def test_plot_draws_one_run_and_several(tiny_run, tmp_path):
    result = command("plot.py", tiny_run, "--out", tmp_path / "one")
    assert result.returncode == 0, result.stderr
    assert {"size_vs_reward.png", "sparsity_vs_reward_step_1.png", "weights_step_1.png"} <= {
        path.name for path in (tmp_path / "one").iterdir()
    }
    result = command("plot.py", tiny_run, tiny_run, "--out", tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "two" / "size_vs_reward.png").read_bytes()[:4] == b"\x89PNG"
    assert result.stdout.count("\n| 0 | smallest above the objective") == 2
    refused(command("plot.py", tiny_run, tiny_run), "--out")
    refused(command("plot.py", tmp_path), "does not hold a finished run")


def test_plot_takes_all_results_but_not_two_environments_at_once(tmp_path):
    for environment in ("cartpole", "lunarlander"):
        runs = sorted((ROOT / "results" / environment).glob("seed*"))
        assert len(runs) == 5
        result = command("plot.py", *runs, "--out", tmp_path / environment)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("smallest above the objective") == 5
    mixed = [ROOT / "results" / environment / "seed0" for environment in ("cartpole", "lunarlander")]
    refused(command("plot.py", *mixed, "--out", tmp_path), "runs of different environments, cartpole and lunarlander")


def test_record_shows_policies_side_by_side(tiny_run, tmp_path):
    models = [TEACHER, tiny_run / "student.keras"]
    result = command("record.py", "cartpole", *models, "--out", tmp_path / "new" / "play.gif", "--seconds", 1)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(" weights, reward ") == 2
    with Image.open(tmp_path / "new" / "play.gif") as film:
        assert film.n_frames > 30 and film.width == 2 * 315 + 4  # CartPole's pictures are 600 x 400
    refused(command("record.py", "cartpole", TEACHER, "--out", tmp_path / "play.mp4"), "play.mp4", "ends with .gif")
    refused(command("record.py", "lunarlander", TEACHER, "--out", tmp_path / "play.gif"), "takes (None, 4)")


def test_names_and_paths_in_a_runs_files_do_not_lead_out_of_its_folder(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "copy" / "run")
    config, summary = (json.loads((folder / name).read_text()) for name in ("config.json", "summary.json"))
    os.mkfifo(tmp_path / "elsewhere.keras")  # whoever opens it waits for ever
    (folder / "config.json").write_text(json.dumps(config | {"teacher": "../../elsewhere.keras"}))
    (folder / "weights_step_1.png").unlink()
    assert command("plot.py", folder).returncode == 0
    assert (folder / "weights_step_1.png").exists()  # drawn from the run's own teacher.keras
    for step in ("../../out", "/tmp/out", 1.0, None):
        summary["steps"][0]["step"] = step
        (folder / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(ConfigurationError, match=r"does not hold a finished run of pops\.py .*number its steps"):
            load_run(folder)
    refused(command("plot.py", folder), str(folder), "does not hold a finished run")
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "elsewhere.keras"}
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["run"]


def test_a_finished_run_resumed_says_so_again_and_changes_nothing(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.glob("*[!g]")}
    result = tiny_pops(folder, "--resume")
    assert (
        result.returncode == 0 and "ended: 2 steps done" in result.stdout and "nothing to go on from" not in result.stdout
    )
    assert {path.name: path.read_bytes() for path in folder.glob("*[!g]")} == before


@pytest.mark.parametrize(
    "script",
    "train_teacher.py pops.py evaluate.py plot.py bench.py record.py reliability.py export.py "
    "report.py deploy_report.py train_sb3.py".split(),
)
def test_help_shows_an_example(script):
    result = command(script, "--help")
    assert result.returncode == 0 and f"python scripts/{script}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pops.py"], ["ENV"]),
        (["pops.py", "cartpol"], ["cartpol", "did you mean cartpole?"]),
        (["pops.py", "cartpole", "--set", "prune.itertions=3"], ["did you mean prune.iterations?"]),
        (["pops.py", "cartpole", "--set", "prune.iterations=many"], ["prune.iterations", "an integer"]),
        (["pops.py", "cartpole", "--profile", "slow"], ["slow", "fast, paper"]),
        (["pops.py", "cartpole", "--seed", "-1"], ["-1", "integer from 0"]),
        (
            ["pops.py", "lunarlander", "--teacher", str(TEACHER)],
            ["is a policy for cartpole, cartpole_teacher, not for lunarl"],
        ),
        (["pops.py", "cartpole", "--teacher", "nowhere.keras"], ["nowhere.keras", "No such file"]),
        (["train_teacher.py", "pong2"], ["pong2"]),
        (["train_teacher.py", "cartpole", "--start", "nowhere.keras"], ["nowhere.keras", "No such file"]),
        (["train_sb3.py", "Nope-v1", "--out", "a.zip"], ["Nope-v1", "there are settings for Acrobot-v1"]),
        (["evaluate.py", "nowhere.keras"], ["nowhere.keras"]),
        (["evaluate.py", str(TEACHER), "--episodes", "1"], ["integer from 2"]),
        (["evaluate.py", str(TEACHER), "--env", "mars"], ["mars"]),
        (["evaluate.py", str(TEACHER), "--greedy", "--sample"], ["not allowed with"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words, tmp_path):
    refused(command(*arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def keras_file(path, inputs, outputs):
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dense(outputs)]
    keras.Sequential([keras.Input((inputs,)), *layers]).save(path)


def test_bad_teacher_files_are_refused_by_name(tmp_path):
    path, whole, settings = tmp_path / "teacher.keras", TEACHER.read_bytes(), configuration("cartpole")["model"]

    def refusal():
        with pytest.raises(ConfigurationError) as error:
            load_teacher(path, "cartpole", settings)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    for content in (b"", whole[: len(whole) // 2], os.urandom(5000), b'{"a": 1}'):
        path.write_bytes(content)
        assert "damaged, or no Keras model file" in refusal()
    keras_file(path, inputs=8, outputs=4)
    assert "takes (None, 8) and gives (None, 4); this environment needs (None, 4) and (None, 2)" in refusal()
    keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)]).save(path)  # not built
    assert "takes None" in refusal()


def test_a_bad_teacher_file_is_refused_and_nothing_is_written(tmp_path):
    teacher = tmp_path / "teacher.keras"
    teacher.write_bytes(TEACHER.read_bytes()[:1000])
    result = command("pops.py", "cartpole", "--teacher", teacher, "--out", tmp_path / "run")
    refused(result, str(teacher), "damaged, or no Keras model file")
    assert not (tmp_path / "run").exists()


def test_a_keras_file_with_code_is_not_run(tmp_path):
    path, trace = tmp_path / "teacher.keras", tmp_path / "trace"
    layer = keras.layers.Lambda(eval(f"lambda x: (open({str(trace)!r}, 'w').close(), x)[1]"), output_shape=(4,))
    network = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    network.save(path)
    trace.unlink(missing_ok=True)
    refused(command("pops.py", "cartpole", "--teacher", path, "--out", tmp_path / "run"), "has a Lambda layer")
    assert not trace.exists()


def test_a_used_or_unwritable_folder_is_refused_and_left_alone(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(tiny_pops(folder), str(folder), "holds a run already; go on with it with --resume")
    refused(tiny_pops(folder, "--resume", "--set", "prune.frequency=6"), "settings.prune.frequency is 5 there and 6 here")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    refused(tiny_pops(folder / "config.json" / "deep"), "no folder can be made")


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_is_written(tmp_path):
    result = tiny_pops(tmp_path / "run", "--set", "prune.learning_rate=1", "--set", "prune.tau=1e-45")
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert "prune, step 1, update 20: the loss is nan" in result.stderr
    assert {"config.json", "metrics.csv"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_teacher_below_the_objective_fails_the_run(tmp_path):
    result = tiny_pops(tmp_path / "run", "--set", "evaluation.objective=200.5")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "the teacher's reward, 200.0 ± 0.0, is not above the objective, 200.5" in result.stderr


@pytest.mark.slow
def test_bench_measures_all_it_names(monkeypatch, capsys):
    # Small networks in the place of the largest, which take minutes to compile.
    monkeypatch.setattr(speed, "SIZES", ((16, 16, 8), (10, 10, 4), (8, 8, 4)))
    monkeypatch.setattr(speed, "PONG_SIZES", ((4, 4, 4, 8), (2, 2, 2, 4)))
    speed.measure(0.05)
    printed = capsys.readouterr().out
    for row in (
        "16-16-8, pruning",
        "8-8-4",
        "teacher 256-256-128",
        "student 8-8-4",
        "4-4-4-8, pruning",
        "teacher 64-64-64",
    ):
        assert f"\n {row} " in printed
    assert printed.count("\n 2-2-2-4 ") == 2  # updates and evaluation


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    long = [*TINY, "prune.iterations=100000", "prune.end=100000000"]
    arguments = ["cartpole", "--seed", "3", "--out", str(folder), *(f"--set={s}" for s in long)]
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts/pops.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((folder / "metrics.csv").exists() and len(metrics(folder)) > 3):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("\n") == 1 and "interrupted; no student was finished; go on with: " in errors
    again = shlex.split(errors.split("go on with: ")[1])
    assert again[2:] == [*arguments, "--resume"]
    assert len(metrics(folder)) > 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("pops.py", "cartpole", "--teacher", "nope.keras"),
        ("pops.py", "--env-id", "Acrobot-v1", "--teacher", TEACHER, "--normalizer", "nope.keras"),
        ("evaluate.py", "nope.keras"),
        ("export.py", "nope.keras", "--format", "c", "--out", "policy.h"),
        ("record.py", "cartpole", TEACHER, "nope.keras", "--out", "play.gif"),
        ("deploy_report.py", "nope.keras", "--out", "deploy"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_files_are_looked_for_before_tensorflow_is_imported(arguments, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')")
    result = command(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    refused(result, "nope.keras: cannot be read (No such file or directory)")


def test_the_command_pops_has_the_scripts_as_subcommands(tmp_path):
    def pops(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pops", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    assert pops("--version").stdout == f"pops {__version__}\n"
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    own = {"quickstart", "test", "setup_environment", "settings_page", "zoo", "benchmark"}  # of a clone only
    assert {module for module, _ in COMMANDS.values()} == scripts - own
    assert all(f"  {name} " in pops("--help").stdout for name in COMMANDS)
    result = pops("evaluate", tmp_path / "nope.keras")
    assert result.returncode == 2 and result.stderr.startswith("pops evaluate: ")
    assert pops("evaluat").returncode == 2
