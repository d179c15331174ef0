"""The notebooks of the documentation: they run as users run them, and what they show is stored in them."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 250_000
MACHINE = re.compile(r"/(tmp|var|home|root|Users|work)/|[A-Z]:\\\\")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"first_hour", "own_factor", "qlib_faster"}


def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    """In a kernel of its own and an empty folder; no cell raises or complains, and all show what the stored ones do."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stored = nbformat.read(notebook, as_version=4)
    (tmp_path / "here").mkdir()
    run = nbformat.read(notebook, as_version=4)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(tmp_path / "here")}}).execute()
    assert not list((tmp_path / "here").iterdir())
    assert [kinds(cell) for cell in run.cells] == [kinds(cell) for cell in stored.cells]


def kinds(cell: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """Of each output of a cell its type, its stream, and the formats that it comes in."""
    return [
        (one.output_type, one.get("name", ""), tuple(sorted(one.get("data", ())))) for one in cell.get("outputs", ())
    ]


def test_a_stored_notebook_shows_what_it_did(notebook):
    assert notebook.stat().st_size < MOST_BYTES
    read = nbformat.read(notebook, as_version=4)
    nbformat.validate(read)
    code = [cell for cell in read.cells if cell.cell_type == "code"]
    assert read.cells[0].cell_type == "markdown"
    assert "You learn" in read.cells[0].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = outputs(read)
    assert not [one for one in shown if one.output_type == "error" or one.get("name") == "stderr"]
    assert any("image/png" in one.get("data", ()) for one in shown)
    texts = [one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in shown]
    assert not [text for text in texts + [cell.source for cell in read.cells] if MACHINE.search(text)]
