"""Trains a teacher for an environment and writes it as teacher.keras into a new run folder."""

from pathlib import Path

import common
from configs import configuration


def main():
    parser = common.Parser(__doc__, "python scripts/train_teacher.py cartpole --seed 0")
    parser.add_run_arguments("runs/ENV-teacher-seedN")
    arguments = parser.parse_args()
    folder = arguments.out or Path("runs", f"{arguments.environment}-teacher-seed{arguments.seed}")

    def command():
        config = configuration(arguments.environment, arguments.profile, arguments.set)
        common.import_tensorflow()
        from model import AGENTS
        from utils import Run, Seeds, check_spaces

        check_spaces(config)
        run = Run(folder, "train_teacher.py", arguments.environment, arguments.profile, arguments.seed, config)
        agents = AGENTS[arguments.environment]
        trained = {"teacher": agents.teacher(config["model"])}
        if agents.critic:
            trained["critic"] = agents.critic(config["model"])
        train_and_report(trained, config, Seeds(arguments.seed), run)

    common.run_command(
        command, f"the best teacher so far, if any, is {folder / 'teacher.keras'}; start again with another --out"
    )


def train_and_report(trained, config, seeds, run):
    """Trains a teacher, keeping the best so far even if training is cut short, and reports it on fresh episodes.

    Args:
        trained: the agents to train by role; each is written as ROLE.keras.
    """
    from model import count_weights
    from train import TRAINERS, evaluate_network
    from utils import log, reward_statistics, rewards_text

    evaluations = 0

    def on_evaluation(**row):
        nonlocal evaluations
        evaluations += 1
        run.metrics(phase="teacher", **row)

    try:
        with run.watching():
            TRAINERS[config["teacher"]["algorithm"]](*trained.values(), config, seeds, on_evaluation)
    finally:
        if evaluations:
            for role, agent in trained.items():
                run.save_model(f"{role}.keras", agent.network)
    network = trained["teacher"].network
    weights, _ = count_weights(network)
    episodes = config["evaluation"]["report_episodes"]
    rewards = evaluate_network(network, config, seeds, episodes, "report", "teacher")
    summary = {"teacher": {"weights": weights, **reward_statistics(rewards)}, "seconds": run.seconds()}
    run.save_summary(summary)
    log(
        f"teacher of {weights:,} weights: reward {rewards_text(summary['teacher'])} over {episodes} fresh episodes "
        f"(lowest {rewards.min():.0f}), {run.seconds():.0f} s, {run.folder / 'teacher.keras'}"
    )


if __name__ == "__main__":
    main()
