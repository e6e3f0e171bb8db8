"""The page: one HTML file that loads nothing from anywhere, with the answer at its top.

A content security policy forbids every request; scripts run only if their digest is named in it, so that even
markup that slipped through could not.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from lrtune.core.files import write_public
from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting import tables
from lrtune.reporting.answer_text import answer
from lrtune.reporting.html.answer_section import answer_section
from lrtune.reporting.html.rendering import asset, render
from lrtune.reporting.html.sections import sections
from lrtune.reporting.html.trials_table import trials_data

if TYPE_CHECKING:
    import os

    import plotly.graph_objects as go

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.html.comparison import Compared

__all__ = ["page", "write", "write_comparison"]


def write(record: StudyRecord, path: str | os.PathLike[str]) -> None:
    """Write the report of a study as one self-contained HTML file, whole or not at all; its folder is made.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older report is left as it was.
    """
    write_public(path, page(record))


def write_comparison(compared: Compared, path: str | os.PathLike[str]) -> None:
    """Write strategies side by side, then the first one's study, as :func:`write` does.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older page is left as it was.
    """
    write_public(path, page(compared.first, compared=compared))


@own_errstate()
def page(record: StudyRecord, *, compared: Compared | None = None) -> str:
    """The report as HTML, below a comparison where there is one."""
    judged = tables.verdicts(record)
    table = tables.trials(record, judged)
    shown = sections(record, table, judged)
    together = [] if compared is None else [compared.section()]
    return render(
        "page.html.jinja",
        record=record,
        **answer_section(record, answer(record)),
        compared=compared,
        together=together,
        sections=shown,
        repeat=_repeat(record),
        result=json.dumps(dict(record.result), indent=2, default=str),
        data={f"figure-{section.key}": _figure_data(section.figure) for section in [*together, *shown]}
        | {"trials-data": trials_data(record, table)},
        style=asset("style.css"),
        scripts=[(script, _digest(script)) for script in (get_plotlyjs(), asset("script.js"))],
    )


def _digest(script: str) -> str:
    """The hash by which a content security policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figure_data(figure: go.Figure) -> dict[str, Any]:
    plain = figure.to_plotly_json()
    return {
        "data": plain["data"],
        "layout": {key: value for key, value in plain["layout"].items() if key not in {"template", "meta"}},
    }


def _repeat(record: StudyRecord) -> list[tuple[str, object]]:
    """Settings, versions, hardware and seeds."""
    return [
        ("metric", f"{record.metric}, {record.direction}d, {record.rule} value of the curve"),
        ("full training", f"{record.epochs} epochs"),
        ("strategy", record.strategy or "not recorded"),
        ("seed", record.seed),
        *((f"space: {name.replace('_', ' ')}", _axis(value)) for name, value in record.space.to_json().items()),
        *record.environment.items(),
    ]


def _axis(value: object) -> str:
    if isinstance(value, dict) and {"low", "high"} <= set(value):
        return f"{value['low']:g} to {value['high']:g}"
    if isinstance(value, list):
        return ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
