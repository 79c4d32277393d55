"""One page about a run, in a file of its own that needs nothing else: what came out, its graphs, and its settings."""

import base64
import csv
import html
import json
from pathlib import Path

from pops.support.files import replacing
from pops.support.results import LOW, choice_lines, low, no_finished_run, result_rows
from pops.support.rewards import rewards_text
from pops.utils import draw_rewards

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { margin: 0 auto; padding: 1rem; max-width: 72rem }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } caption { text-align: left; font-weight: 600 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere }
.settings td:first-child { white-space: nowrap }
img { max-width: min(100%, 60rem); height: auto } figure { margin: 1rem 0 }
summary { cursor: pointer; font-weight: 600 }
"""


def write_report(folder):
    """Writes report.html into the folder of a finished run of pops.py or train_teacher.py. Returns its path.

    Raises:
        ConfigurationError: the folder holds no such run.
    """
    folder = Path(folder)
    try:
        config, summary = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary"))
        with open(folder / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        title = f"{config['environment']}, seed {config['seed']}, {config['command']}"
        parts = [_results(summary), _settings(config)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise no_finished_run(folder, "a finished run", error) from None
    parts[1:1] = [_learning(folder, rows, config, summary), _plots(folder)]
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>PoPS: {html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    with replacing(folder / "report.html") as temporary:
        body = f"<h1>PoPS: {html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
        temporary.write_text(head + body, encoding="utf-8")
    return folder / "report.html"


def _table(headings, rows, kind=""):
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>\n" for row in rows)
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{cells}</tbody></table></div>'
    )


def _results(summary):
    if "steps" not in summary:  # of a teacher's training
        teacher = summary["teacher"]
        row = [f"{teacher['weights']:,}", rewards_text(teacher), *low(teacher), teacher["episodes"]]
        return _table(["weights", "reward ± s.e.", *LOW, "fresh episodes"], [row]) + _time(summary)
    headings, *rows = result_rows(summary)
    lines = [*choice_lines(summary), f"ended: {summary['ended']}"]
    return _table(headings, rows) + "".join(f"<p>{html.escape(line)}</p>\n" for line in lines) + _time(summary)


def _time(summary):
    return f"<p>{summary['seconds'] / 60:.1f} minutes in all.</p>"


def _figure(path, text):
    image = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{html.escape(text)}" src="data:image/png;base64,{image}"></figure>'


def _learning(folder, rows, config, summary):
    path = draw_rewards(rows, config, summary, folder / "rewards.png")
    return "<h2>Evaluations</h2>\n" + _figure(path, "reward of every evaluation against time, and the loss")


def _number(name):
    """The number of a graph's step, and its name."""
    return int(name.removesuffix(".png").rpartition("_")[2]), name


def _plots(folder):
    names = ["size_vs_reward.png", *sorted((path.name for path in folder.glob("*_step_*.png")), key=_number)]
    figures = [_figure(folder / name, Path(name).stem.replace("_", " ")) for name in names if (folder / name).exists()]
    return "<h2>Graphs</h2>\n" + "\n".join(figures) if figures else ""


def _settings(config):
    tables = []
    for group, settings in config["settings"].items():
        rows = [(key, json.dumps(value)) for key, value in settings.items()]
        tables.append(
            f"<details><summary>{html.escape(group)}</summary>{_table(['setting', 'value'], rows, 'settings')}</details>"
        )
    versions = _table(["package", "version"], config.get("versions", {}).items(), "settings")
    start = [(key, config[key]) for key in ("profile", "teacher", "teacher_sha256") if key in config]
    return "\n".join(["<h2>Settings</h2>", _table(["", ""], start, "settings"), *tables, "<h2>Versions</h2>", versions])
