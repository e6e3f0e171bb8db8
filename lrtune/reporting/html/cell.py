"""A study in the output cell of a notebook: the answer beside one figure, and the lines of a live display.

Both are HTML without scripts and without requests, since a notebook keeps its outputs and shows them to others. They
take their colours from the notebook, light or dark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting import figures
from lrtune.reporting.answer_text import answer
from lrtune.reporting.html.answer_section import toned
from lrtune.reporting.html.rendering import asset, render
from lrtune.reporting.html.still import still

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrtune.core.records import StudyRecord

__all__ = ["cell", "live_cell"]


@own_errstate()
def cell(record: StudyRecord) -> str:
    """The answer and the landscape, as a fragment of HTML."""
    shown = answer(record)
    figure = figures.landscape(record)
    return render(
        "cell.html.jinja",
        style=asset("cell.css"),
        record=record,
        answer=shown,
        facts=[
            ("as good", shown.band),
            ("how sure", shown.sure or "not known"),
            ("diverges from", shown.edge),
            (f"{record.metric}, {record.direction}d", shown.value or "none"),
            ("cost", shown.cost),
            ("trials", shown.trials),
        ],
        findings=toned(shown.findings),
        still=still(figure) if figure.data else None,
    )


def live_cell(rows: Iterable[tuple[str, str]]) -> str:
    """The lines of a live display, each a name and a text."""
    return render("cell.html.jinja", style=asset("cell.css"), rows=list(rows))
