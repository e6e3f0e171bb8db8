"""A real notebook, executed by its own kernel: the live display, the answer, a study, and what it looks like.

Its packages are no part of the usual run: ``nox -s notebook``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.notebook

SEARCH = """\
import lrtune
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

trainer = lrtune.SklearnTrainer(MLPClassifier([32], solver="sgd"), *load_digits(return_X_y=True))
result = lrtune.tune(
    trainer, lrtune.Space(lr=(1e-4, 10.0)), epochs=9, budget=3.0, observer=lrtune.NotebookDisplay(every=0.1)
)"""
STUDY = """\
%load_ext lrtune.integrations.notebook
result.study"""
ESTIMATOR = """\
from sklearn.linear_model import SGDClassifier
search = lrtune.LearningRateSearchCV(SGDClassifier(), epochs=5, budget=2.0, random_state=0)
search.fit(*load_digits(return_X_y=True))"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """The notebook with its outputs, and how often its first cell was updated."""
    import nbformat
    from nbclient import NotebookClient

    updates = 0

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: dict[str, Any], *given: Any) -> Any:
            nonlocal updates
            updates += msg["msg_type"] == "update_display_data"
            return super().process_message(msg, *given)

    cells = [nbformat.v4.new_code_cell(code) for code in (SEARCH, "result", STUDY, ESTIMATOR)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = tmp_path_factory.mktemp("notebook")
    Client(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    assert list(folder.iterdir()) == [], "nothing is left beside it"
    return notebook, updates


def html(cell: Any) -> str:
    """Its one output, but for what tqdm says of notebooks without ipywidgets when Optuna is imported."""
    (output,) = [output for output in cell["outputs"] if "TqdmWarning" not in output.get("text", "")]
    assert output["output_type"] in {"display_data", "execute_result"}
    return str(output["data"]["text/html"])


def test_one_cell_is_updated_and_ends_with_the_answer(executed: tuple[Any, int]) -> None:
    notebook, updates = executed
    search, result, study, estimator = notebook["cells"]
    assert updates >= 3
    assert re.search(r'<p class="lr">0?\.?\d', html(search)), "the answer is in the place of the progress"
    assert html(result) == html(search) == html(study)
    assert "LearningRateSearchCV" in html(estimator)


def test_the_notebook_as_a_page(executed: tuple[Any, int], tmp_path: Path) -> None:
    from nbconvert import HTMLExporter

    page = tmp_path / "notebook.html"
    page.write_text(HTMLExporter().from_notebook_node(executed[0])[0])
    assert page.read_text().count('class="lrtune-cell"') == 3
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    picture = tmp_path / "notebook.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,1600", f"--screenshot={picture}"]
    subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000
