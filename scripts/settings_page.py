"""Writes docs/settings.md from configs.py: every setting, what it means, what it may be, and what each environment has."""

import json
import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.configs import ENVIRONMENTS, PROFILES, SETTINGS, TEACHER, TEACHERS, configuration
from pops.support import commands
from pops.support.files import ROOT, replacing

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Which settings are there?

`--set group.key=value` changes one, for example `--set distill.members=1`; it may be given more than once. A value is JSON,
or a word. Two profiles start from different values: `--profile fast` (the default) and `--profile paper`. Settings of any
other environment (`--env-id`) are the dictionaries `ANY` and `ANY_FAST` in `configs.py`.

This page is written by `python scripts/settings_page.py`.
"""


def page():
    """The page's text."""
    configurations = {(name, profile): configuration(name, profile) for name in ENVIRONMENTS for profile in PROFILES}
    groups = SETTINGS | {"teacher": TEACHER} | {f"teacher ({name})": keys for name, keys in TEACHERS.items()}
    return HEAD + "".join(_group(group, keys, configurations) for group, keys in groups.items())


def _group(group, keys, configurations):
    """A group's settings, and below them their values in each environment and profile."""
    lines = [f"\n## {group}\n", "| key | meaning | accepts |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {meaning} | {rule.accepts} |" for key, (rule, meaning) in keys.items()]
    name = group.partition(" ")[0]
    having = {which: config[name] for which, config in configurations.items() if set(keys) <= set(config[name])}
    lines += ["", f"| key | {' | '.join(f'{name} {profile}' for name, profile in having)} |"]
    lines.append(f"| --- |{' --- |' * len(having)}")
    lines += [f"| `{key}` | {' | '.join(_short(values[key]) for values in having.values())} |" for key in keys]
    return "\n".join(lines) + "\n"


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else "a table"


def main():
    commands.Parser(__doc__, "python scripts/settings_page.py").parse_args()
    with replacing(PAGE) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
