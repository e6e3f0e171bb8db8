"""The trials of a study in its storage: read, claimed, reported and ended as Optuna trials.

The record of a trial (:mod:`lrtune.study.trials.stored_trial`) is written in one transaction: a killed process leaves
either the old record or the new one. All else is plain Optuna: parameters, state, values, intermediate values, a
constraint on diverged trials, and readable attributes for the dashboard.

What is written when a trial is paused, and in which order: :mod:`lrtune.study.engine.executor`.

Every method that decides anything expects its caller to hold the study's lock
(:func:`lrtune.storage.locks.study_lock`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from lrtune.core.outcome import Outcome
from lrtune.core.records import TrialRecord
from lrtune.errors import StorageError
from lrtune.search.base import TrialView
from lrtune.storage import TrialChange, is_missing, rows_of
from lrtune.study.trials.optuna_attributes import change_at_end, intermediate_values
from lrtune.study.trials.recovery import recovered
from lrtune.study.trials.stored_trial import RECORD, Claim, StoredTrial, decode, encode, ended_elsewhere, parse
from lrtune.study.trials.study_reader import checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from optuna.storages import BaseStorage

    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.storage import Rows, TrialRow
    from lrtune.study.settings import Settings
    from lrtune.workers.lease import Lease
    from lrtune.workers.process import Death

__all__ = ["TrialStore"]


@dataclass(slots=True, kw_only=True)
class TrialStore:
    """Reads and writes the trials of one study.

    What was read is kept for as long as the storage is certain that no other process has written
    (:meth:`lrtune.storage.trial_rows.Rows.unchanged`), and what is written is kept as it would be read: a decision
    sees the same numbers whether the trials were read a moment ago or by another process.

    Attributes
    ----------
    me
        The lease of the search that asks.
    deaths
        The known deaths of worker processes.
    waiting
        Trials that other programs have enqueued, as of the last reading.
    rows, study_id
        Reads and writes the study's rows; Optuna's number of it.
    """

    storage: BaseStorage
    study: optuna.Study
    settings: Settings
    me: Lease
    deaths: Sequence[Death] = ()
    waiting: int = field(default=0, init=False)
    rows: Rows = field(init=False)
    study_id: int = field(init=False)
    _attributes: Mapping[str, Any] = field(default_factory=dict, init=False)
    _trials: dict[int, StoredTrial] = field(default_factory=dict, init=False)
    _views: dict[int, tuple[StoredTrial, TrialView]] = field(default_factory=dict, init=False)
    _ids: dict[int, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.study_id = self.storage.get_study_id_from_name(self.study.study_name)
        self.rows = rows_of(self.storage, self.study_id)

    def close(self) -> None:
        """Free what the rows hold; the store can be used again afterwards."""
        self.rows.close()

    # -- reading --------------------------------------------------------------------------------------

    def attributes(self) -> Mapping[str, Any]:
        """The study's user attributes; not to be changed."""
        self._refresh()
        return self._attributes

    def trials(self) -> list[StoredTrial]:
        """Every trial that lrtune made, in the order of their numbers.

        A trial that is RUNNING without a record is failed: its process died while it made it.
        """
        self._refresh()
        return list(self._trials.values())

    def _refresh(self) -> None:
        if self.rows.unchanged():
            return
        with self._missing_study():
            attributes, rows = self.rows.read(RECORD)
        try:
            checked(attributes, self.study.study_name)
            trials = dict(self._read(rows))
        except BaseException:
            self.rows.close()  # what was read was not understood: next time it is read again
            raise
        self._attributes, self._trials = attributes, trials
        self.waiting = sum(row.state is TrialState.WAITING for row in rows)

    def _read(self, rows: Sequence[TrialRow]) -> Iterator[tuple[int, StoredTrial]]:
        for row in rows:
            self._ids[row.number] = row.trial_id
            if row.record is not None:
                known = self._trials.get(row.number)
                yield row.number, known if known is not None and known.closed else self._parsed(row)
            elif row.state is TrialState.RUNNING:
                self._fail(row.trial_id, {"outcome": Outcome.INTERRUPTED.value})

    def _parsed(self, row: TrialRow) -> StoredTrial:
        finished = row.state.is_finished()
        trial = parse(row.number, row.record, closed=finished)
        if finished and trial.record.outcome is None:
            values = self.storage.get_trial(row.trial_id).values
            return ended_elsewhere(trial, row.state, values[0] if values else None)
        return trial

    def _as_stored(self, trial: StoredTrial) -> tuple[StoredTrial | None, bool]:
        """A trial as it is in the storage now, None without a record; and whether its Optuna trial is finished."""
        with self._missing_study():
            row = self.rows.look(self.trial_id(trial.number), RECORD)
        return None if row.record is None else self._parsed(row), row.state.is_finished()

    def view(self, trial: StoredTrial) -> TrialView:
        """The trial as a strategy sees it, made once for each stored state."""
        known = self._views.get(trial.number)
        if known is None or known[0] is not trial:
            known = self._views[trial.number] = (trial, self._view(trial))
        return known[1]

    def _view(self, trial: StoredTrial) -> TrialView:
        record = trial.record
        epochs, values = record.curve.of(self.settings.metric)
        lost = not trial.saved and trial.owner is None
        return TrialView(
            number=record.number,
            recipe=record.recipe,
            epochs=epochs,
            values=values,
            outcome=record.outcome,
            result=record.value,
            until=trial.claim.until if trial.claim else None,
            mine=trial.owner is None or trial.owner.same_holder(self.me),
            repaid_epochs=trial.trained_epochs if lost else 0.0,
            reached=max(record.curve.trained, trial.trained_epochs),
        )

    def spent(self, trials: Sequence[StoredTrial]) -> float:
        """Cost in full trainings, with the segments in training and what was spent before the search."""
        paid = sum(trial.record.trained for trial in trials)
        claimed = sum(trial.price(trial.claim.until, trial.claim.repaid_epochs) for trial in trials if trial.claim)
        return self.settings.spent + (paid + claimed) / self.settings.epochs

    # -- writing --------------------------------------------------------------------------------------

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of the study."""
        self.rows.describe(attributes)
        self._attributes = {**self._attributes, **json.loads(json.dumps(attributes))}

    def start(self, space: Space, params: Mapping[str, Any], recipe: Recipe, until: float, why: str) -> StoredTrial:
        """Create a trial, claimed by this search, in one transaction."""
        record = TrialRecord(number=-1, recipe=recipe, params=dict(params), started=time.time())
        trial = StoredTrial(record=record, claim=self._claim(until, why))
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(space.distributions()),
            user_attrs={RECORD: encode(trial), "schedule": recipe.schedule, "started for": why},
        )
        with self._missing_study():
            trial_id, number = self.rows.add(template)
        trial = dataclasses.replace(trial, record=dataclasses.replace(record, number=number))
        self._ids[number], self._trials[number] = trial_id, _as_read(trial, encode(trial))
        return trial

    def enqueued(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """The next trial that another program has enqueued, and the parameters it asks for, unchecked."""
        trial = self.study.ask()
        self.waiting -= 1
        asked = self.storage.get_trial(self.trial_id(trial.number)).system_attrs.get("fixed_params", {})
        return trial, dict(asked)

    def adopt(self, number: int, params: Mapping[str, Any], recipe: Recipe, until: float) -> StoredTrial:
        """Claim an enqueued trial."""
        record = TrialRecord(number=number, recipe=recipe, params=dict(params), started=time.time())
        return self.write(StoredTrial(record=record, claim=self._claim(until, "enqueued by hand")))

    def refuse(self, number: int, why: str) -> None:
        """Fail an enqueued trial that cannot be trained."""
        with self._missing_study():
            self._fail(self.trial_id(number), {"outcome": Outcome.FAILED.value, "why": why})

    def _fail(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        self.rows.change(trial_id, TrialChange(attributes=attributes, state=TrialState.FAIL))

    def claim(self, trial: StoredTrial, until: float, repaid_epochs: float, why: str = "") -> StoredTrial:
        """Claim a paused trial."""
        return self.write(dataclasses.replace(trial, claim=self._claim(until, why, repaid_epochs), resume=None))

    def _claim(self, until: float, why: str, repaid_epochs: float = 0.0) -> Claim:
        token = uuid.uuid4().hex
        return Claim(until=until, repaid_epochs=repaid_epochs, token=token, lease=self.me.renewed(), why=why)

    def renew(self, trial: StoredTrial) -> None:
        """Extend the lease of a claim, where no other worker has taken the trial over."""
        if trial.claim is not None and self.holds_claim(trial):
            self.write(dataclasses.replace(trial, claim=dataclasses.replace(trial.claim, lease=self.me.renewed())))

    def holds_claim(self, trial: StoredTrial) -> bool:
        """Whether this claim of the trial is still in the storage: False if another worker took the trial over."""
        if self.rows.unchanged():
            found = self._trials.get(trial.number)
            finished = found is not None and found.closed
        else:
            found, finished = self._as_stored(trial)
        stored, own = found.claim if found else None, trial.claim
        return not finished and stored is not None and own is not None and stored.token == own.token

    def already_written(self, trial: StoredTrial) -> StoredTrial | None:
        """The trial in the storage, if it has the same segments: it was written, and the answer was lost."""
        found, _ = self._as_stored(trial)
        return found if found is not None and found.record.segments == trial.record.segments else None

    def write(self, trial: StoredTrial) -> StoredTrial:
        """Write the record."""
        return self._write(trial, TrialChange(attributes={RECORD: encode(trial)}))

    def report(self, trial: StoredTrial) -> StoredTrial:
        """Write the record, and the metric as an intermediate value of the Optuna trial."""
        reports = intermediate_values(trial.record, self.settings)
        return self._write(trial, TrialChange(attributes={RECORD: encode(trial)}, reports=reports))

    def end(self, trial: StoredTrial) -> StoredTrial:
        """Finish the Optuna trial with the outcome of its record."""
        record, outcome = trial.record, trial.record.outcome
        if outcome is None:
            msg = f"trial {record.number} has no outcome yet"
            raise ValueError(msg)
        record = dataclasses.replace(record, finished=record.finished or time.time())
        trial = dataclasses.replace(trial, record=record, claim=None, owner=None, saved=False, closed=True)
        return self._write(trial, change_at_end(trial, outcome, self.settings))

    def _write(self, trial: StoredTrial, change: TrialChange) -> StoredTrial:
        kept = _as_read(trial, change.attributes[RECORD])
        with self._missing_study():
            self.rows.change(self.trial_id(trial.number), change)
        self._trials[trial.number] = kept
        return trial

    @contextlib.contextmanager
    def _missing_study(self) -> Iterator[None]:
        """Turns the error of a study that is gone into a sentence: a dashboard deletes one without our lock."""
        try:
            yield
        except KeyError as error:
            if not is_missing(error):
                raise
            name = self.study.study_name
            msg = f"study {name!r} was deleted from its storage during the run; run the same command to start it anew"
            raise StorageError(msg) from error

    def trial_id(self, number: int) -> int:
        """Optuna's id of a trial; it never changes."""
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        return self._ids[number]

    # -- recovery -------------------------------------------------------------------------------------

    def recover(self, trials: Sequence[StoredTrial]) -> list[StoredTrial]:
        """Take over what dead workers had claimed, and end the trials that they had no time to end."""
        return [trial if trial.closed else self._recovered(trial) for trial in trials]

    def _recovered(self, trial: StoredTrial) -> StoredTrial:
        found = trial if trial.record.outcome is not None else recovered(trial, self.me, self.deaths)
        if found.record.outcome is not None:
            return self.end(found)
        return trial if found is trial else self.write(found)


def _as_read(trial: StoredTrial, data: Mapping[str, Any]) -> StoredTrial:
    """The trial as it will be read: rounded, thinned, and without the curve of a run that goes on."""
    return decode(trial.number, json.loads(json.dumps(data)), closed=trial.closed)
