"""The tutorials run from top to bottom; the facts that they state are assertions in their cells."""

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"
FIGURES = {
    "01_lynx_and_hare": 3,
    "02_your_own_model": 3,
    "03_is_my_posterior_calibrated": 3,
    "04_pendulum": 3,
    "05_strides": 3,
    "06_surrogate_or_solver": 2,
    "07_forward_or_residual": 3,
    "08_from_a_form_to_a_posterior": 2,
}


def executed(path, folder):
    """Run a tutorial in a kernel of its own; a cell that fails raises with its traceback."""
    notebook = jupytext.read(path)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def test_every_tutorial_is_executed_and_listed():
    found = {path.stem for path in FOLDER.glob("*.py")}
    assert found == set(FIGURES)
    listed = (FOLDER / "README.md").read_text()
    assert all(f"{name}.py" in listed for name in found)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FIGURES])
def test_tutorial_runs_and_states_facts(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend puts figures into the cells
    notebook = executed(FOLDER / f"{name}.py", tmp_path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == FIGURES[name]
    assert sum(cell.source.count("\nassert ") for cell in code) >= 4
    assert not list(tmp_path.iterdir())  # a tutorial leaves no file behind
