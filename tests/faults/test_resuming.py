"""The same command again, after something that it rests on has changed, or while another one runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from faults.checker import RECORD, check, load
from faults.driver import until

from lrtune.study.trials.study_reader import SEARCHES

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROWS = 60


def table(*, changed: str = "") -> str:
    """A table of two classes; `changed` stands in one cell of it."""
    cells = [[f"{(7 * row) % 11}", f"{(5 * row) % 13}", str(row % 2)] for row in range(ROWS)]
    if changed:
        cells[20][1] = changed
    return "".join(f"{','.join(row)}\n" for row in [["a", "b", "label"], *cells])


def on_a_table(lab: Lab, **study: str | int) -> None:
    lab.study(
        study={"metric": "accuracy", "direction": "maximize", "epochs": 3} | study,
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "t.csv", "target": "label"},
        search={"trials": 3},
    )


@pytest.mark.row(66, 75)
def test_one_cell_of_the_data_is_another(lab: Lab, saw: Callable[..., None]) -> None:
    data = lab.folder / "t.csv"
    data.write_text(table())
    on_a_table(lab)
    lab.run()
    before = [(trial.params, trial.value) for trial in check(lab, trials=3).trials]
    data.write_text(table(changed="12.5"))
    refused = lab.run("--trials", "5", expect=5)
    assert "data" in refused.last
    assert " -> " in refused.last, "both sides are named"
    assert refused.out == ""
    assert [(trial.params, trial.value) for trial in check(lab, trials=3).trials] == before
    data.write_text(table())
    lab.run("--trials", "5")
    lab.closed["search"]["trials"] = 5
    study = check(lab, trials=5)
    assert [(trial.params, trial.value) for trial in study.trials[:3]] == before
    saw(f"exit 5, {refused.last.partition('error: ')[2]!r}; with the cell put back it went on: exit 0, 5 of 5")


@pytest.mark.row(66)
def test_another_direction_metric_or_range(lab: Lab, saw: Callable[..., None]) -> None:
    lab.run()
    asked = {
        "minimize -> maximize": {"study": {"direction": "maximize"}},
        "valid_loss -> other": {"study": {"metric": "other"}},
        "0.0001 to 10 -> 0.001 to 10": {"space": {"lr": [1e-3, 10.0]}},
        "epochs: 9 -> 8": {"study": {"epochs": 8}},
    }
    said = []
    for both, changes in asked.items():
        lab.study(**changes)  # type: ignore[arg-type]  # texts and numbers
        refused = lab.run(expect=5)
        assert both in refused.last
        said.append(refused.last.partition("error: ")[2])
    lab.study()
    lab.run()
    check(lab, trials=6)
    assert lab.count("begin") == 6
    saw(f"exit 5: {'; '.join(said)}; asked as before: exit 0, nothing trained")


@pytest.mark.row(66)
def test_what_is_no_part_of_the_question_may_change(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 3})
    lab.run()
    shutil.move(lab.folder / "objective.py", lab.folder / "renamed.py")
    lab.study(train={"trainer": "renamed.py:train"}, search={"trials": 8, "strategy": "tpe", "seed": 5})
    lab.run("--workers", "2", env={"OMP_NUM_THREADS": "2"})
    check(lab, trials=8)
    for name in ("result.json", "report.html"):
        (lab.out / name).unlink()
    begun = lab.count("begin")
    lab.run("--trials", "2")
    check(lab, trials=8)
    assert lab.count("begin") == begun
    saw("the trainer's file renamed, another strategy, seed, number of workers and of threads: went on, 8 of 8; "
        "result.json and the report removed: written again, nothing trained")  # fmt: skip


@pytest.mark.row(63)
def test_two_commands_with_different_budgets_on_one_study(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"strategy": "freeze-thaw", "trials": "", "budget": 4.0})
    calls = [
        lab.start("--budget", budget, "--out", f"out{budget}", "--json-log", f"log{budget}", sleep=0.02, hold=2)
        for budget in ("2", "4")
    ]
    lab.trained(1)
    until(lambda: len(load(lab.database).user_attrs.get(SEARCHES, [])) == len(calls), "both to search the study")
    lab.go()
    costs = []
    for call in calls:
        assert call.wait() == 0, call.err
        costs.append(call.json["cost"])
    study = check(lab, result=False, once=False)  # the strategy may repeat its best under another seed
    assert max(costs) <= 4
    records = [trial.user_attrs[RECORD] for trial in study.trials]
    given_up = [record["finished"] for record in records if record["why"] == "the search ended"]
    began = max(piece[0] for record in records for piece in record["pieces"])
    assert all(began < moment for moment in given_up), "a run was given up while the other search went on"
    saw(f"budgets of 2 and 4 at once on one study: both exit 0, together {max(costs):.2f} full trainings, "
        f"and what was paused ({len(given_up)} runs) was given up only when the last one ended")  # fmt: skip


def test_a_study_that_is_moved_aside_under_a_run(lab: Lab, saw: Callable[..., None]) -> None:
    """`--fresh` sees who trains, not who is about to: that one has to end with a sentence."""
    running = lab.start(hold=4)
    lab.trained(1)
    busy = lab.run("--fresh", "--out", "other", "--json-log", "other.jsonl", expect=6)
    assert "is being searched right now" in busy.last
    study = load(lab.database)
    study._storage.delete_study(study._study_id)
    lab.go()
    assert running.wait() == 4, running.err
    assert "was deleted from its storage" in running.last
    until(lambda: not running.family(), "the workers to be gone")
    lab.log.unlink(missing_ok=True)
    (lab.folder / "books").unlink()
    lab.run()
    check(lab, trials=6)
    saw(f"exit 4, {running.last.partition('error: ')[2]!r}; --fresh while one trains: exit 6")
