"""Measures, side by side in one run, how fast updates and evaluation are, what limits them, and what Python loops cost."""

import importlib.util
import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(__doc__, "python scripts/bench.py")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="X", help="how long each figure is measured (3)")
    simulators = parser.add_argument_group("EnvPool beside Gymnasium, instead")
    simulators.add_argument("--simulators", type=Path, nargs="+", metavar="MODEL", help="policies that are played in both")
    simulators.add_argument("--env", metavar="ENV", help="their environment, where the files do not tell")
    simulators.add_argument(
        "--episodes", type=commands.integer(2, 100_000), default=2000, metavar="N", help="for each policy, in each (2,000)"
    )
    growth = parser.add_argument_group("how a PoPS step grows with the teacher, the members and the cores, instead")
    growth.add_argument("--growth", type=Path, metavar="DIR", help="folder for growth.csv and growth.png")
    parser.add_argument("--training", action="store_true", help="training of teachers beside Stable-Baselines3's, instead")
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 600:
        parser.error("--seconds: give a number above 0, up to 600")

    def command():
        if arguments.growth:
            from pops.support.growth import grow

            grow(arguments.growth)
            return
        from pops.support.console import import_tensorflow

        if arguments.training:
            for name in ("stable_baselines3", "cv2"):
                if not importlib.util.find_spec(name):
                    raise ConfigurationError(f"{name} is missing; install with: pip install 'stable-baselines3[extra]'")
            import torch  # noqa: F401  # after TensorFlow it can crash
        import_tensorflow(*arguments.simulators or ())
        if arguments.training:
            from pops.support.teaching import compare

            compare()
        elif arguments.simulators:
            from pops.support.simulators import compare

            compare(arguments.simulators, arguments.env, arguments.episodes)
        else:
            from pops.support.speed import measure

            measure(arguments.seconds)

    commands.run_command(command)


if __name__ == "__main__":
    main()
