"""Studies as they would have been recorded, simulated: a basin over log lr, an edge, pruned and diverged trials."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.curve import Curve, Direction, Point, ValueRule
from lrtune.core.divergence import Baseline
from lrtune.core.outcome import Outcome
from lrtune.core.records import Segment, StudyRecord, TrialRecord
from lrtune.core.space import Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe

__all__ = ["EPOCHS", "UNTRAINED", "finished", "joint_space", "simulated", "study"]

EPOCHS = 27
UNTRAINED = 2.3
START = 1_790_000_000.0


def joint_space(**changes: Any) -> Space:
    """Learning rate, batch size, schedule and warmup together."""
    settings: dict[str, Any] = {
        "lr": (1e-5, 10.0),
        "batch_size": [16, 64, 256],
        "schedule": ["constant", "cosine"],
        "warmup": [0.0, 0.1],
    }
    return Space(**{**settings, **changes})


def finished(record: StudyRecord, **result: Any) -> StudyRecord:
    """The same study with the answer that a search would have written."""
    best = record.best
    lost = [r.recipe.lr for r in record.records if r.outcome is not None and r.outcome.diverged]
    answer: dict[str, Any] = {
        "study": record.name,
        "metric": record.metric,
        "direction": record.direction,
        "best": None if best is None else {**best.recipe.to_json(), "value": best.value},
        "band": {"low": None, "high": None}
        if best is None
        else {"low": best.recipe.lr / 2, "high": best.recipe.lr * 2},
        "edge": {"lr": None, "low": None, "high": None}
        if not lost or best is None
        else {"lr": 8 * best.recipe.lr, "low": 5 * best.recipe.lr, "high": 13 * best.recipe.lr},
        "cost": record.cost,
        "epochs_trained": record.cost * record.epochs,
        "trials": record.counts(),
        "stopped_because": "what can still be gained is below the noise",
        "warnings": [],
    }
    return dataclasses.replace(record, result={**answer, **result})


def study(records: Sequence[TrialRecord] = (), *, space: Space | None = None, **fields: Any) -> StudyRecord:
    """A study of these records, every other field with a sensible value."""
    usual: dict[str, Any] = {
        "name": "digits-mlp",
        "metric": "valid_loss",
        "direction": "minimize",
        "epochs": EPOCHS,
        "rule": ValueRule(),
        "seed": 0,
        "strategy": "freeze-thaw",
        "baseline": Baseline(untrained=UNTRAINED, chance=UNTRAINED),
        "environment": {"lrtune": "0.1.0", "python": "3.11.2", "torch": "2.13", "device": "cpu (2 cores)"},
    }
    return StudyRecord(**{**usual, **fields}, space=space or joint_space(), records=tuple(records))


def simulated(
    trials: int = 60,
    *,
    seed: int = 0,
    space: Space | None = None,
    epochs: int = EPOCHS,
    noise: float = 0.01,
    direction: Direction = "minimize",
    exponent: float = 1.0,
    only_divergence: bool = False,
    prune: bool = True,
    open_trials: int = 2,
    **fields: Any,
) -> StudyRecord:
    """A study of so many trials, the learning rates drawn evenly on the log scale.

    The best learning rate is 0.03 at batch 64 and grows as batch^exponent; runs diverge from 12 times that on.
    With `only_divergence` every run that does not diverge ends at the same loss, up to the noise.
    """
    space = space or joint_space()
    rng = np.random.default_rng(seed)
    records, clock = [], START
    for number in range(trials):
        record, clock = _trial(
            number, space, rng, clock, epochs=epochs, noise=noise, exponent=exponent, flat=only_divergence, prune=prune
        )
        records.append(record)
    for number in range(trials - open_trials, trials):
        records[number] = _opened(records[number])
    if direction == "maximize":
        records = [_mirrored(record) for record in records]
        fields = {"metric": "valid_accuracy", "baseline": Baseline(untrained=0.1, chance=0.1), **fields}
    return finished(study(records, space=space, epochs=epochs, direction=direction, **fields))


def _params(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    low, high = space.lr_range
    params: dict[str, Any] = {"lr": float(10 ** rng.uniform(math.log10(low), math.log10(high)))}
    for name, axis in space.axes.items():
        if name == "lr":
            continue
        values = getattr(axis, "values", None)
        if values is not None:
            params[name] = values[int(rng.integers(len(values)))]
        else:
            drawn = (
                math.exp(rng.uniform(math.log(axis.low), math.log(axis.high)))
                if axis.low > 0
                else rng.uniform(axis.low, axis.high)
            )
            params[name] = int(drawn) if getattr(axis, "whole", False) else float(drawn)
    return params


def _trial(
    number: int,
    space: Space,
    rng: np.random.Generator,
    clock: float,
    *,
    epochs: int,
    noise: float,
    exponent: float,
    flat: bool,
    prune: bool,
) -> tuple[TrialRecord, float]:
    params = _params(space, rng)
    recipe = space.recipe(params, epochs=epochs, seed=0)
    batch = recipe.batch_size or 64
    centre = math.log10(0.03) + exponent * math.log10(batch / 64)
    off = math.log10(recipe.lr) - centre
    room = 0.4 if recipe.warmup else 0.0
    lost = off > 1.08 + room
    final = 0.12 + (0.0 if flat else 0.09 * off**2 + (0.03 if recipe.schedule == "constant" else 0.0))
    final = min(final, UNTRAINED * 0.98) + noise * rng.normal()
    rate = 0.8 if flat else 0.25 * 10 ** min(off / 2, 0.5)
    t = np.arange(1, epochs + 1, dtype=float)
    values = final + (UNTRAINED - final) * (1 + rate * t) ** -2.0
    values += 0.3 * noise * rng.normal(size=epochs)
    train = values * 0.8 + 0.1 * noise * rng.normal(size=epochs)
    outcome, why, end = Outcome.COMPLETED, "", epochs
    if lost:
        outcome, end, values, train, why = _lost(values, train, rng)
    elif prune and final > 0.25 and number > 5:
        outcome, end, why = (
            Outcome.PRUNED,
            int([3, 9][int(rng.integers(2))]),
            "worse than the median at a third of training",
        )
    end = min(end, epochs)
    values, train = values[:end], train[:end]
    curve = _curve(recipe, values, train, batch)
    pieces, clock = _pieces(end, number, clock, rng)
    return TrialRecord(
        number=number,
        recipe=recipe,
        params=params,
        curve=curve,
        outcome=outcome,
        why=why,
        value=float(values[-1]) if outcome is Outcome.COMPLETED else None,
        trained=float(end),
        segments=pieces,
        started=pieces[0].at,
        finished=clock,
    ), clock


def _lost(
    values: np.ndarray, train: np.ndarray, rng: np.random.Generator
) -> tuple[Outcome, int, np.ndarray, np.ndarray, str]:
    kind, n = int(rng.integers(3)), len(values)
    end = int(rng.integers(2, max(3, n // 3)))
    if kind == 0:
        values[end - 1] = train[end - 1] = math.nan
        return Outcome.NON_FINITE, end, values, train, f"the training loss was nan at step {end * 22}"
    if kind == 1:
        growth = UNTRAINED * np.exp(np.linspace(0, rng.uniform(3, 40), end))
        values[:end] = train[:end] = growth
        return (
            Outcome.EXPLODED,
            end,
            values,
            train,
            f"the training loss was {growth[-1]:.3g}, untrained it is {UNTRAINED}",
        )
    values[:end] = train[:end] = UNTRAINED * (1 + 0.01 * rng.random(end))
    return Outcome.STUCK, end, values, train, f"the loss stayed at {UNTRAINED} for {end} epochs"


def _curve(recipe: Recipe, values: np.ndarray, train: np.ndarray, batch: int) -> Curve:
    steps = max(1, 1408 // batch)
    return Curve(
        Point(
            step=(i + 1) * steps,
            epoch=float(i + 1),
            samples=(i + 1) * steps * batch,
            values={"train_loss": float(train[i]), "valid_loss": float(values[i])},
            lr=_applied(recipe, (i + 1) / recipe.epochs),
        )
        for i in range(len(values))
    )


def _applied(recipe: Recipe, progress: float) -> float:
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    return recipe.lr * (0.5 * (1 + math.cos(math.pi * progress)) if recipe.schedule.startswith("cosine") else 1.0)


def _pieces(end: int, number: int, clock: float, rng: np.random.Generator) -> tuple[tuple[Segment, ...], float]:
    cuts = [0, *[c for c in (1, 3, 9) if c < end], end]
    pieces = []
    for begin, until in itertools.pairwise(cuts):
        seconds = (until - begin) * float(rng.uniform(0.8, 1.2))
        why = "first look" if begin == 0 else "promising"
        pieces.append(
            Segment(at=clock, seconds=seconds, begin=begin, end=until, worker=f"worker-{number % 2}", why=why)
        )
        clock += seconds / 2
    return tuple(pieces), clock


def _opened(record: TrialRecord) -> TrialRecord:
    return dataclasses.replace(record, outcome=None, value=None, why="", finished=None)


def _mirrored(record: TrialRecord) -> TrialRecord:
    """The same run, seen through an accuracy."""
    points = [
        dataclasses.replace(p, values={**p.values, "valid_accuracy": 1 - p.values["valid_loss"] / UNTRAINED * 0.9})
        for p in record.curve
    ]
    value = None if record.value is None else 1 - record.value / UNTRAINED * 0.9
    return dataclasses.replace(record, curve=Curve(points), value=value)
