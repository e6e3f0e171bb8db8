"""One trial as the ledger knows it, and its record as plain JSON.

One compact record a trial (user attribute ``lrtune:record``) holds recipe, curve, pieces, outcome and
who is training it now. What is written is what is read: a curve is stored with so many digits and points.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from lrtune.core.curve import Curve
from lrtune.core.json_shapes import FLAG, MAPPING, NOTHING, NUMBER, TEXT, WHOLE, Each, FixedList, Named, Shape, wrong
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.records import Segment, TrialRecord
from lrtune.errors import StorageError
from lrtune.workers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECIPE", "RECORD", "Claim", "StoredTrial", "damage", "decode", "encode", "ended_elsewhere", "parse"]

RECORD = "lrtune:record"
MOST_POINTS = 1000
"""Points of a curve that are stored; what is beyond is thinned out, extremes are kept."""

POINT: Shape = (NUMBER, TEXT)  # what is not finite is stored as a text
RECIPE: Mapping[str, Shape] = {
    "lr": NUMBER,
    "epochs?": WHOLE,
    "batch_size?": (WHOLE, NOTHING),
    "schedule?": TEXT,
    "warmup?": NUMBER,
    "optimizer?": (TEXT, NOTHING),
    "momentum?": (NUMBER, NOTHING),
    "weight_decay?": (NUMBER, NOTHING),
    "layer_decay?": (NUMBER, NOTHING),
    "seed?": WHOLE,
}
SHAPE: Shape = {
    "recipe": RECIPE,
    "params": Named((NUMBER, TEXT, FLAG, NOTHING)),
    "curve": {
        "step": Each(WHOLE),
        "epoch": Each(NUMBER),
        "samples": Each(WHOLE),
        "lr": Each((NOTHING, POINT)),
        "values": Named(Each((NOTHING, POINT))),
    },
    "outcome": TEXT,
    "why": TEXT,
    "value": (NUMBER, NOTHING),
    "trained": NUMBER,
    "pieces": Each(FixedList((NUMBER, NUMBER, NUMBER, NUMBER, TEXT, TEXT))),
    "started": (NUMBER, NOTHING),
    "finished": (NUMBER, NOTHING),
    "claim": (NOTHING, {"until": NUMBER, "again": NUMBER, "token": TEXT, "lease": (NOTHING, MAPPING)}),
    "saved": FLAG,
    "holder": (NOTHING, MAPPING),
    "deaths": WHOLE,
    "resume?": (NUMBER, NOTHING),
}
"""Of a record; a lease that cannot be read is nobody's, see :meth:`lrtune.workers.lease.Lease.from_json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That somebody is training a trial right now.

    Attributes
    ----------
    until
        Up to which epoch.
    repaid_epochs
        Epochs of it that are trained a second time.
    token
        Tells this claim from every other: a process that slept too long finds another one in its place.
    lease
        Who.
    """

    until: float
    repaid_epochs: float = 0.0
    token: str = ""
    lease: Lease | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """One trial as :class:`~lrtune.study.trials.trial_store.TrialStore` keeps it.

    Attributes
    ----------
    record
        What is known of it.
    claim
        Who is training it, None while nobody is.
    saved
        Whether a checkpoint of it was written.
    owner
        The process in whose memory the run lives, where it lives nowhere else.
    closed
        Whether the trial has ended in Optuna.
    deaths
        How often the process that trained it died while others watched.
    resume
        Up to which epoch a piece was to go that was cut off; None where none was.
    """

    record: TrialRecord
    claim: Claim | None = None
    saved: bool = False
    owner: Lease | None = None
    closed: bool = False
    deaths: int = 0
    resume: float | None = None

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.record.number

    @property
    def trained_epochs(self) -> float:
        """Epochs at which its run stands, as far as is recorded; beyond its curve where a piece was cut off."""
        return self.record.segments[-1].end if self.record.segments else 0.0

    def price(self, until: float, repaid_epochs: float) -> float:
        """Epochs that training it up to one costs; `repaid_epochs` is not zero where all is trained a second time."""
        return until if repaid_epochs else max(0.0, until - self.trained_epochs)


def parse(number: int, stored: Any, *, closed: bool = False) -> StoredTrial:
    """The entry that is stored, checked: others may have written it, or a disk may have lost a part of it.

    Parameters
    ----------
    number
        The trial's.
    stored
        The record as plain JSON, or the text of it.
    closed
        Whether the trial has ended in Optuna.

    Raises
    ------
    StorageError
        If it is not what :func:`encode` wrote.
    """
    entry, what = _tried(number, stored, closed=closed)
    if entry is not None:
        return entry
    msg = (
        f"the record of trial {number} is damaged ({what}); restore a copy of the storage, or choose another name "
        "for the study; lrtune storage check names all that is damaged"
    )
    raise StorageError(msg)


def damage(stored: Any) -> str:
    """What is wrong with a record that is stored, as a clause; empty where nothing is."""
    return _tried(0, stored)[1]


def _tried(number: int, stored: Any, *, closed: bool = False) -> tuple[StoredTrial | None, str]:
    try:
        data = json.loads(stored) if isinstance(stored, str) else stored
        what = wrong(data, SHAPE)
        return (None, what) if what else (decode(number, data, closed=closed), "")
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def decode(number: int, data: Mapping[str, Any], *, closed: bool = False) -> StoredTrial:
    """The entry that :func:`encode` wrote; see :func:`parse` for one that may be damaged."""
    record = TrialRecord(
        number=number,
        recipe=Recipe.from_json(data["recipe"]),
        params=dict(data["params"]),
        curve=Curve.from_json(data["curve"]),
        outcome=Outcome.from_key(data["outcome"]) if data["outcome"] else None,
        why=data["why"],
        value=data["value"],
        trained=data["trained"],
        segments=tuple(
            Segment(at=at, seconds=seconds, begin=begin, end=end, worker=worker, why=why)
            for at, seconds, begin, end, worker, why in data["pieces"]
        ),
        started=data["started"],
        finished=data["finished"],
        setup=dict(data.get("setup", {})),
    )
    claim = data["claim"]
    return StoredTrial(
        record=record,
        claim=None if claim is None else _claim(claim),
        saved=data["saved"],
        owner=Lease.from_json(data["holder"]) if data["holder"] else None,
        closed=closed,
        deaths=data["deaths"],
        resume=data.get("resume"),
    )


def _claim(data: Mapping[str, Any]) -> Claim:
    lease = Lease.from_json(data["lease"])
    return Claim(until=data["until"], repaid_epochs=data["again"], token=data["token"], lease=lease)


def ended_elsewhere(entry: StoredTrial, state: TrialState, value: float | None) -> StoredTrial:
    """The entry of a trial that other hands have ended, e.g. with `study.tell` or in the dashboard, as they ended it.

    Parameters
    ----------
    entry
        What lrtune wrote of it; it has no outcome.
    state, value
        What Optuna was told; the state is one that ends a trial.
    """
    why = "ended from outside of lrtune"
    if state is TrialState.COMPLETE and value is not None and math.isfinite(value):
        outcome = Outcome.COMPLETED
    elif state is TrialState.PRUNED:
        outcome, value = Outcome.PRUNED, None
    else:
        outcome, value = Outcome.FAILED, None
    record = dataclasses.replace(entry.record, outcome=outcome, why=why, value=value)
    return dataclasses.replace(entry, record=record, claim=None, owner=None, resume=None, closed=True)


def encode(entry: StoredTrial) -> dict[str, Any]:
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
        "pieces": [[p.at, p.seconds, p.begin, p.end, p.worker, p.why] for p in record.segments],
        "started": record.started,
        "finished": record.finished,
        "setup": dict(record.setup),
        "claim": None
        if claim is None
        else {
            "until": claim.until,
            "again": claim.repaid_epochs,
            "token": claim.token,
            "lease": claim.lease and claim.lease.to_json(),
        },
        "saved": entry.saved,
        "holder": entry.owner.to_json() if entry.owner else None,
        "deaths": entry.deaths,
        "resume": entry.resume,
    }
