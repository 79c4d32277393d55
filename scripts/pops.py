"""Prunes and shrinks a trained policy (PoPS) and writes the small dense student, metrics, summary and plots."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops import compress
from pops.configs import check_environment
from pops.support import commands
from pops.support.errors import ConfigurationError
from pops.support.files import ROOT


def main():
    parser = commands.Parser(__doc__, "python scripts/pops.py cartpole --seed 0")
    parser.add_run_arguments("runs/ENV-seedN", optional=True)
    parser.add_argument(
        "--env-id",
        metavar="ID",
        help="instead of ENV: any environment of Gymnasium, for example Acrobot-v1; needs --teacher",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="PATH",
        help="Keras, ONNX or TorchScript file, or .zip of Stable-Baselines3 (saved_models/ENV/teacher.keras)",
    )
    parser.add_argument(
        "--objective",
        type=float,
        metavar="X",
        help="reward that a student must exceed; the lower bound moves with it (ENV's own; with --env-id the teacher's "
        "less one standard error, or less evaluation.margin of the way up from random play where that is more)",
    )
    parser.add_argument(
        "--expect", type=float, metavar="X", help="reward that the teacher is said to have; warns if it is far from it"
    )
    parser.add_normalizer_argument()
    arguments = parser.parse_args()
    environment, seed = arguments.env_id or arguments.environment, arguments.seed
    folder = arguments.out or Path("runs", f"{(environment or '').rpartition(':')[2].replace('/', '.')}-seed{seed}")

    def command():
        commands.check_tensorboard(arguments)
        if (arguments.environment is None) == (arguments.env_id is None):
            raise ConfigurationError("give either ENV, for example cartpole, or --env-id, for example Acrobot-v1")
        if arguments.env_id is None:
            check_environment(environment)
        elif arguments.teacher is None:
            raise ConfigurationError("--env-id: needs --teacher, as only ENV has one of its own")
        teacher = arguments.teacher or ROOT / "saved_models" / environment / "teacher.keras"
        summary = compress(
            *(teacher, environment, folder, arguments.profile, seed, arguments.set, arguments.objective, arguments.resume),
            tensorboard=arguments.tensorboard,
            normalizer=arguments.normalizer,
            expect=arguments.expect,
        )
        from pops.support.console import log, table
        from pops.support.results import choice_lines, result_rows

        log(table(result_rows(summary), words=2))
        log(f"ended: {summary['ended']}")
        for line in choice_lines(summary):
            log(line)
        log(f"student: {folder / 'student.keras'}")

    def go_on():
        if not (folder / "config.json").exists():
            return "nothing was written"
        students = sorted(folder.glob("student_step_*.keras"), key=lambda path: (len(path.name), path.name))
        saved = f"the last student that met the objective is {students[-1]}" if students else "no student was finished"
        return f"{saved}; go on with: {commands.resume_command()}"

    commands.run_command(command, go_on)


if __name__ == "__main__":
    main()
