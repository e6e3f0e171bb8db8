"""What a study recorded, as frozen data without Optuna: tables, figures, diagnosis and reports read this alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lrtune.core.curve import Curve, Direction, ValueRule
from lrtune.core.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.divergence import Baseline
    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space

__all__ = ["Segment", "StudyRecord", "TrialRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of training of one trial, without a pause.

    Attributes
    ----------
    at, seconds
        When it began, in seconds since 1970 (UTC), and how long it took.
    begin, end
        Epochs that the run had trained before and after; both may be fractional.
    why
        The strategy's reason for it, e.g. ``"first look"``.
    """

    at: float
    seconds: float
    begin: float
    end: float
    worker: str = ""
    why: str = ""

    @property
    def epochs(self) -> float:
        """Epochs trained in it."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as it was recorded: the shape that is read and reported, without who trains it.

    Attributes
    ----------
    number
        Its number in the Optuna study.
    recipe, params
        The settings that it is trained with, and those of them that are searched, by name.
    curve
        All that it reported.
    outcome
        How it ended; None while it is paused or running.
    why
        One sentence with the numbers where it did not end well.
    value
        Its result under the study's value rule; None where it has none (diverged, failed, no report).
    trained
        Epochs that were trained for it, those trained again after an interruption included.
    saved_epochs
        Epochs of a run alone whose time was saved because it was trained beside others in one stacked model.
    segments
        In the order of time.
    started, finished
        Seconds since 1970 (UTC); None where it has not.
    setup
        How its run was set up beyond the recipe (:mod:`lrtune.training.setups`); empty where that is unknown.
    """

    number: int
    recipe: Recipe
    params: Mapping[str, Any] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    outcome: Outcome | None = None
    why: str = ""
    value: float | None = None
    trained: float = 0.0
    saved_epochs: float = 0.0
    segments: tuple[Segment, ...] = ()
    started: float | None = None
    finished: float | None = None
    setup: Mapping[str, Any] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        """Whether it was trained to its end, with a finite result."""
        return self.outcome is Outcome.COMPLETED and self.value is not None and math.isfinite(self.value)

    @property
    def diverged(self) -> bool:
        """Whether the learning rate was too high for it."""
        return self.outcome is not None and self.outcome.diverged

    @property
    def outcome_key(self) -> str:
        """How it ended as one word, e.g. ``"non_finite"``; ``"open"`` while it is paused or running."""
        return "open" if self.outcome is None else self.outcome.key

    @property
    def outcome_group(self) -> str:
        """The word under which it is counted, e.g. ``"diverged"``; ``"open"`` while it is paused or running."""
        return "open" if self.outcome is None else self.outcome.group


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A whole study, as it was recorded.

    Attributes
    ----------
    epochs
        Of one full training.
    rule
        Which number of a curve is its result.
    space
        What is searched, its learning-rate range as it was last widened.
    baseline
        The metric without training, where the trainer knows it.
    notices
        The trainer's notes to the user, one sentence each.
    result
        The answer as in ``result.json``; empty before there is one.
    environment
        Versions, hardware and whatever else it takes to repeat the study: name to readable text.
    """

    name: str
    metric: str
    direction: Direction = "minimize"
    epochs: int
    rule: ValueRule = field(default_factory=ValueRule)
    space: Space
    seed: int = 0
    strategy: str = ""
    records: tuple[TrialRecord, ...] = ()
    baseline: Baseline | None = None
    notices: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Epochs trained, in full trainings."""
        return sum(record.trained for record in self.records) / self.epochs

    @property
    def machine_time(self) -> float:
        """The time of all training, in full trainings of one run alone: the cost, unless some were trained together."""
        return sum(record.trained - record.saved_epochs for record in self.records) / self.epochs

    @property
    def sign(self) -> float:
        """+1 if the metric is minimised, -1 if it is maximised: sign * value is smaller where it is better."""
        return 1.0 if self.direction == "minimize" else -1.0

    @property
    def best(self) -> TrialRecord | None:
        """The record of the answer.

        The best completed one under the recipe that `result` names where it does, else the best completed one.
        """
        done = [r for r in self.records if r.outcome is Outcome.COMPLETED and r.value is not None]
        wanted = dict(self.result.get("best") or {})
        named = [r for r in done if wanted and _agrees(r.recipe, wanted)]
        return min(named or done, key=lambda record: self.sign * float(record.value or 0.0), default=None)

    @property
    def untrained(self) -> float | None:
        """The metric of a model that learned nothing: the better of the untrained one and a constant prediction."""
        known = [] if self.baseline is None else [self.baseline.untrained, self.baseline.chance]
        finite = [value for value in known if value is not None and math.isfinite(value)]
        return min(finite, key=lambda value: self.sign * value, default=None)

    def interval(self, name: str) -> tuple[float | None, float | None, float | None]:
        """``lr``, ``low`` and ``high`` of the result's ``"band"`` or ``"edge"``, None where they are not known."""
        found = self.result.get(name) or {}
        lr, low, high = (None if found.get(key) is None else float(found[key]) for key in ("lr", "low", "high"))
        return lr, low, high

    def counts(self) -> dict[str, int]:
        """Trials by outcome group, those that are paused or running as ``"open"``."""
        return dict(Counter(record.outcome_group for record in self.records))


def _agrees(recipe: Recipe, wanted: Mapping[str, Any]) -> bool:
    """Whether a recipe is the wanted one, under whatever seed."""
    if recipe.lr != wanted.get("lr"):
        return False
    names = (f.name for f in fields(recipe) if f.name in wanted and f.name != "seed")
    return all(getattr(recipe, name) == wanted[name] for name in names)
