"""A comparison of strategies, as the page shows it above the report of its first study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.reporting import figures
from lrtune.reporting.html.sections import Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.records import StudyRecord

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
        Who won by how much, or that the seeds do not decide it.
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

    def section(self) -> Section:
        """Regret over cost."""
        figure = figures.compared(self.searches, best=self.best, end=self.budget)
        return Section(key="compared", title="Regret over cost", about=ABOUT, figure=figure)

    @property
    def spent(self) -> str:
        """The sentence on how often each searched, and with how much."""
        seeds = max(len(records) for records in self.searches.values())
        each = f"Medians of {seeds} searches each" if seeds > 1 else "One search each"
        return f"{each} with {self.budget:g} full trainings to spend."
