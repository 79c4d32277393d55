"""Plays the agents of RL Baselines3 Zoo and prints the table of docs/zoo.md."""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(__doc__, "python scripts/zoo.py rl-trained-agents --episodes 100")
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="ZOO", help="holds ALGO/ENV_1/ENV.zip; if left out, nothing is played"
    )
    parser.add_argument(
        "--episodes", type=commands.integer(2, 100_000), default=100, metavar="N", help="of each agent (100)"
    )
    parser.add_argument("--seed", type=commands.SEED, default=0, metavar="N", help="of the episodes (0)")
    arguments = parser.parse_args()

    def command():
        if arguments.folder and not arguments.folder.is_dir():
            raise ConfigurationError(f"{arguments.folder}: no such folder")
        from pops.support.console import import_tensorflow, log

        import_tensorflow()
        from pops.support.zoo import play_agents, table

        if arguments.folder:
            for row in play_agents(arguments.folder, arguments.episodes, arguments.seed):
                log(f"{row['agent']}: {row.get('refused') or row['reward_mean']}")
        print(table())

    commands.run_command(command)


if __name__ == "__main__":
    main()
