"""The small picture at the top of the page: a log axis of the range searched, with band, edge, trials and answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lrtune.reporting.figures.theme import decades, thinned

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["lr_axis"]

WIDTH = 560
MOST_TICKS = 400
NARROWEST = 3.0  # pixels that an interval is wide at least


def lr_axis(record: StudyRecord) -> dict[str, Any]:
    """Values of the template ``lr_axis.svg.jinja``, in pixels from the left end.

    ``edge``, ``edge_at``, ``band``, ``best`` (None where it is not known), ``trials`` (CSS class and place),
    ``decades`` (place and text) and the ``width`` of all.
    """
    low, high = (math.log10(end) for end in record.space.lr_range)
    span = max(high - low, 1e-9)

    def at(lr: float) -> float:
        return min(max((math.log10(lr) - low) / span, 0.0), 1.0) * WIDTH

    def interval(name: str) -> dict[str, float] | None:
        """Where it begins, how wide it is, and where its label is placed."""
        centre, low, high = record.interval(name)
        if low is None or high is None:
            return None
        x = at(low)
        width = max(at(high) - x, NARROWEST)
        return {"x": x, "width": width, "named_at": at(centre) if centre else x + width / 2}

    edge, _, _ = record.interval("edge")
    shown = [record.records[i] for i in thinned(len(record.records), MOST_TICKS)]
    ticks, texts = decades(low, high)
    step = max(1, math.ceil(len(ticks) / 8))
    return {
        "width": WIDTH,
        "edge": interval("edge"),
        "edge_at": at(edge) if edge else None,
        "band": interval("band"),
        "best": None if record.best is None else at(record.best.recipe.lr),
        "trials": [(_kind(trial), at(trial.recipe.lr)) for trial in shown],
        "decades": [((tick - low) / span * WIDTH, text) for tick, text in zip(ticks, texts, strict=True)][::step],
    }


def _kind(trial: TrialRecord) -> str:
    if trial.diverged:
        return "lost"
    return "other" if trial.outcome is None or trial.value is None else "ok"
