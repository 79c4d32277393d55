"""Prunes and shrinks a trained policy (PoPS) and writes the small dense student, metrics, summary and plots."""

from pathlib import Path

import common
from configs import configuration


def main():
    parser = common.Parser(__doc__, "python scripts/pops.py cartpole --seed 0")
    parser.add_run_arguments("runs/ENV-seedN")
    parser.add_argument("--teacher", type=Path, metavar="PATH", help="Keras file (saved_models/ENV/teacher.keras)")
    arguments = parser.parse_args()
    environment, seed = arguments.environment, arguments.seed
    folder = arguments.out or Path("runs", f"{environment}-seed{seed}")

    def command():
        config = configuration(environment, arguments.profile, arguments.set)
        teacher_path = arguments.teacher or common.ROOT / "saved_models" / environment / "teacher.keras"
        common.import_tensorflow()
        from model import AGENTS
        from prune import pops
        from utils import Run, Seeds, check_spaces, choice_lines, draw_run, log, results_table

        check_spaces(config)
        teacher = AGENTS[environment].teacher.load(teacher_path, config["model"])
        config["model"] = teacher.settings | {"widths": list(teacher.widths)}
        run = Run(
            *(folder, "pops.py", environment, arguments.profile, seed, config, arguments.resume), teacher=teacher_path
        )
        if not run.finished:
            with run.watching():
                pops(teacher, config, Seeds(seed), run)
        summary = run.summary()
        log(results_table(summary))
        log(f"ended: {summary['ended']}")
        for line in choice_lines(summary):
            log(line)
        for path in draw_run(folder):
            log(f"plot: {path}")
        run.finish()
        log(f"student: {folder / 'student.keras'}")

    def go_on():
        if not (folder / "config.json").exists():
            return "nothing was written"
        students = sorted(folder.glob("student_step_*.keras"), key=lambda path: (len(path.name), path.name))
        saved = f"the last student that met the objective is {students[-1]}" if students else "no student was finished"
        return f"{saved}; go on with: {common.resume_command()}"

    common.run_command(command, go_on)


if __name__ == "__main__":
    main()
