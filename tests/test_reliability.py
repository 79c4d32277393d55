"""Kills, full disks and random settings, on whole runs; a few of what `scripts/reliability.py` does many times."""

import json
import resource
import subprocess
import sys
import time

import pytest

from conftest import ROOT, TEACHER, TINY, command, tiny_pops


@pytest.mark.slow
@pytest.mark.parametrize("run", ["CartPole, PoPS", "LunarLander, teacher"])
def test_killed_runs_give_the_same_result_to_the_bit(run):
    result = command("reliability.py", "kills", "--count", 2, "--only", run)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{run}: 2 kills" in result.stdout


@pytest.mark.parametrize("check", [["damage", "--count", 50], ["settings", "--count", 1000, "--runs", 1]])
def test_no_promise_is_broken(check):
    result = command("reliability.py", *check)
    assert result.returncode == 0 and result.stdout.count("\n") >= 2, result.stdout + result.stderr


def test_the_second_of_two_commands_in_one_folder_is_refused(tmp_path):
    arguments = ["cartpole", "--out", tmp_path / "run", *(f"--set={s}" for s in TINY)]
    arguments += ["--set=prune.iterations=100000", "--set=prune.end=100000000"]  # goes on for longer than the test
    first = subprocess.Popen([sys.executable, ROOT / "scripts/pops.py", *arguments], stdout=subprocess.DEVNULL)
    while not (tmp_path / "run" / "config.json").exists():
        time.sleep(0.1)
    for further in ([], ["--resume"]):
        second = command("pops.py", *arguments, *further)
        assert second.returncode == 2 and second.stderr.count("\n") == 1
        assert "another process is running there" in second.stderr
    first.kill()
    first.wait()


@pytest.mark.parametrize("room", [60_000, *(pytest.param(room, marks=pytest.mark.slow) for room in (3_000, 1_000_000))])
def test_a_disk_that_gets_full_ends_the_run_with_a_line_and_resume_goes_on(tiny_run, tmp_path, room):
    """No file may get larger than `room` bytes, which is reached at other files for each: metrics, models, checkpoints."""
    folder = tmp_path / "run"
    arguments = [*TINY, "checkpoint.seconds=0"]
    process = subprocess.run(
        [sys.executable, ROOT / "scripts/pops.py", "cartpole", "--out", folder, *(f"--set={s}" for s in arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    assert process.stderr.count("\n") == 1 and "File too large" in process.stderr, process.stderr
    assert ("go on with: " if (folder / "config.json").exists() else "nothing was written") in process.stderr
    result = tiny_pops(folder, "--set", "checkpoint.seconds=0", "--resume")
    assert result.returncode == 0, result.stderr
    assert (folder / "student.keras").read_bytes() == (tiny_run / "student.keras").read_bytes()


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tiny_run, tmp_path):
    folder = tmp_path / "run"
    program = (
        "import os, runpy, signal, sys; from pops.support.checkpoints import Checkpoints; write = Checkpoints.write\n"
        "def write_and_die(self, value):\n"
        "    write(self, value)\n"
        "    if len(self.good) == 2 and 'pruned/1' in value['done']: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Checkpoints.write = write_and_die; sys.argv[0] = 'scripts/pops.py'\n"
        "runpy.run_path('scripts/pops.py', run_name='__main__')"
    )
    settings = [f"--set={s}" for s in (*TINY, "checkpoint.seconds=0")]
    process = subprocess.run([sys.executable, "-c", program, "cartpole", "--out", folder, *settings], cwd=ROOT)
    assert process.returncode == -9
    before, newest = sorted((folder / "checkpoint").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    (folder / "pruned_step_1.keras").write_bytes(TEACHER.read_bytes())
    result = tiny_pops(folder, "--set", "checkpoint.seconds=0", "--resume")
    assert result.returncode == 0, result.stderr
    assert f"{newest}: damaged (it does not fit its checksum), left out" in result.stdout
    assert f"{before}: goes on from here" in result.stdout
    for name in ("student.keras", "pruned_step_1.keras"):
        assert (folder / name).read_bytes() == (tiny_run / name).read_bytes()
    assert len(json.loads((folder / "summary.json").read_text())["steps"]) == 2
