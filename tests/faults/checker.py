"""The invariants I1 to I10 of the catalogue, asked of what lies on disk with sqlite3, json and Optuna alone.

Nothing of lrtune's is imported here: what it wrote has to be readable without it.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy.pool
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faults.driver import Lab

__all__ = ["check", "load"]

RECORD = "lrtune:record"
SECRET = "swordfish-4711"  # noqa: S105 -- of the tests' own server


def load(where: str | Path, name: str = "bowl") -> optuna.Study:
    """I5: the storage opens with plain Optuna; an SQLite file is sound."""
    if isinstance(where, Path):
        with closing(sqlite3.connect(f"{where.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            assert connection.execute("pragma integrity_check").fetchone()[0] == "ok", "I5"
        where = f"sqlite:///{where}"
    storage = optuna.storages.RDBStorage(
        str(where).replace("postgresql://", "postgresql+psycopg://"),
        engine_kwargs={"poolclass": sqlalchemy.pool.NullPool},
    )
    return optuna.load_study(study_name=name, storage=storage)


def check(
    lab: Lab,
    *,
    name: str = "bowl",
    trials: int | None = None,
    over: bool = True,
    killed: bool = False,
    once: bool = True,
    kills: int = 0,
    result: bool = True,
    secrets: Iterable[str] = (SECRET,),
) -> optuna.Study:
    """Check I1 to I8 (I9 and I10 are the driver's).

    Parameters
    ----------
    trials
        How many trials there have to be; None leaves it open.
    over
        Whether the search has ended: then nothing is running at all.
    killed
        Whether it was killed just now: the next start has to take over what the dead hold.
    once
        Whether no two trials may have the same recipe, seed included.
    kills
        How many processes that train were killed: each may have trained to an end that was not stored any more.
    result
        Whether there is a result.json and a report; they are written when a search has ended.
    """
    study = load(lab.storage or lab.database, name)
    _acknowledged(lab, study, all_of_them=over and not killed)
    if not killed:
        _running(study, over=over)
    _paid(lab, study, once=once, kills=kills)
    _best(lab, study, result=result)
    _files(lab, result=result)
    _secrets(lab, secrets)
    if trials is not None:
        assert len(study.trials) == trials
    return study


def _acknowledged(lab: Lab, study: optuna.Study, *, all_of_them: bool) -> None:
    """I1: what was acknowledged is there, with the same value; at the end everything is acknowledged, once."""
    lines = [json.loads(line) for line in lab.log.read_text().splitlines()] if lab.log.exists() else []
    by_number = {trial.number: trial for trial in study.trials}
    for line in (line for line in lines if line["study"] == study.study_name):
        trial = by_number[line["trial"]]
        assert trial.state.is_finished(), f"I1: trial {trial.number} was acknowledged"
        if line["outcome"] == "completed":
            assert trial.value == line["value"], "I1"
            assert trial.params["lr"] == line["recipe"]["lr"], "I1"
    numbers = Counter(line["trial"] for line in lines if line["study"] == study.study_name)
    assert all(count == 1 for count in numbers.values()), f"I1: acknowledged twice: {numbers}"
    if lab.log.exists() and all_of_them:
        ended = {trial.number for trial in study.trials if trial.state.is_finished() and RECORD in trial.user_attrs}
        assert set(numbers) == ended, f"I1: never acknowledged: {sorted(ended - set(numbers))}"


def _running(study: optuna.Study, *, over: bool) -> None:
    """I2: nothing is held by the dead; at the end nothing is running."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        assert not over, f"I2: trial {trial.number} is still running"
        claim = trial.user_attrs[RECORD]["claim"]
        assert claim is None or _lives(claim["lease"]), f"I2: trial {trial.number} is held by a dead process"


def _lives(lease: dict[str, Any]) -> bool:
    try:
        words = Path(f"/proc/{lease['pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return words[0] != "Z" and words[19] == lease["started"]


def _paid(lab: Lab, study: optuna.Study, *, once: bool, kills: int) -> None:
    """I3 and I4: nothing is evaluated twice, and no limit is exceeded."""
    if once:
        done = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
        recipes = Counter(json.dumps([trial.params, trial.user_attrs[RECORD]["recipe"]["seed"]]) for trial in done)
        assert all(count == 1 for count in recipes.values()), f"I3: a recipe was completed twice: {recipes}"
        ended = Counter(line[1] for line in lab.books if line[0] == "end")
        assert sum(count - 1 for count in ended.values()) <= kills, f"I3: trained to the end twice: {ended}"
    search, epochs = lab.closed["search"], lab.closed["study"]["epochs"]
    if search.get("trials"):
        assert len(study.trials) <= search["trials"], "I4"
    if search.get("budget"):
        records = [trial.user_attrs[RECORD] for trial in study.trials if RECORD in trial.user_attrs]
        assert sum(record["trained"] for record in records) <= search["budget"] * epochs * (1 + 1e-9), "I4"


def _best(lab: Lab, study: optuna.Study, *, result: bool) -> None:
    """I6: the best value is finite, and the best of all completed."""
    values = [trial.value for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert all(value is not None and math.isfinite(value) for value in values), "I6"
    assert len({trial.number for trial in study.trials}) == len(study.trials)
    if not values:
        return
    best = (min if study.direction.name == "MINIMIZE" else max)(value for value in values if value is not None)
    assert study.best_value == best, "I6"
    if result:
        told = json.loads((lab.out / "result.json").read_text())["best"]["value"]
        assert told is None or told == best, "I6"


def _files(lab: Lab, *, result: bool) -> None:
    """I7: a report is whole; nothing half-written lies about."""
    page = lab.out / "report.html"
    if result or page.exists():
        text = page.read_text()
        assert text.lower().startswith("<!doctype html>"), "I7"
        assert text.rstrip().endswith("</html>"), "I7"


def _secrets(lab: Lab, secrets: Iterable[str]) -> None:
    """I8: no secret in anything that was written."""
    for path in lab.folder.rglob("*"):
        if path.is_file() and not path.name.startswith("secret"):
            data = b""
            with contextlib.suppress(FileNotFoundError):  # e.g. a write-ahead log that its last user takes away
                data = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in data, f"I8: a secret is in {path.name}"
