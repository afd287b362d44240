"""The notebook runs from its first cell to its last, on two batches an epoch."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks/01_quickstart.ipynb"
TYPED = '"trainer.max_epochs=3"'
CUT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2")
CUT += ("trainer.limit_test_batches=2", "data.image_size=128")


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(TYPED in cell.source for cell in code) == 1
    for cell in code:
        cell.source = cell.source.replace(TYPED, ", ".join(f'"{key}"' for key in CUT))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()  # raises what a cell raises
    assert (tmp_path / "outputs/quickstart/checkpoints/best.ckpt").is_file()
    printed = [o.text.strip() for cell in code for o in cell.outputs if o.output_type == "stream"]
    assert "classes: tree" in printed
