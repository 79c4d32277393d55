"""Compares policies as a device would run them: file sizes, arithmetic, time for an action by runtime, and reward."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands


def main():
    parser = commands.Parser(__doc__, "python scripts/deploy_report.py runs/cartpole-seed0 --out runs/cartpole-deploy")
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        metavar="MODEL",
        help="Keras files; or a folder of pops.py, for its teacher, pruned network and final student",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.json and report.png")
    parser.add_argument("--env", metavar="ENV", help="their environment, where the files' model names do not tell")
    parser.add_argument("--episodes", type=commands.integer(2, 100_000), metavar="N", help="behind each reward (ENV's own)")
    parser.add_argument("--seed", type=commands.SEED, default=0, metavar="N", help="of the episodes (0)")
    parser.add_set_argument("change one setting of configs.py; may be given more than once")
    arguments = parser.parse_args()

    def command():
        commands.check_policy_arguments(arguments, *(path for path in arguments.models if not path.is_dir()))
        from pops.support.console import import_tensorflow, log

        import_tensorflow(*arguments.models)
        from pops.deploy.device import report

        for table in report(
            *(arguments.models, arguments.env, arguments.set, arguments.out, arguments.seed, arguments.episodes)
        ):
            log(table)
        log(f"written: {arguments.out / 'report.json'}, {arguments.out / 'report.png'}")

    commands.run_command(command)


if __name__ == "__main__":
    main()
