"""Settings: all that a search is told, checked once, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.curve import Direction, ValueRule
from lrtune.core.directions import better_side
from lrtune.core.names import valid_name
from lrtune.errors import InputError
from lrtune.search.registry import NAMES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Limits", "Settings"]

MOST_TRIALS = 1_000_000
MOST_EPOCHS = 1_000_000
MOST_BUDGET = 1e6
MOST_TIMEOUT = 366 * 24 * 3600.0
MOST_WORKERS = 256
OPTIONAL = {"budget", "trials", "timeout", "patience", "points", "stall_timeout", "trial_timeout"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a search ends at the latest; None where there is no such limit.

    Attributes
    ----------
    budget
        Full trainings, at least 1: less could not train any recipe to its end.
    trials
        Trials started.
    timeout
        Seconds of the monotonic clock, for this call.
    """

    budget: float | None = None
    trials: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        _number("budget", self.budget, 1, MOST_BUDGET, "full trainings")
        _number("trials", self.trials, 1, MOST_TRIALS, "trials", whole=True)
        _number("timeout", self.timeout, 0, MOST_TIMEOUT, "seconds", above=True)

    @property
    def any(self) -> bool:
        """Whether there is any limit."""
        return (self.budget, self.trials, self.timeout) != (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a search is told, but for the trainer and the space.

    Attributes
    ----------
    name
        Name of the study in its storage.
    epochs
        Epochs of one full training; yields of a generator.
    metric, direction, value
        What counts, its better side (None takes what the metric's name tells, as of a loss, an error or a scorer of
        scikit-learn), and which number of its curve is a trial's result.
    strategy, seed
        Who decides, and the seed of every decision and every run.
    limits
        When the search ends at the latest.
    patience
        Epochs without a better value after which a run counts as completed; None trains to the end.
    prune, points
        See :func:`lrtune.search.registry.make`.
    widen
        Decades by which the learning rate's range may be widened where the best lies at its end.
    failures
        Failed trials in a row after which the search ends.
    stall_timeout, trial_timeout
        Seconds without progress, and in all, after which a trial is ended. The first one is kept by whoever stands
        above the process that trains: the command, or this process with `isolate`.
    checkpoint_every
        Seconds of training after which a run is saved even within a piece.
    memory_limit
        Bytes of paused runs kept in memory; what is beyond goes to disk.
    checkpoints
        Folder of saved runs; None where nothing is saved.
    isolate
        Whether each run has a process of its own, forked (:mod:`lrtune.training.subprocess.trainer`). A
        paused run that is saved keeps none, and no memory, whatever `memory_limit` says.
    spent
        Full trainings that were spent on the question before the search, e.g. on a range test: they
        count towards the budget and the cost.
    """

    name: str = "lrtune"
    epochs: int
    metric: str = "valid_loss"
    direction: Direction = None  # type: ignore[assignment]  # what the metric's name tells, set below
    value: ValueRule = field(default_factory=ValueRule)
    strategy: str = "freeze-thaw"
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    patience: int | None = None
    prune: bool | None = None
    points: int | None = None
    widen: float = 1.0
    failures: int = 5
    stall_timeout: float | None = None
    trial_timeout: float | None = None
    checkpoint_every: float = 30.0
    memory_limit: int = 2**30
    checkpoints: Path | None = None
    isolate: bool = False
    spent: float = 0.0

    def __post_init__(self) -> None:
        valid_name(self.name)
        _number("epochs", self.epochs, 1, MOST_EPOCHS, "epochs", whole=True)
        if self.direction not in {"minimize", "maximize", None}:
            msg = f'direction must be "minimize" or "maximize" (got {self.direction!r})'
            raise InputError(msg)
        if self.strategy not in NAMES:
            from lrtune.search.registry import make

            make(self.strategy)  # raises with a suggestion
        if not self.metric or not isinstance(self.metric, str):
            hint = "; give a scorer to the trainer: metrics={'score': ...}" if callable(self.metric) else ""
            msg = f"metric must be the name of something that the trainer reports (got {self.metric!r}){hint}"
            raise InputError(msg)
        object.__setattr__(self, "direction", better_side(self.metric, self.direction))
        _number("seed", self.seed, 0, 2**32 - 1, "", whole=True)
        _number("patience", self.patience, 1, MOST_EPOCHS, "epochs", whole=True)
        _number("points", self.points, 2, MOST_TRIALS, "learning rates", whole=True)
        _number("failures", self.failures, 1, MOST_TRIALS, "failed trials", whole=True)
        _number("stall_timeout", self.stall_timeout, 0, MOST_TIMEOUT, "seconds", above=True)
        _number("trial_timeout", self.trial_timeout, 0, MOST_TIMEOUT, "seconds", above=True)
        _number("checkpoint_every", self.checkpoint_every, 0, MOST_TIMEOUT, "seconds", above=True)
        _number("memory_limit", self.memory_limit, 0, 2**63 - 1, "bytes", whole=True)
        _flag("isolate", self.isolate)
        _number("widen", self.widen, 0, 6, "decades")
        _number("spent", self.spent, 0, MOST_BUDGET, "full trainings")

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "epochs": self.epochs,
            "value": str(self.value),
            "patience": self.patience,
        }


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        msg = f"{name} must be true or false (got {value!r})"
        raise InputError(msg)


def _number(
    name: str, value: Any, low: float, high: float, unit: str, *, whole: bool = False, above: bool = False
) -> None:
    if value is None and name in OPTIONAL:
        return
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if right and math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    bound = f"above {low:g}" if above else f"of at least {low:g}"
    of = f" of {unit}" if unit else ""
    msg = f"{name} must be {kind}{of}, {bound} and at most {high:g} (got {value!r})"
    raise InputError(msg)
