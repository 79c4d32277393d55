"""The results of finished runs, as tables."""

import csv
import json
import re
from pathlib import Path

from pops.support.errors import ConfigurationError
from pops.support.files import ROOT
from pops.support.rewards import reward_line, rewards_text, shape_text, shares
from pops.support.rules import WAYS

CHOICES = {
    "smallest_above_objective": "smallest above the objective",
    "smallest_matching_teacher": "smallest that matches the teacher",
}

LOW = "lowest", "worst tenth"  # headings of what `low` gives


def low(report):
    """The lowest reward of a report's episodes, and the mean of the worst tenth (older runs lack it), in words."""
    return [f"{report[key]:.0f}" if key in report else "" for key in ("reward_min", "reward_worst_tenth")]


def load_run(folder):
    """Reads a finished run: {folder, config, summary, metrics}, metrics as a list of rows.

    Raises:
        ConfigurationError: the folder does not hold a finished run of pops.py.
    """
    folder = Path(folder)
    run = {"folder": folder}
    try:
        needed = {
            "config": "environment seed settings teacher".split(),
            "summary": ["teacher", "steps", "seconds", *CHOICES],
        }
        for name, keys in needed.items():
            run[name] = json.loads((folder / f"{name}.json").read_text())
            if missing := [key for key in keys if key not in run[name]]:
                raise ValueError(f"{name}.json has no {missing[0]}")
        # Names of files follow from the numbers of steps, so they must be numbers.
        steps = [entry["step"] for entry in run["summary"]["steps"]]
        if steps != list(range(1, len(steps) + 1)) or not all(type(step) is int for step in steps):
            raise ValueError("summary.json does not number its steps 1, 2, ...")
        with open(folder / "metrics.csv", newline="") as file:
            run["metrics"] = [
                {key: text if key == "phase" else float(text or "nan") for key, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise no_finished_run(folder, "a finished run of pops.py", error) from None
    return run


def no_finished_run(folder, wanted, error):
    """The ConfigurationError for a folder that is not the one `wanted`, as reading it failed with `error`."""
    if (folder / "checkpoint").exists() and not (folder / "summary.json").exists():
        return ConfigurationError(f"{folder}: the run has not finished; its own command with --resume goes on")
    return ConfigurationError(f"{folder}: does not hold {wanted} ({error})")


def result_rows(summary):
    """The summary as a table, rows of text: headings, teacher, then what each PoPS step pruned and shrunk.

    Of pruned networks the nonzero weights count, of all others, which are dense, every weight.
    """
    also = [name for name in WAYS if name in summary["teacher"]]
    headings = ["policy", "hidden units", "weights", "percent", "reward ± s.e.", *LOW]
    rows = [[*headings, *(f"{name} ± s.e." for name in also), "seconds"]]

    def add(name, report, widths, size, seconds=""):
        others = [rewards_text(report[name]) if name in report else "" for name in also]
        rows.append([name, shape_text(widths), *size, rewards_text(report), *low(report), *others, seconds])

    teacher = summary["teacher"]
    add("teacher", teacher, teacher["widths"], dense_size(teacher))
    for entry in summary["steps"]:
        if "pruned" in entry:
            pruned = entry["pruned"]
            add(f"pruned {entry['step']}", pruned, entry["from_widths"], (f"{pruned['nonzero']:,}", shares(pruned)))
        if "shrunk" in entry:
            shrunk = entry["shrunk"]
            add(f"shrunk {entry['step']}", shrunk, shrunk["widths"], dense_size(shrunk), f"{entry['seconds']:.0f}")
    return rows


def dense_size(report):
    """Weights and percent of the original, in words, of a network whose weights all count."""
    return f"{report['weights']:,}", f"{report['percent']:.3g} %"


def choice_lines(summary):
    """In words, which student is the smallest above the objective and which the smallest that matches the teacher; and
    which inputs the last pruned network can do without."""
    for key, meaning in CHOICES.items():
        choice = summary[key]
        yield f"{meaning}: " + (f"{reward_line(choice)}, {choice['file']}" if choice else "none")
    for entry in [entry for entry in summary["steps"] if "inputs" in entry][-1:]:
        names = summary.get("input_names") or [f"input {number}" for number in range(len(entry["inputs"]))]
        if unused := [name for name, share in zip(names, entry["inputs"], strict=True) if not share]:
            yield f"not used by pruned {entry['step']}: {', '.join(unused)} ({len(unused)} of {len(names)} inputs)"


def markdown_table(runs):
    """For each run a row for each of its `CHOICES`, or one row where both are the same student."""
    also = [name for name in WAYS if any(name in run["summary"]["teacher"] for run in runs)]
    headings = ["seed", "student", "hidden units", "weights", "percent", "reward", *LOW, "minutes"]
    headings[6:6] = also
    rows = [headings, ["---"] * len(headings)]
    for run in runs:
        summary = run["summary"]
        students = {}
        for key, meaning in CHOICES.items():
            if summary[key]:
                students.setdefault(summary[key]["step"], []).append(meaning)
        for entry in summary["steps"]:
            if entry["step"] in students:
                report, minutes = entry["shrunk"], f"{summary['seconds'] / 60:.1f}"
                row = [
                    str(run["config"]["seed"]),
                    " and ".join(students[entry["step"]]),
                    shape_text(report["widths"]),
                ]
                row += [*dense_size(report), rewards_text(report)]
                row += [rewards_text(report[name]) if name in report else "" for name in also]
                rows.append([*row, *low(report), minutes])
    return _markdown(rows)


def steps_table(runs):
    """For each run its `result_rows`, in Markdown."""
    rows = []
    for run in runs:
        headings, *found = result_rows(run["summary"])
        rows = rows or [["seed", *headings], ["---"] * (len(headings) + 1)]
        rows += [[str(run["config"]["seed"]), *row] for row in found]
    return _markdown(rows)


def _markdown(rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TABLES = {"students": markdown_table, "steps": steps_table}


def with_tables(text):
    """A page's text with its tables of results/ made anew, which follow lines such as `<!-- steps of results/pong -->`."""

    def made(match):
        folders = sorted((ROOT / "results" / match["name"]).glob("seed*"))
        return f"{match['line']}\n{TABLES[match['kind']]([load_run(folder) for folder in folders])}\n"

    line = rf"(?P<line><!-- (?P<kind>{'|'.join(TABLES)}) of results/(?P<name>\w+) -->\n)"
    return re.sub(rf"^{line}\n(\|.*\n)*", made, text, flags=re.MULTILINE)


def objective_of(config, summary):
    """The objective of a run: what its settings leave open is in its summary."""
    return summary.get("objective", config["settings"]["evaluation"]["objective"])
