"""A whole run of PoPS: the teacher is read, the goal set, the method applied; graphs and report follow."""

import hashlib
import os

import keras
import numpy as np
import tensorflow as tf

from pops.configs import ENVIRONMENTS
from pops.model import agents_of
from pops.policies.functions import TeacherFunction, imitator
from pops.policies.teacher import load_teacher
from pops.prune import pops
from pops.support.console import log
from pops.support.environments import check_spaces, configuration_of
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.files import checksum, portable
from pops.support.playing import evaluate_network, play_episodes
from pops.support.records import Records, new_task
from pops.support.report import write_report
from pops.support.rewards import reward_statistics, rewards_text, standard_error
from pops.support.run import Run
from pops.support.seeds import Seeds
from pops.support.states import played_observations
from pops.train import TRAINERS
from pops.utils import count_weights, draw_run


def run_pops(teacher, environment, out, profile, seed, settings, objective, resume, tensorboard, normalizer):
    """What `compress` does; see there."""
    config = configuration_of(environment, profile, settings, objective)
    check_spaces(config)
    seeds = Seeds(seed)
    environment = environment if environment in ENVIRONMENTS else config["environment"]["id"]
    policy, origin = read_teacher(teacher, environment, config, normalizer)
    source, run = policy, Run(out, "pops.py", environment, profile, seed, config, resume, origin, tensorboard)
    try:
        if not run.finished:
            with run.watching():
                if isinstance(policy, TeacherFunction):
                    policy = imitator(policy, environment, with_goal(policy, config, seeds, run), seeds, run)
                config = with_goal(policy.played, config, seeds, run)
                task = new_task(policy.played, sum(policy.layer_sizes()), config, seeds, run, "teacher")
                log(given_text(policy, origin))
                if policy.played is not policy.network:
                    log(run.once(("folding",), folding_text, policy, config, seeds))
                records = Records(policy, task)
                records.finish(pops(policy, task, records))
        plots = draw_run(run.folder)
        if run.events:
            run.events.add_images(plots)
        for path in [*plots, write_report(run.folder)]:
            log(f"written: {path}")
        run.finish()
        return run.summary()
    except tf.errors.OpError:
        if failed := getattr(source, "failed", None):  # a function's own error, before TensorFlow made another one of it
            raise failed from None
        raise
    finally:
        run.unlock()


def read_teacher(teacher, environment, config, normalizer):
    """The teacher as a DQNAgent, whose settings `config` takes over, or as a TeacherFunction; and where it came from."""
    if callable(teacher) and not isinstance(teacher, keras.Model):
        if normalizer is not None:
            raise ConfigurationError(f"normalizer {normalizer}: belongs to a file of Stable-Baselines3")
        name = f"{teacher.__module__}.{getattr(teacher, '__qualname__', type(teacher).__name__)}"
        function = TeacherFunction(teacher, config["model"], agents_of(environment).teacher.observation_type)
        return function, {"teacher": name, "teacher_sha256": None}
    if not isinstance(teacher, str | os.PathLike | keras.Model):
        raise ConfigurationError(
            f"the teacher is a {type(teacher).__name__}, which is no policy; give a file, a Keras network or a function"
        )
    agent = load_teacher(teacher, environment, config["model"], normalizer)
    if isinstance(agent, TeacherFunction):
        name, widths = getattr(teacher, "name", teacher), "-".join(map(str, config["model"]["widths"]))
        log(
            f"teacher: {name} does not fold into a plain stack of layers ({agent.why}): taken as a function, which a "
            f"network of {widths} learns to imitate first"
        )
    else:
        config["model"] = agent.settings | {"widths": list(agent.widths)}
    if isinstance(teacher, keras.Model):
        content = b"".join(array.tobytes() for array in agent.network.get_weights())
        return agent, {"teacher": teacher.name, "teacher_sha256": hashlib.sha256(content).hexdigest()}
    origin = {"teacher": portable(teacher), "teacher_sha256": checksum(teacher)}
    if found := getattr(agent, "given", {}).get("normalizer"):
        origin |= {"normalizer": portable(found), "normalizer_sha256": checksum(found)}
    return agent, origin


def given_text(agent, origin):
    """In words, what a run was given: the teacher's algorithm, shape, normaliser and action map."""
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


def with_goal(policy, config, seeds, run):
    """The configuration with the objective and the lower bound that `goal` gives."""
    kind = "network" if isinstance(policy, keras.Model) else "function"
    return config | {"evaluation": config["evaluation"] | run.once_watched(("goal", kind), goal, policy, config, seeds)}


def goal(policy, config, seeds, watch=None):
    """Objective and lower bound, as the settings say or, where these leave them open, from the teacher and random play.

    The objective is the teacher's reported reward less one standard error; the lower bound lies three quarters of the way
    up from the reward of random actions.
    """
    objective, lower_bound = (config["evaluation"][key] for key in ("objective", "lower_bound"))
    episodes = config["evaluation"]["report_episodes"]
    if objective is None:
        rewards, _ = play_episodes(policy, config, seeds, episodes, "report", "teacher", watch=watch)
        # A student has to be above it, which it could not where every episode gives the most there is.
        objective = float(np.nextafter(rewards.mean() - standard_error(rewards), -np.inf))
    if lower_bound is None:
        randomly = config | {"evaluation": config["evaluation"] | {"epsilon": 1.0}}
        rewards, _ = play_episodes(policy, randomly, seeds, episodes, "select", "random", watch=watch)
        if rewards.mean() >= objective:
            raise RunFailed(
                f"the objective, {objective:.6g}, is not above the reward of random actions, "
                f"{rewards_text(reward_statistics(rewards))}; there is nothing to compress"
            )
        lower_bound = float(rewards.mean() + 0.75 * (objective - rewards.mean()))
    return {"objective": objective, "lower_bound": lower_bound}


def run_training(environment, config, out, profile, seed, resume, tensorboard):
    """Trains a teacher in a run folder, keeps the best so far even if training is cut short, and reports it on fresh
    episodes. Returns the Run, finished."""
    if config["teacher"]["algorithm"] == "dqn":
        # One thread an operation: the result is the same on any number of cores, over which operations still spread.
        tf.config.threading.set_intra_op_parallelism_threads(1)
    check_spaces(config)
    run = Run(out, "train_teacher.py", environment, profile, seed, config, resume, tensorboard=tensorboard)
    try:
        if not run.finished:
            agents, seeds = agents_of(environment), Seeds(seed)
            trained = {"teacher": agents.teacher(config["model"])}
            if agents.critic:
                trained["critic"] = agents.critic(config["model"])
            train_and_save(trained, config, seeds, run)
            network, episodes = trained["teacher"].network, config["evaluation"]["report_episodes"]
            rewards = reward_statistics(evaluate_network(network, config, seeds, episodes, "report", "teacher"))
            weights, _ = count_weights(network)
            run.save_summary({"teacher": {"weights": weights, **rewards}, "seconds": run.seconds()})
        log(f"written: {write_report(run.folder)}")
        run.finish()
        return run
    finally:
        run.unlock()


def train_and_save(trained, config, seeds, run):
    """Trains agents, {role: DQNAgent}, and writes each as ROLE.keras, also if an interruption cuts the training short."""
    try:
        with run.watching():
            TRAINERS[config["teacher"]["algorithm"]](*trained.values(), config, seeds, run)
    finally:
        if run.evaluations:
            for role, agent in trained.items():
                run.save_model(f"{role}.keras", agent.network)
