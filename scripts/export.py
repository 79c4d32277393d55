"""Writes a policy for other runtimes (LiteRT, ONNX, C) and checks that what it wrote acts and plays as the policy does."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.deploy.onnx import missing_packages
from pops.support import commands
from pops.support.errors import ConfigurationError

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "c": ".h"}


def make_parser():
    parser = commands.Parser(
        __doc__, "python scripts/export.py results/cartpole/seed0/student.keras --format c --out cartpole.h"
    )
    parser.add_policy_arguments()
    parser.add_argument("--format", required=True, choices=SUFFIXES, help="a LiteRT file, an ONNX file or a C99 header")
    parser.add_argument("--int8", action="store_true", help="weights of one byte (LiteRT: activations too); not for ONNX")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends with .tflite, .onnx or .h")
    parser.add_argument(
        "--observations",
        type=commands.integer(1000, 100_000),
        default=1000,
        metavar="N",
        help="on which its actions are compared with the policy's (1000)",
    )
    parser.add_argument(
        "--episodes", type=commands.integer(2, 100_000), metavar="N", help="that it plays (100; Atari games: 10)"
    )
    return parser


def main():
    arguments = make_parser().parse_args()

    def command():
        check_arguments(arguments)
        from pops.support.console import import_tensorflow, log

        import_tensorflow(arguments.model)
        from pops.deploy.export import export
        from pops.policies.teacher import read_policy
        from pops.support.seeds import Seeds
        from pops.utils import count_weights

        policy = read_policy(arguments.model, arguments.env, arguments.set, arguments.normalizer)
        policy.check_layers(arguments.model)
        log(f"{arguments.model}: {policy.environment}, {count_weights(policy.network)[0]:,} weights")
        export(
            *(policy, arguments.model, Seeds(arguments.seed), arguments.out, arguments.format, arguments.int8),
            *(arguments.observations, arguments.episodes),
        )
        log(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")

    commands.run_command(command)


def check_arguments(arguments):
    """Raises ConfigurationError for what can be seen to be wrong before anything is read."""
    if arguments.int8 and arguments.format == "onnx":
        raise ConfigurationError("--int8: for --format litert and c only")
    suffix = SUFFIXES[arguments.format]
    if arguments.out.suffix != suffix:
        raise ConfigurationError(f"--out {arguments.out}: --format {arguments.format} needs a name that ends with {suffix}")
    missing = missing_packages()
    if arguments.format == "onnx" and missing:
        raise ConfigurationError(
            f"--format onnx: {', '.join(missing)} missing; install with: pip install -r requirements-export.txt"
        )
    commands.check_policy_arguments(arguments, arguments.model)


if __name__ == "__main__":
    main()
