"""Strategies side by side: what is measured, what can be told of it, and the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import lrtune
from lrtune.errors import InputError, SearchError
from lrtune.study.comparison import THRESHOLDS, Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lrtune.core.recipe import Recipe

SPACE = lrtune.Space(lr=(1e-4, 1.0))
NEVER = math.inf


def basin(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate is 0.05; above 0.5 it diverges."""
    x = math.log10(recipe.lr / 0.05)
    for epoch in range(recipe.epochs):
        diverged = recipe.lr > 0.5
        yield {"valid_loss": math.nan if diverged else 0.1 + 0.2 * x * x + math.exp(-epoch)}


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(basin, SPACE, strategies=["random", "grid", "random"], seeds=3, budget=3.0, epochs=4)


def test_every_strategy_runs_once_with_every_seed_at_the_same_budget(found: Comparison) -> None:
    runs = found.runs()
    assert list(runs["strategy"].unique()) == found.strategies == ["random", "grid"]
    assert runs.groupby("strategy")["seed"].apply(list).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert (runs["cost"] <= 3.0 + 1e-9).all()
    assert (runs["cost"] > 1).all()


def test_regret_is_counted_from_the_best_of_all(found: Comparison) -> None:
    values = [record.best.value for record in found.records.values() if record.best is not None]
    assert found.best == min(values)
    assert found.runs()["regret"].min() == pytest.approx(0.0, abs=1e-9)
    assert (found.runs()["regret"] >= -1e-9).all()


def test_a_tighter_threshold_is_never_cheaper(found: Comparison) -> None:
    columns = [f"cost to {threshold:.1%}" for threshold in sorted(THRESHOLDS, reverse=True)]
    costs = found.runs()[columns].to_numpy()
    assert (costs[:, :-1] <= costs[:, 1:]).all()
    assert np.isfinite(costs).any()


def test_the_table_holds_medians(found: Comparison) -> None:
    table, runs = found.table(), found.runs()
    assert table["strategy"].tolist() == ["random", "grid"]
    assert table["regret"].tolist() == [runs.loc[runs["strategy"] == s, "regret"].median() for s in table["strategy"]]


def test_a_maximised_metric_has_its_best_on_top() -> None:
    def score(recipe: Recipe) -> Iterator[dict[str, float]]:
        for _ in range(recipe.epochs):
            yield {"score": 1 - (math.log10(recipe.lr) + 2) ** 2 / 10}

    found = compare(
        score, SPACE, strategies=["random"], seeds=2, budget=3.0, epochs=2, metric="score", direction="maximize"
    )
    values = [record.best.value for record in found.records.values() if record.best is not None]
    assert found.best == max(values)
    assert (found.runs()["regret"] >= -1e-9).all()


def test_the_same_call_again_trains_nothing(tmp_path: Path) -> None:
    calls = [0]

    def counted(recipe: Recipe) -> Iterator[dict[str, float]]:
        calls[0] += 1
        yield from basin(recipe)

    told: dict[str, Any] = {"strategies": ["random"], "seeds": 2, "budget": 2.0, "epochs": 2}
    first = compare(counted, SPACE, storage=tmp_path / "c.db", **told)
    trained = calls[0]
    again = compare(counted, SPACE, storage=tmp_path / "c.db", **told)
    assert calls[0] == trained > 0
    pd.testing.assert_frame_equal(first.runs(), again.runs())
    more = compare(counted, SPACE, storage=tmp_path / "c.db", **{**told, "seeds": 3})
    assert calls[0] > trained
    assert len(more.records) == 3


@pytest.mark.parametrize(("strategies", "seeds"), [([], 3), (["random"], 0)])
def test_nothing_to_compare_is_refused(strategies: list[str], seeds: int) -> None:
    with pytest.raises(InputError, match="at least one strategy and one seed"):
        compare(basin, SPACE, strategies=strategies, seeds=seeds, epochs=2)


def test_an_unknown_strategy_is_refused_before_anything_is_trained() -> None:
    def never(recipe: Recipe) -> Iterator[float]:
        pytest.fail(f"{recipe} was trained")
        yield 0.0

    with pytest.raises(InputError, match="did you mean 'grid'"):
        compare(never, SPACE, strategies=["random", "gird"], epochs=2)


def test_where_nothing_is_completed_there_is_no_comparison() -> None:
    def lost(recipe: Recipe) -> Iterator[float]:
        yield math.nan * recipe.lr

    with pytest.raises(SearchError, match="no search completed"):
        compare(lost, SPACE, strategies=["random"], seeds=1, budget=1.0, epochs=2)


# -- the verdict ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Given(Comparison):
    """A comparison whose costs to 1 % are given: by strategy, then by seed."""

    costs: Mapping[str, Sequence[float]]
    column: str = "cost to 1.0%"

    @property
    def strategies(self) -> list[str]:
        return list(self.costs)

    def runs(self) -> pd.DataFrame:
        rows = [
            {"strategy": name, "seed": seed, "cost": 6.0, "regret": 0.3, "cost to 2.0%": NEVER, "cost to 1.0%": NEVER}
            | {self.column: cost}
            for name, costs in self.costs.items()
            for seed, cost in enumerate(costs)
        ]
        return pd.DataFrame(rows)


def verdict(column: str = "cost to 1.0%", **costs: Sequence[float]) -> str:
    return Given(records={}, best=0.0, budget=6.0, costs=costs, column=column).verdict()


def test_a_clear_winner_is_named_with_its_factor() -> None:
    said = verdict(ours=[1.0, 1.1, 0.9], theirs=[4.0, 4.4, 3.6])
    assert said == "ours came within 1.0% at 1.00 full trainings, 4.0 times cheaper than theirs"
    assert verdict(theirs=[4.0, 4.4, 3.6], ours=[1.0, 1.1, 0.9]) == said


def test_who_mostly_never_gets_there_is_said() -> None:
    assert "theirs mostly never did within 6" in verdict(ours=[1.0, 1.1, 0.9], theirs=[NEVER, NEVER, 5.0])


def test_what_cannot_be_told_is_not_told() -> None:
    assert "cannot be told from 4 seeds" in verdict(a=[1.0, 2.0, 3.0, 4.0], b=[2.0, 1.0, 4.0, 3.0])
    assert "cannot be told" in verdict(a=[2.0] * 5, b=[2.0] * 5)


def test_too_few_seeds_tell_nothing() -> None:
    assert verdict(a=[1.0], b=[5.0]).startswith("1 seed cannot tell a from b")
    assert verdict(a=[1.0, 1.0], b=[5.0, 5.0]).startswith("2 seeds cannot tell a from b")
    assert verdict(a=[1.0]) == "a was compared with nothing"


def test_where_none_came_near_the_regret_decides() -> None:
    said = verdict("regret", ours=[0.1, 0.11, 0.12], theirs=[0.5, 0.6, 0.7])
    assert said.startswith("ours ended nearest to the best, ahead of theirs")


def test_a_winner_that_mostly_never_got_there_is_not_said_to_have_come_at_a_cost() -> None:
    """Better than nothing, three times in seven: that median is no number of trainings."""
    said = verdict(ours=[1.0, 1.0, 1.0, NEVER, NEVER, NEVER, NEVER], theirs=[NEVER] * 7)
    assert "full trainings" not in said
    assert "3 of 7" in said


# -- the command --------------------------------------------------------------------------------------------

STUDY = """\
[study]
name = "bowl"
epochs = 3
[train]
trainer = "train.py:train"
[space]
lr = [1e-3, 10.0]
"""

TRAIN = """\
def train(recipe):
    x = 3.0
    for _ in range(recipe.epochs):
        x -= min(recipe.lr, 0.5) * x
        yield {"valid_loss": x * x + 0.1}
"""


def test_the_command_prints_json_and_writes_its_files(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAIN)
    options = ["--strategies", "random,grid", "--seeds", "3", "--budget", "2", "--out", "out", "--json", "--quiet"]
    command = [sys.executable, "-m", "lrtune", "compare", "study.toml", *options]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["strategy"] for row in figures["table"]] == ["random", "grid"]
    assert len(figures["runs"]) == 6
    assert figures["verdict"]
    assert (tmp_path / "out" / "compare.html").read_text().rstrip().endswith("</html>")
