"""The documentation: its links lead somewhere, its commands parse, and what is generated is fresh."""

import importlib
import re
import shlex
import sys
import tomllib

import pytest

from pops.__main__ import COMMANDS
from pops.scripts.settings_page import PAGE, page
from pops.support import commands
from pops.support.results import choice_lines, load_run, result_rows, with_tables

from conftest import ROOT

PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md")])


def anchors(text):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for link in filter(None, (one or other for one, other in links)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name}: {link}"


def test_tables_follow_from_the_results():
    tables = 0
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert with_tables(text) == text, f"{path.name}: run: python scripts/benchmark.py report"
        tables += text.count(" of results/")
    assert tables >= 7
    mark = "<!-- steps of results/pong -->\n\n"
    assert "| 1 | shrunk 4 | 2-5-5-3 | 1,641 | 0.0974 % | 19.6 ± 0.3 |" in with_tables(f"{mark}| seed |\n| 0 |\n")


def test_the_example_is_a_run_of_the_results():
    text = (ROOT / "docs" / "cartpole.md").read_text(encoding="utf-8")
    summary = load_run(ROOT / "results" / "cartpole" / "seed0")["summary"]
    shown = {tuple(line.split()) for line in text.splitlines()}
    for row in result_rows(summary):
        assert tuple(" ".join(row).split()) in shown
    assert all(line in text for line in choice_lines(summary))


def commands_of(path):
    """The command lines in a page that start a script of the project, or its command `pops`."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    for line in f"{blocks}\n{inline}".splitlines():
        for part in re.split(r"&&|;|\|\s", line.partition(" # ")[0].removeprefix("$ ")):
            words = part.split()
            if words[:1] == ["python"] and len(words) > 2 and words[1].startswith("scripts/"):
                yield words[1].removeprefix("scripts/").removesuffix(".py"), part
            elif words[:1] == ["pops"] and len(words) > 2 and words[1] in COMMANDS:
                yield COMMANDS[words[1]][0], part


# What a page writes in the place of a word.
PLACEHOLDERS = {"ENV": "cartpole", "N": "0", "NAME": "cartpole", "FORMAT": "c", "ID": "Acrobot-v1", "X": "1"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_parse(path, monkeypatch, capsys):
    class Parsed(Exception):
        pass

    def parse(parser, *_):
        super(commands.Parser, parser).parse_args()
        raise Parsed

    monkeypatch.setattr(commands.Parser, "parse_args", parse)
    for script, line in commands_of(path):
        if script in ("quickstart", "test"):  # they take what pops.py and pytest take
            continue
        words = re.sub(r"\[[^]]*\]|…|\.\.\.", "", line)
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(words)]
        # A dash alone, as in `--set …`, names an option whose value was left out.
        if words[-1].startswith("--") and words[-1] in ("--set", "--only"):
            words = words[:-1]
        monkeypatch.setattr(sys, "argv", words[1:] if words[0] == "python" else [" ".join(words[:2]), *words[2:]])
        try:
            importlib.import_module(f"pops.scripts.{script}").main()
        except Parsed:
            continue
        except SystemExit:
            pytest.fail(f"{path.name}: {line}: {capsys.readouterr().err}")


def test_the_page_of_settings_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python scripts/settings_page.py"


def test_the_package_requires_what_the_requirement_files_say():
    def lines(name):
        text = (ROOT / f"requirements{name}.txt").read_text()
        return [line.partition("#")[0].strip() for line in text.splitlines() if line.partition("#")[0].strip()]

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == lines("")
    extras = project["optional-dependencies"]
    assert extras["sb3"] == lines("-sb3") and extras["tensorboard"] == lines("-tensorboard")
    assert extras["onnx"] == lines("-export")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
