"""The display for notebooks, as far as it goes without one; tests/integration/test_notebook.py executes a real one."""

from __future__ import annotations

import sys

import optuna
import pytest
from generators import descend

import lrtune
from lrtune.integrations.notebook import study_html


def test_without_ipython_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(lrtune.InputError, match="needs IPython, which every notebook has"):
        lrtune.NotebookDisplay()


def test_a_result_and_its_study_are_shown_by_the_answer() -> None:
    result = lrtune.tune(descend, lrtune.Space(lr=(1e-3, 0.1)), epochs=3, budget=2.0)
    shown = result._repr_html_()
    assert shown is not None
    assert f"{result.best_recipe.lr:.3g}" in shown  # type: ignore[union-attr]
    assert result.study is not None
    assert study_html(result.study) == shown
    assert lrtune.Result.from_json(result.to_json())._repr_html_() is None, "it has no study to draw"
    assert study_html(optuna.create_study()) is None, "not lrtune's"
