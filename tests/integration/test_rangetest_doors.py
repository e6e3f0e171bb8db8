"""The range test from its doors: the command, the figure, the front door."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

import lrtune
from lrtune.cli import run
from lrtune.core.space import Space
from lrtune.reporting.figures import sweeps
from lrtune.search.lr_range.lr_range import RangeSweep, RangeTest, central

if TYPE_CHECKING:
    from pathlib import Path

STUDY = """\
[study]
name = "digits"
epochs = 30
[train]
estimator = "sklearn.linear_model:SGDClassifier"
data = "digits"
options = { loss = "log_loss" }
[space]
lr = [1e-5, 10.0]
batch_size = [16, 32, 64]
schedule = ["constant", "cosine"]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_the_command_answers_and_writes(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["range-test", str(study)]) == 0
    said = capsys.readouterr()
    numbers = json.loads((tmp_path / "lrtune-out/digits/range-test.json").read_text())
    low, high = numbers["interval"]["low"], numbers["interval"]["high"]
    assert low < 0.03 < high
    assert f"In a study file: lr = [{low:.2g}, {high:.2g}]" in said.out
    assert "confidence good" in said.out
    assert numbers["cost"] < 0.25
    page = (tmp_path / "lrtune-out/digits/range-test.html").read_text()
    assert "<script src=" not in page, "no request leaves the page"


def test_json_is_all_there_is_on_stdout(study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = [
        "range-test",
        str(study),
        "--json",
        "--seeds",
        "2",
        "--steps",
        "60",
        "--low",
        "1e-6",
        "--out",
        str(tmp_path),
    ]
    assert run(told) == 0
    found = json.loads(capfd.readouterr().out)
    assert len(found["sweeps"]) == 2
    assert found["swept"] == {"low": 1e-6, "high": 10.0}
    assert len(found["sweeps"][0]["lr"]) <= 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--low", "1", "--high", "0.1"], "low must be positive and below a finite high (got 1 and 0.1)"),
        (["--steps", "5"], "at least 20 steps"),
        (["--seeds", "0"], "at least one seed"),
        (["--low", "nan"], "low must be positive"),
    ],
)
def test_bad_options_are_refused(
    study: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["range-test", str(study), "--out", str(tmp_path), *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lrtune: error: ")
    assert message in last


def test_the_middle_of_a_space() -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=[64, 16, 32], optimizer=["adam", "sgd"], weight_decay=(1e-6, 1e-2))
    recipe = central(space, epochs=7, seed=3)
    assert (recipe.batch_size, recipe.optimizer, recipe.epochs, recipe.seed) == (32, "adam", 7, 3)
    assert recipe.lr == pytest.approx(1e-2)
    assert recipe.weight_decay == pytest.approx(1e-4)


def _found(losses: list[float], interval: tuple[float, float] | None) -> RangeTest:
    lrs = tuple(10.0 ** (-5 + 0.05 * k) for k in range(len(losses)))
    sweep = RangeSweep(seed=0, lrs=lrs, losses=tuple(losses), ended="<b>user's</b> %{text}")
    return RangeTest(
        interval=interval,
        confidence="fair" if interval else "unreliable here",
        why="",
        swept=(1e-5, 1.0),
        edge=0.5 if interval else None,
        sweeps=(sweep,),
        cost=0.1,
    )


def test_an_explosion_does_not_flatten_the_figure() -> None:
    losses = [2.3 - 0.02 * k for k in range(80)] + [1e18] * 10 + [math.nan] * 10
    figure = sweeps(_found(losses, (1e-3, 0.5)))
    assert figure.layout.yaxis.range[1] < 10
    assert all(height < 10 for trace in figure.data for height in trace.y)
    assert [shape.x0 for shape in figure.layout.shapes] == [1e-3, 0.5]
    assert not any("<b>" in str(trace.hovertemplate) for trace in figure.data)


@pytest.mark.parametrize("losses", [[], [math.nan] * 30, [2.3] * 30, [-5.0] * 30])
def test_what_is_unreliable_can_be_drawn(losses: list[float]) -> None:
    figure = sweeps(_found(losses, None))
    assert not figure.layout.shapes
    assert figure.to_json()


def test_the_front_door_has_it() -> None:
    assert lrtune.RangeTest is RangeTest
