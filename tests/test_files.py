"""Files and run folders: whole or not at all, damage is noticed, no code is run, a run goes on only as itself."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pops.configs import configuration
from pops.model import CartPoleDQN
from pops.support import files
from pops.support.checkpoints import Checkpoints, Part, read_values, write_values
from pops.support.errors import ConfigurationError, Damaged
from pops.support.files import check_seal, checksum, replacing, seal, unfinished, write_json
from pops.support.networks import read_network, save_network
from pops.support.run import Run, versions

from conftest import ROOT, TEACHER, Evil

TABLE = configuration("cartpole")["distill"]["learning_rate"]  # changed in its last number only
TABLE[0][1][-1][1] = 0.5
SMALL = configuration("cartpole")["model"] | {"widths": [3]}


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]
    assert unfinished(tmp_path) == []
    (tmp_path / ".file.writing.json").write_text("ha")  # what a kill leaves
    assert unfinished(tmp_path) == [tmp_path / ".file.writing.json"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda parts: (
        st.lists(parts, max_size=3) | st.lists(parts, max_size=3).map(tuple) | st.dictionaries(st.text(), parts, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_come_back_equal_and_of_the_same_types(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "values.npz"
    write_values(path, value)
    assert repr(read_values(path)[0]) == repr(value)


def test_arrays_tensors_and_generators_come_back_to_the_bit(tmp_path):
    path, generator = tmp_path / "values.npz", np.random.default_rng(0)
    value = {
        "arrays": [generator.normal(size=(2, 3)), np.zeros((0, 4), np.float32), np.array([True, False]), np.int16([[7]])],
        "tensor": (tf.constant([[0.1]]), tf.constant(3.0)),
        "scalars": [np.float32(0.1), np.float64(0.1), np.bool_(True), -math.inf],
        "generator": generator.bit_generator.state,
    }
    write_values(path, value)
    again, _ = read_values(path)
    for old, new in zip(value["arrays"], again["arrays"], strict=True):
        assert isinstance(new, np.ndarray) and old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    assert all(tf.is_tensor(part) for part in again["tensor"]) and again["tensor"][0].dtype == tf.float32
    assert [(type(part), part) for part in again["scalars"]] == [(type(part), part) for part in value["scalars"]]
    other = np.random.default_rng(5)
    other.bit_generator.state = again["generator"]
    assert other.random() == generator.random()


@pytest.mark.parametrize("value", [print, {1, 2}, np.array([None]), [object()], {1: 2}])
def test_values_of_other_kinds_are_not_written(tmp_path, value):
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        write_values(tmp_path / "values.npz", value)
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "values.npz"
    write_values(path, [np.arange(3.0), "text"])
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for content in (flipped, whole[:place]):
            path.write_bytes(content)
            with pytest.raises(Damaged):
                read_values(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_model_is_refused_by_name(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path, whole = folder / "student.keras", TEACHER.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for content in (flipped, whole[:place], whole + whole[:place] + b"1", whole[:-71], data.draw(st.binary(max_size=999))):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError) as error:
            read_network(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_model_in_anothers_place_is_refused(tmp_path):
    agents = [CartPoleDQN(SMALL, [units]) for units in (3, 4)]
    paths = [tmp_path / "student_step_1.keras", tmp_path / "student_step_2.keras"]
    for agent, path in zip(agents, paths, strict=True):
        save_network(agent.network, path)
        assert read_network(path).count_params() == agent.network.count_params()
    result = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.count(": OK") == 2
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(ConfigurationError, match=r"student_step_1\.keras: damaged.*it is not the file that .*SHA256SUMS"):
        read_network(paths[0])
    save_network(agents[0].network, paths[0])
    assert read_network(paths[0]).count_params() == agents[0].network.count_params()


def test_the_same_network_gives_the_same_bytes(tmp_path):
    for name in ("a.keras", "b.keras"):
        agent = CartPoleDQN(SMALL)
        agent.network.set_weights(agent.initial_weights(np.random.default_rng(0)))
        save_network(agent.network, tmp_path / name)
    assert checksum(tmp_path / "a.keras") == checksum(tmp_path / "b.keras")


def test_an_archive_without_a_seal_is_a_model_from_elsewhere_but_no_checkpoint(tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, a=np.arange(1000))
    check_seal(path, needed=False)
    with pytest.raises(Damaged):
        check_seal(path)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises((Damaged, zipfile.BadZipFile)):
        check_seal(path, needed=False)


def test_a_pickled_array_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "000001.npz", tmp_path / "trace"
    for arrays in ([np.array([Evil(trace)])], [np.frombuffer(b'["array", 0]', np.uint8), np.array([Evil(trace)])]):
        np.savez(path, *arrays, allow_pickle=True)
        trace.unlink(missing_ok=True)
        seal(path)
        with pytest.raises(Damaged, match="allow_pickle"):
            read_values(path)
        assert not trace.exists()
    for source in ROOT.glob("*.py"):
        assert "import pickle" not in source.read_text() and "allow_pickle=True" not in source.read_text()


def test_the_checkpoint_before_is_used_where_the_newest_is_damaged(tmp_path):
    checkpoints, named = Checkpoints(tmp_path / "checkpoint", "a run"), []

    def read(owner="a run"):
        named.clear()
        return Checkpoints(tmp_path / "checkpoint", owner).read(lambda path, error: named.append((path.name, str(error))))

    assert read() is None
    for number in range(1, 5):
        checkpoints.write({"number": number})
    assert [path.name for path in checkpoints.paths()] == ["000003.npz", "000004.npz"]
    assert read() == {"number": 4} and not named
    newest, before = checkpoints.paths()[::-1]
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    assert read() == {"number": 3} and named == [("000004.npz", "it does not end as it was written")]
    newest.write_bytes(before.read_bytes())
    assert read() == {"number": 3} and named == [("000004.npz", "it is another run's, or was renamed")]
    again = Checkpoints(tmp_path / "checkpoint", "a run")
    again.read(lambda *_: None)
    again.write({"number": 5})  # keeps the good one, drops the damaged one
    assert [path.name for path in again.paths()] == ["000003.npz", "000005.npz"]
    with pytest.raises(Damaged):
        read("another run")
    assert len(named) == 2


def test_what_is_sealed_but_no_checkpoint_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a run")
    path, text = tmp_path / "000001.npz", "[" * 100_000
    for value in (5, [1], {"x": 1}, {"owner": "a run", "number": 2, "value": 1}):
        write_values(path, value)
        with pytest.raises(Damaged, match="no checkpoint is left"):
            checkpoints.read(lambda *_: None)
    for arrays in ([], [np.frombuffer(text.encode(), np.uint8)], [np.zeros(3)], [np.frombuffer(b'["array", 7]', np.uint8)]):
        np.savez(path, *arrays)
        seal(path)
        with pytest.raises(Damaged, match="no checkpoint is left"):
            checkpoints.read(lambda *_: None)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("arr_0.npy", b"text")
    seal(path)
    with pytest.raises(Damaged, match="no checkpoint is left"):
        checkpoints.read(lambda *_: None)


def test_other_files_beside_the_checkpoints_are_left_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a run")
    for name in ("000001.bak.npz", "note.txt", "1a.npz"):
        (tmp_path / name).write_text("mine")
    for number in range(3):
        checkpoints.write(number)
    assert checkpoints.read(None) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        *("000001.bak.npz", "note.txt", "1a.npz", "000002.npz", "000003.npz")
    }


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "a run")
    checkpoints.write(1)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["000001.npz"]
    assert Checkpoints(tmp_path, "a run").read(None) == 1


def test_parts_are_written_once_and_go_with_the_last_checkpoint_that_needs_them(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a run")
    parts = [Part({"states": np.full((3, 84, 84), number, np.uint8), "x": np.arange(number)}) for number in range(3)]

    def files():
        return sorted(path.name for path in tmp_path.glob("*.part.npz"))

    checkpoints.write(parts[:2])
    first, written = files(), [path.stat().st_mtime_ns for path in tmp_path.glob("*.part.npz")]
    assert len(first) == 2 and parts[0].arrays is None
    assert all((tmp_path / name).stat().st_size < 2000 for name in first)  # images are compressed
    checkpoints.write(parts[:2])
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*.part.npz")] == written
    checkpoints.write(parts[1:])
    assert len(files()) == 3
    again = Checkpoints(tmp_path, "a run")
    one, two = again.read(None)
    np.testing.assert_array_equal(one.arrays["states"], np.full((3, 84, 84), 1))
    np.testing.assert_array_equal(two.arrays["x"], [0, 1])
    again.write([two])
    again.write([two])
    assert files() == [two.name]
    content = bytearray((tmp_path / two.name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / two.name).write_bytes(content)
    named = []
    with pytest.raises(Damaged):
        Checkpoints(tmp_path, "a run").read(lambda path, error: named.append(str(error)))
    assert named == [f"its part {two.name} is missing, damaged or another one"] * 2


# Run folders


class Counter:
    """A part of a checkpoint."""

    def __init__(self, number):
        self.number = number

    def content(self):
        return {"number": self.number}

    def restore(self, content):
        self.number = content["number"]


def origin(path):
    return {"teacher": path, "teacher_sha256": checksum(TEACHER)}


def resumed(new_run, run, config, **changes):
    """The run that goes on in another run's folder, whose process is over."""
    run.unlock()
    return new_run(config, run.folder, resume=True, **changes)


def test_a_run_goes_on_from_its_checkpoint(new_run, config):
    config = config | {"checkpoint": {"seconds": 0}}
    run, calls = new_run(config), []
    assert not run.include("replay", Counter(7))
    first = run.once(("first", 1), lambda value: calls.append(value) or value, (np.arange(3), 0.5))
    assert run.interrupted("loop") is None
    run.metrics(phase="prune", step=1, update=2, rewards=np.array([1.0, 2.0]))
    run.checkpoint(lambda: ("position", 3), "loop", 1)
    run.metrics(phase="prune", step=1, update=3, rewards=np.array([1.0, 2.0]))  # not in the checkpoint
    seconds = run.seconds()

    again, part = resumed(new_run, run, config), Counter(0)
    assert again.include("replay", part) and part.number == 7
    value = again.once(("first", 1), calls.append)
    assert calls == [first] and value[1] == 0.5 and np.array_equal(value[0], np.arange(3))
    assert again.interrupted("loop", 2) is None
    assert again.interrupted("loop", 1) == ("position", 3)
    assert again.interrupted("loop", 1) is None  # a loop is gone on with once
    assert again.evaluations == 1 and (run.folder / "metrics.csv").read_text().count("\n") == 2
    assert 0 < again.seconds() < seconds + 5
    again.save_summary({"teacher": {}, "seconds": 1.0})
    again.finish()
    assert not (run.folder / "checkpoint").exists()
    assert resumed(new_run, again, config).finished


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"profile": "paper"}, 'profile is "fast" there and "paper" here'),
        ({"command": "train_teacher.py"}, 'command is "pops.py" there'),
        ({"origin": {"teacher": "here", "teacher_sha256": "another"}}, "teacher_sha256 is"),
        ({"config": ("prune", "iterations", 5)}, "settings.prune.iterations is 4 there and 5 here"),
        ({"config": ("distill", "learning_rate", 0.5)}, "settings.distill.learning_rate is [[0, [[1, 0.003]"),
        ({"config": ("distill", "learning_rate", TABLE)}, "settings.distill.learning_rate[0][1][14][1] is 0.0003 there"),
    ],
)
def test_a_run_goes_on_only_with_its_own_settings(new_run, config, changes, words):
    run = new_run(config, origin=origin("here"))
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    settings = {"origin": origin("elsewhere")} | changes
    group, key, value = settings.pop("config", ("prune", "iterations", 4))
    other = config | {group: config[group] | {key: value}}
    with pytest.raises(ConfigurationError) as error:
        resumed(new_run, run, other, **settings)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_the_same_teacher_may_lie_elsewhere(new_run, config):
    run = new_run(config, origin=origin("here"))
    resumed(new_run, run, config, origin=origin("there"))


def test_other_versions_are_named(new_run, config, capsys):
    run = new_run(config)
    stored = json.loads((run.folder / "config.json").read_text())
    stored["versions"]["numpy"] = "1.0"
    write_json(run.folder / "config.json", stored)
    resumed(new_run, run, config)
    assert f'the run started with numpy "1.0", now "{versions()["numpy"]}"' in capsys.readouterr().out


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(new_run, config, capsys):
    config = config | {"checkpoint": {"seconds": 0}}
    run = new_run(config)
    run.checkpoint()
    path = run.checkpoints.paths()[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match="no checkpoint is left that is not damaged; start again with another"):
        resumed(new_run, run, config)
    assert "000001.npz: damaged" in capsys.readouterr().out
    for name, text in (("summary.json", "5"), ("summary.json", "{"), ("config.json", "{"), ("config.json", "[" * 100_000)):
        path.unlink(missing_ok=True)
        (run.folder / name).write_text(text)
        with pytest.raises(ConfigurationError, match=f"{name}: damaged"):
            new_run(config, run.folder, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_takes_no_folder_that_holds_something_else(tmp_path, new_run, config, resume):
    for name in ("note", ".note.writing.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigurationError, match="holds other files; give a new folder"):
        new_run(config, tmp_path, resume=resume)
    assert {(path.name, path.read_text()) for path in tmp_path.iterdir()} == {
        ("note", "mine"),
        (".note.writing.md", "mine"),
    }
    for folder in (tmp_path / "note", tmp_path / "note" / "run"):
        with pytest.raises(ConfigurationError, match="no folder can be made"):
            new_run(config, folder, resume=resume)


def test_a_second_run_in_a_folder_is_refused_until_the_first_ones_process_is_dead(new_run, config, tmp_path):
    program = (
        "import sys; from pops.support.files import lock; held = lock(sys.argv[1]); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    for resume in (False, True):
        with pytest.raises(ConfigurationError, match="another process is running there"):
            new_run(config, tmp_path, resume=resume)
    process.send_signal(signal.SIGKILL)
    process.wait()
    new_run(config, tmp_path)


def test_a_kill_at_the_very_start_leaves_a_folder_that_a_run_takes(new_run, config, tmp_path):
    (tmp_path / ".config.writing.json").write_text("{")
    new_run(config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "metrics.csv", ".lock"}


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_beginning(new_run, config, capsys):
    run = new_run(config)
    run.metrics(phase="prune", step=1, update=2, rewards=np.array([1.0, 2.0]))
    (run.folder / ".student.writing.keras").write_text("half")
    again = resumed(new_run, run, config)
    assert "nothing to go on from, starts from the beginning" in capsys.readouterr().out
    assert again.evaluations == 0 and not again.finished
    assert {path.name for path in run.folder.iterdir()} == {"config.json", "metrics.csv", ".lock"}
    assert (run.folder / "metrics.csv").read_text() == ",".join(Run.COLUMNS) + "\n"
