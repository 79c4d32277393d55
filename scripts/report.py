"""Writes report.html, one page about a finished run, into its folder; pops.py and train_teacher.py do so in the end."""

from pathlib import Path

import common


def main():
    parser = common.Parser(__doc__, "python scripts/report.py runs/cartpole-seed0")
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run of pops.py or train_teacher.py")
    arguments = parser.parse_args()

    def command():
        common.import_tensorflow()
        from report import write_report
        from utils import log

        log(f"written: {write_report(arguments.folder)}")

    common.run_command(command)


if __name__ == "__main__":
    main()
