"""Numbers and recipes as short texts for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.study.events import Progress

__all__ = ["band", "clock", "counts", "recipe", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"
HOUR = 3600


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
