"""A whole run of PoPS: the teacher is read, the goal set, the method applied; graphs and report follow."""

import hashlib
import os
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from pops.configs import ENVIRONMENTS
from pops.model import agents_of
from pops.policies.functions import TeacherFunction, imitator, refuse_chance
from pops.policies.teacher import act_as, is_object, load_teacher
from pops.policies.torch_network import weights_of
from pops.support.console import log
from pops.support.environments import check_spaces, configuration_of
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.files import checksum, portable
from pops.support.methods import METHODS
from pops.support.playing import play_episodes
from pops.support.records import Records, new_task, reference_of, reported
from pops.support.report import write_report
from pops.support.rewards import reward_statistics, rewards_text, shape_text
from pops.support.run import Run
from pops.support.seeds import Seeds
from pops.support.states import played_observations
from pops.train import TRAINERS
from pops.utils import count_weights, draw_run


def run_pops(teacher, environment, out, profile, seed, settings, objective, resume, tensorboard, normalizer, expect):
    """What `compress` does; see there."""
    config = configuration_of(environment, profile, settings, objective)
    check_spaces(config)
    seeds = Seeds(seed)
    environment = environment if environment in ENVIRONMENTS else config["environment"]["id"]
    policy, origin = read_teacher(teacher, environment, config, normalizer)
    if isinstance(policy, TeacherFunction) and policy.why is None:  # others were tried as they were read
        refuse_chance("the teacher", policy, played_observations(policy, config, seeds, 100, "chance")[0])
    run = Run(out, "pops.py", environment, profile, seed, config, resume, origin, tensorboard)
    try:
        if not run.finished:
            with run.watching():
                given = reported(policy.played, config, seeds, run, policy.role)
                sampled = ", actions sampled" if config["evaluation"]["acting"] == "sample" else ""
                played = f"reward {rewards_text(given)} over {given['episodes']:,} episodes{sampled}"
                log(f"{given_text(policy, origin)}; {played}")
                warn_of(given, expect)
                open_objective = config["evaluation"]["objective"] is None
                aims = run.once_watched(("goal",), goal, given, policy.played, config, seeds)
                config |= {"evaluation": config["evaluation"] | {key: aims[key] for key in ("objective", "lower_bound")}}
                mean = given["reward_mean"] if open_objective else None
                reference = reference_of(policy.played, mean, aims, config, seeds, run)
                if isinstance(policy, TeacherFunction):
                    policy = imitator(policy, reference, environment, config, seeds, run)
                    aims = aims | {"imitated": given}  # a copy: the run remembers the other
                elif policy.played is not policy.network:
                    log(run.once(("folding",), folding_text, policy, config, seeds))
                task = new_task(policy.played, reference, sum(policy.layer_sizes()), config, seeds, run)
                records = Records(policy, task, aims)
                records.finish(METHODS[config["pops"]["method"]](policy, task, records))
        plots = draw_run(run.folder)
        if run.events:
            run.events.add_images(plots)
        for path in [*plots, write_report(run.folder)]:
            log(f"written: {path}")
        run.finish()
        return run.summary()
    finally:
        run.unlock()


def read_teacher(teacher, environment, config, normalizer):
    """The teacher as a DQNAgent, whose settings `config` takes over, or as a TeacherFunction; and where it came from."""
    if callable(teacher) and not isinstance(teacher, keras.Model) and not is_object(teacher):
        if normalizer is not None:
            raise ConfigurationError(f"normalizer {normalizer}: belongs to a file of Stable-Baselines3")
        function = TeacherFunction(teacher, config["model"], agents_of(environment).teacher.observation_type)
        return function, {"teacher": _name(teacher), "teacher_sha256": None}
    if not isinstance(teacher, str | os.PathLike | keras.Model) and not is_object(teacher):
        raise ConfigurationError(
            f"the teacher is a {type(teacher).__name__}, which is no policy; give a file, a network or a function"
        )
    policy = load_teacher(teacher, environment, config["model"], normalizer)
    is_function = isinstance(policy, TeacherFunction)
    if is_function:
        widths = shape_text(config["model"]["widths"])
        log(f"{policy.why}: taken as a function, which a network of {widths} learns to imitate first")
    else:
        config["model"] = policy.settings | {"widths": list(policy.widths)}
        act_as(config, policy)
    if isinstance(teacher, str | os.PathLike):
        origin = {"teacher": portable(teacher), "teacher_sha256": checksum(teacher)}
    else:
        given = teacher.get_weights if isinstance(teacher, keras.Model) else partial(weights_of, teacher)
        arrays = given() if is_function else policy.network.get_weights()
        content = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        name = teacher.name if isinstance(teacher, keras.Model) else _name(teacher)
        origin = {"teacher": name, "teacher_sha256": content}
    if not is_function and (found := policy.given.get("normalizer")):
        if os.path.isfile(found):
            origin |= {"normalizer": portable(found), "normalizer_sha256": checksum(found)}
        else:  # of a model that was given as an object
            origin["normalizer"] = found
    return policy, origin


def _name(teacher):
    """A Python object's name, or its class's."""
    named = teacher if hasattr(teacher, "__qualname__") else type(teacher)
    return f"{getattr(named, '__module__', 'builtins')}.{named.__qualname__}"


def given_text(agent, origin):
    """In words, what a run was given: the teacher's algorithm, shape, normaliser, action map; or that it is a function."""
    if isinstance(agent, TeacherFunction):
        return f"teacher: {origin['teacher']}, a function"
    model = agent.settings
    units = "-".join(map(str, [*model["observation_shape"], *agent.widths, model["actions"]]))
    parts = [f"teacher: {origin['teacher']}", *([agent.given["algorithm"]] if "algorithm" in agent.given else [])]
    parts.append(f"{units}, {model['hidden_activation']}" if agent.widths else f"{units}, linear")
    parts.append(f"observations normalised by {origin['normalizer']}" if "normalizer" in origin else "no normaliser")
    if model["squash"]:
        parts.append(f"actions tanh · {_short(model['squash']['scale'])} + {_short(model['squash']['offset'])}")
    elif model["bounds"]:
        parts.append(f"actions clipped to {_short(model['bounds'][0])} … {_short(model['bounds'][1])}")
    return "; ".join(parts)


def folding_text(agent, config, seeds):
    """In words, by how much the network that is pruned differs from the one that plays, on 1,000 observations."""
    observations, played = played_observations(agent.played, config, seeds, 1000, "folding")
    folded = agent.network(observations).numpy()
    if bounds := config["model"]["bounds"]:
        low, high = (np.array(side) for side in bounds)
        error = np.abs(np.clip(folded, low, high) - np.clip(played, low, high)) / (high - low)
        what = f"actions differ by {100 * error.max():.2g} % of their range at most, {100 * error.mean():.2g} % on average"
    else:
        what = f"{(folded.argmax(-1) == played.argmax(-1)).sum():,} of 1,000 actions are the same"
    return f"without the clipping of its normalised inputs, which is not pruned, {what}"


def _short(numbers):
    different = sorted(set(numbers))
    return f"{different[0]:g}" if len(different) == 1 else "[" + " ".join(f"{number:g}" for number in numbers) + "]"


def warn_of(reward, expected):
    """Warns of a teacher's reward that is more than three standard errors, and more than 5 %, from the expected one."""
    distance = abs(reward["reward_mean"] - expected) if expected is not None else 0
    if distance > max(3 * reward["reward_stderr"], 0.05 * abs(expected or 0)):
        log(
            f"WARNING: the teacher's reward, {rewards_text(reward)}, is far from the {expected:g} expected: it may have "
            "been trained on normalised observations, behind a wrapper, or in another version of the environment"
        )


def goal(teacher, policy, config, seeds, watch=None):
    """Objective and lower bound, as the settings say or, where these leave them open, from the teacher and random play.

    The objective leaves the larger of one standard error of the teacher's reported reward and a share of the way up to it
    from random play, `evaluation.margin`. The lower bound lies three quarters of the way from random play to the objective.

    Args:
        teacher: statistics of the teacher's reported reward.
        policy: the teacher's network or function.

    Returns:
        {"objective", "lower_bound"}; "random", statistics of the reward of random actions; and "margins", what one standard
        error and that share of the way are.

    Raises:
        RunFailed: the teacher is not above the objective, or that not above random play.
    """
    objective, lower_bound = (config["evaluation"][key] for key in ("objective", "lower_bound"))
    mean = teacher["reward_mean"]
    if objective is not None and mean <= objective:
        raise RunFailed(
            f"the teacher's reward, {rewards_text(teacher)}, is not above the objective, {objective}; train it further or "
            "lower evaluation.objective"
        )
    randomly = config | {"evaluation": config["evaluation"] | {"epsilon": 1.0}}
    rewards, _ = play_episodes(policy, randomly, seeds, teacher["episodes"], "select", "random", watch=watch)
    random = float(rewards.mean())
    margins = {"standard_error": teacher["reward_stderr"], "of_the_way": config["evaluation"]["margin"] * (mean - random)}
    found = {"random": reward_statistics(rewards), "margins": margins}
    if objective is None:
        objective = mean - max(margins.values())
    if lower_bound is None:
        if random >= objective:
            raise RunFailed(
                f"the objective, {objective:.6g}, is not above the reward of random actions, "
                f"{rewards_text(found['random'])}; there is nothing to compress"
            )
        lower_bound = random + 0.75 * (objective - random)
    return {"objective": objective, "lower_bound": lower_bound, **found}


def run_training(environment, config, out, profile, seed, resume, tensorboard, start=None):
    """Trains a teacher in a run folder, keeps the best so far even if training is cut short, and reports it on fresh
    episodes. Returns the Run, finished.

    Args:
        start: path of a policy's file to go on from, instead of fresh weights.
    """
    if config["teacher"]["algorithm"] == "dqn":
        # One thread an operation: the result is the same on any number of cores, over which operations still spread.
        tf.config.threading.set_intra_op_parallelism_threads(1)
    check_spaces(config)
    first, origin = (None, None) if start is None else read_start(start, environment, config)
    run = Run(out, "train_teacher.py", environment, profile, seed, config, resume, origin, tensorboard)
    try:
        if not run.finished:
            agents, seeds = agents_of(environment), Seeds(seed)
            trained = {"teacher": agents.teacher(config["model"])}
            if agents.critic:
                trained["critic"] = agents.critic(config["model"])
            train_and_save(trained, config, seeds, run, first)
            network = trained["teacher"].network
            weights, _ = count_weights(network)
            rewards = reported(network, config, seeds, run, "teacher")
            run.save_summary({"teacher": {"weights": weights, **rewards}, "seconds": run.seconds()})
        log(f"written: {write_report(run.folder)}")
        run.finish()
        return run
    finally:
        run.unlock()


def read_start(start, environment, config):
    """The weights of a policy that a training goes on from, whose settings `config` takes over; and where it came from."""
    policy, origin = read_teacher(start, environment, config, None)
    if isinstance(policy, TeacherFunction):
        raise ConfigurationError(f"--start {start}: {policy.why}, so that it has no weights that could be trained on")
    return policy.network.get_weights(), origin


def train_and_save(trained, config, seeds, run, start=None):
    """Trains agents, {role: DQNAgent}, and writes each as ROLE.keras, also if an interruption cuts the training short.

    Args:
        start: weights that the first one starts from; without them, fresh ones.
    """
    try:
        with run.watching():
            TRAINERS[config["teacher"]["algorithm"]](*trained.values(), config, seeds, run, start)
    finally:
        if run.evaluations:
            for role, agent in trained.items():
                run.save_model(f"{role}.keras", agent.network)
