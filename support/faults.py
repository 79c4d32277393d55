"""Fault injection: runs are killed, or their disk gets full, and what is promised of them is counted."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time

from pops.support.errors import RunFailed
from pops.support.files import ROOT

PRUNE_AND_SHRINK = (
    "evaluation.objective={} evaluation.lower_bound={} "
    "evaluation.report_episodes=4 evaluation.choose_episodes=4 "
    "replay.observe=200 replay.capacity=600 replay.environments=20 "
    "prune.iterations=3 prune.updates=20 prune.evaluate_every=10 prune.episodes=3 "
    "prune.confidence=0 prune.end=40 prune.frequency=5 prune.final_sparsity=0.5 "
    "distill.members=2 distill.epochs=2 distill.updates=20 distill.episodes=3 distill.confidence=0 "
    "distill.confirm_episodes=4 distill.confirm_confidence=0 pops.steps=2"
)

# Runs that the checks kill and resume: command, environment, further arguments, settings. TEACHER stands for the teacher
# that the environment's first run here trains.
TEACHER = "TEACHER"

RUNS = {
    "CartPole, teacher": (
        *("train_teacher.py", "cartpole", []),
        "model.widths=[16,16,8] teacher.environments=32 teacher.steps=6400 teacher.learning_starts=200 "
        "teacher.epsilon_steps=3000 teacher.learning_rate_first=1e-3 teacher.evaluate_every=400 "
        "teacher.episodes=5 evaluation.report_episodes=5 replay.capacity=1000 replay.observe=1000",
    ),
    "CartPole, PoPS": ("pops.py", "cartpole", ["--teacher", TEACHER], PRUNE_AND_SHRINK.format(9, 8)),
    # The bounds are such that the first evaluation freezes the pruning schedule and the second one lets it go on.
    "CartPole, PoPS, profile paper": (
        *("pops.py", "cartpole", ["--teacher", TEACHER, "--profile", "paper"]),
        PRUNE_AND_SHRINK.format(21.9, 21.5) + " distill.patience=1 distill.confirm_episodes=0 distill.learning_rate=0.01",
    ),
    "LunarLander, teacher": (
        *("train_teacher.py", "lunarlander", []),
        "model.widths=[16,16] teacher.environments=4 teacher.rollout=64 teacher.batch_size=64 teacher.steps=4096 "
        "teacher.restart_every=5 teacher.evaluate_every=512 teacher.episodes=4 evaluation.report_episodes=4",
    ),
    "LunarLander, PoPS": (
        *("pops.py", "lunarlander", ["--teacher", TEACHER]),
        PRUNE_AND_SHRINK.format(-2000, -3000)
        + " replay.student_states=50 replay.student_steps=5 replay.student_epsilon=0.1 replay.least_spread=0.1"
        + " prune.averaging=0.9 distill.averaging=0.9",
    ),
}

# Runs a script and kills the process at its N-th call of a function that writing a file consists of.
KILLER = """
import atexit, hashlib, os, runpy, signal, sys
last, calls = int(sys.argv[1]), 0
def counted(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call
for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (hashlib, "file_digest")):
    setattr(module, name, counted(getattr(module, name)))
atexit.register(lambda: print("calls", calls))
sys.argv = sys.argv[2:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

GOES_ON = "goes on from here"  # what a resumed run says of its checkpoint


def started(arguments, **named):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named
    )


def finished(process):
    """Waits for a process that should succeed. Returns its output."""
    output, errors = process.communicate()
    if process.returncode:
        raise RunFailed(f"exit code {process.returncode}: {' '.join(process.args[1:8])} …: {errors[-2000:]}")
    return output


def arguments_of(name, folder, teacher):
    script, environment, further, settings = RUNS[name]
    further = [teacher if argument is TEACHER else argument for argument in further]
    changes = [f"--set={setting}" for setting in (*settings.split(), "checkpoint.seconds=0")]
    return [ROOT / "scripts" / script, environment, *further, "--out", folder, *changes]


def result_of(folder):
    """All that a run has to give again: models, summary and metrics, without timings."""

    def untimed(value):
        if isinstance(value, dict):
            return {key: untimed(part) for key, part in value.items() if key != "seconds"}
        return [untimed(part) for part in value] if isinstance(value, list) else value

    result = {path.name: path.read_bytes() for path in (*folder.glob("*.keras"), folder / "SHA256SUMS")}
    result["summary"] = untimed(json.loads((folder / "summary.json").read_text()))
    result["metrics"] = [row.partition(",")[2] for row in (folder / "metrics.csv").read_text().splitlines()]
    result["files"] = sorted(path.name for path in folder.iterdir())
    return result


def wait_for_start(process, folder):
    """Waits until a run has its folder, which takes it some seconds, or has ended. Returns the time."""
    while not (folder / "config.json").exists() and process.poll() is None:
        time.sleep(0.01)
    return time.monotonic()


def check_kills(count, generator, folder, names):
    """Kills each run `count` times, half of them at a random moment and half while a file is written, and resumes it."""
    broken, teachers = 0, {}
    for name in names or RUNS:
        environment = RUNS[name][1]
        whole = folder / name.replace(" ", "-").replace(",", "")
        if environment not in teachers:
            first = next(other for other, run in RUNS.items() if run[1] == environment)
            teachers[environment] = folder / environment / "teacher.keras"
            finished(started(arguments_of(first, teachers[environment].parent, None)))
        process = started(["-c", KILLER, 0, *arguments_of(name, whole, teachers[environment])])
        start = wait_for_start(process, whole)
        calls = int(finished(process).rpartition("calls ")[2])
        seconds = time.monotonic() - start
        kills = trials = same = resumed = 0
        while kills < count:
            trials += 1
            again = folder / f"{whole.name}-{trials}"
            arguments = arguments_of(name, again, teachers[environment])
            resume = []
            while kills < count and (not resume or generator.random() < 0.3):  # a resumed run may be killed again
                last = 0 if kills % 2 else generator.randint(1, calls)
                process = started(["-c", KILLER, last, *arguments, *resume])
                wait_for_start(process, again)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(None if last else generator.random() * seconds)
                process.kill()
                output, errors = process.communicate()
                resumed += GOES_ON in output
                if process.returncode == -signal.SIGKILL:
                    kills += 1
                elif process.returncode:
                    raise RunFailed(f"{name}: {errors[-2000:]}")
                resume = ["--resume"]
            resumed += GOES_ON in finished(started([*arguments, "--resume"]))
            if result_of(again) == result_of(whole):
                same += 1
            else:
                print(f"{name}: not the same after kills, see {again} and {whole}")
        broken += trials - same + (resumed == 0)
        print(
            f"{name}: {kills} kills, {resumed} times a checkpoint to go on from; "
            f"{same} of {trials} runs gave the same models, summary and metrics to the bit"
        )
    return broken


# In a namespace of its own, so that it needs no rights and leaves nothing mounted.
FULL_DISK = """
set -e
mount -t tmpfs -o size={room}k none "$0"
"$@" && echo unexpected && exit 3
code=$?
[ $code = 1 ] || exit $code
mount -o remount,size=100m "$0"
"$@" --resume
cp -r "$0"/run/. {result}
"""


def check_full_disk(count, generator, folder):
    """Runs PoPS on a disk that gets full `count` times, at another point each time, then makes room and resumes."""
    name, broken = "CartPole, PoPS", 0
    teacher = ROOT / "saved_models" / "cartpole" / "teacher.keras"
    finished(started(arguments_of(name, folder / "whole", teacher)))
    for number in range(count):
        disk, result = folder / f"disk{number}", folder / f"result{number}"
        disk.mkdir()
        result.mkdir()
        room = generator.randint(100, 6000)
        program = FULL_DISK.format(room=room, result=shlex.quote(str(result)))
        command = [sys.executable, *map(str, arguments_of(name, disk / "run", teacher))]
        process = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "bash", "-c", program, str(disk), *command],
            capture_output=True,
            text=True,
        )
        good = process.returncode == 0 and process.stderr.count("\n") == 1 and "No space left on device" in process.stderr
        if not good or result_of(result) != result_of(folder / "whole"):
            print(f"disk of {room} KiB: exit code {process.returncode}: {process.stderr[-2000:]}")
            broken += 1
    print(f"full disk: {count} runs; {count - broken} ended with one line and, resumed, in the same result to the bit")
    return broken
