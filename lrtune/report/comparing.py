"""A comparison on the page: who won by how much, the figures, and regret over cost, before the first study's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune import figures
from lrtune.report.escape import as_text
from lrtune.report.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.records import StudyRecord

__all__ = ["Compared"]

ABOUT = (
    "How far the best full training so far was from the best one that any strategy found; the median of its searches "
    "is drawn thick. What stopped before the others keeps what it had found."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Strategies on the same question.

    Attributes
    ----------
    name
        Of the question.
    searches
        The studies by strategy, one a seed; the page goes on with the first one.
    best, budget
        The best value known, and the full trainings that each could spend.
    verdict
        Who won by how much, or that it cannot be told.
    rows
        The table, its head first.
    notes
        What was left out, and why.
    """

    name: str
    searches: Mapping[str, Sequence[StudyRecord]]
    best: float
    budget: float
    verdict: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def first(self) -> StudyRecord:
        """The study that the page goes on with."""
        return next(record for records in self.searches.values() for record in records)

    def part(self) -> Part:
        """Regret over cost."""
        figure = figures.compared(self.searches, best=self.best, end=self.budget)
        return Part(key="compared", title="Regret over cost", about=ABOUT, figure=figure)

    def section(self) -> str:
        """The verdict and the table as HTML."""
        seeds = max(len(records) for records in self.searches.values())
        each = f"Medians of {seeds} searches each" if seeds > 1 else "One search each"
        head, *body = self.rows
        notes = "".join(f'<p class="note">Left out: {as_text(note, 600)}</p>' for note in self.notes)
        return (
            f'<section id="verdict"><h2>{as_text(self.verdict[:1].upper() + self.verdict[1:], 600)}.</h2>'
            f'<p class="sub">{each} with {self.budget:g} full trainings to spend. The regret is that of the best '
            "full training to the best of all, normalised; costs are those until it was that small.</p>"
            f'<div class="scroll"><table class="plain"><thead>{_row(head, "th")}</thead>'
            f"<tbody>{''.join(_row(row, 'td') for row in body)}</tbody></table></div>{notes}</section>\n"
        )

    def heading(self) -> str:
        """What stands above the first study's own report."""
        first = self.first
        return f'<p class="sub">The first search in full: {as_text(first.strategy)}, seed {first.seed}.</p>\n'


def _row(cells: Sequence[str], tag: str) -> str:
    name, *numbers = (as_text(cell, 80) for cell in cells)
    rest = "".join(f'<{tag} class="n">{number}</{tag}>' for number in numbers)
    return f"<tr><{tag}>{name}</{tag}>{rest}</tr>"
