"""Runs methods x environments x seeds, on this machine or a Ray cluster, and makes tables and graphs of what is there.

benchmark.py SUITE          all runs of a suite that are not done yet; then their CSV file, tables and graphs
benchmark.py run M,... E,... --seeds 0-9     runs of your own: methods and environments, separated by commas
benchmark.py tune ENV --set pops.shapes=[[2]]    settings for the distillation into one network, by Ray Tune
benchmark.py report         docs/benchmark.md, the pages' tables of results and the graphs anew, from results/
"""

import importlib.util
import json
import math
import sys
import time
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.experiments import ENVIRONMENTS, METHODS, SUITES, experiments

NAMED = {"run": ["METHODS", "ENVS"], "tune": ["ENV"]}


def main():
    parser = commands.Parser(__doc__, "python scripts/benchmark.py classic")
    known = f"{', '.join(SUITES)}, run, tune or report"
    parser.add_argument("suite", metavar="SUITE", help=known)
    names = f"run: methods of {', '.join(METHODS)}; run and tune: of {', '.join(ENVIRONMENTS)}"
    parser.add_argument("names", nargs="*", metavar="NAMES", help=names)
    parser.add_argument("--seeds", metavar="A-B", help="seeds from A to B, or one (the suite's; run and tune: 0)")
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="GROUP.KEY=[...]",
        help="tune: values of a setting to draw from; may be given more than once (tau, members and rates)",
    )
    parser.add_argument("--trials", type=commands.integer(1, 10_000), default=16, metavar="N", help="tune: draws (16)")
    parser.add_argument("--storage", type=Path, metavar="DIR", help="folder of the runs (runs/benchmark)")
    parser.add_argument("--cores", type=commands.integer(0, 1024), default=1, metavar="N", help="for each run (1); 0: all")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster; without it, Ray starts on this machine")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="a suite's tables and graphs go to results/benchmark, the docs and the README",
    )
    parser.add_argument("--one-by-one", action="store_true", help="without Ray, one run after the other")
    parser.add_set_argument("change one setting of all runs; may be given more than once")
    arguments = parser.parse_args()
    if arguments.suite not in (*SUITES, *NAMED, "report"):
        parser.error(f"{arguments.suite!r} is none of {known}")
    named = NAMED.get(arguments.suite, [])
    if len(arguments.names) != len(named):
        parser.error(f"{' '.join([arguments.suite, *named])}: {len(arguments.names)} names were given")
    if arguments.publish and (arguments.suite in ("smoke", *NAMED, "report") or arguments.set):
        parser.error("--publish is for whole suites, without --set")
    if arguments.suite == "tune" and arguments.one_by_one:
        parser.error("tune needs Ray; leave --one-by-one out")
    commands.run_command(lambda: benchmark(arguments), lambda: "start it again to go on")


def benchmark(arguments):
    """What the command does."""
    check_packages(arguments)
    from pops.support.evidence import FOLDER, TITLES, draw, section
    from pops.support.files import make_folder

    name = arguments.suite
    if name == "report":
        for suite in TITLES:
            if (FOLDER / f"{suite}.csv").exists():
                draw(FOLDER / f"{suite}.csv")
        write_pages()
        return
    if name == "tune":
        tune(arguments)
        return
    wanted, storage, failed = asked_for(arguments), storage_of(arguments), []
    folder = FOLDER if arguments.publish else storage
    try:
        make_all(wanted, storage, arguments, failed)
    finally:  # also of what is there when it is interrupted
        made = collect(wanted, failed, storage, make_folder(folder) / f"{name}.csv")
        if arguments.publish:
            write_pages()
        elif made:
            write({made.with_suffix(".md"): section(made)})
    if failed:
        raise RunFailed(f"{len(failed)} runs failed, {failed[0]} first; their logs are in {storage}")


def collect(wanted, failed, storage, path):
    """Writes the CSV file of the runs that are there, also of further seeds, and draws its graphs.

    Returns:
        `path`, or None if there are none.
    """
    from pops.support.console import log
    from pops.support.evidence import draw
    from pops.support.experiments import failed_row, rows, write_rows

    made = [part for part in {*wanted, *others_made(wanted, storage)} if part.summary(storage)]
    found = [row for experiment in sorted(made, key=by_name) for row in rows(experiment, storage)]
    if found or failed:
        write_rows(path, [*found, *map(failed_row, failed)])
        for written in [path, *draw(path)]:
            log(f"written: {written}")
        return path
    return None


def write_pages():
    """Writes docs/benchmark.md, and the tables of results in the README and the other pages."""
    from pops.support.evidence import PAGE, README, page, readme
    from pops.support.results import with_tables

    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PAGE.parent.glob("*.md"))}
    changed = {path: made for path, text in texts.items() if (made := with_tables(text)) != text}
    write(changed | {PAGE: page(), README: readme(README.read_text(encoding="utf-8"))})


def write(texts):
    """Writes texts, {path: text}."""
    from pops.support.console import log
    from pops.support.files import replacing

    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        log(f"written: {path}")


def check_packages(arguments):
    """Raises ConfigurationError where a package is missing that is not one of requirements.txt."""
    for package, needed in (("scipy", True), ("ray", arguments.suite != "report" and not arguments.one_by_one)):
        if needed and not importlib.util.find_spec(package):
            raise ConfigurationError(f"{package} is missing; install with: pip install -r requirements-ray.txt")


def storage_of(arguments):
    """The folder of the runs."""
    from pops.support.files import make_folder

    return make_folder(arguments.storage or Path("runs/benchmark") / arguments.suite).resolve()


def tune(arguments):
    """Makes the trials of a tuning, and prints and writes what came of them."""
    from pops.support.console import log, table
    from pops.support.experiments import write_rows
    from pops.support.tuning import draw_trials, space, tune_settings

    (environment,), storage, (seed, *more) = arguments.names, storage_of(arguments), seeds_of(arguments, "0")
    if more:
        raise ConfigurationError(f"--seeds {arguments.seeds}: tune takes one seed")
    trials = draw_trials(environment, space(arguments.over), arguments.trials, arguments.set, seed)
    found, failed = tune_settings(trials, storage, arguments.cores, arguments.address)
    write_rows(storage / "tune.csv", found, found[0])
    log(table([list(found[0]), *([in_words(*pair) for pair in row.items()] for row in found)]))
    log(f"written: {storage / 'tune.csv'}")
    if failed:
        raise RunFailed(f"{len(failed)} trials failed; {failed[0]}")


def in_words(name, value):
    """A value in the table of trials: rewards with one decimal, where there are some, all else as `--set` takes it."""
    if name in ("reward", "reported", "stderr"):
        return f"{value:.1f}" if math.isfinite(value) else ""
    return json.dumps(value)


def seeds_of(arguments, default):
    """The seeds that the arguments name, a range."""
    low, _, high = (arguments.seeds or default).partition("-")
    if not (low.isdigit() and (high or low).isdigit() and int(low) <= int(high or low)):
        raise ConfigurationError(f"--seeds {arguments.seeds}: give one seed, or a range such as 0-4")
    return range(int(low), int(high or low) + 1)


def asked_for(arguments):
    """The runs that the arguments name, a list of Experiments."""
    if suite := SUITES.get(arguments.suite):
        seeds, settings = seeds_of(arguments, f"0-{suite['seeds'] - 1}"), [*suite.get("settings", ()), *arguments.set]
        return experiments(suite["methods"], suite["environments"], seeds, settings)
    methods, environments = (names.split(",") for names in arguments.names)
    return experiments(methods, environments, seeds_of(arguments, "0"), arguments.set)


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


def make_all(wanted, storage, arguments, failed):
    """Makes the runs that are not done yet, and adds those that fail to `failed`."""
    from rich.live import Live

    from pops.support.cluster import on_ray, one_by_one
    from pops.support.console import console, log

    left = [experiment for experiment in wanted if not experiment.summary(storage)]
    log(f"{len(wanted)} runs in {storage}; {len(wanted) - len(left)} are done")
    if not left:
        return
    start, ended = time.perf_counter(), 0
    if arguments.one_by_one:
        outcomes = one_by_one(left, storage, arguments.cores)
    else:
        outcomes = on_ray(left, storage, arguments.cores, arguments.address)
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        for experiment, outcome in outcomes:
            if outcome:
                ended += 1
                if outcome.failed:
                    failed.append(experiment)
                said = f"failed: {outcome.failed}" if outcome.failed else f"{outcome.seconds:,.0f} s"
                log(f"{ended} of {len(left)}: {experiment}, {said}")
            live.update(running(left, storage))
    log(f"{len(left) - len(failed)} runs made in {time.perf_counter() - start:,.0f} s; {len(failed)} failed")


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
