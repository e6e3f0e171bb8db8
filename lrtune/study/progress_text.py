"""The progress of a search as short texts, for live displays on a terminal and in a notebook."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.study.events import Progress

__all__ = ["band", "clock", "counts", "recipe", "rows", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"
HOUR = 3600
SHOWN_RUNS = 4
BAR = 30


def clock(seconds: float) -> str:
    """``"2:05"``, or ``"1:02:05"`` from an hour on."""
    whole = int(seconds)
    hours, minutes, rest = whole // HOUR, whole % HOUR // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def recipe(shown: Recipe) -> str:
    """``"lr 0.0316, batch 64, cosine, warmup 0.1"``: the fields that differ from their defaults."""
    parts = [f"lr {shown.lr:.3g}"]
    if shown.batch_size is not None:
        parts.append(f"batch {shown.batch_size}")
    if shown.schedule != "constant":
        parts.append(shown.schedule)
    if shown.warmup:
        parts.append(f"warmup {shown.warmup:g}")
    if shown.optimizer is not None:
        parts.append(shown.optimizer)
    for name in ("momentum", "weight_decay", "layer_decay"):
        value = getattr(shown, name)
        if value is not None:
            parts.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(parts)


def band(low_high: tuple[float, float]) -> str:
    """``"0.01 to 0.1"``."""
    return f"{low_high[0]:.3g} to {low_high[1]:.3g}"


def counts(progress: Progress) -> str:
    """``"5 completed, 2 diverged"``."""
    return ", ".join(f"{many} {group.replace('_', ' ')}" for group, many in progress.counts.items() if many)


def sparkline(values: Sequence[float], width: int = 40, *, ascii_only: bool = False) -> str:
    """The values as one line of blocks, thinned to at most `width`; what is not finite is a blank."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    if not math.isfinite(span) or span == 0:
        return "".join(blocks[0] if math.isfinite(value) else " " for value in values)
    top = len(blocks) - 1
    return "".join(blocks[round((v - low) / span * top)] if math.isfinite(v) else " " for v in values)


def rows(progress: Progress, since: float, *, ascii_only: bool) -> Iterator[tuple[str, str]]:
    """A name and a text for each line of a live display.

    `since` are the seconds that have passed since the snapshot; `ascii_only` is for terminals without Unicode.
    """
    yield "lrtune", progress.name
    yield "cost", f"{_bar(progress, ascii_only=ascii_only)}{progress.spending}"
    spent, left = clock(progress.elapsed + since), progress.seconds_left
    yield "time", spent if left is None else f"{spent}, about {clock(max(0.0, left - since))} left"
    if progress.best is not None:
        value = "" if progress.best_value is None else f"{progress.metric} {progress.best_value:.4g} at "
        yield "best", f"{value}{recipe(progress.best)}"
        curve = [value for _, value in progress.best_curve]
        if len(curve) > 1:
            line = sparkline(curve, ascii_only=ascii_only)
            yield "curve", f"{curve[0]:.4g} {line} {curve[-1]:.4g}  epoch {progress.best_curve[-1][0]:g}"
    if progress.band is not None:
        yield "band", f"{band(progress.band)} look as good"
    for run in progress.training[:SHOWN_RUNS]:
        yield f"trial {run.number}", f"{recipe(run.recipe)}, epoch {run.trained:g} to {run.until:g}"
    if len(progress.training) > SHOWN_RUNS:
        yield "", f"and {len(progress.training) - SHOWN_RUNS} more"
    if progress.counts:
        yield "trials", counts(progress)
    for warning in progress.warnings[-2:]:
        yield "warning", warning


def _bar(progress: Progress, *, ascii_only: bool) -> str:
    limits = ((progress.spent, progress.budget), (progress.machine_time or 0.0, progress.machine_budget))
    shares = [spent / limit for spent, limit in limits if limit]
    if not shares:
        return ""
    full = min(BAR, round(BAR * max(shares)))
    on, off = ("#", ".") if ascii_only else ("█", "░")
    return f"{on * full}{off * (BAR - full)} "
