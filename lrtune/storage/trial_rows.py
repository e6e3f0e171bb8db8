"""The rows of one study, as lrtune reads and writes them: whole changes of a trial, through Optuna's public calls.

What lrtune writes of a trial belongs together, so a :class:`TrialChange` is one call here.
:mod:`lrtune.storage.sqlite_rows` does the same in one transaction, where it can; both leave the same study behind, for
plain Optuna and for its dashboard.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection

from lrtune.core.optuna_logging import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["Rows", "TrialChange", "TrialRow", "constraint_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """What is read of one trial: Optuna's numbers and state, and the user attribute that was asked for.

    The latter is plain JSON, not to be changed, or the text of it, which is parsed only where it is needed; None where
    there is none.
    """

    trial_id: int
    number: int
    state: TrialState
    record: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialChange:
    """What is written of one trial: everything or nothing, where the storage has transactions.

    Attributes
    ----------
    attributes
        User attributes by name, plain JSON.
    reports
        Intermediate values by step.
    constraints
        Constraints by name; one that is already there stays as it is.
    state, values
        In which state the trial ends, and with which values; None while it goes on.
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    state: TrialState | None = None
    values: Sequence[float] | None = None


class Rows:
    """The rows of one study in any storage of Optuna's: a call, and a transaction, for each value.

    A trial's state is written last, so that a process that is killed in between leaves a trial that still runs.
    Whoever decides by what was read holds the study's lock; others (a dashboard, plain Optuna) may write
    at any time, and :meth:`unchanged` tells.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._known = 0

    def unchanged(self) -> bool:
        """Whether certainly nobody else has written anything since the last :meth:`read`; no public call says so."""
        return False

    def read(self, name: str) -> tuple[dict[str, Any], list[TrialRow]]:
        """The study's user attributes, and every trial with that attribute of its own, by number.

        Raises
        ------
        KeyError
            If the study is gone.
        """
        attributes = self._storage.get_study_user_attrs(self._study_id)
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._known = len(trials)
        return attributes, [_row(trial, name) for trial in trials]

    def look(self, trial_id: int, name: str) -> TrialRow:
        """One trial as it is now, with that attribute.

        Raises
        ------
        KeyError
            If there is no such trial.
        """
        return _row(self._storage.get_trial(trial_id), name)

    def add(self, template: FrozenTrial) -> tuple[int, int]:
        """Create a trial like this one; its id and its number.

        Raises
        ------
        KeyError
            If the study is gone.
        """
        storage, known = self._storage, self._known
        trial_id = storage.create_new_trial(self._study_id, template_trial=template)
        # Whether it has the next number is a far cheaper question than which one it has.
        with contextlib.suppress(KeyError):  # others may have added theirs since
            if storage.get_trial_id_from_study_id_trial_number(self._study_id, known) == trial_id:
                return trial_id, known
        return trial_id, storage.get_trial_number_from_id(trial_id)

    def change(self, trial_id: int, change: TrialChange) -> None:
        """Write a change of a trial.

        Raises
        ------
        KeyError
            If there is no such trial.
        optuna.exceptions.UpdateFinishedTrialError
            If somebody has ended it.
        """
        storage = self._storage
        for step, value in change.reports.items():
            storage.set_trial_intermediate_value(trial_id, step, value)
        for name, content in change.attributes.items():
            storage.set_trial_user_attr(trial_id, name, content)
        if change.constraints:
            there = storage.get_trial(trial_id).system_attrs
            for name, value in change.constraints.items():
                if constraint_key(name) not in there:
                    storage.set_trial_system_attr(trial_id, constraint_key(name), value)
        if change.state is not None:
            storage.set_trial_state_values(trial_id, change.state, change.values)

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of the study."""
        for name, content in attributes.items():
            self._storage.set_study_user_attr(self._study_id, name, content)

    def close(self) -> None:
        """Close the connection, where there is one; the rows can be used again afterwards."""


def _row(trial: FrozenTrial, name: str) -> TrialRow:
    found = trial.user_attrs.get(name)
    return TrialRow(trial_id=trial._trial_id, number=trial.number, state=trial.state, record=found)  # noqa: SLF001 -- no public way


@functools.cache
def constraint_key(name: str) -> str:
    """The system attribute in which Optuna keeps a constraint: asked of Optuna itself, once for each name."""
    storage = InMemoryStorage()
    with quiet():
        study_id = storage.create_new_study([StudyDirection.MINIMIZE], study_name="scratch")
        study = optuna.Study(study_name="scratch", storage=storage)
        trial_id = storage.create_new_trial(study_id)
        optuna.trial.Trial(study, trial_id).set_constraint(name, 0.0)
    (key,) = storage.get_trial(trial_id).system_attrs
    return str(key)
