"""Trains a teacher for an environment and writes it as teacher.keras into a new run folder."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.configs import configuration
from pops.support import commands


def main():
    parser = commands.Parser(__doc__, "python scripts/train_teacher.py cartpole --seed 0")
    parser.add_run_arguments("runs/ENV-teacher-seedN")
    parser.add_argument("--start", metavar="FILE", help="policy to go on from, such as a teacher.keras (fresh weights)")
    arguments = parser.parse_args()
    folder = arguments.out or Path("runs", f"{arguments.environment}-teacher-seed{arguments.seed}")

    def command():
        commands.check_tensorboard(arguments)
        config = configuration(arguments.environment, arguments.profile, arguments.set)
        from pops.support.console import import_tensorflow, log

        import_tensorflow()
        from pops.support.rewards import rewards_text
        from pops.support.session import run_training

        run = run_training(
            *(arguments.environment, config, folder, arguments.profile, arguments.seed),
            *(arguments.resume, arguments.tensorboard, arguments.start),
        )
        summary, teacher = run.summary(), run.summary()["teacher"]
        log(
            f"teacher of {teacher['weights']:,} weights: reward {rewards_text(teacher)} "
            f"over {teacher['episodes']} fresh episodes (lowest {teacher['reward_min']:.0f}), "
            f"{summary['seconds']:.0f} s, {folder / 'teacher.keras'}"
        )

    def go_on():
        return f"the best teacher so far, if any, is {folder / 'teacher.keras'}; go on with: {commands.resume_command()}"

    commands.run_command(command, go_on)


if __name__ == "__main__":
    main()
