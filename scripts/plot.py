"""Draws the graphs of finished runs of pops.py and prints their results as a Markdown table.

One run: its graphs, into its own folder or --out. Several: one graph of reward against size over all of them, into --out.
"""

import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(__doc__, "python scripts/plot.py runs/cartpole-seed0 runs/cartpole-seed1 --out plots")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="run folder, or a folder of results/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the graphs (the run's own; needed for several)")
    arguments = parser.parse_args()
    folders, out = arguments.runs, arguments.out

    def command():
        if len(folders) > 1 and out is None:
            raise ConfigurationError("several runs: give a folder for their common graph with --out")
        from pops.support.console import import_tensorflow, log
        from pops.support.files import make_folder
        from pops.support.results import load_run, markdown_table

        runs = [load_run(folder) for folder in folders]
        if len(names := {run["config"]["environment"] for run in runs}) > 1:
            raise ConfigurationError(f"runs of different environments, {' and '.join(sorted(names))}: plot them apart")
        if out is not None:
            make_folder(out)
        import_tensorflow()
        from pops.utils import draw_run, draw_sizes

        paths = draw_run(folders[0], out) if len(runs) == 1 else [draw_sizes(runs, out / "size_vs_reward.png")]
        print(markdown_table(runs))
        for path in paths:
            log(f"plot: {path}")

    commands.run_command(command)


if __name__ == "__main__":
    main()
