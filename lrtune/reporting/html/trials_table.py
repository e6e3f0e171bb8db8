"""The table of trials as columns of plain JSON, small enough for ten thousand of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrtune.reporting.tables.trials import SETTINGS

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord

__all__ = ["trials_data"]

LABELS = {"number": "#", "lr": "learning rate", "batch_size": "batch", "cost": "cost", "why": "what happened"}
HIDDEN = ("group", "cost", "evidence", "advice", "started", "finished", "seed", "seconds")
LONG = ("why",)
DIGITS = 5
WORDS_SHARE = 0.7  # a column with fewer distinct texts than this is stored as indices into them


def trials_data(record: StudyRecord, table: pd.DataFrame) -> dict[str, Any]:
    """The columns of :func:`lrtune.reporting.tables.trials`, and the number of the best trial.

    Each column is ``name``, ``label``, ``values``, ``words`` (texts that the values are indices into, or null),
    ``numeric``, ``long``, ``shown`` (in the page; the CSV file has them all) and ``hint`` (the index of the column
    whose text shows on hover, or -1).
    """
    names = [str(name) for name in table.columns]
    labels = {**LABELS, "value": record.metric[:40], "last": f"last {record.metric[:40]}"}
    columns = []
    for name in names:
        column = table[name]
        columns.append(
            {
                "name": name,
                "label": labels.get(name, name.replace("_", " ")),
                "numeric": pd.api.types.is_numeric_dtype(column),
                "long": name in LONG,
                "shown": _is_shown(name, column, record, table),
                "hint": names.index("evidence") if name == "verdict" else -1,
                **_stored(column),
            }
        )
    best = record.best
    return {"columns": columns, "best": None if best is None else best.number}


def _is_shown(name: str, column: pd.Series[Any], record: StudyRecord, table: pd.DataFrame) -> bool:
    """Whether a column is worth its place: not what is the same for all, nor what repeats another."""
    if name in HIDDEN:
        return False
    if name == "last":
        return bool(table["value"].isna().any())
    return name not in SETTINGS or name in record.space.names or len(set(column.tolist())) > 1


def _stored(column: pd.Series[Any]) -> dict[str, Any]:
    if pd.api.types.is_numeric_dtype(column):
        return {"values": [_short(value) for value in column.tolist()], "words": None}
    if pd.api.types.is_datetime64_any_dtype(column):
        texts = column.dt.strftime("%Y-%m-%d %H:%M:%S").tolist()
    else:
        texts = column.tolist()
    plain = [None if value is None or value != value else str(value) for value in texts]  # noqa: PLR0124 -- NaN
    places, words = pd.factorize(np.array(plain, dtype=object))  # -1 for None
    if len(words) > WORDS_SHARE * len(plain):
        return {"values": plain, "words": None}
    return {"values": places.tolist(), "words": list(words)}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
