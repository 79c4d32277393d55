"""Checks what the README promises about kills, damaged files, a full disk and wrong settings, and prints the counts.

It exits with 1 if a promise is broken. The runs are tiny; all that a long one does happens in them.
"""

import contextlib
import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
from configs import ENVIRONMENTS, PROFILES, ConfigurationError, RunFailed, configuration, settings_of, validate

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
    return [common.ROOT / "scripts" / script, environment, *further, "--out", folder, *changes]


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


def damage(path, generator, other):
    """Damages a file in one of several ways. Returns which."""
    content = bytearray(path.read_bytes())
    way = generator.choice(["truncated", "bit flipped", "overwritten", "zeros at the end", "swapped", "empty", "longer"])
    place = generator.randrange(len(content))
    if way == "truncated":
        del content[place:]
    elif way == "bit flipped":
        content[place] ^= 1 << generator.randrange(8)
    elif way == "overwritten":
        content[place : place + 64] = generator.randbytes(len(content[place : place + 64]))
    elif way == "zeros at the end":
        content[-min(len(content), 4096) :] = bytes(min(len(content), 4096))
    elif way == "swapped":
        content = other.read_bytes()
    elif way == "empty":
        content = b""
    else:
        content += generator.randbytes(generator.randrange(1, 100))
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(content)
    return way if changed else damage(path, generator, other)


def check_damage(count, generator, folder):
    """Damages models, and checkpoints in the place of the newest and of both, `count` times each."""
    common.import_tensorflow()
    import numpy as np

    from files import Checkpoints, Damaged
    from model import read_network, save_network

    shipped = common.ROOT / "saved_models" / "cartpole" / "teacher.keras"
    network, other = read_network(shipped), common.ROOT / "saved_models" / "lunarlander" / "teacher.keras"
    model, ways = folder / "student.keras", {}
    broken = 0
    for _ in range(count):
        save_network(network, model)
        way = damage(model, generator, other)
        ways[way] = ways.get(way, 0) + 1
        try:
            read_network(model)
            print(f"model: {way}: not noticed")
            broken += 1
        except ConfigurationError as error:
            broken += str(model) not in str(error) or "\n" in str(error)
    print(f"models: {count} damaged ({', '.join(f'{n} {way}' for way, n in sorted(ways.items()))}), {broken} not refused")

    survived = refused = 0
    values = [{"weights": np.arange(index, index + 1000.0), "number": index} for index in range(2)]
    for number in range(count):
        checkpoints = Checkpoints(folder / f"checkpoint{number}", "this run")
        for value in values:
            checkpoints.write(value)
        foreign = Checkpoints(folder / f"foreign{number}", "another run")
        foreign.write(values[0])
        named = []
        damaged = checkpoints.paths()[-1:] if number % 2 else checkpoints.paths()
        for path in damaged:
            damage(path, generator, foreign.paths()[0])
        try:
            found = Checkpoints(checkpoints.folder, "this run").read(lambda path, _, named=named: named.append(path))
            survived += found["number"] == 0 and np.array_equal(found["weights"], values[0]["weights"]) and number % 2
        except Damaged:
            refused += number % 2 == 0
        broken += set(named) != set(damaged)
    broken += count - survived - refused
    print(
        f"checkpoints: {count} times damaged: {survived} times the one before was used, {refused} times both were refused"
    )
    return broken


def random_value(generator, depth=0):
    """Some JSON value or number, often near a bound."""
    kinds = [
        lambda: generator.choice([None, True, False, "", "adam", "objective", "NaN", "\n", "x" * 200]),
        lambda: generator.choice([math.nan, math.inf, -math.inf, 1e308, 5e-324, -0.0, 0.5, 1.0, 1 - 1e-16]),
        lambda: generator.choice([0, 1, 2, -1, 255, 256, 257, 4096, 65536, 10**9, 10**9 + 1, 2**63, 10**400]),
        lambda: generator.uniform(-2, 2) * 10 ** generator.randint(-8, 8),
        lambda: generator.randint(-10, 1000),
    ]
    if depth < 3:
        kinds.append(lambda: [random_value(generator, depth + 1) for _ in range(generator.randint(0, 3))])
        kinds.append(lambda: {str(n): random_value(generator, depth + 1) for n in range(generator.randint(0, 2))})
    return generator.choice(kinds)()


def random_configuration(generator):
    """A configuration with a few settings changed, missing or new. Returns it and the names of what was changed."""
    config = configuration(generator.choice(list(ENVIRONMENTS)), generator.choice(PROFILES))
    changed = set()
    for _ in range(generator.randint(1, 4)):
        group = generator.choice([group for group in config if isinstance(config[group], dict)])
        key = generator.choice([*config[group], "new"])
        change = generator.random()
        if change < 0.4 and type(config[group].get(key)) in (int, float):
            factor = generator.choice([0.5, 0.9, 1.1, 2, 3])
            config[group][key] = type(config[group][key])(config[group][key] * factor)
        elif change < 0.75:
            config[group][key] = random_value(generator)
        elif change < 0.85:
            config[group].pop(key, None)
        elif change < 0.9:
            config[generator.choice([group, "new"])] = random_value(generator)
        else:
            config.pop(group)
        changed.add(f"{group}.{key}")
    return config, changed


def random_small_settings(generator, environment):
    """Random settings of a run that takes seconds, as `group.key=value`."""
    config = configuration(environment, generator.choice(PROFILES))
    observe = generator.randint(16, 300)
    evaluate_every, epochs_between = generator.randint(1, 20), generator.randint(1, 2)
    begin = generator.randint(0, 20)
    initial = generator.choice([0, 0, 0.3])
    settings = {
        "environment.max_episode_steps": generator.choice([1, 20, 200]),
        "evaluation.objective": generator.choice([-1e9, 0.5, 9]),
        "evaluation.lower_bound": generator.choice([-1e10, -2e9]),
        "evaluation.acting": generator.choice(["greedy", "sample"]),
        "evaluation.choose_episodes": generator.randint(2, 5),
        "evaluation.report_episodes": generator.randint(2, 5),
        "replay.observe": observe,
        "replay.capacity": observe + generator.choice([0, 1, 100]),
        "replay.environments": generator.randint(1, observe),
        "replay.refill": generator.choice(["true", "false"]),
        "replay.epsilon": generator.choice([0, 0.5, 1]),
        "replay.student_states": generator.choice([0, 1, observe]),
        "replay.student_steps": generator.choice([0, 1, 20]),
        "replay.student_epsilon": generator.choice([0, 0.5, 1]),
        "replay.least_spread": generator.choice([0, 0.1, 10]),
        "prune.iterations": generator.randint(1, 3),
        "prune.evaluate_every": evaluate_every,
        "prune.updates": evaluate_every * generator.randint(1, 3),
        "prune.episodes": generator.randint(2, 4),
        "prune.confidence": generator.choice([0, 1, 10]),
        "prune.batch_size": generator.randint(1, 64),
        "prune.tau": generator.choice([1e-3, 0.01, 1, 100]),
        "prune.optimizer": generator.choice(["adam", "rmsprop"]),
        "prune.learning_rate": generator.choice([1e-12, 1e-3, 1]),
        "prune.initial_sparsity": initial,
        "prune.final_sparsity": generator.choice([initial, 0.5, 0.999999]),
        "prune.begin": begin,
        "prune.end": begin + generator.randint(1, 40),
        "prune.averaging": generator.choice([0, 0.5, 0.99]),
        "prune.frequency": generator.randint(1, 10),
        "prune.recovery": generator.choice(["freeze", "rollback"]),
        "prune.patience": generator.randint(1, 5),
        "prune.rollbacks": generator.randint(0, 2),
        "distill.members": generator.randint(1, 3),
        "distill.hidden_bias": generator.choice([-10, 0, 0.3]),
        "distill.warm_start": generator.choice(["true", "false"]),
        "distill.epochs": epochs_between * generator.randint(1, 2),
        "distill.evaluate_every": epochs_between,
        "distill.averaging": generator.choice([0, 0.5, 0.999]),
        "distill.updates": generator.randint(1, 20),
        "distill.episodes": generator.randint(2, 4),
        "distill.confidence": generator.choice([0, 1, 10]),
        "distill.confirm_episodes": generator.choice([0, 2, 3]),
        "distill.confirm_confidence": generator.choice([0, 1, 10]),
        "distill.patience": generator.randint(1, 2),
        "distill.until": generator.choice(["objective", "teacher"]),
        "distill.batch_size": generator.randint(1, 64),
        "distill.learning_rate": generator.choice([1e-12, 1e-3, 1]),
        "pops.steps": generator.randint(1, 2),
        "pops.sizes": generator.choice(["live_units", "trimmed_units", "budgets"]),
        "pops.min_change": generator.choice([0, 1, 100]),
        "pops.retries": generator.randint(0, 2),
        "checkpoint.seconds": generator.choice([0, 1, 30]),
    }
    unknown = set(settings) - {f"{group}.{key}" for group, keys in settings_of(config).items() for key in keys}
    assert not unknown, unknown
    return [f"{name}={value}" for name, value in settings.items()]


def random_small_teacher(generator, environment):
    """Random settings of a training that takes seconds, as `group.key=value`."""
    environments = generator.choice([1, 2, 16])
    settings = {
        "model.widths": [generator.randint(1, 9) for _ in range(generator.randint(1, 3))],
        "environment.max_episode_steps": generator.choice([1, 20, 200]),
        "evaluation.report_episodes": generator.randint(2, 5),
        "replay.observe": environments,
        "replay.environments": 1,
        "replay.student_states": 0,
        "replay.capacity": environments + generator.randint(0, 100),
        "teacher.environments": environments,
        "teacher.discount": generator.choice([0, 0.99, 1]),
        "teacher.episodes": generator.randint(2, 5),
        "teacher.stop_above": generator.choice([-1e9, 15, 1e9]),
        "checkpoint.seconds": generator.choice([0, 1, 30]),
    }
    if environment == "lunarlander":
        batch, batches = generator.randint(2, 40), generator.randint(1, 3)
        evaluate_every = generator.randint(1, 200)
        rollout = environments * batch * batches
        settings |= {
            "teacher.batch_size": batch,
            "teacher.rollout": batch * batches,
            "teacher.restart_every": generator.randint(1, 3),
            "teacher.passes": generator.randint(1, 3),
            "teacher.advantage_decay": generator.choice([0, 0.9, 1]),
            "teacher.clip": generator.choice([1e-6, 0.2, 1]),
            "teacher.entropy": generator.choice([0, 0.01, 10]),
            "teacher.actor_learning_rate": generator.choice([1e-12, 1e-3, 1]),
            "teacher.critic_learning_rate": generator.choice([1e-12, 1e-3, 1]),
            "teacher.reward_scale": generator.choice([1e-9, 0.01, 1000]),
            "teacher.evaluate_every": evaluate_every,
            "teacher.steps": evaluate_every + rollout * generator.randint(1, 3),
        }
    else:
        starts, per_update, every = generator.randint(1, 100), generator.randint(1, 20), generator.randint(1, 100)
        last = generator.choice([0, 0.05, 1])
        settings |= {
            "teacher.batch_size": generator.randint(1, 64),
            "teacher.learning_starts": starts,
            "teacher.steps_per_update": per_update,
            "teacher.double_q": generator.choice(["true", "false"]),
            "teacher.epsilon_first": 1,
            "teacher.epsilon_last": last,
            "teacher.epsilon_steps": generator.randint(1, 500),
            "teacher.learning_rate_first": generator.choice([1e-12, 1e-3, 1]),
            "teacher.learning_rate_last": generator.choice([1e-12, 1e-3, 1]),
            "teacher.target_sync": generator.randint(1, 20),
            "teacher.evaluate_every": every,
            "teacher.steps": starts + per_update + every + 2 * environments + generator.randint(0, 300),
        }
    return [f"{name}={value}" for name, value in settings.items()]


def names_a_key(message, changed):
    """Whether a refusal begins with the name of a setting, or of a group that is missing or unknown."""
    name = message.partition(":")[0]
    known = {
        f"{group}.{key}"
        for environment in ENVIRONMENTS
        for group, keys in configuration(environment).items()
        for key in keys
    }
    return "\n" not in message and (name in known | changed or message.startswith("configuration: group '"))


def check_settings(count, generator, folder, runs):
    """Tries `count` random configurations, random values of --set, random bytes as models, and runs of random settings."""
    common.import_tensorflow()
    from environments import check_spaces
    from model import read_network

    accepted = broken = 0
    for _ in range(count):
        config, changed = random_configuration(generator)
        try:
            validate(config)
            check_spaces(config)
            accepted += 1
        except ConfigurationError as error:
            if not names_a_key(str(error), changed):
                print(f"not one line that names a key: {error!r} ({changed})")
                broken += 1
    print(f"configurations: {count} random ones, {accepted} accepted, {count - accepted} refused by name in one line")

    texts = 0
    for _ in range(count // 10):
        group, keys = generator.choice(list(settings_of(configuration("cartpole")).items()))
        text = json.dumps(random_value(generator))
        if generator.random() < 0.3:
            text = text[: generator.randrange(len(text) + 1)]
        with contextlib.suppress(ConfigurationError):
            configuration("cartpole", "fast", [f"{group}.{generator.choice(list(keys))}={text}"])
        texts += 1
    print(f"--set: {texts} random values without another exception")

    path, shipped = folder / "bytes.keras", common.ROOT / "saved_models" / "cartpole" / "teacher.keras"
    for number in range(count // 10):
        content = generator.randbytes(generator.randrange(5000))
        # Most of them begin or end like an archive.
        path.write_bytes(
            [content, b"PK\3\4" + content, content + b"PK\5\6" + bytes(18), shipped.read_bytes()[:99]][number % 4]
        )
        try:
            read_network(path)
            broken += 1
        except ConfigurationError as error:
            broken += str(path) not in str(error) or "\n" in str(error)
    print(f"models: {count // 10} files of random bytes refused by name in one line")

    codes = {0: 0, 1: 0}
    for number in range(runs):
        environment = generator.choice(["cartpole", "lunarlander"])  # Atari games take too long
        script, settings = generator.choice(
            [("pops.py", random_small_settings), ("train_teacher.py", random_small_teacher)]
        )
        settings = settings(generator, environment)
        arguments = [environment, "--out", folder / f"run{number}", *(f"--set={setting}" for setting in settings)]
        process = started([common.ROOT / "scripts" / script, *arguments])
        _, errors = process.communicate()
        if process.returncode not in codes or errors.count("\n") != process.returncode:
            print(f"exit code {process.returncode}: {script} {environment} {' '.join(settings)}: {errors[-2000:]}")
            broken += 1
        else:
            codes[process.returncode] += 1
    if runs:
        print(f"runs: {runs} with random small settings, {codes[0]} ended well, {codes[1]} failed with one line")
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
    teacher = common.ROOT / "saved_models" / "cartpole" / "teacher.keras"
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


CHECKS = {"kills": 20, "damage": 400, "settings": 10_000, "full-disk": 5}


def main():
    parser = common.Parser(__doc__, "python scripts/reliability.py kills --count 20")
    parser.add_argument("check", choices=CHECKS, help=" ".join(f"{name} ({count})" for name, count in CHECKS.items()))
    parser.add_argument("--count", type=common.integer(1, 10**6), metavar="N", help="how often (above, in brackets)")
    parser.add_argument("--seed", type=common.SEED, default=0, metavar="N", help="of what is random here (0)")
    parser.add_argument("--only", action="append", metavar="NAME", help="kills: only these runs: " + "; ".join(RUNS))
    parser.add_argument("--runs", type=common.integer(0, 1000), default=20, metavar="N", help="settings: runs made (20)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work and leave all files (a temporary folder)")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - set(RUNS):
        parser.error(f"--only: {unknown.pop()} is none of: {'; '.join(RUNS)}")
    count, generator = arguments.count or CHECKS[arguments.check], random.Random(arguments.seed)

    def command():
        with contextlib.ExitStack() as stack:
            folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            broken = {
                "kills": lambda: check_kills(count, generator, folder, arguments.only),
                "damage": lambda: check_damage(count, generator, folder),
                "settings": lambda: check_settings(count, generator, folder, arguments.runs),
                "full-disk": lambda: check_full_disk(count, generator, folder),
            }[arguments.check]()
            if broken:
                raise RunFailed(f"{broken} times a promise was broken")

    common.run_command(command)


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    main()
