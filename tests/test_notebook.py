"""The notebook: whole as committed, without traces of a machine; and it still runs from start to end.

After a change to it: `jupyter execute --inplace notebooks/pops.ipynb`, which comes with nbclient, renews its outputs.
"""

import base64
import json
import re
import shutil
import tomllib

import pytest

from conftest import ROOT, TINY

NOTEBOOK = ROOT / "notebooks" / "pops.ipynb"
IMAGES = ("image/png", "image/gif", "image/jpeg")
MACHINE = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|Users|usr|opt|var|private|srv|mnt)/|[A-Z]:\\\\")

# What is small enough for a test, and gives students of a few weights.
SMALL = [
    *TINY,
    "distill.until=objective",
    "replay.student_states=0",
    "prune.final_sparsity=0.99",
    "pops.steps=1",
    "environment.max_episode_steps=50",
]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook):
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def text_of(cell):
    """All text that a cell printed, or displayed as Markdown."""
    outputs = cell["outputs"]
    parts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "".join("".join(part) for part in parts)


def images_of(cell):
    """The pictures that a cell displayed, as bytes."""
    found = [output.get("data", {}) for output in cell["outputs"]]
    return [base64.b64decode("".join(data[kind])) for data in found for kind in IMAGES if kind in data]


def check_outputs(notebook):
    """Every cell ran in its turn, and left what it is for: no error, no warning and no path."""
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert [name for name, cell in cells.items() if not cell["outputs"]] == ["setup", "draw"]
    for name, cell in cells.items():
        for output in cell["outputs"]:
            # An error while something is displayed becomes an output, and the cell goes on.
            assert output["output_type"] in ("stream", "display_data", "execute_result"), (name, output)
            assert output.get("name") != "stderr", (name, output)
            words = {key: value for key, value in output.get("data", {}).items() if key not in IMAGES}
            text = json.dumps([output.get("text"), words, output.get("metadata")], ensure_ascii=False)
            assert not MACHINE.search(text) and "arning" not in text, (name, text)
        for image in images_of(cell):
            assert image.startswith(b"\x89PNG"), name
    assert len(images_of(cells["run"])) == 1 and len(images_of(cells["table"])) == 1
    assert b"acTL" in images_of(cells["film"])[0], "the film does not move"
    for name in ("weights", "own"):  # every weight is there, each as a factor
        text = text_of(cells[name])
        size = re.search(r"became ([\d,]+) weights", text)[1]
        assert text.count("·") == int(size.replace(",", "")), text


def test_the_committed_notebook_is_executed_and_clean():
    notebook, text = read(NOTEBOOK), NOTEBOOK.read_text(encoding="utf-8")
    check_outputs(notebook)
    cells = code_cells(notebook)
    assert "| teacher | 256-256-128 | 99,584 |" in text_of(cells["table"])
    assert "99,584 weights became 6 weights" in text_of(cells["weights"])
    assert "4,480 weights became 6 weights, reward 49" in text_of(cells["own"])
    assert len(text) < 1_500_000 and len(images_of(cells["film"])[0]) < 300_000
    assert str(ROOT) not in text
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_its_links_lead_to_files():
    text = "".join("".join(cell["source"]) for cell in read(NOTEBOOK)["cells"] if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link.partition("#")[0]).exists(), link


def test_binder_installs_what_the_extra_says():
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert required == ["-r ../requirements.txt", *project["optional-dependencies"]["notebook"]]
    assert (ROOT / ".binder" / "runtime.txt").read_text().strip() in ("python-3.11", "python-3.12", "python-3.13")


def test_it_runs_from_start_to_end(tmp_path, monkeypatch):
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -r tests/requirements.txt")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -r tests/requirements.txt")
    nbformat = pytest.importorskip("nbformat")
    # A copy of the clone, so that nothing is written into it, and nothing else is found.
    clone = tmp_path / "clone"
    for name in ("notebooks", "pops", "policies", "support", "saved_models/cartpole"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for module in ROOT.glob("*.py"):
        shutil.copy(module, clone)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("POPS_NOTEBOOK_SETTINGS", " ".join(SMALL))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(clone / "notebooks" / "pops.ipynb", as_version=4)
    for cell in code_cells(notebook).values():
        cell.update(outputs=[], execution_count=None)
    folder = {"metadata": {"path": str(clone / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
    check_outputs(notebook)
    assert len(list((tmp_path / "temporary").glob("pops-*/report.html"))) == 2
