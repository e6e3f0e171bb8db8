"""The studies that ship run end to end, in a small version, from any folder; what is recorded beside them holds."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from layering import ROOT

from lrtune.config.study_file import read_study
from lrtune.config.user_code import load
from lrtune.study.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STUDIES = ROOT / "studies"
NAMES = sorted(path.parent.name for path in STUDIES.glob("*/study.toml"))
SWEPT = sorted(path.parent.name for path in STUDIES.glob("*/sweep.csv"))
LONGEST = 60_000  # bytes of a figure
HOSTED = {"hf-bert": "transformers"}
SMALL = {"python-lm": ["--epochs", "1", "--budget", "1"]}
FAST = ["--epochs", "3", "--budget", "2"]


def program(path: str, name: str) -> Any:
    return load(f"{path}:{name}", ROOT, where="test")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """The folder and the JSON of a study's small search, which is made once."""

    @functools.cache
    def searched(study: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(study)
        return folder, said(study, folder)

    return searched


def said(study: str, folder: Path, *options: str) -> dict[str, Any]:
    """The JSON of a small search, from a folder that has nothing to do with the study."""
    command = [sys.executable, "-m", "lrtune", "optimize", str(STUDIES / study / "study.toml"), "--json", "--quiet"]
    small = [*command, *SMALL.get(study, FAST), "--out", str(folder / "out"), *options]
    done = subprocess.run(small, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_all_six_are_here() -> None:
    assert NAMES == ["breast-cancer-csv", "diabetes-sgd-regressor", "digits-mlp", "digits-sgd", "hf-bert", "python-lm"]


def marked(name: str) -> Any:
    """The study's name; a long one is slow, one of a host runs where that is installed."""
    host = HOSTED.get(name)
    missing = pytest.mark.skipif(host is not None and find_spec(host) is None, reason=f"{host} is not installed")
    slow = [pytest.mark.slow] if name == "python-lm" else []
    return pytest.param(name, marks=[pytest.mark.hosts, missing] if host else slow)


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_a_study_runs_as_it_stands(name: str, first: Callable[[str], tuple[Path, dict[str, Any]]]) -> None:
    folder, told = first(name)
    study = read_study(STUDIES / name / "study.toml")
    low, high = study.space.lr_range
    assert told["study"] == name
    assert low / 10 <= told["best"]["lr"] <= high * 10
    assert math.isfinite(told["best"]["value"])
    assert told["cost"] <= float(SMALL.get(name, FAST)[-1]) + 1e-6
    assert {path.name for path in (folder / "out").iterdir()} >= {"result.json", "report.html", "study.db"}


def test_a_study_is_deterministic(first: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    """One that decides nothing by a measured speed, as stack="auto" does for small networks."""
    assert first("digits-sgd")[1] == said("digits-sgd", tmp_path)


@pytest.mark.slow
def test_a_character_model_gives_the_same_curve_twice() -> None:
    study = read_study(STUDIES / "python-lm" / "study.toml")
    curves = []
    for _ in range(2):
        run = study.make_trainer().start([study.space.recipe({"lr": 0.01}, epochs=12, seed=3)])
        curves.append([report.point for report in run.advance(4)])
        run.close()
    assert curves[0] == curves[1]


def test_the_regression_diverges_with_finite_weights_and_the_rule_sees_it(tmp_path: Path) -> None:
    told = said("diabetes-sgd-regressor", tmp_path, "--strategy", "grid", "--budget", "7")
    assert told["trials"]["diverged"] >= 2
    assert told["best"]["lr"] < told["edge"]["high"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_belongs_to_the_study(name: str) -> None:
    found = Result.from_json(json.loads((STUDIES / name / "result.json").read_text()))
    study = read_study(STUDIES / name / "study.toml")
    assert (found.name, found.metric, found.direction) == (name, study.settings.metric, study.settings.direction)
    assert found.best_recipe is not None
    assert found.best_recipe.epochs == study.settings.epochs
    assert found.cost <= (study.settings.limits.budget or math.inf)
    answer = (STUDIES / name / "README.md").read_text()
    assert re.search(rf"^  learning rate +{re.escape(f'{found.best_recipe.lr:.3g}')}$", answer, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_small_and_whole(name: str) -> None:
    path = STUDIES / name / "figure.svg"
    assert path.stat().st_size < LONGEST
    drawn = ET.fromstring(path.read_text())  # noqa: S314 -- our own file
    counted = sum(element.tag.endswith("circle") for element in drawn.iter())
    sweep = STUDIES / name / "sweep.csv"
    swept = len(sweep.read_text().splitlines()) - 3 if sweep.exists() else 0
    assert counted >= swept + 2
    assert "figure.svg" in (STUDIES / name / "README.md").read_text()


@pytest.mark.parametrize("name", SWEPT)
def test_an_answer_is_as_good_as_the_dense_sweep(name: str) -> None:
    """Within 2 %, by the very line that the study's README shows."""
    comparison = program("studies/benchmarks/dense_sweep.py", "comparison")
    study = read_study(STUDIES / name / "study.toml")
    found = json.loads((STUDIES / name / "result.json").read_text())
    line = comparison(study, STUDIES / name / "sweep.csv", found)
    assert line.endswith(", within 2%"), line
    assert f"> {line}" in (STUDIES / name / "README.md").read_text()


def test_the_five_that_must_be_are_swept() -> None:
    assert SWEPT == ["diabetes-sgd-regressor", "digits-mlp", "digits-sgd", "hf-bert", "python-lm"]


def test_regret_is_nothing_at_the_best_and_one_at_knowing_nothing() -> None:
    regret = program("studies/benchmarks/dense_sweep.py", "regret")
    held = [
        {"lr": "", "value": 4.0},  # untrained
        {"lr": "", "value": 3.0},  # the best constant
        {"lr": "", "value": math.nan},  # unknown
        {"lr": "0.1", "value": 1.0},
        {"lr": "1", "value": math.inf},
    ]
    assert regret(1.0, held) == 0.0
    assert regret(3.0, held) == 1.0
    assert regret(1.04, held) == pytest.approx(0.02)
    assert regret(0.5, held) < 0  # a better seed than the sweep's
    maximised = [{"lr": "", "value": 0.5}, {"lr": "0.1", "value": 0.9}]
    assert regret(0.7, maximised, -1.0) == pytest.approx(0.5)


def test_a_sweep_trains_its_grid_once_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    study = STUDIES / "diabetes-sgd-regressor" / "study.toml"
    table = tmp_path / "sweep.csv"
    sweep = program("studies/benchmarks/dense_sweep.py", "main")
    told = [str(study), "--points-per-decade", "1", "--out", str(table), "--lr"]
    sweep([*told, "0.001", "0.01"])
    first = table.read_text()
    sweep([*told, "0.001", "0.1"])
    lines = table.read_text().splitlines()
    assert table.read_text().startswith(first)
    assert len(first.splitlines()) == 3 + 2 * 2  # head, two ways of knowing nothing, two rates under two schedules
    assert len(lines) == 3 + 2 * 3
    assert len(set(lines)) == len(lines)


def test_the_sweep_is_what_the_study_trains() -> None:
    """One row of the committed sweep, trained anew."""
    module = "studies/benchmarks/dense_sweep.py"
    study = read_study(STUDIES / "diabetes-sgd-regressor" / "study.toml")
    held = program(module, "rows")(STUDIES / "diabetes-sgd-regressor" / "sweep.csv")
    row = next(row for row in held if row["lr"] == "0.01" and row["schedule"] == "cosine")
    recipe = study.space.recipe({"lr": 0.01, "schedule": "cosine"}, epochs=study.settings.epochs, seed=0)
    outcome, value = program(module, "trained")(study.make_trainer(), recipe, study)
    assert outcome == row["outcome"] == "completed"
    assert value == pytest.approx(row["value"], rel=1e-3)  # the table holds six digits; libraries differ in the last


def test_the_csv_file_is_what_scikit_learn_holds() -> None:
    import numpy as np
    import pandas as pd
    from sklearn.datasets import load_breast_cancer

    frame = pd.read_csv(STUDIES / "breast-cancer-csv" / "breast_cancer.csv")
    rows, labels = load_breast_cancer(return_X_y=True)
    assert (frame.pop("diagnosis").map({"malignant": 0, "benign": 1}) == labels).all()
    np.testing.assert_allclose(frame.to_numpy(), rows, rtol=1e-5)
