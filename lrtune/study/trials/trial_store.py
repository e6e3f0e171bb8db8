"""The ledger: what must outlive the process, written into Optuna trials and read back.

The record of a trial (:mod:`lrtune.study.trials.stored_trial`) is written in one transaction: a killed process leaves
either the old record or the new one. Around it everything is plain Optuna: parameters, state, values,
reports at the rungs, a constraint on diverged trials, and readable attributes for the dashboard.

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
from lrtune.study.trials.optuna_attributes import end_of, record_of, report_of
from lrtune.study.trials.recovery import recovered
from lrtune.study.trials.stored_trial import RECORD, Claim, StoredTrial, decode, encode, ended_elsewhere, parse
from lrtune.study.trials.study_reader import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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

    What was read is kept for as long as the storage is certain that nobody else has written
    (:meth:`lrtune.storage.trial_rows.Rows.unchanged`); what this ledger writes itself it keeps as it would read
    it. So a decision sees the same trials whether they were read a moment ago or in another process.

    Attributes
    ----------
    storage, study
        Optuna's.
    settings
        The search's.
    me
        The process that asks.
    deaths
        How worker processes died, as far as somebody watched.
    waiting
        Trials that other hands have enqueued, as of the last :meth:`entries`.
    """

    storage: BaseStorage
    study: optuna.Study
    settings: Settings
    me: Lease
    deaths: Sequence[Death] = ()
    waiting: int = field(default=0, init=False)
    _rows: Rows | None = field(default=None, init=False)
    _attributes: Mapping[str, Any] = field(default_factory=dict, init=False)
    _entries: dict[int, StoredTrial] = field(default_factory=dict, init=False)
    _seen: dict[int, tuple[StoredTrial, TrialView]] = field(default_factory=dict, init=False)
    _ids: dict[int | str, int] = field(default_factory=dict, init=False)

    @property
    def study_id(self) -> int:
        """Optuna's number of the study."""
        return self._id("study", lambda: self.storage.get_study_id_from_name(self.study.study_name))

    @property
    def rows(self) -> Rows:
        """Where the study's rows are written."""
        if self._rows is None:
            self._rows = rows_of(self.storage, self.study_id)
        return self._rows

    def close(self) -> None:
        """Free what the rows hold; the ledger can be used again afterwards."""
        if self._rows is not None:
            self._rows.close()

    # -- reading --------------------------------------------------------------------------------------

    def attributes(self) -> Mapping[str, Any]:
        """The study's own user attributes; not to be changed."""
        self._refresh()
        return self._attributes

    def entries(self) -> list[StoredTrial]:
        """Every trial that lrtune made, in the order of their numbers.

        A trial that is RUNNING without a record is ended: its process died while it made it. Those that
        other hands have enqueued are counted in `waiting`.
        """
        self._refresh()
        return list(self._entries.values())

    def _refresh(self) -> None:
        """Read again, unless nobody else has written since."""
        if self.rows.unchanged():
            return
        with self._there():
            attributes, rows = self.rows.read(RECORD)
        try:
            checked(attributes, self.study.study_name)
            entries = dict(self._entries_of(rows))
        except BaseException:
            self.rows.close()  # what was read was not understood: next time it is read again
            raise
        self._attributes, self._entries = attributes, entries
        self.waiting = sum(row.state is TrialState.WAITING for row in rows)

    def _entries_of(self, rows: Sequence[TrialRow]) -> Iterator[tuple[int, StoredTrial]]:
        for row in rows:
            self._ids[row.number] = row.trial_id
            if row.record is not None:
                before = self._entries.get(row.number)
                yield row.number, before if before is not None and before.closed else self._entry(row)  # it ends once
            elif row.state is TrialState.RUNNING:
                change = TrialChange(attributes={"outcome": Outcome.INTERRUPTED.value}, state=TrialState.FAIL)
                self.rows.change(row.trial_id, change)

    def _entry(self, row: TrialRow) -> StoredTrial:
        told = row.state.is_finished()
        entry = parse(row.number, row.record, closed=told)
        if told and entry.record.outcome is None:
            values = self.storage.get_trial(row.trial_id).values
            return ended_elsewhere(entry, row.state, values[0] if values else None)
        return entry

    def seen(self, entry: StoredTrial) -> TrialView:
        """The trial as a strategy sees it; entries do not change, so each is looked at once."""
        known = self._seen.get(entry.number)
        if known is None or known[0] is not entry:
            known = self._seen[entry.number] = (entry, self._as_seen(entry))
        return known[1]

    def _as_seen(self, entry: StoredTrial) -> TrialView:
        record = entry.record
        epochs, values = record.curve.of(self.settings.metric)
        lost = not entry.saved and entry.trained_epochs > 0 and entry.owner is None
        return TrialView(
            number=record.number,
            recipe=record.recipe,
            epochs=epochs,
            values=values,
            outcome=record.outcome,
            result=record.value,
            until=entry.claim.until if entry.claim else None,
            mine=entry.owner is None or entry.owner.same_holder(self.me),
            repaid_epochs=entry.trained_epochs if lost else 0.0,
            reached=max(record.curve.trained, entry.trained_epochs),
        )

    def spent(self, entries: list[StoredTrial]) -> float:
        """Cost in full trainings; what is being trained right now and what was spent before are included."""
        paid = sum(entry.record.trained for entry in entries)
        claimed = sum(entry.price(entry.claim.until, entry.claim.repaid_epochs) for entry in entries if entry.claim)
        return self.settings.spent + (paid + claimed) / self.settings.epochs

    # -- writing --------------------------------------------------------------------------------------

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of the study."""
        self.rows.describe(attributes)
        self._attributes = {**self._attributes, **json.loads(json.dumps(attributes))}

    def start(self, space: Space, params: Mapping[str, Any], recipe: Recipe, until: float, why: str) -> StoredTrial:
        """Create a trial, claimed by this process, in one transaction."""
        now = time.time()
        record = TrialRecord(number=-1, recipe=recipe, params=dict(params), started=now, why="")
        entry = StoredTrial(record=record, claim=self._claim(until))
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(space.distributions()),
            user_attrs={**record_of(entry), "schedule": recipe.schedule, "started for": why},
        )
        with self._there():
            trial_id, number = self.rows.add(template)
        entry = dataclasses.replace(entry, record=dataclasses.replace(record, number=number))
        self._ids[number], self._entries[number] = trial_id, _as_read(entry, encode(entry))
        return entry

    def enqueued(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """The next trial that other hands have enqueued, and what they asked for, whatever that is."""
        trial = self.study.ask()
        self.waiting -= 1
        asked = self.storage.get_trial(self.trial_id(trial.number)).system_attrs.get("fixed_params", {})
        return trial, dict(asked)

    def adopt(self, trial: optuna.Trial, params: Mapping[str, Any], recipe: Recipe, until: float) -> StoredTrial:
        """Claim a trial that was enqueued by other hands."""
        record = TrialRecord(number=trial.number, recipe=recipe, params=dict(params), started=time.time())
        return self.write(StoredTrial(record=record, claim=self._claim(until)))

    def refuse(self, trial: optuna.Trial, why: str) -> None:
        """End a trial that was enqueued by other hands and cannot be trained."""
        attributes = {"outcome": Outcome.FAILED.value, "why": why}
        with self._there():
            self.rows.change(self.trial_id(trial.number), TrialChange(attributes=attributes, state=TrialState.FAIL))

    def claim(self, entry: StoredTrial, until: float, again: float) -> StoredTrial:
        """Claim a paused trial."""
        return self.write(dataclasses.replace(entry, claim=self._claim(until, again), resume=None))

    def write(self, entry: StoredTrial) -> StoredTrial:
        """Write the record."""
        return self._write(entry, TrialChange(attributes=record_of(entry)))

    def report(self, entry: StoredTrial) -> StoredTrial:
        """Write the record, and report the metric where the run stands to Optuna: once for each rung."""
        reports = report_of(entry.record, self.settings)
        return self._write(entry, TrialChange(attributes=record_of(entry), reports=reports))

    def renew(self, entry: StoredTrial) -> None:
        """Say that this process is still at it."""
        if entry.claim is not None:
            claim = dataclasses.replace(entry.claim, lease=self.me.renewed())
            self.write(dataclasses.replace(entry, claim=claim))

    def holds(self, entry: StoredTrial) -> bool:
        """Whether the claim of this entry is still in the storage: false if somebody took the trial over."""
        mine = entry.claim.token if entry.claim else None
        if self.rows.unchanged():
            known = self._entries.get(entry.number)
            return known is not None and not known.closed and known.claim is not None and known.claim.token == mine
        with self._there():
            row = self.rows.look(self.trial_id(entry.number), RECORD)
        claim = self._entry(row).claim if row.record is not None else None
        return not row.state.is_finished() and claim is not None and claim.token == mine

    def stored(self, entry: StoredTrial) -> StoredTrial | None:
        """The entry in the storage, if it holds the same pieces: it was written, and the answer was lost."""
        with self._there():
            row = self.rows.look(self.trial_id(entry.number), RECORD)
        found = None if row.record is None else self._entry(row)
        return found if found is not None and found.record.segments == entry.record.segments else None

    def end(self, entry: StoredTrial) -> StoredTrial:
        """Tell Optuna of a trial's end, as its record says it ended."""
        record, outcome = entry.record, entry.record.outcome
        if outcome is None:
            msg = f"trial {record.number} has no outcome yet"
            raise ValueError(msg)
        record = dataclasses.replace(record, finished=record.finished or time.time())
        entry = dataclasses.replace(entry, record=record, claim=None, owner=None, saved=False, closed=True)
        return self._write(entry, end_of(entry, outcome, self.settings))

    def _write(self, entry: StoredTrial, change: TrialChange) -> StoredTrial:
        kept = _as_read(entry, change.attributes[RECORD])
        with self._there():
            self.rows.change(self.trial_id(entry.number), change)
        self._entries[entry.number] = kept
        return entry

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """Says what it means where the study is gone: a dashboard deletes it without asking for our lock."""
        try:
            yield
        except KeyError as error:
            if not is_missing(error):
                raise
            name = self.study.study_name
            msg = f"study {name!r} was deleted from its storage during the run; run the same command to start it anew"
            raise StorageError(msg) from error

    def trial_id(self, number: int) -> int:
        """Optuna's id of a trial."""
        find = self.storage.get_trial_id_from_study_id_trial_number
        return self._id(number, lambda: find(self.study_id, number))

    def _id(self, key: int | str, find: Callable[[], int]) -> int:
        """Optuna's numbers never change: each is asked for once."""
        if key not in self._ids:
            self._ids[key] = find()
        return self._ids[key]

    def _claim(self, until: float, again: float = 0.0) -> Claim:
        return Claim(until=until, repaid_epochs=again, token=uuid.uuid4().hex, lease=self.me.renewed())

    # -- recovery -------------------------------------------------------------------------------------

    def recover(self, entries: list[StoredTrial]) -> list[StoredTrial]:
        """Take over what dead processes held, and tell of ends that they had no time to tell."""
        return [entry if entry.closed else self._recovered(entry) for entry in entries]

    def _recovered(self, entry: StoredTrial) -> StoredTrial:
        found = entry if entry.record.outcome is not None else recovered(entry, self.me, self.deaths)
        if found.record.outcome is not None:
            return self.end(found)
        return entry if found is entry else self.write(found)


def _as_read(entry: StoredTrial, data: Mapping[str, Any]) -> StoredTrial:
    """What is written, as it will be read: rounded and thinned, and nothing in it is a curve that still grows."""
    return decode(entry.number, json.loads(json.dumps(data)), closed=entry.closed)
