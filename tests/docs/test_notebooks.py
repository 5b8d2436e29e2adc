"""The notebooks run from start to end, and are stored with what they showed."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST_BYTES = 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_outputs_and_small(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < LARGEST_BYTES


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TCP.*")  # of the kernel's own parts
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It finds the examples from its own place, and writes below it.
    (tmp_path / "docs" / "notebooks").mkdir(parents=True)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    copy = shutil.copy(path, tmp_path / "docs" / "notebooks")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'client'}")
    notebook = nbformat.read(copy, 4)
    where = {"metadata": {"path": str(Path(copy).parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    for cell, before in zip(notebook.cells, nbformat.read(path, 4).cells, strict=True):
        assert [o.output_type for o in cell.get("outputs", [])] == [o.output_type for o in before.get("outputs", [])]
