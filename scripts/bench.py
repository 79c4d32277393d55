"""Measures, side by side in one run, how fast updates and evaluation are, what limits them, and what Python loops cost."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands


def main():
    parser = commands.Parser(__doc__, "python scripts/bench.py")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="X", help="how long each figure is measured (3)")
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 600:
        parser.error("--seconds: give a number above 0, up to 600")

    def command():
        from pops.support.console import import_tensorflow

        import_tensorflow()
        from pops.support.speed import measure

        measure(arguments.seconds)

    commands.run_command(command)


if __name__ == "__main__":
    main()
