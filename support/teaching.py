"""Training of teachers beside Stable-Baselines3's: the same networks, minibatches, copies and updates a step."""

import tempfile
import time
from functools import partial

from pops.configs import configuration
from pops.model import AGENTS
from pops.support.console import log, quiet
from pops.support.run import Run
from pops.support.seeds import Seeds
from pops.train import TRAINERS

# Steps of a short and a longer training, between which the rate is measured: ours, and Stable-Baselines3's.
STEPS = {
    "cartpole": ((20_000, 60_000), (4_000, 12_000)),
    "lunarlander": ((65_536, 196_608), (32_768, 65_536)),
    "pong": ((4_000, 12_000), (2_000, 4_000)),
}


def compare():
    """Measures both for each environment, and prints the steps a second."""
    for name, (short, long) in STEPS.items():
        config = configuration(name)
        with quiet():
            here, there = rate(partial(ours, name), *short), rate(partial(stable_baselines, name, config), *long)
        algorithm = {"dqn": "deep Q-learning", "actor_critic": "PPO"}[config["teacher"]["algorithm"]]
        log(f"{name}, {algorithm}: {here:,.0f} steps a second, Stable-Baselines3 {there:,.0f}; ratio {here / there:.1f}")


def rate(train, first, second):
    """Steps a second between a training of `first` and one of `second` steps: what both begin with does not count."""
    seconds = []
    for steps in (first, second):
        start = time.perf_counter()
        train(steps)
        seconds.append(time.perf_counter() - start)
    return (second - first) / (seconds[1] - seconds[0])


def ours(name, steps):
    """Trains a teacher for some steps, with two short evaluations."""
    changes = [f"teacher.steps={steps}", f"teacher.evaluate_every={steps // 2}", "teacher.episodes=2"]
    if configuration(name)["teacher"]["algorithm"] == "dqn":
        changes.append("teacher.learning_starts=1600")
    config, agents = configuration(name, assignments=changes), AGENTS[name]
    roles = [agents.teacher(config["model"]), *([agents.critic(config["model"])] if agents.critic else [])]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, "train_teacher.py", name, "fast", 0, config, resume=False)
        TRAINERS[config["teacher"]["algorithm"]](*roles, config, Seeds(0), run)
        run.unlock()


def stable_baselines(name, config, steps):
    """The same training there; its deep Q-learning has one network less to ask, as it is not the double one."""
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env

    settings, copies = config["teacher"], config["teacher"]["environments"]
    environment, widths = config["environment"]["id"], config["model"]["widths"]
    frames = len(config["model"]["observation_shape"]) > 1
    made = (make_atari_env if frames else make_vec_env)(environment, copies, seed=0)
    if settings["algorithm"] == "dqn":
        model = DQN(
            "CnnPolicy" if frames else "MlpPolicy",
            made,
            batch_size=settings["batch_size"],
            buffer_size=20_000,
            learning_starts=1600,
            train_freq=1,
            gradient_steps=copies // settings["steps_per_update"],
            policy_kwargs={} if frames else {"net_arch": widths},
            device="cpu",
        )
    else:
        model = PPO(
            "MlpPolicy",
            made,
            n_steps=settings["rollout"],
            batch_size=settings["batch_size"],
            n_epochs=settings["passes"],
            policy_kwargs={"net_arch": {"pi": widths, "vf": widths}},
            device="cpu",
        )
    model.learn(steps)
    made.close()
