"""Runs methods x environments x seeds, on this machine or a Ray cluster, and makes tables and graphs of what is there.

benchmark.py SUITE          all runs of a suite that are not done yet, its CSV file, graphs, and docs/benchmark.md
benchmark.py run M,... E,... --seeds 0-9     runs of your own: methods and environments, separated by commas
benchmark.py report         docs/benchmark.md and the graphs anew, from results/benchmark
"""

import importlib.util
import sys
import time
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.experiments import ENVIRONMENTS, METHODS, SUITES, experiments


def main():
    parser = commands.Parser(__doc__, "python scripts/benchmark.py classic")
    known = f"{', '.join(SUITES)}, run or report"
    parser.add_argument("suite", metavar="SUITE", help=known)
    parser.add_argument("methods", nargs="?", metavar="METHODS", help=f"run: of {', '.join(METHODS)}")
    parser.add_argument("environments", nargs="?", metavar="ENVS", help=f"run: of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--seeds", metavar="A-B", help="seeds from A to B, or one (the suite's; run: 0)")
    parser.add_argument("--storage", type=Path, metavar="DIR", help="folder of the runs (runs/benchmark)")
    parser.add_argument("--cores", type=commands.integer(0, 1024), default=1, metavar="N", help="for each run (1); 0: all")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster; without it, Ray starts on this machine")
    parser.add_argument("--one-by-one", action="store_true", help="without Ray, one run after the other")
    parser.add_set_argument("change one setting of all runs; may be given more than once")
    arguments = parser.parse_args()
    if arguments.suite not in (*SUITES, "run", "report"):
        parser.error(f"{arguments.suite!r} is none of {known}")
    if (arguments.suite == "run") != (arguments.environments is not None):
        parser.error("run METHODS ENVS: give both" if arguments.suite == "run" else "METHODS and ENVS are for run only")
    commands.run_command(lambda: benchmark(arguments), lambda: "start it again to go on")


def benchmark(arguments):
    """What the command does."""
    check_packages(arguments)
    from pops.support.evidence import FOLDER, TITLES, draw
    from pops.support.files import make_folder

    name = arguments.suite
    if name == "report":
        for suite in TITLES:
            if (FOLDER / f"{suite}.csv").exists():
                draw(FOLDER / f"{suite}.csv")
        write_page()
        return
    wanted, storage = asked_for(arguments), make_folder(arguments.storage or Path("runs/benchmark") / name).resolve()
    failed = make_all(wanted, storage, arguments)
    folder = FOLDER if name in TITLES and not arguments.set else storage
    collect(wanted, failed, storage, make_folder(folder) / f"{name}.csv")
    if folder == FOLDER:
        write_page()
    if failed:
        raise RunFailed(f"{len(failed)} runs failed, {failed[0]} first; their logs are in {storage}")


def collect(wanted, failed, storage, path):
    """Writes the CSV file of the runs that are there, also of further seeds, and draws its graphs."""
    from pops.support.console import log
    from pops.support.evidence import draw
    from pops.support.experiments import failed_row, rows, write_rows

    made = [part for part in {*wanted, *others_made(wanted, storage)} if part.summary(storage)]
    found = [row for experiment in sorted(made, key=by_name) for row in rows(experiment, storage)]
    if found or failed:
        write_rows(path, [*found, *map(failed_row, failed)])
        for written in [path, *draw(path)]:
            log(f"written: {written}")


def write_page():
    """Writes docs/benchmark.md."""
    from pops.support.console import log
    from pops.support.evidence import PAGE, page
    from pops.support.files import replacing

    with replacing(PAGE) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    log(f"written: {PAGE}")


def check_packages(arguments):
    """Raises ConfigurationError where a package is missing that is not one of requirements.txt."""
    for package, needed in (("scipy", True), ("ray", arguments.suite != "report" and not arguments.one_by_one)):
        if needed and not importlib.util.find_spec(package):
            raise ConfigurationError(f"{package} is missing; install with: pip install -r requirements-ray.txt")


def asked_for(arguments):
    """The runs that the arguments name, a list of Experiments."""
    suite = SUITES.get(arguments.suite)
    low, _, high = (arguments.seeds or (f"0-{suite['seeds'] - 1}" if suite else "0")).partition("-")
    if not (low.isdigit() and (high or low).isdigit() and int(low) <= int(high or low)):
        raise ConfigurationError(f"--seeds {arguments.seeds}: give one seed, or a range such as 0-4")
    seeds = range(int(low), int(high or low) + 1)
    if suite:
        settings = [*suite.get("settings", ()), *arguments.set]
        return experiments(suite["methods"], suite["environments"], seeds, settings)
    return experiments(arguments.methods.split(","), arguments.environments.split(","), seeds, arguments.set)


def others_made(wanted, storage):
    """Runs of further seeds of the same methods, environments and settings, which were made before."""
    for experiment in wanted:
        for made in (storage / str(experiment)).parent.glob("seed*/summary.json"):
            other = experiment._replace(seed=int(made.parent.name.removeprefix("seed")))
            if other not in wanted and other.summary(storage):
                yield other


def by_name(experiment):
    """The order of a CSV file."""
    return list(ENVIRONMENTS).index(experiment.environment), list(METHODS).index(experiment.method), experiment.seed


def make_all(wanted, storage, arguments):
    """Makes the runs that are not done yet. Returns those that failed."""
    from rich.live import Live

    from pops.support.cluster import on_ray, one_by_one
    from pops.support.console import log

    left = [experiment for experiment in wanted if not experiment.summary(storage)]
    log(f"{len(wanted)} runs in {storage}; {len(wanted) - len(left)} are done")
    if not left:
        return []
    start, failed, ended = time.perf_counter(), [], 0
    if arguments.one_by_one:
        outcomes = one_by_one(left, storage, arguments.cores)
    else:
        outcomes = on_ray(left, storage, arguments.cores, arguments.address)
    with Live(refresh_per_second=1, transient=True) as live:
        for experiment, outcome in outcomes:
            if outcome:
                ended += 1
                failed += [experiment] if outcome.failed else []
                said = f"failed: {outcome.failed}" if outcome.failed else f"{outcome.seconds:,.0f} s"
                live.console.print(f"{ended} of {len(left)}: {experiment}, {said}", highlight=False, soft_wrap=True)
            live.update(running(left, storage))
    log(f"{len(left) - len(failed)} runs made in {time.perf_counter() - start:,.0f} s; {len(failed)} failed")
    return failed


def running(left, storage):
    """A table of the runs that are being made: what each said last."""
    from rich.table import Table

    from pops.support.cluster import last_line

    shown = Table("run", "says", box=None, padding=(0, 2, 0, 0))
    for experiment in left:
        if (storage / f"{experiment}.lease").exists():
            shown.add_row(str(experiment), last_line(storage / f"{experiment}.log")[:100])
    return shown


if __name__ == "__main__":
    main()
