"""The ledger: what must outlive the process, written into Optuna trials and read back.

One compact JSON record a trial (user attribute ``lrtune:record``) holds recipe, curve, pieces, outcome
and who is training it now; it is written in one transaction, so a killed process leaves either the old
record or the new one. Around it everything is plain Optuna: parameters, state, values, reports at the
rungs, a constraint on diverged trials, and readable attributes for the dashboard.

Every method that decides anything expects its caller to hold the study's lock
(:func:`lrtune.storage.exclusive`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from lrtune.curve import Curve
from lrtune.diagnosis import judge
from lrtune.leases import Lease, alive
from lrtune.outcome import Outcome
from lrtune.recipe import Recipe
from lrtune.records import Piece, Record
from lrtune.search.base import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from lrtune.processes import Death
    from lrtune.settings import Settings
    from lrtune.space import Space

__all__ = ["RECORD", "Claim", "Entry", "Ledger", "at_work", "bereaved", "decode", "encode"]

RECORD = "lrtune:record"
MOST_POINTS = 1000
"""Points of a curve that are stored; what is beyond is thinned out, extremes are kept."""

MOST_DEATHS = 2
"""Processes that one trial may take with it; a single death may be another's fault (memory is shared)."""

MOST_REPORTS = 200
"""Values of a trial that are reported to Optuna, at the most."""


_working: set[str] = set()


@contextlib.contextmanager
def at_work() -> Iterator[Lease]:
    """The lease of one search within this process: while the block lasts, what it holds is held."""
    worker = f"{threading.current_thread().name}-{uuid.uuid4().hex[:8]}"
    _working.add(worker)
    try:
        yield Lease.mine(worker)
    finally:
        _working.discard(worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That somebody is training a trial right now.

    Attributes
    ----------
    until
        Up to which epoch.
    again
        Epochs of it that are trained a second time.
    token
        Tells this claim from every other: a process that slept too long finds another one in its place.
    lease
        Who.
    """

    until: float
    again: float = 0.0
    token: str = ""
    lease: Lease | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One trial of the ledger.

    Attributes
    ----------
    record
        What is known of it.
    claim
        Who is training it, None while nobody is.
    saved
        Whether a checkpoint of it was written.
    holder
        The process in whose memory the run lives, where it lives nowhere else.
    told
        Whether Optuna has been told of its end.
    deaths
        How often the process that trained it died while others watched.
    resume
        Up to which epoch a piece was to go that was cut off; None where none was.
    """

    record: Record
    claim: Claim | None = None
    saved: bool = False
    holder: Lease | None = None
    told: bool = False
    deaths: int = 0
    resume: float | None = None

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.record.number

    @property
    def stands(self) -> float:
        """Epochs at which its run stands, as far as is recorded; beyond its curve where a piece was cut off."""
        return self.record.pieces[-1].end if self.record.pieces else 0.0

    def price(self, until: float, again: float) -> float:
        """Epochs that training it up to one costs; `again` is not zero where all is trained a second time."""
        return until if again else max(0.0, until - self.stands)


def decode(number: int, data: Mapping[str, Any], *, told: bool = False) -> Entry:
    """The entry that the ledger wrote."""
    record = Record(
        number=number,
        recipe=Recipe.from_json(data["recipe"]),
        params=dict(data["params"]),
        curve=Curve.from_json(data["curve"]),
        outcome=Outcome.from_key(data["outcome"]) if data["outcome"] else None,
        why=data["why"],
        value=data["value"],
        trained=data["trained"],
        pieces=tuple(
            Piece(at=at, seconds=seconds, begin=begin, end=end, worker=worker, why=why)
            for at, seconds, begin, end, worker, why in data["pieces"]
        ),
        started=data["started"],
        finished=data["finished"],
    )
    claim = data["claim"]
    return Entry(
        record=record,
        claim=None if claim is None else Claim(**{**claim, "lease": Lease.from_json(claim["lease"])}),
        saved=data["saved"],
        holder=Lease.from_json(data["holder"]) if data["holder"] else None,
        told=told,
        deaths=data["deaths"],
        resume=data.get("resume"),
    )


def encode(entry: Entry) -> dict[str, Any]:
    """The entry as plain JSON."""
    record = entry.record
    claim = entry.claim
    return {
        "recipe": record.recipe.to_json(),
        "params": dict(record.params),
        "curve": record.curve.thinned(MOST_POINTS).to_json(),
        "outcome": record.outcome.key if record.outcome else "",
        "why": record.why,
        "value": record.value,
        "trained": record.trained,
        "pieces": [[p.at, p.seconds, p.begin, p.end, p.worker, p.why] for p in record.pieces],
        "started": record.started,
        "finished": record.finished,
        "claim": None
        if claim is None
        else {
            "until": claim.until,
            "again": claim.again,
            "token": claim.token,
            "lease": claim.lease and claim.lease.to_json(),
        },
        "saved": entry.saved,
        "holder": entry.holder.to_json() if entry.holder else None,
        "deaths": entry.deaths,
        "resume": entry.resume,
    }


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Reads and writes the trials of one study.

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
    waiting: int = 0
    _known: int = 0
    _closed: dict[int, Entry] = field(default_factory=dict)
    _closed_seen: dict[int, Seen] = field(default_factory=dict)
    _ids: dict[int | str, int] = field(default_factory=dict)

    @property
    def study_id(self) -> int:
        """Optuna's number of the study."""
        return self._id("study", lambda: self.storage.get_study_id_from_name(self.study.study_name))

    # -- reading --------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every trial that lrtune made, in the order of their numbers.

        A trial that is RUNNING without a record is ended: its process died while it made it. Those that
        other hands have enqueued are counted in `waiting`.
        """
        found = []
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        self._known = len(trials)
        self.waiting = sum(trial.state is TrialState.WAITING for trial in trials)
        for trial in trials:
            if trial.state is TrialState.RUNNING and RECORD not in trial.user_attrs:
                self._end_stray(trial)
                continue
            entry = self._closed.get(trial.number) or self._read(trial)
            if entry is not None:
                found.append(entry)
        return found

    def _read(self, trial: FrozenTrial) -> Entry | None:
        data = trial.user_attrs.get(RECORD)
        if data is None:
            return None
        told = trial.state.is_finished()
        entry = decode(trial.number, data, told=told)
        if told and entry.record.outcome is None:  # ended by other hands, e.g. in the dashboard
            outcome = Outcome.FAILED if trial.state is TrialState.FAIL else Outcome.PRUNED
            why = "ended from outside of lrtune"
            entry = dataclasses.replace(entry, record=dataclasses.replace(entry.record, outcome=outcome, why=why))
        if told:
            self._closed[trial.number] = entry
        return entry

    def seen(self, entry: Entry) -> Seen:
        """The trial as a strategy sees it."""
        if not entry.told:
            return self._as_seen(entry)
        if entry.number not in self._closed_seen:  # what has ended changes no more
            self._closed_seen[entry.number] = self._as_seen(entry)
        return self._closed_seen[entry.number]

    def _as_seen(self, entry: Entry) -> Seen:
        record = entry.record
        epochs, values = record.curve.of(self.settings.metric)
        lost = not entry.saved and entry.stands > 0 and entry.holder is None
        return Seen(
            number=record.number,
            recipe=record.recipe,
            epochs=epochs,
            values=values,
            outcome=record.outcome,
            result=record.value,
            until=entry.claim.until if entry.claim else None,
            mine=entry.holder is None or entry.holder.same_holder(self.me),
            again=entry.stands if lost else 0.0,
        )

    def spent(self, entries: list[Entry]) -> float:
        """Cost in full trainings; what is being trained right now and what was spent before are included."""
        paid = sum(entry.record.trained for entry in entries)
        claimed = sum(entry.price(entry.claim.until, entry.claim.again) for entry in entries if entry.claim)
        return self.settings.spent + (paid + claimed) / self.settings.epochs

    # -- writing --------------------------------------------------------------------------------------

    def start(self, space: Space, params: Mapping[str, Any], recipe: Recipe, until: float, why: str) -> Entry:
        """Create a trial, claimed by this process, in one transaction."""
        now = time.time()
        record = Record(number=-1, recipe=recipe, params=dict(params), started=now, why="")
        entry = Entry(record=record, claim=self._claim(until))
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(space.distributions()),
            user_attrs={RECORD: encode(entry), "schedule": recipe.schedule, "started for": why},
        )
        trial_id = self.storage.create_new_trial(self.study_id, template_trial=template)
        number = self._number(trial_id)
        self._ids[number] = trial_id
        return dataclasses.replace(entry, record=dataclasses.replace(record, number=number))

    def _number(self, trial_id: int) -> int:
        """The number of a trial just made: the next one, which is a far cheaper question than which one."""
        with contextlib.suppress(KeyError):  # other hands may have added theirs since
            if self.storage.get_trial_id_from_study_id_trial_number(self.study_id, self._known) == trial_id:
                return self._known
        return self.storage.get_trial_number_from_id(trial_id)

    def adopt(self, trial: optuna.Trial, recipe: Recipe, until: float) -> Entry:
        """Claim a trial that was enqueued by other hands."""
        params = dict(trial.params)
        record = Record(number=trial.number, recipe=recipe, params=params, started=time.time())
        return self.write(Entry(record=record, claim=self._claim(until)))

    def claim(self, entry: Entry, until: float, again: float) -> Entry:
        """Claim a paused trial."""
        return self.write(dataclasses.replace(entry, claim=self._claim(until, again), resume=None))

    def write(self, entry: Entry) -> Entry:
        """Write the record."""
        self.storage.set_trial_user_attr(self.trial_id(entry.number), RECORD, encode(entry))
        return entry

    def renew(self, entry: Entry) -> None:
        """Say that this process is still at it."""
        if entry.claim is not None:
            claim = dataclasses.replace(entry.claim, lease=self.me.renewed())
            self.write(dataclasses.replace(entry, claim=claim))

    def holds(self, entry: Entry) -> bool:
        """Whether the claim of this entry is still in the storage: false if somebody took the trial over."""
        trial = self.storage.get_trial(self.trial_id(entry.number))
        data = trial.user_attrs.get(RECORD, {}).get("claim")
        mine = entry.claim.token if entry.claim else None
        return not trial.state.is_finished() and data is not None and data["token"] == mine

    def report(self, entry: Entry) -> None:
        """Report the metric where the run stands to Optuna: once for each rung."""
        epochs, values = entry.record.curve.of(self.settings.metric)
        if not len(values) or not math.isfinite(values[-1]):
            return
        every = max(1, math.ceil(self.settings.epochs / MOST_REPORTS))
        step = int(epochs[-1])
        if step >= 1 and (step % every == 0 or step >= self.settings.epochs):
            self.storage.set_trial_intermediate_value(self.trial_id(entry.number), step, float(values[-1]))

    def end(self, entry: Entry) -> Entry:
        """Tell Optuna of a trial's end, as its record says it ended."""
        record = entry.record
        if record.outcome is None:
            msg = f"trial {record.number} has no outcome yet"
            raise ValueError(msg)
        record = dataclasses.replace(record, finished=record.finished or time.time())
        entry = self.write(dataclasses.replace(entry, record=record, claim=None, holder=None, saved=False))
        trial_id = self.trial_id(record.number)
        self._describe(trial_id, record)
        state, values = _optuna_end(record, self.settings.metric)
        self.storage.set_trial_state_values(trial_id, state, values)
        return dataclasses.replace(entry, told=True)

    def _describe(self, trial_id: int, record: Record) -> None:
        """Readable attributes for the dashboard, and the constraint that marks a diverged trial."""
        outcome = record.outcome
        if outcome is None:
            return
        readable = {"outcome": outcome.value, "cost": round(record.trained / self.settings.epochs, 4)}
        if record.why:
            readable["why"] = record.why[:2000]
        if len(record.curve):
            verdict = judge(
                record.curve,
                metric=self.settings.metric,
                direction=self.settings.direction,
                epochs=self.settings.epochs,
                lr=record.recipe.lr,
                outcome=outcome,
            )
            readable["verdict"] = f"{verdict.kind.value}: {verdict.why}"[:500]
        for name, value in readable.items():
            self.storage.set_trial_user_attr(trial_id, name, value)
        if outcome.diverged:
            share = min(record.curve.trained / self.settings.epochs, 1.0)
            optuna.trial.Trial(self.study, trial_id).set_constraint("diverged", 2.0 - share)

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
        return Claim(until=until, again=again, token=uuid.uuid4().hex, lease=self.me.renewed())

    # -- recovery -------------------------------------------------------------------------------------

    def recover(self, entries: list[Entry]) -> list[Entry]:
        """Take over what dead processes held, and tell of ends that they had no time to tell.

        A trial whose process died within a piece goes on from its last checkpoint, or from its start
        where there is none; its record stays what it was, but for the piece that is to be finished first.
        """
        return [self._recovered(entry) for entry in entries]

    def _recovered(self, entry: Entry) -> Entry:
        if entry.told:
            return entry
        if entry.record.outcome is not None:
            return self.end(entry)
        changed = entry
        if entry.claim is not None and not self._lives(entry.claim.lease):
            changed = dataclasses.replace(changed, claim=None, resume=entry.claim.until)
            changed = bereaved(changed, self._death(entry.claim.lease))
            if changed.record.outcome is not None:
                return self.end(changed)
        if entry.holder is not None and not self._lives(entry.holder):
            changed = dataclasses.replace(changed, holder=None)
        return entry if changed is entry else self.write(changed)

    def _death(self, lease: Lease | None) -> Death | None:
        """How a holder died, where somebody watched."""
        return next((d for d in self.deaths if lease and (d.pid, d.started) == (lease.pid, lease.started)), None)

    def _lives(self, lease: Lease | None) -> bool:
        """Whether a holder may still be working; a search of this very process that has ended is not."""
        mine = lease is not None and dataclasses.replace(self.me, worker=lease.worker).same_holder(lease)
        return alive(lease) and not (mine and lease is not None and lease.worker not in _working)

    def _end_stray(self, trial: FrozenTrial) -> None:
        trial_id = self.trial_id(trial.number)
        self.storage.set_trial_user_attr(trial_id, "outcome", Outcome.INTERRUPTED.value)
        self.storage.set_trial_state_values(trial_id, TrialState.FAIL)


def bereaved(entry: Entry, death: Death | None) -> Entry:
    """What the death of the process that trained it means for a trial: an outcome, or another try.

    None where nobody knows how it died.
    """
    if death is None:
        return entry
    entry = dataclasses.replace(entry, deaths=entry.deaths + 1)
    if not (death.stalled or death.exited) and entry.deaths < MOST_DEATHS:
        return entry
    outcome = Outcome.STALLED if death.stalled else Outcome.FAILED
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, outcome=outcome, why=death.why))


def _optuna_end(record: Record, metric: str) -> tuple[TrialState, list[float] | None]:
    outcome = record.outcome
    if outcome is Outcome.COMPLETED and record.value is not None:
        return TrialState.COMPLETE, [record.value]
    if outcome is Outcome.PRUNED or (outcome is not None and outcome.diverged):
        values = record.curve.of(metric)[1]
        last = float(values[-1]) if len(values) else math.nan
        kept = outcome is Outcome.PRUNED and math.isfinite(last)
        return TrialState.PRUNED, [last] if kept else None
    return TrialState.FAIL, None
