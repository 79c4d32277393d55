"""Random settings, wrong and right ones, and what becomes of them."""

import contextlib
import json
import math

from pops.configs import ENVIRONMENTS, PROFILES, configuration, settings_of, validate
from pops.support.environments import check_spaces
from pops.support.errors import ConfigurationError
from pops.support.faults import started
from pops.support.files import ROOT
from pops.support.networks import read_network


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
    confirm_episodes = generator.choice([0, 2, 3])
    method = generator.choice(["pops", "pops", "search", "direct", "prune", "one_shot"])  # ars would take minutes
    settings = {
        "environment.max_episode_steps": generator.choice([1, 20, 200]),
        "evaluation.objective": generator.choice([-1e9, 0.5, 9]),
        "evaluation.lower_bound": generator.choice([-1e10, -2e9]),
        "evaluation.acting": generator.choice(["greedy", "sample"]),
        "evaluation.epsilon": generator.choice([0, 0.5, 1]),
        "evaluation.noise": generator.choice([0, 0.1, 1]),
        "evaluation.also": json.dumps(generator.sample(["greedy", "epsilon", "noise"], generator.randint(0, 3))),
        "evaluation.robust": json.dumps(
            {
                way: generator.choice([0.1, 1])
                for way in ("epsilon", "noise")
                if confirm_episodes and generator.random() < 0.3
            }
        ),
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
        "distill.confirm_episodes": confirm_episodes,
        "distill.until": generator.choice(["objective", *["teacher"] * (confirm_episodes > 0)]),
        "distill.confirm_confidence": generator.choice([0, 1, 10]),
        "distill.patience": generator.randint(1, 2),
        "distill.give_up": generator.randint(0, 2),
        "distill.batch_size": generator.randint(1, 64),
        "distill.learning_rate": generator.choice([1e-12, 1e-3, 1]),
        "pops.method": method,
        "pops.shapes": json.dumps([[generator.randint(1, 9)] * depth for depth in (0, 1, 2)] if method == "direct" else []),
        "pops.fewer_layers": generator.choice(["true", "false"]),
        "pops.steps": generator.randint(1, 2),
        "pops.sizes": generator.choice(["live_units", "trimmed_units", "budgets"]),
        "pops.min_change": generator.choice([0, 1, 100]),
        "pops.retries": generator.randint(0, 2),
        "pops.floor": generator.randint(0, 2),
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

    path, shipped = folder / "bytes.keras", ROOT / "saved_models" / "cartpole" / "teacher.keras"
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
        process = started([ROOT / "scripts" / script, *arguments])
        _, errors = process.communicate()
        if process.returncode not in codes or errors.count("\n") != process.returncode:
            print(f"exit code {process.returncode}: {script} {environment} {' '.join(settings)}: {errors[-2000:]}")
            broken += 1
        else:
            codes[process.returncode] += 1
    if runs:
        print(f"runs: {runs} with random small settings, {codes[0]} ended well, {codes[1]} failed with one line")
    return broken
