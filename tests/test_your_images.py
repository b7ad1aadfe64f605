"""docs/your_images.ipynb runs from its first cell to its last: on twelve drawn scenes, with the tests' tiny network.

The settings are the cell tagged `parameters`; as papermill does, the test inserts a cell after it that replaces them.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "your_images.ipynb"
SETTINGS = """
SCENES = 12
GIN_FILES = [{tiny!r}, "gin/options/fine_tune.gin"]
GIN_PARAMS = ["EPOCHS=1", "NUM_STAGES=1", "XLA=False"]
"""


@pytest.fixture(scope="module")
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra test")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_no_output_is_stored(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert [index for index, cell in enumerate(code(notebook)) if "parameters" in cell.metadata.get("tags", [])] == [0]


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra test")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra test")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = notebook.cells.index(code(notebook)[0]) + 1
    settings = SETTINGS.format(tiny=str(ROOT / "tests" / "tiny.gin"))
    notebook.cells.insert(place, nbformat.v4.new_code_cell(settings))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in code(notebook) for output in cell.outputs]
    shown = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "12 records in" in shown and "3 records in" in shown
    assert "EPOCHS" not in shown.split("from your_images/records/train")[1].splitlines()[0]
    assert "STEPS = 3 (1 epoch of 3 steps)" in shown and "no stuff maps" in shown
    assert "finished 3 steps" in shown and "validation loss" in shown
    images = [output.data["image/jpeg"] for output in outputs if "image/jpeg" in output.get("data", {})]
    assert len(images) == 3  # the contact sheet and two images of detections
    work = tmp_path / "your_images"
    assert (work / "exported" / "1" / "saved_model.pb").is_file() and (work / "report").is_dir()
