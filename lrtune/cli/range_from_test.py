"""``optimize --range-test``: the range of learning rates of a range test, where none is given."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from lrtune.cli.console import note
from lrtune.core.files import clean, write_atomically
from lrtune.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.config.study_file import StudyFile

__all__ = ["ranged"]

FILE = "range-test.json"


def ranged(study: StudyFile, trainer: Any, out: Path, *, fresh: bool = False) -> tuple[StudyFile, float]:
    """The study with the range that a range test found, and the cost of the test in full trainings.

    The test is stored in the output folder, so that the same command again resumes in the same space. Where it is
    unreliable the default range stays.

    Raises
    ------
    InputError
        If the budget leaves no full training beside it.
    """
    if study.lr_given:
        note("lrtune: note: a range of learning rates is given, so --range-test has nothing to do")
        return study, 0.0
    from lrtune.search.lr_range.lr_range import check_trainer

    check_trainer(trainer)
    found = (None if fresh else _stored(study, trainer, out)) or _tested(study, trainer, out)
    cost, budget = float(found["cost"]), study.settings.limits.budget
    if budget is not None and budget < 1 + cost:
        msg = (
            f"a budget of {budget:g} leaves no full training beside the range test, which cost {cost:.2g}: "
            f"raise it to {1 + cost:.2g} or more, or give the range of learning rates"
        )
        raise InputError(msg)
    interval = found["interval"]
    if interval is None:
        low, high = study.space.lr_range
        note(f"lrtune: warning: the range test is unreliable here ({found['why']}); searching {low:g} to {high:g}")
        return study, cost
    from lrtune.core.space import Space

    space = Space.from_json({**study.space.to_json(), "lr": [interval["low"], interval["high"]]})
    note(f"lrtune: note: the range test says to search {interval['low']:g} to {interval['high']:g} ({found['why']})")
    return dataclasses.replace(study, space=space), cost


def _tested(study: StudyFile, trainer: Any, out: Path) -> dict[str, Any]:
    from lrtune.search.lr_range.lr_range import central, range_test

    recipe = central(study.space, epochs=study.settings.epochs, seed=study.settings.seed)
    found = range_test(trainer, recipe=recipe).to_json()
    if found["interval"] is not None:  # to three digits, which is its precision: the stored range is the searched one
        found["interval"] = {end: float(f"{lr:.3g}") for end, lr in found["interval"].items()}
    found["asked"] = _fingerprint(study, trainer)
    write_atomically(out / FILE, json.dumps(clean(found), indent=2, allow_nan=False) + "\n")
    return found


def _stored(study: StudyFile, trainer: Any, out: Path) -> dict[str, Any] | None:
    """The test of an earlier start of the same command."""
    try:
        found = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    made_for = found.get("asked") if isinstance(found, dict) else None
    return found if made_for == json.loads(json.dumps(clean(_fingerprint(study, trainer)))) else None


def _fingerprint(study: StudyFile, trainer: Any) -> dict[str, Any]:
    """What the test was made for."""
    space = {name: value for name, value in study.space.to_json().items() if name != "lr"}
    return {"space": space, "epochs": study.settings.epochs, "work": dict(trainer.fingerprint())}
