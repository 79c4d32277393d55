"""The whole method as one function: a policy of any kind goes in, a run folder with the small student comes out."""

import hashlib

import keras
import numpy as np

from configs import RunFailed, by_size
from environments import check_spaces, configuration_of
from files import checksum
from model import agents_of
from prune import choosing_rewards, pops
from report import write_report
from teachers import TeacherFunction, load_teacher
from train import Distilled, Task, fit_supervised, play_episodes
from utils import Run, Seeds, draw_run, log, portable, reward_statistics, rewards_text, standard_error


def compress(
    teacher, environment, out, profile="fast", seed=0, settings=(), objective=None, resume=False, tensorboard=False
):
    """Runs PoPS on a policy.

    Args:
        teacher: path of a Keras file or of a Stable-Baselines3 .zip; a Keras network; or a function from observations
            [batch, *observation_shape] to action values [batch, actions] (for continuous actions, the actions), which a
            dense network of the widths `model.widths` learns to imitate first.
        environment: a key of configs.ENVIRONMENTS, or Gymnasium's name of an environment with a flat observation.
        out: folder for the run.
        profile: "fast" or "paper".
        seed: every random number follows from it.
        settings: strings `group.key=value` that change single settings of configs.py.
        objective: mean reward above which a student is good; the settings' if left out, and where they have none, the
            teacher's mean less one standard error.
        resume: go on with the run in that folder. Whether a function is the same as before cannot be told.
        tensorboard: write the metrics for TensorBoard as well, which has to be installed.

    Returns:
        The summary, as in summary.json.

    Raises:
        ConfigurationError: an argument is wrong.
        RunFailed: the run cannot go on.
    """
    settings = [*settings, *([f"evaluation.objective={objective}"] if objective is not None else [])]
    config = configuration_of(environment, profile, settings)
    check_spaces(config)
    seeds = Seeds(seed)
    agent = function = None
    if callable(teacher) and not isinstance(teacher, keras.Model):
        function = TeacherFunction(teacher, config["model"], agents_of(environment).teacher.observation_type)
        origin = f"{teacher.__module__}.{getattr(teacher, '__qualname__', type(teacher).__name__)}", None
    else:
        agent = load_teacher(teacher, environment, config["model"])
        config["model"] = agent.settings | {"widths": list(agent.widths)}
        if isinstance(teacher, keras.Model):
            content = b"".join(array.tobytes() for array in agent.network.get_weights())
            origin = teacher.name, hashlib.sha256(content).hexdigest()
        else:
            origin = portable(teacher), checksum(teacher)
    run = Run(out, "pops.py", environment, profile, seed, config, resume, origin, tensorboard)
    try:
        if not run.finished:
            with run.watching():
                if function:
                    agent = imitator(function, environment, with_goal(function, config, seeds, run), seeds, run)
                pops(agent, with_goal(agent.network, config, seeds, run), seeds, run)
        plots = draw_run(run.folder)
        if run.events:
            run.events.add_images(plots)
        for path in [*plots, write_report(run.folder)]:
            log(f"written: {path}")
        run.finish()
        return run.summary()
    finally:
        run.unlock()


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


def imitator(function, environment, config, seeds, run):
    """A network that PoPS can prune, in place of a function: distilled from it until it is as good.

    Raises:
        RunFailed: it did not become so.
    """
    agents = agents_of(environment)
    settings = config["model"] | {"output_activation": "linear", "hidden_activation": "relu"}
    student = agents.student(settings, members=by_size(config["distill"]["members"], 100))
    rewards = choosing_rewards(function, config, seeds, run, "function")
    task = Task(config, seeds, function, rewards, sum(student.layer_sizes()), None, run)
    distilled = Distilled(*run.once(("imitator",), fit_supervised, student, task, 0))
    if not distilled.met:
        raise RunFailed(
            f"a network of {'-'.join(map(str, student.widths))} hidden units that imitates the teacher reached "
            f"{rewards_text(reward_statistics(distilled.rewards))}, not the objective, "
            f"{config['evaluation']['objective']:.6g}; try other model.widths"
        )
    log(
        f"a network of {'-'.join(map(str, student.widths))} hidden units imitates the teacher, whose reward is "
        f"{rewards_text(reward_statistics(rewards))}"
    )
    agent = agents.teacher(settings)
    agent.network.set_weights(distilled.weights)
    return agent
