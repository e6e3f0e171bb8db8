from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrtune
from lrtune.core.outcome import Ending, Outcome
from lrtune.core.recipe import Recipe
from lrtune.study.result import Edge, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBERS = st.floats(1e-6, 1e6)
GROUPS = {outcome.group for outcome in Outcome}


@st.composite
def results(draw: st.DrawFn) -> Result:
    found = draw(st.booleans())
    return Result(
        name="digits",
        metric="valid_loss",
        direction=draw(st.sampled_from(["minimize", "maximize"])),
        best_recipe=Recipe(lr=draw(NUMBERS), epochs=9, schedule="cosine") if found else None,
        best_value=draw(NUMBERS) if found else None,
        band=(draw(NUMBERS), draw(NUMBERS)) if found else None,
        edge=draw(st.builds(Edge, lr=st.none() | NUMBERS, low=st.none() | NUMBERS, high=st.none() | NUMBERS)),
        cost=draw(st.integers(0, 100)) / 8,
        epochs_trained=float(draw(st.integers(0, 1000))),
        trials_by_outcome={group: draw(st.integers(0, 9)) for group in sorted(GROUPS)},
        stopped_because="the budget is used",
        ending=draw(st.sampled_from(Ending)),
        warnings=tuple(draw(st.lists(st.text(), max_size=3))),
        machine_time=draw(st.none() | st.integers(0, 100).map(lambda n: n / 8)),
    )


@given(results())
def test_a_result_survives_json(result: Result) -> None:
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Result.from_json(json.loads(text)) == result


@given(results())
def test_the_json_has_what_is_promised(result: Result) -> None:
    data = result.to_json()
    assert set(data) == {
        *("study", "metric", "direction", "best", "band", "edge", "cost", "epochs_trained"),
        *("trials", "stopped_because", "ending", "warnings", "probability", "noise", "machine_time"),
    }
    assert set(data["trials"]) == GROUPS
    assert set(data["edge"]) == {"lr", "low", "high"}
    if data["best"] is not None:
        assert {"lr", "batch_size", "schedule", "warmup", "optimizer", "epochs", "seed", "value"} <= set(data["best"])


def test_without_a_study_reading_says_what_to_do() -> None:
    bare = Result.from_json(
        {
            "study": "s",
            "metric": "m",
            "direction": "minimize",
            "best": None,
            "band": None,
            "edge": {"lr": None, "low": None, "high": None},
            "cost": 0,
            "epochs_trained": 0,
            "trials": {},
            "stopped_because": "",
            "warnings": [],
        }
    )
    with pytest.raises(ValueError, match=r"optuna\.load_study"):
        bare.trials()


def basin(recipe: Recipe) -> Iterator[dict[str, float]]:
    x = math.log10(recipe.lr)
    for epoch in range(recipe.epochs):
        yield {"valid_loss": math.nan if x > 0 else 0.3 * (x + 1) ** 2 + 0.1 + 2 * math.exp(-epoch)}


@pytest.fixture(scope="module")
def result() -> Result:
    return lrtune.tune(basin, lrtune.Space(lr=(1e-5, 10.0)), epochs=9, strategy="qmc", budget=6.0, seed=0)


def test_trials_are_a_table_of_one_row_each(result: Result) -> None:
    table = result.trials()
    assert len(table) == len(result.study.trials)  # type: ignore[union-attr]  # if it is not there, this fails
    assert sum(result.trials_by_outcome.values()) == len(table)
    assert "lr" in table.columns


def test_the_page_is_written_whole(result: Result, tmp_path: Path) -> None:
    result.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert f"{result.best_recipe.lr:.2g}"[:3] in page  # type: ignore[union-attr]  # if it is not there, this fails


def test_a_page_that_cannot_be_written_is_a_storage_error(result: Result, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(lrtune.StorageError):
        result.report(tmp_path / "report.html")


def test_the_text_says_the_learning_rate(result: Result) -> None:
    text = result.text()
    assert result.best_recipe is not None
    assert f"{result.best_recipe.lr:.3g}"[:4] in text
    assert len(text.splitlines()) < 30
