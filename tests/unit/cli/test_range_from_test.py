"""``optimize --range-test``: the range it sets, what it counts, and that it goes on where it stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lrtune.cli import run

if TYPE_CHECKING:
    from pathlib import Path

STUDY = """\
[study]
name = "digits"
epochs = 6
[train]
estimator = "sklearn.linear_model:SGDClassifier"
data = "digits"
options = {{ loss = "log_loss" }}
[space]
{lr}
batch_size = 32
[search]
strategy = "random"
budget = {budget}
"""


def study_file(folder: Path, *, lr: str = "", budget: float = 2.3) -> Path:
    path = folder / "study.toml"
    path.write_text(STUDY.format(lr=lr, budget=budget))
    return path


def optimized(path: Path, out: Path, *options: str) -> dict:
    assert run(["optimize", str(path), "--quiet", "--out", str(out), *options]) == 0
    return json.loads((out / "result.json").read_text())


def test_the_range_is_the_interval_and_its_cost_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = study_file(tmp_path), tmp_path / "out"
    result = optimized(path, out, "--range-test")
    assert "the range test says to search" in capfd.readouterr().err
    kept = json.loads((out / "range-test.json").read_text())
    assert kept["interval"]["low"] <= result["best"]["lr"] <= kept["interval"]["high"]
    assert result["cost"] <= 2.3
    trained = sum(count for group, count in result["trials"].items() if group == "completed")
    assert result["cost"] >= kept["cost"] + trained - 1e-5
    assert result["epochs_trained"] == pytest.approx(6 * result["cost"], rel=1e-4)

    changed = (out / "range-test.json").stat().st_mtime_ns
    again = optimized(path, out, "--range-test")
    assert (out / "range-test.json").stat().st_mtime_ns == changed, "the same command does not test again"
    assert again["best"] == result["best"]
    assert again["cost"] == result["cost"], "nor does it train more"


def test_a_range_that_is_given_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = study_file(tmp_path, lr="lr = [0.01, 0.1]", budget=1), tmp_path / "out"
    result = optimized(path, out, "--range-test")
    assert "nothing to do" in capfd.readouterr().err
    assert not (out / "range-test.json").exists()
    assert 0.01 <= result["best"]["lr"] <= 0.1


def test_a_range_is_needed_without_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["optimize", str(study_file(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    assert "lr is missing" in capfd.readouterr().err


def test_a_budget_that_leaves_no_training_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = study_file(tmp_path, budget=1)
    assert run(["optimize", str(path), "--range-test", "--out", str(tmp_path / "out")]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "a budget of 1 leaves no full training beside the range test" in last
