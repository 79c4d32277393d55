"""The command `pops`: the scripts as its subcommands."""

import importlib
import sys

import pops

COMMANDS = {
    "run": ("pops", "prunes and shrinks a trained policy"),
    "train-teacher": ("train_teacher", "trains a teacher"),
    "evaluate": ("evaluate", "plays episodes with a policy and reports its reward and size"),
    "plot": ("plot", "draws the graphs of finished runs"),
    "report": ("report", "writes a run's page again"),
    "export": ("export", "writes a policy for C, LiteRT or ONNX, and checks it"),
    "deploy-report": ("deploy_report", "compares policies as a device would run them"),
    "record": ("record", "films policies side by side"),
    "import-published": ("import_published", "reads a checkpoint of the paper's published code"),
    "train-sb3": ("train_sb3", "trains an example of a teacher from elsewhere"),
    "bench": ("bench", "measures speed"),
    "reliability": ("reliability", "injects faults and counts what holds"),
}


def main():
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: pops COMMAND [argument ...], or pops --version\n\ncommands (each has --help):")
        print("\n".join(f"  {command:17} {meaning}" for command, (_, meaning) in COMMANDS.items()))
    elif name == "--version":
        print(f"pops {pops.__version__}")
    elif name.replace("_", "-") in COMMANDS:
        sys.argv = [f"pops {name}", *arguments]
        importlib.import_module(f"pops.scripts.{COMMANDS[name.replace('_', '-')][0]}").main()
    else:
        sys.exit(_refuse(name))


def _refuse(name):
    print(f"pops: unknown command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
