"""The figures of the page, in the order of what a reader asks, each with the sentences around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.reporting import figures, tables
from lrtune.reporting.html.plain_text import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.diagnosis import Verdict

__all__ = ["Part", "parts"]

LANDSCAPE = (
    "Every trial at its learning rate. What stopped early stands where it stopped; what diverged stands on the rim."
)
CURVES = (
    "Coloured by learning rate, the answer drawn thick. The scale ends where a model that knows nothing stands. "
    "Marks show where a run was paused, stopped or lost; hover for its verdict."
)
SCHEDULE = "The learning rate that each run really used, warmup included."
SLICES = "Trials that were trained to their end, coloured by learning rate."
PARALLEL = "One line a trial, coloured by learning rate; the answer drawn thick."
WORTH = (
    "What it costs to fix a setting at one of its levels, the learning rate still searched; every level is given as "
    "many tries. Whiskers: 5 % to 95 % from resampling the trials."
)
IMPORTANCE = "How much of the trials' ranking each setting explains alone, pruned and diverged trials counted."
COSTS = "In full trainings, by how the trials ended."
REGRET = "How far the best full training so far was from the best one of this study."
TIMELINE = "One bar a piece of training."

FIGURES: tuple[tuple[str, str, str, Callable[[StudyRecord], go.Figure | None]], ...] = (
    ("costs", "What the budget was spent on", COSTS, figures.costs),
    ("regret", "Regret over cost", REGRET, figures.regret),
    ("timeline", "Who trained when", TIMELINE, figures.timeline),
)
"""Key, title, sentence and function of each figure that needs the record alone; None leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One figure of the page: what it is called, what it shows, and what is to be said about it."""

    key: str
    title: str
    about: str
    figure: go.Figure
    caution: str = ""

    @property
    def note(self) -> str:
        """What was left out of the drawing."""
        return str((self.figure.layout.meta or {}).get("note", ""))


def parts(
    record: StudyRecord,
    table: pd.DataFrame,
    judged: Sequence[Verdict],
) -> Iterator[Part]:
    """Every figure that the study has something to show in.

    Parameters
    ----------
    record
        The study.
    table, judged
        :func:`lrtune.reporting.tables.trials` and :func:`lrtune.reporting.tables.verdicts` of it.
    """
    yield Part(
        key="landscape", title="Learning rate and result", about=LANDSCAPE, figure=figures.landscape(record, table)
    )
    yield Part(key="curves", title="Loss curves", about=CURVES, figure=figures.curves(record, judged))
    yield from _drawn("schedule", "Schedule as applied", SCHEDULE, figures.schedule(record))
    yield from _joint(record)
    yield from _importance(record)
    for key, title, about, draw in FIGURES:
        yield from _drawn(key, title, about, draw(record))


def _drawn(key: str, title: str, about: str, figure: go.Figure | None) -> Iterator[Part]:
    if figure is not None and len(figure.data):
        yield Part(key=key, title=title, about=about, figure=figure)


def _joint(record: StudyRecord) -> Iterator[Part]:
    known: list[tuple[str, str, str, Callable[[StudyRecord], go.Figure | None]]] = [
        ("contour", "Learning rate and batch size", _scaling(record), figures.contour),
        ("slices", "Each setting by itself", SLICES, figures.slices),
        ("parallel", "All settings together", PARALLEL, figures.parallel),
        ("worth", "What the other settings were worth", WORTH, figures.worth),
    ]
    for key, title, about, draw in known:
        yield from _drawn(key, title, about, draw(record))


def _scaling(record: StudyRecord) -> str:
    """The sentence on how the learning rate moves with the batch size."""
    table = tables.batch_exponent(record)
    if not len(table):
        return "Between trials it is interpolated."
    p, low, high = (float(table[column].iloc[0]) for column in ("p", "low", "high"))
    fits = [str(rule) for rule, agrees in zip(table["rule"][1:], table["agrees"][1:], strict=True) if agrees]
    verdict = {
        0: "neither the linear nor the square-root rule fits",
        1: f"the {fits[0] if fits else ''} rule fits",
        2: "both the linear and the square-root rule fit",
    }[len(fits)]
    return (
        f"The best learning rate grows as batch^p with p = {p:.2f} ({low:.2f} to {high:.2f}); {verdict}. "
        "Between trials the colour is interpolated."
    )


def _importance(record: StudyRecord) -> Iterator[Part]:
    shares = tables.importance(record)
    figure = figures.importance(record, shares)
    if figure is None:
        return
    about = f"{IMPORTANCE} {_sensitivity(record)}"
    caution = str(shares.attrs.get("warning", ""))
    yield Part(key="importance", title="What mattered", about=about, figure=figure, caution=caution)


def _sensitivity(record: StudyRecord) -> str:
    table = tables.sensitivity(record)
    if not len(table):
        return ""
    loss, low, high = (number(float(table[column].iloc[-1]), 2) for column in ("sensitivity", "low", "high"))
    return (
        f"Sensitivity to the learning rate (Wortsman et al. 2023): over {table['over'].iloc[-1]} a blind choice loses "
        f"{loss} ({low} to {high})."
    )
