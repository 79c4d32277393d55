"""Turns a TensorFlow 1 checkpoint of the paper's published code into a teacher that pops.py takes."""

import os
import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.configs import configuration
from pops.policies.published import INPUT_SCALE, OUTPUTS
from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(__doc__, "python scripts/import_published.py network_dense/model.ckpt cartpole teacher.keras")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="its path, such as model.ckpt-1000, or folder")
    parser.add_argument("environment", metavar="ENV", help=" or ".join(OUTPUTS))
    parser.add_argument("out", type=Path, metavar="OUT", help="Keras file to write; it must not exist yet")
    parser.add_argument("--scope", metavar="NAME", help="which network, where several in the checkpoint fit")
    parser.add_argument(
        "--input-scale",
        type=float,
        metavar="N",
        help=f"what the network divides grey levels by, Pong only ({INPUT_SCALE}, as in the published code)",
    )
    arguments = parser.parse_args()
    environment, out, scale = arguments.environment, arguments.out, arguments.input_scale

    def command():
        settings = configuration(environment)["model"]
        if environment not in OUTPUTS:
            raise ConfigurationError(f"{environment}: its network is not in the published code; {', '.join(OUTPUTS)} are")
        if scale is not None and not (environment == "pong" and 1 <= scale <= 1e6):
            raise ConfigurationError(f"--input-scale {scale:g}: only for pong, and from 1 to 1,000,000")
        if out.suffix != ".keras":
            raise ConfigurationError(f"{out}: the name of a Keras file ends with .keras")
        if os.path.lexists(out):
            raise ConfigurationError(f"{out}: exists already; remove it or give another name")
        from pops.support.console import import_tensorflow, log

        import_tensorflow()
        from pops.policies.published import import_published

        log(import_published(arguments.checkpoint, environment, settings, out, arguments.scope, scale or INPUT_SCALE))

    commands.run_command(command)


if __name__ == "__main__":
    main()
