"""The search for the smallest network that does: which sizes it tries, and when it ends."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prune import SETTINGS, WIDTHS, count

from pops import prune, train
from pops.configs import configuration
from pops.model import AGENTS, StudentCartPole
from pops.support.floor import search_floor, shapes_between, widest
from pops.support.records import Records
from pops.support.rewards import Reference
from pops.train import Distilled, Task
from pops.utils import count_weights


class Found(Records):
    """Records of a run whose steps of PoPS ended at a student of these widths, or have all failed."""

    def __init__(self, task, widths, matching):
        self.task, self.matching = task, matching
        self.summary = {"teacher": {"weights": 99_584, "widths": (256, 256, 128)}, "steps": []}
        if widths is not None:
            self.summary["steps"].append({"step": 1})
            self.shrunk(1, None, widths, [])

    def started(self, step, student, what="started"):
        self.widths = student.widths

    def compared(self, network, *purpose):
        return {"matches_teacher": count_weights(network)[0] >= self.matching}

    def shrunk(self, step, network, widths, attempts):
        weights = sum(count(widths))
        report = {"weights": weights, "widths": widths}
        matching = weights >= self.matching
        self.summary["steps"][-1] |= {"shrunk": report, "attempts": attempts, "matches_teacher": matching}

    def _seconds(self, step):
        return 0.0

    def attempts(self):
        """Of the searches, in order."""
        return [part for entry in self.summary["steps"] if "floor" in entry for part in entry["attempts"]]

    def weights(self, met):
        """Of the searches' attempts that met the objective, or did not, in order."""
        return [part["weights"] for part in self.attempts() if part["met_objective"] == met]


@pytest.fixture
def search(monkeypatch, config, new_run):
    def run(widths, enough, matching, until="objective", floor=100):
        """A search where `enough` weights meet the objective and `matching` match the teacher."""

        def fit(student, task, step, attempt, start, schedule):
            weights = student.plain_network("student").get_weights()
            return Distilled(weights, sum(student.layer_sizes()) >= enough, 1, np.zeros(2))

        monkeypatch.setattr(prune, "fit_supervised", fit)
        monkeypatch.setattr(train, "StateMemory", lambda *_: SimpleNamespace(fill=lambda *_: None))
        changed = {"pops": config["pops"] | {"floor": floor}, "distill": config["distill"] | {"until": until}}
        reference = Reference(None, np.zeros(2), None, 0.0, {})
        task = Task(config | changed, None, None, reference, 99_584, None, new_run(config))
        records = Found(task, widths, matching)
        teacher = AGENTS["cartpole"].teacher(SETTINGS)
        search_floor(teacher, task, records)
        return records

    return run


@pytest.mark.parametrize("enough", [6, 7, 11, 19, 26])
def test_the_floor_is_the_smallest_network_that_does(search, enough):
    records = search((4, 5, 3), enough, matching=0)
    found, refused = records.weights(met=True), records.weights(met=False)
    assert found == sorted(found, reverse=True)
    # Whatever it would try between what does not do and the smallest that does, it has tried.
    most, student, smallest = max(refused, default=0), StudentCartPole(SETTINGS, (4, 5, 3)), records.smallest()[0]
    assert most < enough <= found[-1] == smallest["weights"]
    shapes = [shape for shape in shapes_between(most, found[-1] - 1, student) if len(shape) <= len(smallest["widths"]) + 1]
    assert not [shape for shape in shapes if sum(count(shape)) >= enough]
    assert [entry["step"] for entry in records.summary["steps"]] == [1, 2]


def test_networks_of_one_layer_more_are_tried_where_layers_were_removed(search):
    records = search((), enough=6, matching=0)
    assert records.weights(met=True) == [6]  # 4-1-2, below 4-2
    records = search((), enough=7, matching=0)
    assert records.weights(met=True) == [] and records.weights(met=False) == [6]  # and not 4-1-1-2


@pytest.mark.parametrize("widths", [(4, 5, 3), None], ids=["from a student", "where PoPS found none"])
def test_then_it_looks_for_the_smallest_that_matches_and_tries_nothing_twice(search, widths):
    records = search(widths, enough=11, matching=30, until="teacher")
    above, matching = records.smallest()
    assert 11 <= above["weights"] <= 12 and 30 <= matching["weights"] <= 31
    tried = [tuple(part["widths"]) for part in records.attempts()]
    assert len(tried) == len(set(tried))
    searches = [entry["floor"] for entry in records.summary["steps"] if "floor" in entry]
    assert searches == ["objective", "teacher"]


def test_networks_that_the_first_search_found_count_in_the_second_one(search):
    for matching in range(13, 60, 5):
        records = search((40, 40, 20), enough=11, matching=matching, until="teacher")
        first, second = [entry for entry in records.summary["steps"] if "floor" in entry]
        known = [part["weights"] for part in first["attempts"] if part["weights"] >= matching]
        assert second["shrunk"]["weights"] <= min(known)


def test_it_ends_after_as_many_networks_as_set(search):
    records = search((40, 40, 20), enough=10**9, matching=10**9, floor=3)
    assert len(records.weights(met=False)) == 3
    records = search((40, 40, 20), enough=11, matching=30, until="teacher", floor=8)
    assert len(records.attempts()) == 8


def test_it_leaves_a_run_alone_that_its_number_of_steps_ended(search, config):
    config["pops"]["steps"] = 1
    assert len(search((4, 5, 3), enough=6, matching=6).summary["steps"]) == 1


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 5000))
def test_shapes_are_as_wide_as_the_weights_allow(depth, most):
    shape = widest(depth, most, count)
    if shape is None:
        assert sum(count((1,) * depth)) > most
        return
    assert len(shape) == depth and sum(count(shape)) <= most
    wider = [(*shape[:i], shape[i] + 1, *shape[i + 1 :]) for i in range(depth)]
    assert all(sum(count(widths)) > most for widths in wider)
    assert sum(count([min(shape, default=1) + 1] * depth)) > most or depth == 0


@settings(deadline=None, max_examples=30)
@given(WIDTHS, st.data())
def test_shapes_have_as_many_weights_as_asked_for(widths, data):
    high = data.draw(st.integers(1, sum(count(widths))))
    low = data.draw(st.integers(0, high))
    shapes = list(shapes_between(low, high, StudentCartPole(SETTINGS, widths)))
    depths = [len(shape) for shape in shapes]
    assert depths == sorted(set(depths)) and max(depths, default=0) <= len(widths)
    assert all(low < sum(count(shape)) <= high for shape in shapes)


def test_frames_keep_their_convolutions():
    pong = AGENTS["pong"].student(configuration("pong")["model"], (2, 2, 2, 2))
    assert {len(shape) for shape in shapes_between(0, 10**4, pong)} == {3, 4}
