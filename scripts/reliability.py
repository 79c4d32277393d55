"""Checks the promises of docs/reliability.md: kills, damaged files, a full disk, wrong settings. Prints what it counts.

It exits with 1 if a promise is broken. The runs are tiny; all that a long one does happens in them.
"""

import contextlib
import os
import random
import sys
import tempfile
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import RunFailed
from pops.support.faults import RUNS, check_full_disk, check_kills

CHECKS = {"kills": 20, "damage": 400, "settings": 10_000, "full-disk": 5}


def main():
    parser = commands.Parser(__doc__, "python scripts/reliability.py kills --count 20")
    parser.add_argument("check", choices=CHECKS, help=" ".join(f"{name} ({count})" for name, count in CHECKS.items()))
    parser.add_argument("--count", type=commands.integer(1, 10**6), metavar="N", help="how often (above, in brackets)")
    parser.add_argument("--seed", type=commands.SEED, default=0, metavar="N", help="of what is random here (0)")
    parser.add_argument("--only", action="append", metavar="NAME", help="kills: only these runs: " + "; ".join(RUNS))
    parser.add_argument("--runs", type=commands.integer(0, 1000), default=20, metavar="N", help="settings: runs made (20)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work and leave all files (a temporary folder)")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - set(RUNS):
        parser.error(f"--only: {unknown.pop()} is none of: {'; '.join(RUNS)}")
    os.environ["PYTHONUNBUFFERED"] = "1"  # of the runs

    def command():
        with contextlib.ExitStack() as stack:
            folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            if broken := check(arguments, random.Random(arguments.seed), folder):
                raise RunFailed(f"{broken} times a promise was broken")

    commands.run_command(command)


def check(arguments, generator, folder):
    """Makes the check. Returns how often a promise was broken."""
    count = arguments.count or CHECKS[arguments.check]
    if arguments.check == "kills":
        return check_kills(count, generator, folder, arguments.only)
    if arguments.check == "full-disk":
        return check_full_disk(count, generator, folder)
    from pops.support.console import import_tensorflow

    import_tensorflow()
    from pops.support.damage import check_damage
    from pops.support.random_settings import check_settings

    if arguments.check == "damage":
        return check_damage(count, generator, folder)
    return check_settings(count, generator, folder, arguments.runs)


if __name__ == "__main__":
    main()
