"""The public call, :func:`schedule_of`, and what it returns."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.explain.readers import read
from lrtune.reporting.explain.recognize import EXACT, Match, recognize
from lrtune.reporting.explain.remarks import remarks
from lrtune.reporting.explain.source import MOST_STEPS, Source
from lrtune.schedules import describe, parse

if TYPE_CHECKING:
    import numpy.typing as npt

    from lrtune.schedules.base import Floats

__all__ = ["AppliedSchedule", "schedule_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedSchedule:
    """A schedule as it is applied.

    Attributes
    ----------
    source
        What was read, e.g. ``"torch CosineAnnealingLR"``.
    steps
        Updates of the optimizer in the run.
    updates, rates
        Numbers of updates, and the learning rate of each, shapes (n,). All updates, except of a log.
    recipe
        The same as a recipe of lrtune's; None where none of its schedules gives these rates.
    nearest, deviation
        The recipe that comes nearest, and by how much of the peak it differs at the worst update: next to nothing
        where `recipe` is given.
    remarks
        What a reader should know, one sentence each.
    """

    source: str
    steps: int
    updates: npt.NDArray[np.int64]
    rates: Floats
    recipe: Recipe | None
    nearest: Recipe
    deviation: float
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "source": self.source,
            "steps": self.steps,
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "nearest": self.nearest.to_json(),
            "deviation": self.deviation,
            "remarks": list(self.remarks),
            "updates": self.updates.tolist(),
            "rates": self.rates.tolist(),
        }

    def __str__(self) -> str:
        known = self.recipe or self.nearest
        said = [f"{self.source}, {self.steps:,} updates", describe(parse(known.schedule))]
        return "\n".join([*said, *self.remarks])


def schedule_of(
    used: Any,
    *,
    steps: int | None = None,
    lr: float | None = None,
    every: int | None = None,
    accumulate: int | None = None,
) -> AppliedSchedule:
    """The learning rate that something sets at every update, and the recipe that gives the same.

    Nothing is trained, and nothing that is handed in is changed: a scheduler with a state is stepped as a copy.

    Parameters
    ----------
    used
        A scheduler of PyTorch's or timm's; an optimizer of PyTorch's or Keras's; what a LightningModule's
        ``configure_optimizers`` returns; a schedule of Keras's or optax's, or any function of the update that returns
        a learning rate; transformers' ``TrainingArguments``, also as a mapping; that of a DeepSpeed configuration or of
        a ``trainer_state.json``; a recipe, or a schedule of lrtune's as text.
    steps
        Updates of the optimizer in the run; by default what `used` says.
    lr
        The learning rate that is scheduled, where `used` does not say it.
    every
        Updates between two steps of the scheduler, where it is stepped once an epoch.
    accumulate
        Micro-batches to an update, for a schedule that is asked or stepped for each; by default what `used` says.

    Returns
    -------
    AppliedSchedule
        The rates, a recipe, and remarks.

    Raises
    ------
    InputError
        If `used` has no schedule, the number of updates is not known, or an argument is not allowed.
    """
    _check("steps", steps)
    _check("every", every)
    _check("accumulate", accumulate)
    source = read(used, lr=lr)
    spacing, accumulate = every or source.every, accumulate or source.accumulate
    total = steps or (source.length * spacing if source.length else None)
    if total is None or total < 1:
        msg = f"schedule_of: how many updates does the run have? {source.name} does not say; give steps"
        raise InputError(msg)
    if total * accumulate > MOST_STEPS:
        msg = f"schedule_of: steps must be at most {MOST_STEPS // accumulate:,} (got {total:,}); give fewer"
        raise InputError(msg)
    counted = 1 if source.counts_updates else accumulate
    rates = _rates(source, total, spacing, counted)
    updates = np.arange(total) if source.at is None else source.at
    recipe, nearest, off = _recipe(source, rates, total, exact=counted == 1)
    said = list(source.notes)
    if accumulate > 1 and source.counts_updates:
        said.append("accumulation changes nothing: this host counts updates, not micro-batches")
    if source.at is None:
        said += remarks(rates, peak=source.peak, accumulate=counted)
    return AppliedSchedule(
        source=source.name,
        steps=total,
        updates=updates,
        rates=rates,
        recipe=recipe,
        nearest=nearest,
        deviation=off,
        remarks=tuple(said),
    )


def _rates(source: Source, total: int, every: int, accumulate: int) -> Floats:
    """The rate of each update: where calls are counted, that of its last micro-batch."""
    calls = total if source.at is not None else -(-total * accumulate // every)
    try:
        rates = source.rates(calls)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"schedule_of: the rates of {source.name} cannot be computed ({type(error).__name__}: {error}); mend it"
        raise InputError(msg) from error
    if source.at is not None:
        return rates
    return np.repeat(rates, every)[: total * accumulate][accumulate - 1 :: accumulate]


def _recipe(source: Source, rates: Floats, total: int, *, exact: bool) -> tuple[Recipe | None, Recipe, float]:
    """The recipe, if there is one; the nearest; and its deviation."""
    fields = {"epochs": 1, **{key: value for key, value in source.fields.items() if value is not None}}
    if source.schedule is not None and exact:
        recipe = Recipe(**{**fields, **source.schedule})
        return recipe, recipe, 0.0
    match = recognize(rates, total, at=source.at, peak=source.peak)
    nearest = Recipe(**{**fields, "lr": match.lr, "schedule": str(match.schedule), "warmup": _warmup(match, total)})
    if source.at is not None and match.off > EXACT:  # before transformers 5 the log held the rate of the next update
        later = recognize(rates, total, at=np.minimum(source.at + 1, total - 1), peak=source.peak)
        if later.off < match.off:
            return _recipe(dataclasses.replace(source, at=source.at + 1), rates, total, exact=exact)
    return (nearest if match.off <= EXACT else None), nearest, match.off


def _warmup(match: Match, total: int) -> float:
    """As a fraction where that is short, else in steps."""
    part = match.warmup / total
    whole = float(round(match.warmup))
    if part == float(f"{part:.2g}") or not math.isclose(match.warmup, whole, rel_tol=1e-6):
        return float(f"{part:.12g}")
    return whole


def _check(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        msg = f"schedule_of: {name} must be a whole number of at least 1 (got {value!r}); change it"
        raise InputError(msg)
