"""The answer as one small picture: the range searched as a ruler, with band, edge, every trial and the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lrtune.reporting.figures.landscape import interval_of
from lrtune.reporting.figures.theme import decades, thinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["ruler"]

WIDTH = 560
MOST_TICKS = 400
NARROWEST = 3.0  # pixels that an interval is wide at least


def ruler(record: StudyRecord) -> dict[str, Any]:
    """Places along the ruler for the template that draws it, in pixels from its left end.

    ``edge``, ``edge_at``, ``band``, ``answer`` (None where it is not known), ``trials`` (what became of each, and its
    place), ``decades`` (place and text) and the ``width`` of all.
    """
    low, high = (math.log10(end) for end in record.space.lr_range)
    span = max(high - low, 1e-9)

    def at(lr: float) -> float:
        return min(max((math.log10(lr) - low) / span, 0.0), 1.0) * WIDTH

    centre = (record.result.get("edge") or {}).get("lr")
    edge_at = at(float(centre)) if centre else None
    shown = [record.records[i] for i in thinned(len(record.records), MOST_TICKS)]
    ticks, texts = decades(low, high)
    step = max(1, math.ceil(len(ticks) / 8))
    return {
        "width": WIDTH,
        "edge": _interval(record, "edge", at, edge_at),
        "edge_at": edge_at,
        "band": _interval(record, "band", at),
        "answer": None if record.best is None else at(record.best.recipe.lr),
        "trials": [(_kind(trial), at(trial.recipe.lr)) for trial in shown],
        "decades": [((tick - low) / span * WIDTH, text) for tick, text in zip(ticks, texts, strict=True)][::step],
    }


def _kind(trial: TrialRecord) -> str:
    if trial.outcome is not None and trial.outcome.diverged:
        return "lost"
    return "other" if trial.outcome is None or trial.value is None else "ok"


def _interval(
    record: StudyRecord, name: str, at: Callable[[float], float], named_at: float | None = None
) -> dict[str, float] | None:
    """Where it begins, how wide it is, and where its name stands."""
    held = interval_of(record, name)
    if held is None:
        return None
    x = at(held[0])
    width = max(at(held[1]) - x, NARROWEST)
    return {"x": x, "width": width, "named_at": x + width / 2 if named_at is None else named_at}
