"""A curve drawn with characters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["area"]

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " ..::||##"
LEVELS = 8  # of one character
LABEL = 9


def area(
    x: Sequence[int], y: Sequence[float], end: int, *, width: int = 72, height: int = 10, ascii_only: bool = False
) -> list[str]:
    """The area under a curve that is zero or more, with its highest value and the ends of its axis, as lines.

    Parameters
    ----------
    x, y
        Where the curve is known, and its values; a column between two shows the one before.
    end
        The end of the axis, which starts at zero.
    width, height
        In characters, without labels.
    ascii_only
        Where the terminal shows nothing else.
    """
    top = max((value for value in y if math.isfinite(value)), default=0.0)
    blocks, corner, line, side = (ASCII_BLOCKS, "+", "-", "|") if ascii_only else (BLOCKS, "└", "─", "│")
    width = min(width, max(end, 1))
    columns = _columns(x, y, end, width)
    eighths = [
        round(LEVELS * height * max(value, 0.0) / top) if top > 0 and math.isfinite(value) else 0 for value in columns
    ]
    eighths = [max(level, 1) if value > 0 else level for level, value in zip(eighths, columns, strict=True)]
    rows = []
    for row in range(height - 1, -1, -1):
        label = f"{top:.3g}" if row == height - 1 else ""
        cells = "".join(blocks[min(max(level - LEVELS * row, 0), LEVELS)] for level in eighths)
        rows.append(f"{label:>{LABEL}} {side}{cells}".rstrip())
    rows.append(f"{'0':>{LABEL}} {corner}{line * width}")
    last = f"{end:,}"
    rows.append(f"{'':>{LABEL}}  0{last:>{max(width - 1, len(last) + 1)}}")
    return rows


def _columns(x: Sequence[int], y: Sequence[float], end: int, width: int) -> list[float]:
    """The mean of what falls into each column, else the value before."""
    sums, counts = [0.0] * width, [0] * width
    for place, value in zip(x, y, strict=True):
        column = min(int(place) * width // max(end, 1), width - 1)
        sums[column] += float(value)
        counts[column] += 1
    columns: list[float] = []
    for total, count in zip(sums, counts, strict=True):
        columns.append(total / count if count else (columns[-1] if columns else 0.0))
    return columns
