"""What is stored of a trial, as a dataclass and as JSON: the user attribute ``lrtune:record`` of its Optuna trial.

It holds recipe, curve, segments, outcome and the claim of the worker that trains it. Curves are stored with a limited
number of digits and points, and are used as they are stored.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
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
"""Points of a curve that are stored; a longer one is thinned, its extremes are kept."""

PLAIN = ("why", "value", "trained", "started", "finished")
"""Fields of a record that are stored as they are."""

SEGMENT = tuple(f.name for f in dataclasses.fields(Segment))
"""The order in which the fields of a segment are stored: at, seconds, begin, end, worker, why."""

POINT: Shape = (NUMBER, TEXT)  # a number that is not finite is stored as text
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
    "saved_epochs?": NUMBER,
    "pieces": Each(FixedList((NUMBER, NUMBER, NUMBER, NUMBER, TEXT, TEXT))),
    "started": (NUMBER, NOTHING),
    "finished": (NUMBER, NOTHING),
    "setup?": MAPPING,
    "claim": (NOTHING, {"until": NUMBER, "again": NUMBER, "token": TEXT, "lease": (NOTHING, MAPPING)}),
    "saved": FLAG,
    "holder": (NOTHING, MAPPING),
    "deaths": WHOLE,
    "resume?": (NUMBER, NOTHING),
}
"""The JSON that :func:`encode` writes; leases are checked by :meth:`lrtune.workers.lease.Lease.from_json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That a worker trains a trial.

    Attributes
    ----------
    until
        The epoch up to which it trains.
    repaid_epochs
        Epochs of it that are trained a second time, because the run's state was lost.
    token
        Differs in every claim: a worker that was suspended too long sees by it that another one has taken over.
    lease
        The worker; None for a lease that cannot be read.
    why
        The strategy's reason, for the segment's record; known to the claiming worker only, not stored.
    """

    until: float
    repaid_epochs: float = 0.0
    token: str = ""
    lease: Lease | None
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """One trial in the storage: its record, and what workers need to share it or to recover it.

    Attributes
    ----------
    record
        What is reported of it.
    claim
        The worker that trains it; None while none does.
    saved
        Whether its run has a checkpoint.
    owner
        The process that holds the run in memory, where there is no checkpoint.
    closed
        Whether its Optuna trial is finished.
    deaths
        Worker processes that died while they trained it.
    resume
        The epoch up to which an interrupted segment was to go; None where none was interrupted.
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
        """The Optuna trial's number."""
        return self.record.number

    @property
    def trained_epochs(self) -> float:
        """Epochs that its run has trained; more than its curve shows where a segment was interrupted."""
        return self.record.segments[-1].end if self.record.segments else 0.0

    def price(self, until: float, repaid_epochs: float) -> float:
        """Epochs that training it up to one costs: all of them where its state is lost (`repaid_epochs` above 0)."""
        return until if repaid_epochs else max(0.0, until - self.trained_epochs)


def parse(number: int, stored: Any, *, closed: bool = False) -> StoredTrial:
    """The trial of a stored record (JSON values or their text), checked: a disk may have lost a part of it.

    Raises
    ------
    StorageError
        If it is not what :func:`encode` wrote.
    """
    trial, what = _checked(number, stored, closed=closed)
    if trial is not None:
        return trial
    msg = (
        f"the record of trial {number} is damaged ({what}); restore a copy of the storage, or choose another name "
        "for the study; lrtune storage check names all that is damaged"
    )
    raise StorageError(msg)


def damage(stored: Any) -> str:
    """What is wrong with a stored record, as a clause; empty where nothing is."""
    return _checked(0, stored)[1]


def _checked(number: int, stored: Any, *, closed: bool = False) -> tuple[StoredTrial | None, str]:
    try:
        data = json.loads(stored) if isinstance(stored, str) else stored
        what = wrong(data, SHAPE)
        return (None, what) if what else (decode(number, data, closed=closed), "")
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def decode(number: int, data: Mapping[str, Any], *, closed: bool = False) -> StoredTrial:
    """The trial that :func:`encode` wrote; see :func:`parse` for a record that may be damaged."""
    record = TrialRecord(
        number=number,
        recipe=Recipe.from_json(data["recipe"]),
        params=dict(data["params"]),
        curve=Curve.from_json(data["curve"]),
        outcome=Outcome.from_key(data["outcome"]) if data["outcome"] else None,
        segments=tuple(Segment(**dict(zip(SEGMENT, values, strict=True))) for values in data["pieces"]),
        saved_epochs=data.get("saved_epochs", 0.0),
        setup=dict(data.get("setup", {})),
        **{name: data[name] for name in PLAIN},
    )
    claim = data["claim"]
    return StoredTrial(
        record=record,
        claim=claim
        and Claim(
            until=claim["until"],
            repaid_epochs=claim["again"],
            token=claim["token"],
            lease=Lease.from_json(claim["lease"]),
        ),
        saved=data["saved"],
        owner=Lease.from_json(data["holder"]) if data["holder"] else None,
        closed=closed,
        deaths=data["deaths"],
        resume=data.get("resume"),
    )


def ended_elsewhere(trial: StoredTrial, state: TrialState, value: float | None) -> StoredTrial:
    """A trial without an outcome whose Optuna trial another program finished (`study.tell`, the dashboard)."""
    why = "ended from outside of lrtune"
    if state is TrialState.COMPLETE and value is not None and math.isfinite(value):
        outcome = Outcome.COMPLETED
    elif state is TrialState.PRUNED:
        outcome, value = Outcome.PRUNED, None
    else:
        outcome, value = Outcome.FAILED, None
    record = dataclasses.replace(trial.record, outcome=outcome, why=why, value=value)
    return dataclasses.replace(trial, record=record, claim=None, owner=None, resume=None, closed=True)


def encode(trial: StoredTrial) -> dict[str, Any]:
    """The trial as JSON values, under the keys of every earlier version."""
    record, claim = trial.record, trial.claim
    return {
        "recipe": record.recipe.to_json(),
        "params": dict(record.params),
        "curve": record.curve.thinned(MOST_POINTS).to_json(),
        "outcome": record.outcome.key if record.outcome else "",
        **{name: getattr(record, name) for name in PLAIN},
        **({"saved_epochs": record.saved_epochs} if record.saved_epochs else {}),
        "pieces": [[getattr(segment, name) for name in SEGMENT] for segment in record.segments],
        "setup": dict(record.setup),
        "claim": claim
        and {
            "until": claim.until,
            "again": claim.repaid_epochs,
            "token": claim.token,
            "lease": claim.lease and claim.lease.to_json(),
        },
        "saved": trial.saved,
        "holder": trial.owner and trial.owner.to_json(),
        "deaths": trial.deaths,
        "resume": trial.resume,
    }
