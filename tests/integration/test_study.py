from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from networks import make

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.search.base import Continue, Finish, Start, Wait
from lrtune.search.registry import NAMES
from lrtune.study.trials.stored_trial import RECORD
from lrtune.study.trials.study_reader import SEARCHES, read
from lrtune.study.trials.trial_store import TrialStore
from lrtune.study.tuning import tune
from lrtune.workers.pool import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import Action, SearchContext
    from lrtune.study.events import Progress

SPACE = lrtune.Space(lr=(1e-5, 10.0))


def basin(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate is 0.1; from 0.5 on it diverges in the third epoch."""
    x = math.log10(recipe.lr)
    for epoch in range(recipe.epochs):
        diverged = recipe.lr > 0.5 and epoch >= 2
        yield {"valid_loss": math.nan if diverged else 0.3 * (x + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)}


@pytest.mark.parametrize("strategy", NAMES)
def test_every_strategy_ends_in_an_answer_within_its_budget(strategy: str) -> None:
    result = tune(basin, SPACE, epochs=27, strategy=strategy, budget=6.0, seed=1)
    assert result.best_recipe is not None
    assert 1e-3 < result.best_recipe.lr < 0.5
    assert result.cost <= 6.0 + 1e-9
    assert sum(result.trials_by_outcome.values()) == len(result.study.trials)
    assert all(trial.state.is_finished() for trial in result.study.trials)


def test_cost_counts_the_yields_exactly() -> None:
    counted = itertools.count()
    asked = [0]

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for values in basin(recipe):
            asked[0] = next(counted) + 1
            yield values

    result = tune(train, SPACE, epochs=10, strategy="tpe", budget=4.0)
    assert result.epochs_trained == asked[0]
    assert result.cost == pytest.approx(asked[0] / 10)


def test_a_diverged_trial_is_never_complete_and_never_best() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for _ in range(recipe.epochs):
            yield {"score": math.inf if recipe.lr > 1e-2 else 0.5 - abs(math.log10(recipe.lr) + 3) / 10}

    result = tune(train, SPACE, epochs=4, metric="score", direction="maximize", strategy="random", trials=20)
    assert result.best_value is not None
    assert math.isfinite(result.best_value)
    for trial in result.study.trials:
        if trial.params["lr"] > 1e-2:
            assert trial.state is optuna.trial.TrialState.PRUNED
            assert "diverged" in trial.user_attrs["outcome"]
            assert trial.constraints["diverged"] > 0


def test_the_same_call_again_resumes_and_finds_nothing_to_do(tmp_path: Path) -> None:
    keep: dict[str, Any] = {"storage": tmp_path / "s.db", "strategy": "random", "seed": 3}
    tune(basin, SPACE, epochs=5, trials=5, **keep)
    both = tune(basin, SPACE, epochs=5, trials=10, **keep)
    again = tune(basin, SPACE, epochs=5, trials=10, **keep)
    once = tune(basin, SPACE, epochs=5, trials=10, strategy="random", seed=3)
    lrs = [trial.params["lr"] for trial in both.study.trials]
    assert len(set(lrs)) == 10
    assert lrs == [trial.params["lr"] for trial in once.study.trials]
    assert again.epochs_trained == both.epochs_trained


def test_the_grid_is_exact_and_complete(tmp_path: Path) -> None:
    space = lrtune.Space(lr=(1e-4, 1e-1), schedule=["constant", "cosine"])
    keep: dict[str, Any] = {"storage": tmp_path / "s.db", "strategy": "grid", "points": 5}
    tune(basin, space, epochs=3, trials=4, **keep)
    result = tune(basin, space, epochs=3, **keep)
    cells = [(trial.params["lr"], trial.params["schedule"]) for trial in result.study.trials]
    assert len(cells) == len(set(cells)) == 10
    assert tune(basin, space, epochs=3, **keep).stopped_because == "the grid is complete"
    assert len(result.study.trials) == 10


def test_a_failed_cell_of_the_grid_is_tried_again() -> None:
    broken = iter([False, True])

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        if next(broken, False):
            msg = "a passing fault"
            raise RuntimeError(msg)
        yield from basin(recipe)

    result = tune(train, SPACE, epochs=2, strategy="grid", points=4, widen=0)
    outcomes = [record.outcome for record in read(result.study).records]
    assert outcomes.count(Outcome.FAILED) == 1
    assert len(outcomes) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metric": "train_loss"}, "metric: valid_loss -> train_loss"),
        ({"direction": "maximize"}, "direction: minimize -> maximize"),
        ({"epochs": 6}, "epochs: 5 -> 6"),
        ({"space": lrtune.Space(lr=(1e-5, 1.0))}, "lr: "),
    ],
)
def test_another_study_under_the_same_name_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    given: dict[str, Any] = {"space": SPACE, "epochs": 5, "metric": "valid_loss", "direction": "minimize"}
    tune(basin, trials=2, strategy="random", storage=tmp_path / "s.db", **given)
    with pytest.raises(lrtune.MismatchError, match=named):
        tune(basin, trials=2, strategy="random", storage=tmp_path / "s.db", **{**given, **change})


def test_a_study_that_lrtune_did_not_make_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    optuna.create_study(study_name="theirs", storage=url).enqueue_trial({"lr": 0.1})
    optuna.create_study(study_name="described", storage=url).set_user_attr("owner", "somebody")
    for name in ("theirs", "described"):
        with pytest.raises(lrtune.MismatchError, match="not made by lrtune"):
            tune(basin, SPACE, epochs=2, trials=1, strategy="random", storage=url, name=name)


def test_a_copy_of_the_file_alone_holds_the_study_while_the_process_goes_on(tmp_path: Path) -> None:
    result = tune(basin, SPACE, epochs=8, trials=3, strategy="random", storage=tmp_path / "s.db")
    copied = shutil.copy(tmp_path / "s.db", tmp_path / "copied.db")
    held = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{copied}")
    assert len(held.trials) == len(result.study.trials) == 3


def test_plain_optuna_reads_the_study(tmp_path: Path) -> None:
    result = tune(basin, SPACE, epochs=9, budget=4.0, strategy="tpe", storage=tmp_path / "s.db", name="plain")
    study = optuna.load_study(study_name="plain", storage=f"sqlite:///{tmp_path / 's.db'}")
    assert study.best_value == result.best_value
    assert study.best_params["lr"] == result.best_recipe.lr
    assert study.best_trial.intermediate_values
    assert {"outcome", "cost"} <= set(study.best_trial.user_attrs)


def test_errors_in_the_first_trial_end_the_search_with_the_users_traceback() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        yield from ()
        raise KeyError(recipe.lr, "forgotten")

    with pytest.raises(lrtune.UserCodeError) as caught:
        tune(train, SPACE, epochs=2, strategy="random", trials=3)
    assert "forgotten" in caught.value.user_traceback


def test_later_errors_are_recorded_and_skipped() -> None:
    calls = itertools.count(1)

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        if next(calls) == 3:
            raise SystemExit(3)
        yield from basin(recipe)

    result = tune(train, SPACE, epochs=2, strategy="random", trials=6)
    assert result.trials_by_outcome["failed"] == 1
    assert len(result.study.trials) == 6


def test_failures_in_a_row_end_the_search() -> None:
    calls = itertools.count(1)

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        if next(calls) > 1:
            msg = "the disk of the data is gone"
            raise OSError(msg)
        yield from basin(dataclasses.replace(recipe, lr=0.1))

    result = tune(train, SPACE, epochs=2, strategy="random", trials=50)
    assert len(result.study.trials) == 6
    assert "the disk of the data is gone" in result.stopped_because


def test_what_failed_and_was_mended_goes_on(tmp_path: Path) -> None:
    broken = [True]
    started: list[Recipe] = []

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        if broken[0] and len(started) > 0:
            msg = "a wrong key"
            raise KeyError(msg)
        started.append(recipe)
        yield from basin(recipe)

    keep: dict[str, Any] = {"storage": tmp_path / "s.db", "strategy": "random", "trials": 9}
    assert "in a row failed" in tune(train, SPACE, epochs=3, **keep).stopped_because
    broken[0] = False
    assert tune(train, SPACE, epochs=3, **keep).trials_by_outcome["failed"] == 5
    assert len(started) == 4


def test_when_all_diverge_it_says_so_early() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        yield {"valid_loss": math.nan, "lr": recipe.lr}

    with pytest.raises(lrtune.SearchError, match="diverged") as caught:
        tune(train, SPACE, epochs=3, strategy="random", trials=50)
    assert caught.value.result is not None
    assert caught.value.result.trials_by_outcome["diverged"] <= 20


def test_the_metric_must_be_reported() -> None:
    with pytest.raises(lrtune.InputError, match=r"'accuracy'.*valid_loss"):
        tune(basin, SPACE, epochs=2, metric="accuracy", strategy="random", trials=1)


def test_patience_completes_a_run_early() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for epoch in range(recipe.epochs):
            yield {"valid_loss": abs(epoch - 4) + 1.0}

    result = tune(train, SPACE, epochs=50, value="best", patience=3, strategy="random", trials=2)
    assert result.epochs_trained == 2 * 8
    assert result.best_value == 1.0


def test_time_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, later, clock = [], [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + later[0])

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        begun.append(recipe)
        for values in basin(recipe):
            if len(begun) == 3:
                later[0] = 1e6
            yield values

    result = tune(train, SPACE, epochs=5, strategy="random", timeout=1e5)
    assert len(begun) == 3
    assert "time limit" in result.stopped_because
    assert all(trial.state.is_finished() for trial in result.study.trials)


def test_only_training_can_stall_and_neither_storing_nor_showing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written for a dashboard, or waits for a storage, is not ended as a training that makes no progress."""
    said: list[str] = []

    class Told(WorkerContext):
        def _say(self, word: bytes) -> None:
            said.append({b"w": "working", b"i": "idle"}.get(word, ""))

    def now() -> str:
        return next(word for word in reversed(["idle", *said]) if word)

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for values in basin(recipe):
            seen["training"].add(now())
            yield values

    def observe(_progress: Progress) -> None:
        seen["observer"].add(now())

    def stored(trial_store: TrialStore, *arguments: Any, _whole: Any = TrialStore.write) -> Any:
        seen["storage"].add(now())
        return _whole(trial_store, *arguments)

    seen: dict[str, set[str]] = {"training": set(), "observer": set(), "storage": set()}
    monkeypatch.setattr(TrialStore, "write", stored)
    tune(train, SPACE, epochs=5, strategy="freeze-thaw", budget=3.0, place=Told(), observer=observe)
    assert seen == {"training": {"working"}, "observer": {"idle"}, "storage": {"idle"}}


def test_a_stopped_search_goes_on_where_it_stood(tmp_path: Path) -> None:
    heard: list[Progress] = []
    keep: dict[str, Any] = {"storage": tmp_path / "s.db", "strategy": "tpe", "budget": 5.0}
    tune(basin, SPACE, epochs=9, should_stop=lambda: len(heard) > 20, observer=heard.append, **keep)
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{tmp_path / 's.db'}")
    before = {trial.number: trial.params for trial in study.trials}
    result = tune(basin, SPACE, epochs=9, **keep)
    assert before.items() <= {trial.number: trial.params for trial in result.study.trials}.items()
    assert all(trial.state.is_finished() for trial in result.study.trials)
    assert result.cost <= 5.0 + 1e-9


def test_enqueued_trials_come_first() -> None:
    storage = optuna.storages.InMemoryStorage()
    tune(basin, SPACE, epochs=2, strategy="random", trials=1, storage=storage)
    optuna.load_study(study_name="lrtune", storage=storage).enqueue_trial({"lr": 0.125})
    result = tune(basin, SPACE, epochs=2, strategy="random", trials=3, storage=storage)
    assert any(trial.params["lr"] == 0.125 for trial in result.study.trials)


def test_threads_share_a_study_without_repeating_a_point(tmp_path: Path) -> None:
    def work() -> None:
        tune(basin, SPACE, epochs=3, strategy="random", trials=12, storage=tmp_path / "s.db")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{tmp_path / 's.db'}")
    lrs = [trial.params["lr"] for trial in study.trials]
    assert len(lrs) == len(set(lrs)) == 12
    assert all(trial.state.is_finished() for trial in study.trials)


KILLED = """
    import os, sys, math
    from lrtune.study.tuning import tune
    from lrtune.core.space import Space

    def train(recipe):
        for epoch in range(recipe.epochs):
            if os.environ.get("DIE") and epoch == 5:
                os._exit(9)
            yield {"valid_loss": (math.log10(recipe.lr) + 1) ** 2 + math.exp(-epoch)}

    tune(train, Space(lr=(1e-5, 10.0)), epochs=9, strategy="random", trials=4, storage=sys.argv[1])
"""


def test_what_a_killed_process_held_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(tmp_path / "s.db")]
    monkeypatch.setenv("DIE", "1")
    assert subprocess.run(command, check=False).returncode == 9
    url = f"sqlite:///{tmp_path / 's.db'}"
    left = optuna.load_study(study_name="lrtune", storage=url).trials
    assert [trial.state for trial in left] == [optuna.trial.TrialState.RUNNING]
    monkeypatch.delenv("DIE")
    subprocess.run(command, check=True)
    after = optuna.load_study(study_name="lrtune", storage=url).trials
    assert len(after) == 4
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in after)
    assert after[0].params == left[0].params


def test_a_trial_taken_over_by_somebody_else_is_left_alone() -> None:
    storage = optuna.storages.InMemoryStorage()
    once = iter([True])

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for epoch, values in enumerate(basin(recipe)):
            if epoch == 1 and next(once, False):
                trial_id = storage.get_trial_id_from_study_id_trial_number(0, 0)
                data = dict(storage.get_trial(trial_id).user_attrs[RECORD])
                data["claim"] = {**data["claim"], "token": "theirs", "lease": None}
                storage.set_trial_user_attr(trial_id, RECORD, data)
            yield values

    result = tune(train, SPACE, epochs=4, strategy="random", trials=2, storage=storage)
    assert any("taken over" in warning for warning in result.warnings)
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE", "COMPLETE"]


def test_an_earlier_answer_makes_the_next_search_cheaper(tmp_path: Path) -> None:
    first = tune(basin, SPACE, epochs=27, seed=1)
    assert first.best_recipe is not None
    page = tmp_path / "result.json"
    page.write_text(json.dumps(first.to_json()))
    for prior in (first, first.study, page, first.to_json()):
        again = tune(basin, SPACE, epochs=27, seed=2, prior=prior, trials=1)
        assert again.best_recipe is not None
        assert abs(math.log10(again.best_recipe.lr / first.best_recipe.lr)) < 0.5
    with pytest.raises(lrtune.InputError, match="no answer to start from"):
        tune(basin, SPACE, epochs=27, prior={"best": None})


class Patient:
    """Trains a run a little, waits for somebody else to end, and finishes it."""

    name = "patient"

    def __init__(self) -> None:
        self.paused, self.gone = threading.Event(), threading.Event()

    def next(self, context: SearchContext, /) -> Action:
        if not context.trials:
            return Start(params={"lr": 0.05}, until=1.0)
        first = context.trials[0]
        if first.open and not self.gone.is_set():
            self.paused.set()
            return Wait()
        return Continue(number=0, until=4.0) if first.open else Finish()


def test_whoever_ends_first_leaves_the_open_runs_to_those_who_still_search(tmp_path: Path) -> None:
    larger, found = Patient(), []

    def work() -> None:
        found.append(tune(basin, SPACE, epochs=4, strategy=larger, trials=9, storage=tmp_path / "s.db"))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert larger.paused.wait(60)
        smaller = tune(basin, SPACE, epochs=4, strategy="random", trials=2, storage=tmp_path / "s.db")
    finally:
        larger.gone.set()
        thread.join()
    assert smaller.trials_by_outcome == {"completed": 1}
    assert [result.trials_by_outcome for result in found] == [{"completed": 2}]
    assert [trial.state.name for trial in smaller.study.trials] == ["COMPLETE", "COMPLETE"]
    again = tune(basin, SPACE, epochs=4, strategy="random", trials=2, storage=tmp_path / "s.db")
    assert again.trials_by_outcome == {"completed": 2}


def test_the_last_one_out_ends_what_is_open(tmp_path: Path) -> None:
    storage = tmp_path / "s.db"
    patient = Patient()
    patient.gone.set()
    raising = itertools.count()

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for values in basin(recipe):
            if next(raising) == 2:
                raise KeyboardInterrupt
            yield values

    with pytest.raises(KeyboardInterrupt):
        tune(train, SPACE, epochs=4, strategy=patient, trials=9, storage=storage)
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{storage}")
    assert study.user_attrs[SEARCHES] == [], "whoever is gone is off the list"
    result = tune(basin, SPACE, epochs=4, strategy="random", trials=2, storage=storage)
    assert all(trial.state.is_finished() for trial in result.study.trials)


class Steady:
    """Trains one run in two pieces."""

    name = "steady"

    def next(self, context: SearchContext, /) -> Action:
        if not context.trials:
            return Start(params={"lr": 0.05}, until=3.0)
        first = context.trials[0]
        price = context.epochs if first.repaid_epochs else context.epochs - first.trained
        affordable = context.left * context.epochs >= price
        return Continue(number=0, until=4.0) if first.open and affordable else Finish()


@pytest.mark.parametrize(("budget", "cost"), [(1.0, 0.75), (2.0, 1.75)])
def test_a_run_whose_checkpoint_is_elsewhere_is_paid_in_full_or_not_at_all(
    tmp_path: Path, budget: float, cost: float
) -> None:
    heard: list[Progress] = []
    keep: dict[str, Any] = {"epochs": 4, "strategy": Steady(), "budget": budget, "storage": tmp_path / "s.db"}

    def first_piece() -> bool:
        return any("at epoch 3" in progress.event for progress in heard)

    tune(make(), SPACE, checkpoints=tmp_path / "a", observer=heard.append, should_stop=first_piece, **keep)
    assert list((tmp_path / "a").iterdir())
    try:
        tune(make(), SPACE, checkpoints=tmp_path / "b", **keep)
    except lrtune.SearchError:
        assert cost < 1, "nothing could be trained to its end"
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{tmp_path / 's.db'}")
    assert sum(trial.user_attrs[RECORD]["trained"] for trial in study.trials) == pytest.approx(4 * cost)


def test_a_new_study_does_not_take_over_what_a_deleted_one_has_left(tmp_path: Path) -> None:
    storage = tmp_path / "s.db"
    first = tune(basin, SPACE, epochs=2, strategy="random", trials=2, seed=1, storage=storage)
    left = [trial.params["lr"] for trial in first.study.trials]
    with contextlib.closing(sqlite3.connect(storage)) as connection, connection:
        for table in ("studies", "study_directions", "study_user_attributes", "study_system_attributes"):
            connection.execute(f"delete from {table}")  # noqa: S608 -- names of tables
    second = tune(basin, SPACE, epochs=2, strategy="random", trials=3, seed=2, storage=storage)
    assert [trial.number for trial in second.study.trials] == [0, 1, 2]
    assert not {trial.params["lr"] for trial in second.study.trials} & set(left)
