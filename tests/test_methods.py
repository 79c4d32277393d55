"""What PoPS is compared with: each way from the teacher to a small network, as a whole tiny run."""

import json

import keras
import numpy as np
import pytest

from pops.configs import configuration
from pops.support.records import new_task
from pops.support.results import load_run
from pops.support.seeds import Seeds
from pops.utils import count_weights, kernels

from conftest import TEACHER, refused, tiny_pops

SETTINGS = {method: [f"pops.method={method}"] for method in ("search", "one_shot", "ars")}
SETTINGS["direct"] = ["pops.method=direct", "pops.shapes=[[1]]"]


def run_of(folder, method, *settings):
    """The steps of a tiny run by a method, after a look at its files."""
    result = tiny_pops(folder, "--set", f"pops.method={method}", *(f"--set={setting}" for setting in settings))
    assert result.returncode == 0, result.stderr
    summary = load_run(folder)["summary"]
    for entry in summary["steps"]:
        for kind, name in (("pruned", "pruned"), ("shrunk", "student")):
            if kind in entry:
                network = keras.saving.load_model(folder / f"{name}_step_{entry['step']}.keras")
                assert count_weights(network) == (entry[kind]["weights"], entry[kind]["nonzero"])
    return summary["steps"]


def test_direct_distillation_tries_every_shape(tmp_path):
    steps = run_of(tmp_path, "direct", "pops.shapes=[[3,2],[],[5]]")
    assert [entry["shrunk"]["widths"] for entry in steps] == [[3, 2], [], [5]]
    assert not any("pruned" in entry for entry in steps)


def test_a_shape_that_does_not_meet_the_objective_is_reported_even_so(tmp_path):
    (entry,) = run_of(tmp_path, "direct", "pops.shapes=[[1]]", "evaluation.objective=199")
    assert "shrunk" not in entry and entry["refused"]["weights"] == 6 and entry["refused"]["episodes"] == 4
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["smallest_above_objective"] is None and summary["final"]["weights"] == 99_584


def test_the_search_needs_no_pruning(tmp_path):
    (entry,) = run_of(tmp_path, "search", "pops.floor=3")
    assert entry["floor"] == "objective" and 1 <= len(entry["attempts"]) <= 3
    assert entry["shrunk"]["weights"] == min(part["weights"] for part in entry["attempts"] if part["met_objective"])


@pytest.mark.parametrize("method", ["search", "direct", "one_shot", "ars"])
def test_a_method_that_shares_no_states_fills_no_memory(method):
    assert new_task(None, None, 0, configuration("cartpole", assignments=SETTINGS[method]), Seeds(0), None).replay is None


def test_pruning_alone_is_the_first_step_of_pops(tmp_path, tiny_run):
    (entry,) = run_of(tmp_path, "prune")
    first, *_ = load_run(tiny_run)["summary"]["steps"]
    assert entry["pruned"] == first["pruned"] and "shrunk" not in entry


def test_one_shot_pruning_keeps_the_largest_weights_as_they_were(tmp_path):
    steps = run_of(tmp_path, "one_shot")
    teacher = kernels(keras.saving.load_model(TEACHER))
    assert len(steps) == 8  # 2 to the 8 is the smallest layer's number of weights
    for entry in steps:
        pruned = kernels(keras.saving.load_model(tmp_path / f"pruned_step_{entry['step']}.keras"))
        for before, after in zip(teacher, pruned, strict=True):
            left = after != 0
            assert left.sum() == before.size // 2 ** entry["step"]
            np.testing.assert_array_equal(after[left], before[left])
            assert np.abs(before[left]).min() >= np.abs(before[~left]).max()


def test_random_search_learns_a_linear_policy_from_rewards_alone(tmp_path):
    (entry,) = run_of(tmp_path, "ars", "evaluation.objective=195", "evaluation.report_episodes=100")
    assert entry["shrunk"]["weights"] == 8 and entry["shrunk"]["reward_mean"] > 190


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["pops.method=direct"], "pops.shapes: [] names no network"),
        (["pops.shapes=[[1]]"], "pops.shapes: [[1]] is for pops.method=direct only"),
        (["pops.method=direct", "pops.shapes=[[0]]"], "a list of lists"),
        (["pops.method=guess"], "one of pops, search"),
        (["pops.method=search", "pops.floor=0"], "pops.floor: 0 lets pops.method=search try no network"),
    ],
)
def test_wrong_methods_are_refused(tmp_path, settings, word):
    refused(tiny_pops(tmp_path / "run", *(f"--set={setting}" for setting in settings)), word)
