"""What the commands share: arguments, one-line errors and exit codes."""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from pops.configs import ENVIRONMENTS, PROFILES, configuration, value_of
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.files import check_normalizer, check_readable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows an example and whose errors are one line."""

    def __init__(self, description, example):
        super().__init__(
            description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_run_arguments(self, out, optional=False):
        """The arguments of a command that makes a run folder. `optional`: the environment can be left out."""
        self.add_argument("environment", metavar="ENV", nargs="?" if optional else None, help=" or ".join(ENVIRONMENTS))
        self.add_argument("--seed", type=SEED, default=0, metavar="N", help="every random number follows from it (0)")
        self.add_argument("--out", type=Path, metavar="DIR", help=f"new folder for the run ({out})")
        self.add_argument("--profile", default="fast", metavar="|".join(PROFILES), help="settings to start from (fast)")
        self.add_set_argument("change one setting of configs.py; may be given more than once")
        self.add_argument(
            "--resume",
            action="store_true",
            help="go on with the run in that folder from its last checkpoint, if it has one",
        )
        self.add_argument("--tensorboard", action="store_true", help="write DIR/tensorboard for TensorBoard as well")

    def add_policy_arguments(self):
        """The arguments of a command that plays with a saved policy (see `check_policy_arguments`)."""
        self.add_argument("model", type=Path, metavar="MODEL", help="policy of any kind that pops.py takes as --teacher")
        self.add_argument(
            "--env", metavar="ENV", help="its environment, or Gymnasium's name, where the file's model name does not tell"
        )
        self.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the episodes (0)")
        self.add_normalizer_argument()
        self.add_set_argument(
            "change one setting of configs.py, for example environment.sticky=0.25; may be given more than once"
        )

    def add_set_argument(self, help):
        """`--set`, and the arguments that set what an environment is made with."""
        self.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help=help)
        self.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE",
            help="module or .py file that registers environments of your own",
        )
        self.add_argument(
            "--env-kwargs",
            nargs="+",
            default=[],
            metavar="NAME=VALUE",
            help="arguments of gymnasium.make, for example continuous=true gravity=-5.0",
        )

    def add_normalizer_argument(self):
        self.add_argument(
            "--normalizer",
            type=Path,
            metavar="FILE",
            help="statistics of VecNormalize that a .zip of Stable-Baselines3 was trained with (those that lie beside it); "
            "none: it was trained without",
        )

    def parse_args(self, *arguments):
        """The arguments; those that set what an environment is made with are among `set`."""
        parsed = super().parse_args(*arguments)
        if getattr(parsed, "imports", None):
            parsed.set.append(f"environment.imports={json.dumps(parsed.imports)}")
        if getattr(parsed, "env_kwargs", None):
            pairs = (pair.partition("=") for pair in parsed.env_kwargs)
            parsed.set.append(f"environment.kwargs={json.dumps({name: value_of(text) for name, _, text in pairs})}")
        return parsed


def integer(low, high):
    """The type of an argument that is an integer from `low` to `high`."""

    def parse(text):
        number = int(text) if text.isascii() and text.isdigit() else -1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not an integer from {low} to {high}")
        return number

    return parse


SEED = integer(0, 2**32 - 1)


def check_policy_arguments(arguments, *models):
    """Raises ConfigurationError for what `--env`, `--set` and the models' paths tell before TensorFlow is imported."""
    if arguments.env in ENVIRONMENTS:
        configuration(arguments.env, assignments=arguments.set)
    for path in models:
        check_readable(path)
    check_normalizer(getattr(arguments, "normalizer", None))


def check_tensorboard(arguments):
    """Raises ConfigurationError if TensorBoard is asked for and missing."""
    if arguments.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise ConfigurationError("--tensorboard: missing; install with: pip install -r requirements-tensorboard.txt")


def resume_command():
    """The command that goes on with this one's run."""
    program, *arguments = sys.argv
    first = program.split() if program.startswith("pops ") else ["python", program]  # a subcommand, or a file
    return shlex.join([*first, *(argument for argument in arguments if argument != "--resume"), "--resume"])


def run_command(command, go_on=lambda: "start it again"):
    """Runs a command and exits: 0 on success, 2 on bad input, 1 on a failed or interrupted run, with one line each.

    Args:
        command: a function without arguments.
        go_on: says what to do after an interruption or when a file cannot be written.
    """
    interrupted = False

    def interrupt(*_):
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    name = Path(sys.argv[0]).name
    try:
        command()
    except ConfigurationError as error:
        sys.exit(_say(f"{name}: {error}", 2))
    except BaseException as error:
        # A library may have made another exception of the interruption.
        if interrupted:
            sys.exit(_say(f"{name}: interrupted; {go_on()}", 1))
        if isinstance(error, RunFailed):
            sys.exit(_say(f"{name}: {error}", 1))
        if isinstance(error, OSError):
            sys.exit(_say(f"{name}: {error}; {go_on()}", 1))
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
            sys.exit(_say(f"{name}: not enough memory ({error}); try smaller settings, for example of replay.capacity", 1))
        raise


def _say(message, code):
    print(" ".join(message.splitlines()), file=sys.stderr)
    return code
