"""Runs the examples and the notebooks at small size."""

import json
import pathlib

import matplotlib.pyplot as plt
import pytest

from tests.support.documents import as_for_users, run

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
LONGEST = 60  # lines of a script
# Text that each script prints on success.
SHOWN = {
    "mnist_cnn": "predicted [",
    "resume": "the variables are bit-identical",
    "export": "largest difference of the exported program: 0.0e+00",
    "fine_tuning": "everything trained: {'loss'",
}


@pytest.mark.spread  # all of them in each run
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script(script, tmp_path, monkeypatch, capsys):
    assert len(script.read_text().splitlines()) <= LONGEST
    monkeypatch.setattr("sys.argv", [str(script), "--small"])
    with as_for_users(tmp_path):
        run({0: script.read_text()}, script)
    assert SHOWN.get(script.stem, "") in capsys.readouterr().out


def cells(notebook):
    """The code cells of a notebook."""
    content = json.loads(notebook.read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook(notebook, tmp_path):
    """Runs the cells as one program, without a Jupyter kernel, which would take seconds to start."""
    code = "\n".join("".join(cell["source"]) for cell in cells(notebook))
    assert "SMALL = False" in code
    with as_for_users(tmp_path):
        run({0: code.replace("SMALL = False", "SMALL = True")}, notebook)
    plt.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_committed_without_outputs(notebook):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(notebook))


def test_the_page_of_examples_lists_all():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    assert all(f"`{script.name}`" in page for script in SCRIPTS)
    assert all(f"`notebooks/{notebook.name}`" in page for notebook in NOTEBOOKS)
