"""What the commands share: finding the project, quiet imports, one-line errors and exit codes."""

import argparse
import contextlib
import importlib.util
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from configs import ENVIRONMENTS, PROFILES, ConfigurationError, RunFailed, configuration  # noqa: E402


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
        """The arguments of a command that plays with a saved policy; see `read_policy`."""
        self.add_argument("model", type=Path, metavar="MODEL", help="Keras file written by train_teacher.py or pops.py")
        self.add_argument(
            "--env", metavar="ENV", help="its environment, or Gymnasium's name, where the file's model name does not tell"
        )
        self.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the episodes (0)")
        self.add_set_argument(
            "change one setting of configs.py, for example environment.sticky=0.25; may be given more than once"
        )

    def add_set_argument(self, help):
        self.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE", help=help)


def integer(low, high):
    """The type of an argument that is an integer from `low` to `high`."""

    def parse(text):
        number = int(text) if text.isascii() and text.isdigit() else -1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not an integer from {low} to {high}")
        return number

    return parse


SEED = integer(0, 2**32 - 1)


@contextlib.contextmanager
def quiet():
    """Holds back what C++ code prints to standard error; shows it after all if the block fails."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def check_tensorboard(arguments):
    """Raises ConfigurationError if TensorBoard is asked for and missing."""
    if arguments.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise ConfigurationError("--tensorboard: missing; install with: pip install -r requirements-tensorboard.txt")


def import_tensorflow():
    """Imports TensorFlow without what it prints about graphics processors that it does not find."""
    with quiet():
        import tensorflow  # noqa: F401


def read_policy(arguments):
    """Reads the policy that a command's arguments name (see `Parser.add_policy_arguments`).

    Returns:
        Its Keras network, the environment's key, and the configuration.

    Raises:
        ConfigurationError: a setting or the file is wrong, or the two do not fit.
    """
    if arguments.env in ENVIRONMENTS:
        configuration(arguments.env, assignments=arguments.set)  # before TensorFlow, whose import takes seconds
    import_tensorflow()
    from environments import configuration_of, registered_name
    from model import check_shapes, read_network

    network = read_network(arguments.model)
    environment = arguments.env or network.name.rpartition("_")[0]
    if arguments.env is None and environment not in ENVIRONMENTS and not (environment := registered_name(environment)):
        raise ConfigurationError(f"{arguments.model}: does not name its environment; give it with --env")
    config = configuration_of(environment, assignments=arguments.set)
    check_shapes(network, arguments.model, config["model"])
    return network, environment, config


def way_to_act(config):
    """How the configuration's evaluations choose actions, in words."""
    settings = config["evaluation"]
    name = {"greedy": "greedy", "sample": "sampled"}[settings["acting"]]
    return name + (f" but for {100 * settings['epsilon']:g} % of random actions" if settings["epsilon"] else "")


def resume_command():
    """The command that goes on with this one's run."""
    arguments = [argument for argument in sys.argv if argument != "--resume"]
    return shlex.join(["python", *arguments, "--resume"])


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
        # Inside a compiled loop an interruption comes back as TensorFlow's own exception.
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
