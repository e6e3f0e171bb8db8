"""The options of a search, each declared once: `tune` and study files read all of this schema.

The command line has those with a help, job files the :class:`Limits`. ``workers``, ``lr`` and ``storage`` are declared
in :mod:`lrtune.config.study_file`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.directions import better_side
from lrtune.core.names import valid_name
from lrtune.core.options import check, option, options
from lrtune.errors import InputError
from lrtune.search.registry import DEFAULT, NAMES, make

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.core.curve import Direction, ValueRule

__all__ = ["Limits", "Settings"]

DIRECTIONS = ("minimize", "maximize")
MOST = 1_000_000
SECONDS: dict[str, Any] = {"unit": "seconds", "above": True, "high": 366 * 24 * 3600.0}  # above 0


def _last() -> ValueRule:
    from lrtune.core.curve import ValueRule  # numpy, which `lrtune --help` does without

    return ValueRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a search ends at the latest; None where there is no such limit.

    Attributes
    ----------
    budget
        Full trainings, at least 1: less could not train any recipe to its end.
    machine_budget
        The same as the time that one run alone would take: runs that train beside others in a stacked model count for
        less.
    trials
        Trials started.
    timeout
        Seconds of the monotonic clock, for this call.
    worth
        What one more full training must be expected to gain, as a share of what training gains over the untrained
        model, for `freeze-thaw` to go on. None goes on for 0.75 percent where there is no other limit, and as far as
        the limits allow where there is one.
    """

    budget: float | None = option(
        float, None, low=1, high=MOST, unit="full trainings", help="The most to spend, in full trainings."
    )
    machine_budget: float | None = option(
        float,
        None,
        low=1,
        high=MOST,
        unit="full trainings",
        help="The most time to train, in full trainings of one run alone.",
    )
    trials: int | None = option(int, None, low=1, high=MOST, unit="trials", help="The most trials to start.")
    timeout: float | None = option(float, None, **SECONDS, help="Seconds after which to end.")
    worth: float | None = option(
        float,
        None,
        above=True,
        high=1,
        unit="of what training gains",
        help="Ends when a further training is expected to gain less, e.g. 0.01.",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def any(self) -> bool:
        """Whether any of them is set that ends a search whatever it has found."""
        return any(limit is not None for limit in (self.budget, self.machine_budget, self.trials, self.timeout))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All options of a search. The command line shows those that have a help, in this order.

    Attributes
    ----------
    strategy, seed
        What decides which recipe trains next, and the seed of every decision and every run.
    limits
        When the search ends at the latest.
    epochs
        Epochs of one full training; yields of a generator.
    name
        Name of the study in its storage.
    metric, direction, value
        What counts, its better side (None takes that of the metric's name, as of a loss, an error or a scorer of
        scikit-learn), and which number of its curve is a trial's result.
    patience
        Epochs without a better value after which a run counts as completed; None trains to the end.
    widen
        Decades by which the learning rate's range may be widened where the best lies at its end.
    stall_timeout, trial_timeout
        Seconds without progress, and in all, after which a trial is ended. The first one is kept by the process
        above the one that trains: the command's, or this one with `isolate`.
    isolate
        Whether each run has a process of its own, forked (:mod:`lrtune.training.subprocess.trainer`). A
        paused run that is saved keeps none, and no memory, whatever `memory_limit` says.
    checkpoint_every
        Seconds of training after which a run is saved even within a segment.
    prune, points
        See :func:`lrtune.search.registry.make`.
    failures
        Failed trials in a row after which the search ends.
    memory_limit
        Bytes of paused runs kept in memory; what is beyond goes to disk.
    checkpoints
        Folder of saved runs; None where nothing is saved.
    spent
        Full trainings that were spent on the question before the search, e.g. on a range test: they
        count towards the budget and the cost.

    Raises
    ------
    InputError
        If one of them cannot be used; names it, its bounds and the value.
    """

    strategy: str = option(str, DEFAULT, choices=NAMES, help="freeze-thaw, tpe, gp, qmc, random or grid.")
    limits: Limits = field(default_factory=Limits)
    seed: int = option(int, 0, high=2**32 - 1, help="Seed of every decision and every run.")
    epochs: int = option(int, table="study", low=1, high=MOST, unit="epochs", help="Epochs of one full training.")
    name: str = option(str, "lrtune", table="study", declared="--study", metavar="NAME", help="Name of the study.")
    metric: str = option(str, "valid_loss", table="study", help="What is watched, e.g. valid_loss.")
    direction: Direction = option(str, None, table="study", choices=DIRECTIONS, help="minimize or maximize.")  # noqa: RUF009 -- a field
    value: ValueRule = option(str, factory=_last, table="study")  # noqa: RUF009 -- a field
    patience: int | None = option(int, None, table="study", low=1, high=MOST, unit="epochs")
    widen: float = option(
        float,
        1.0,
        high=6,
        unit="decades",
        switch=True,
        declared="--widen/--no-widen",
        help="Whether the range may grow where the best is at its end.",
    )
    stall_timeout: float | None = option(float, None, **SECONDS, help="Seconds without progress that end a trial.")
    trial_timeout: float | None = option(float, None, **SECONDS, help="Seconds that end a trial.")
    isolate: bool = option(
        bool,
        default=False,
        declared="--isolate/--no-isolate",
        help="Whether each trial trains in a process of its own (Linux).",
    )
    checkpoint_every: float = option(float, 30.0, **SECONDS, help="Seconds of training between checkpoints.")
    prune: bool | None = option(bool, None)
    points: int | None = option(int, None, low=2, high=MOST, unit="learning rates")
    failures: int = option(int, 5, low=1, high=MOST, unit="failed trials")
    memory_limit: int = option(int, 2**30, high=2**63 - 1, unit="bytes")
    checkpoints: Path | None = None
    spent: float = option(float, 0.0, table="", high=MOST, unit="full trainings")

    def __post_init__(self) -> None:
        valid_name(self.name)
        check(self)
        if self.direction not in {*DIRECTIONS, None}:
            msg = f'direction must be "minimize" or "maximize" (got {self.direction!r})'
            raise InputError(msg)
        if self.strategy not in NAMES:
            make(self.strategy)  # raises with a suggestion
        if not self.metric or not isinstance(self.metric, str):
            hint = "; give a scorer to the trainer: metrics={'score': ...}" if callable(self.metric) else ""
            msg = f"metric must be the name of something that the trainer reports (got {self.metric!r}){hint}"
            raise InputError(msg)
        object.__setattr__(self, "direction", better_side(self.metric, self.direction))

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """The settings from options by name, as `tune`, files and the command line have them: the limits among them."""
        from lrtune.core.curve import ValueRule

        limits = {name: given.pop(name) for name in options(Limits) if name in given}
        if "value" in given:
            given["value"] = ValueRule.parse(given["value"])
        return cls(limits=Limits(**limits), **given)

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on."""
        names = ("metric", "direction", "epochs", "value", "patience")
        return {name: str(getattr(self, name)) if name == "value" else getattr(self, name) for name in names}
