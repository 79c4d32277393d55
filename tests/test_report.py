"""What shows a run: report.html, TensorBoard's files, the progress bar; and the comparison of policies on a device."""

import argparse
import base64
import copy
import csv
import html.parser
import importlib.util
import io
import json
import shutil
import time

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pops.model import DQNPong
from pops.support import commands
from pops.support.errors import ConfigurationError
from pops.support.networks import save_network
from pops.support.report import write_report
from pops.support.results import choice_lines, load_run, markdown_table, result_rows
from pops.support.run import Run

from conftest import ROOT, TEACHER, TINY, command, refused


class Page(html.parser.HTMLParser):
    """The parts of a page: tags, text, and what it loads from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.sources, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # well-formed

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_of_a_run_is_one_page_that_needs_nothing_else(tiny_run):
    page = Page((tiny_run / "report.html").read_text())
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert page.sources and all(source.startswith("data:image/png;base64,") for source in page.sources)
    for source in page.sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    # The learning curves, size against reward, and two graphs for each of the two steps.
    assert len(page.sources) == 1 + 1 + 2 * 2
    text = " ".join(page.text)
    summary, config = (json.loads((tiny_run / f"{name}.json").read_text()) for name in ("summary", "config"))
    for cell in [cell for row in result_rows(summary) for cell in row]:
        assert cell in text
    assert f"ended: {summary['ended']}" in text and config["teacher_sha256"] in text
    assert "learning_rate" in text and config["versions"]["tensorflow"] in text


def test_names_in_a_report_are_text_not_tags(tiny_run, tmp_path):
    for name in ("config.json", "summary.json", "metrics.csv"):
        shutil.copy(tiny_run / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["environment"] = "<script>alert(1)</script>"
    (tmp_path / "config.json").write_text(json.dumps(config))
    page = Page(write_report(tmp_path).read_text())
    assert "script" not in page.tags and "<script>alert(1)</script>" in "".join(page.text)


def test_a_folder_without_a_run_has_no_report(tmp_path):
    with pytest.raises(ConfigurationError, match="does not hold a finished run"):
        write_report(tmp_path)
    refused(command("report.py", tmp_path), str(tmp_path), "does not hold a finished run")


def test_a_run_that_goes_on_is_said_to_be_unfinished(tiny_run, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(tiny_run / "config.json", tmp_path)
    for read in (write_report, load_run):
        with pytest.raises(ConfigurationError, match="has not finished; its own command with --resume goes on"):
            read(tmp_path)


def test_the_command_writes_the_page_again(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    result = command("report.py", tmp_path / "run")
    assert result.returncode == 0 and "report.html" in result.stdout, result.stderr
    assert (tmp_path / "run" / "report.html").read_bytes() == (tiny_run / "report.html").read_bytes()


def test_the_bar_shows_phase_reward_and_sparsity(config, new_run, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("pops.support.run.console", Console(file=written, force_terminal=True, width=200))
    run = new_run(config)
    with run.watching():
        run.progress("step 1: pruning", 30, 120)
        row = {"step": 1, "iteration": 1, "update": 30, "weights": 200, "nonzero": 150, "learning_rate": 1e-3, "loss": 0.1}
        run.metrics(phase="prune", rewards=np.array([10.0, 12.0]), **row)
        run.bar.refresh()
        run.progress("step 1: distilling", 1, 4)
        run.bar.refresh()
        run.once(("report", "teacher"), run.bar.refresh)
        run.watch("report", "teacher")(3, 10)
        run.bar.refresh()
    text = written.getvalue()
    assert "step 1: pruning" in text and "150 weights (25.0 % pruned), reward 11.0 ± 1.0" in text
    assert "reporting: teacher" in text and "30%" in text
    assert "step 1: distilling" in text and "25%" in text and "-:--:--" in text  # no time left can be told yet
    run.progress("step 1: distilling", 2, 4)  # nobody watches any more


def test_off_a_terminal_a_line_tells_how_far_a_run_is(config, new_run, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("pops.support.console.console", Console(file=written, force_terminal=False, width=200))
    monkeypatch.setattr("pops.support.run.console", Console(file=io.StringIO(), force_terminal=False))
    assert Run.LINE_SECONDS < 30
    monkeypatch.setattr(Run, "LINE_SECONDS", 0.05)
    run = new_run(config)
    with run.watching():
        run.progress("step 1: pruning", 30, 120)
        time.sleep(0.2)
        run.metrics(phase="prune", step=1, weights=100, nonzero=40, rewards=np.array([1.0, 3.0]))
        run.progress("step 1: pruning", 60, 120)
        time.sleep(0.2)
    lines = written.getvalue().splitlines()
    assert any(line.endswith(" s: step 1: pruning, 25 %") for line in lines), lines
    assert lines[-1].endswith(" s: step 1: pruning, 50 %; last evaluation: 40 weights (60.0 % pruned), reward 2.0 ± 1.0")
    count = len(lines)
    time.sleep(0.2)
    assert len(written.getvalue().splitlines()) == count  # no more of them when it is over


def test_missing_tensorboard_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    commands.check_tensorboard(argparse.Namespace(tensorboard=False))
    with pytest.raises(
        ConfigurationError, match=r"^--tensorboard: missing; install with: pip install -r requirements-tensor"
    ):
        commands.check_tensorboard(argparse.Namespace(tensorboard=True))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_has_the_rows_of_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    settings = [f"--set={setting}" for setting in TINY]
    result = command("pops.py", "cartpole", "--out", tmp_path / "run", "--tensorboard", *settings)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["phase"] for row in rows} == {"prune", "distill"}
    found = {}
    for number, row in enumerate(rows, 1):
        for name in ("reward_mean", "sparsity", "loss"):
            found.setdefault(f"step {row['step']}, {row['phase']}/{name}", []).append((number, float(row[name])))
    for tag, values in found.items():
        tensors = [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        np.testing.assert_allclose(tensors, values, rtol=1e-6)
    assert "size_vs_reward" in events.Tags()["tensors"]


def test_policies_are_compared_as_a_device_runs_them(tiny_run, tmp_path):
    result = command("deploy_report.py", tiny_run, "--out", tmp_path / "deploy", "--episodes", 3)
    assert result.returncode == 0, result.stderr
    teacher, pruned, shrunk = rows = json.loads((tmp_path / "deploy" / "report.json").read_text())
    assert [row["policy"] for row in rows] == ["teacher", "pruned only", "shrunk"]
    assert all(("onnx" in row["bytes"]) != ("ONNX is left out" in result.stdout) for row in rows)
    assert teacher["multiply_accumulates"] == teacher["weights"] == pruned["weights"] == 99_584
    assert pruned["nonzero"] < pruned["weights"] and shrunk["nonzero"] == shrunk["weights"] < pruned["nonzero"]
    for row in rows:
        assert {"keras", "litert", "litert_int8"} <= set(row["bytes"])
        assert row["bytes"]["keras"] > row["gzip_bytes"]["keras"] > 0
        for times in row["microseconds"].values():
            assert 0 < times["median"] <= times["p99"]
        assert row["reward"]["episodes"] == 3
    assert abs(teacher["bytes"]["litert"] - pruned["bytes"]["litert"]) < 100  # the lengths of names
    saved = pruned["bytes"]["litert"] - shrunk["bytes"]["litert"]  # four bytes a weight, and biases
    assert saved == pytest.approx(4 * (pruned["weights"] - shrunk["weights"]), rel=0.03)
    assert teacher["gzip_bytes"]["litert"] > pruned["gzip_bytes"]["litert"]
    assert teacher["bytes"]["keras"] == (tiny_run / "teacher.keras").stat().st_size
    Image.open(tmp_path / "deploy" / "report.png").verify()
    for words in ("99,584", "LiteRT", "microseconds for an action", "pruned only"):
        assert words in result.stdout


def test_multiplications_of_convolutions_count_every_place():
    from pops.configs import configuration
    from pops.deploy.device import multiply_accumulates

    network = DQNPong(configuration("pong")["model"], [2, 3, 4, 5]).network
    expected = 20**2 * 8**2 * 4 * 2 + 9**2 * 4**2 * 2 * 3 + 7**2 * 3**2 * 3 * 4 + 7**2 * 4 * 5 + 5 * 3
    assert multiply_accumulates(network) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.keras"], ["nosuch.keras: cannot be read"]),
        ([ROOT], ["holds no finished run of pops.py"]),
        ([TEACHER, "--episodes", "1"], ["--episodes", "1 is not an integer from 2"]),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(arguments, words, tmp_path):
    refused(command("deploy_report.py", *arguments, "--out", tmp_path / "deploy"), *words)


def test_a_policy_with_tanh_has_no_c_header(tmp_path):
    network = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)], name="cartpole_pruned"
    )
    save_network(network, tmp_path / "pruned.keras")
    out = tmp_path / "pruned.h"
    result = command("export.py", tmp_path / "pruned.keras", "--format", "c", "--out", out)
    refused(result, "has tanh", "students that were shrunk have ReLU")
    result = command("deploy_report.py", tmp_path / "pruned.keras", "--out", tmp_path / "deploy", "--episodes", 2)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((tmp_path / "deploy" / "report.json").read_text())
    assert "c" not in row["bytes"] and "litert" in row["microseconds"]


def test_runs_with_different_other_ways_to_play_make_one_table():
    run = load_run(ROOT / "results" / "cartpole" / "seed0")
    other = copy.deepcopy(run)
    reports = [other["summary"]["teacher"], *(entry["shrunk"] for entry in other["summary"]["steps"] if "shrunk" in entry)]
    for report in reports:
        report["noise"] = dict(report)
    rows = markdown_table([run, other]).splitlines()
    assert "noise" in rows[0] and len({row.count("|") for row in rows}) == 1


def test_unused_inputs_are_named():
    summary = {"smallest_above_objective": None, "smallest_matching_teacher": None}
    steps = [{"step": 1, "inputs": [0, 1]}, {"step": 2, "inputs": [0.5, 0, 0, 0.5]}, {"step": 3, "floor": "objective"}]
    summary |= {"steps": steps, "input_names": ["x", "y", "angle", "speed"]}
    assert list(choice_lines(summary))[2:] == ["not used by pruned 2: y, angle (2 of 4 inputs)"]
    summary |= {"input_names": None}
    assert list(choice_lines(summary))[2:] == ["not used by pruned 2: input 1, input 2 (2 of 4 inputs)"]
