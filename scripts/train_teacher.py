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
        common.check_tensorboard(arguments)
        config = configuration(arguments.environment, arguments.profile, arguments.set)
        common.import_tensorflow()
        import tensorflow as tf

        from environments import check_spaces
        from model import AGENTS
        from utils import Run, Seeds

        if config["teacher"]["algorithm"] == "dqn":
            # One thread an operation: the result is the same on any number of cores, over which operations still spread.
            tf.config.threading.set_intra_op_parallelism_threads(1)
        check_spaces(config)
        environment, seed = arguments.environment, arguments.seed
        run = Run(
            *(folder, "train_teacher.py", environment, arguments.profile, seed, config, arguments.resume),
            tensorboard=arguments.tensorboard,
        )
        agents = AGENTS[environment]
        trained = {"teacher": agents.teacher(config["model"])}
        if agents.critic:
            trained["critic"] = agents.critic(config["model"])
        train_and_report(trained, config, Seeds(seed), run)

    def go_on():
        return f"the best teacher so far, if any, is {folder / 'teacher.keras'}; go on with: {common.resume_command()}"

    common.run_command(command, go_on)


def train_and_report(trained, config, seeds, run):
    """Trains a teacher, keeping the best so far even if training is cut short, and reports it on fresh episodes.

    Args:
        trained: the agents to train by role; each is written as ROLE.keras.
    """
    from model import count_weights
    from report import write_report
    from train import TRAINERS, evaluate_network
    from utils import log, reward_statistics, rewards_text

    if not run.finished:
        try:
            with run.watching():
                TRAINERS[config["teacher"]["algorithm"]](*trained.values(), config, seeds, run)
        finally:
            if run.evaluations:
                for role, agent in trained.items():
                    run.save_model(f"{role}.keras", agent.network)
        network = trained["teacher"].network
        weights, _ = count_weights(network)
        rewards = evaluate_network(network, config, seeds, config["evaluation"]["report_episodes"], "report", "teacher")
        run.save_summary({"teacher": {"weights": weights, **reward_statistics(rewards)}, "seconds": run.seconds()})
        run.finish()
    summary = run.summary()
    teacher = summary["teacher"]
    log(f"written: {write_report(run.folder)}")
    log(
        f"teacher of {teacher['weights']:,} weights: reward {rewards_text(teacher)} "
        f"over {teacher['episodes']} fresh episodes (lowest {teacher['reward_min']:.0f}), "
        f"{summary['seconds']:.0f} s, {run.folder / 'teacher.keras'}"
    )


if __name__ == "__main__":
    main()
