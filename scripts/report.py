"""Writes report.html, one page about a finished run, into its folder; pops.py and train_teacher.py do so in the end."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands


def main():
    parser = commands.Parser(__doc__, "python scripts/report.py runs/cartpole-seed0")
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run of pops.py or train_teacher.py")
    arguments = parser.parse_args()

    def command():
        from pops.support.console import import_tensorflow, log

        import_tensorflow()
        from pops.support.report import write_report

        log(f"written: {write_report(arguments.folder)}")

    commands.run_command(command)


if __name__ == "__main__":
    main()
