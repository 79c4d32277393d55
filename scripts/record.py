"""Plays policies side by side from the same start and writes what the environment draws as a GIF."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(
        __doc__, "python scripts/record.py cartpole saved_models/cartpole/teacher.keras --out play.gif"
    )
    parser.add_argument("environment", metavar="ENV", help="the policies' environment, or Gymnasium's name of one")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="Keras files, shown from left to right")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GIF to write")
    parser.add_argument("--seed", type=commands.SEED, default=0, metavar="N", help="of the episodes (0)")
    parser.add_argument("--seconds", type=commands.integer(1, 600), default=20, metavar="N", help="at most (20)")
    parser.add_argument("--height", type=commands.integer(50, 1000), default=210, metavar="N", help="of the pictures (210)")
    parser.add_set_argument("change one setting of configs.py; may be given more than once")
    arguments = parser.parse_args()

    def command():
        if arguments.out.suffix != ".gif":
            raise ConfigurationError(f"--out {arguments.out}: the name of a GIF file ends with .gif")
        arguments.env = arguments.environment
        commands.check_policy_arguments(arguments, *arguments.models)
        from pops.support.console import import_tensorflow, log

        import_tensorflow(*arguments.models)
        from pops.support.recording import record

        for line in record(
            *(arguments.models, arguments.environment, arguments.set, arguments.out),
            *(arguments.seed, arguments.seconds, arguments.height),
        ):
            log(line)
        log(f"{arguments.out}: {arguments.out.stat().st_size / 1000:,.0f} kB")

    commands.run_command(command)


if __name__ == "__main__":
    main()
