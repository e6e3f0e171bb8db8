"""From the Optuna study back to plain records: the inverse of the ledger, for all that reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.curve import ValueRule
from lrtune.divergence import Baseline
from lrtune.entries import RECORD, decode, ended_elsewhere
from lrtune.errors import InputError
from lrtune.records import StudyRecord
from lrtune.space import Space

if TYPE_CHECKING:
    import optuna

    from lrtune.records import Record

__all__ = ["BASELINE", "IDENTITY", "NOTICES", "RANGE", "RESULT", "SETTINGS", "SPACE", "read", "unborn"]

SETTINGS = "lrtune:settings"
IDENTITY = "lrtune:identity"
"""What tells a study from every other one, whatever their names: drawn when it is made."""
SPACE = "lrtune:space"
BASELINE = "lrtune:baseline"
NOTICES = "lrtune:notices"
RESULT = "lrtune:result"
RANGE = "lrtune:range"
BIRTH = frozenset({IDENTITY, SPACE, NOTICES, RANGE})
"""What is written of a new study before its settings, where a storage cannot write all at once."""


def read(study: optuna.Study) -> StudyRecord:
    """Everything that was recorded of a study.

    Raises
    ------
    InputError
        If lrtune did not make it.
    """
    attributes = study.user_attrs
    if SETTINGS not in attributes:
        msg = f"study {study.study_name!r} was not made by lrtune: give one that was, or run `lrtune optimize` first"
        raise InputError(msg)
    settings = attributes[SETTINGS]
    trials = [trial for trial in study.get_trials(deepcopy=False) if RECORD in trial.user_attrs]
    return StudyRecord(
        name=study.study_name,
        metric=settings["metric"],
        direction=settings["direction"],
        epochs=settings["epochs"],
        rule=ValueRule.parse(settings["value"]),
        space=Space.from_json(attributes[SPACE]),
        seed=settings["seed"],
        strategy=settings["strategy"],
        records=tuple(_record(trial) for trial in trials),
        baseline=Baseline(**attributes[BASELINE]) if BASELINE in attributes else None,
        notices=tuple(attributes.get(NOTICES, ())),
        result=attributes.get(RESULT, {}),
        environment=settings["environment"],
    )


def _record(trial: optuna.trial.FrozenTrial) -> Record:
    entry = decode(trial.number, trial.user_attrs[RECORD])
    if entry.record.outcome is None and trial.state.is_finished():
        entry = ended_elsewhere(entry, trial.state, trial.values[0] if trial.values else None)
    return entry.record


def unborn(study: optuna.Study) -> bool:
    """Whether a study is empty but for what is written before its settings: whoever made it did not come further."""
    if SETTINGS in study.user_attrs or not BIRTH.issuperset(study.user_attrs):
        return False
    return not study.get_trials(deepcopy=False)
