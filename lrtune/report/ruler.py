"""The answer as one small picture: the range searched as a ruler, with band, edge, every trial and the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrtune.figures.landscape import interval_of
from lrtune.figures.theme import decades, thinned
from lrtune.report.escape import as_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.records import StudyRecord

__all__ = ["ruler"]

WIDTH, HEIGHT = 560.0, 74.0
TOP, BOTTOM = 20.0, 50.0
MOST_TICKS = 400
NARROWEST = 3.0  # pixels that an interval is wide at least


def ruler(record: StudyRecord) -> str:
    """An inline SVG; it scales with the page and takes its colours from the style sheet."""
    low, high = (math.log10(end) for end in record.space.lr_range)
    span = max(high - low, 1e-9)

    def at(lr: float) -> float:
        return min(max((math.log10(lr) - low) / span, 0.0), 1.0) * WIDTH

    parts = [_interval(record, "edge", at), _interval(record, "band", at)]
    middle = (TOP + BOTTOM) / 2
    parts.append(f'<line class="axis" x1="0" x2="{WIDTH:g}" y1="{BOTTOM:g}" y2="{BOTTOM:g}"/>')
    kept = thinned(len(record.records), MOST_TICKS)
    for trial in (record.records[i] for i in kept):
        kind = (
            "other"
            if trial.outcome is None
            else "lost"
            if trial.outcome.diverged
            else "ok"
            if trial.value is not None
            else "other"
        )
        x = at(trial.recipe.lr)
        length = 12 if kind == "ok" else 7
        parts.append(f'<line class="tick {kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM - length:g}" y2="{BOTTOM:g}"/>')
    ticks, texts = decades(low, high)
    step = max(1, math.ceil(len(ticks) / 8))
    for tick, text in list(zip(ticks, texts, strict=True))[::step]:
        x = (tick - low) / span * WIDTH
        anchor = "start" if x < 12 else "end" if x > WIDTH - 12 else "middle"  # noqa: PLR2004 -- pixels
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 16:g}" text-anchor="{anchor}">{as_text(text)}</text>')
    if record.best is not None:
        x = at(record.best.recipe.lr)
        parts.append(f'<path class="star" transform="translate({x:.1f} {middle - 2:.1f})" d="{_star(8.5)}"/>')
    named = "The range searched, the band and the edge on a logarithmic scale"
    return (
        f'<svg class="ruler" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{named}">'
        + "".join(parts)
        + "</svg>"
    )


def _interval(record: StudyRecord, name: str, at: Callable[[float], float]) -> str:
    held = interval_of(record, name)
    centre = (record.result.get("edge") or {}).get("lr") if name == "edge" else None
    parts = []
    if held is not None:
        x, wide = at(held[0]), max(at(held[1]) - at(held[0]), NARROWEST)
        parts.append(
            f'<rect class="{name}" x="{x:.1f}" width="{wide:.1f}" y="{TOP:g}" height="{BOTTOM - TOP:g}" rx="2"/>'
        )
        where = at(float(centre)) if centre else x + wide / 2
        anchor = "end" if where > WIDTH - 30 else "start" if where < 30 else "middle"  # noqa: PLR2004 -- pixels
        word = "as good" if name == "band" else "diverges"
        parts.append(f'<text class="{name}-t" x="{where:.1f}" y="{TOP - 7:g}" text-anchor="{anchor}">{word}</text>')
    if centre:
        x = at(float(centre))
        parts.append(f'<line class="edge-at" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP:g}" y2="{BOTTOM:g}"/>')
    return "".join(parts)


def _star(radius: float) -> str:
    points = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else radius * 0.42
        angle = math.pi * corner / 5
        points.append(f"{reach * math.sin(angle):.2f} {-reach * math.cos(angle):.2f}")
    return "M" + "L".join(points) + "Z"
