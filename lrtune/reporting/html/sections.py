"""The sections of the page that hold a figure, in the order of what a reader asks, with their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.reporting import figures, tables
from lrtune.reporting.answer_text import number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.diagnosis import Finding

__all__ = ["Section", "sections"]

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
TIMELINE = "One bar a segment of training."

FIGURES: tuple[tuple[str, str, str, Callable[[StudyRecord], go.Figure | None]], ...] = (
    ("costs", "What the budget was spent on", COSTS, figures.costs),
    ("regret", "Regret over cost", REGRET, figures.regret),
    ("timeline", "Who trained when", TIMELINE, figures.timeline),
)
"""Key, title, sentence and function of each figure that needs the record alone; None leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One figure of the page, with what the template writes around it.

    Attributes
    ----------
    key
        Id of the section in the page.
    title, about, caution
        Its heading, what it shows, and a warning.
    figure
        The figure; its ``meta`` says what was left out of the drawing.
    """

    key: str
    title: str
    about: str
    figure: go.Figure
    caution: str = ""

    @property
    def note(self) -> str:
        """What was left out of the drawing."""
        return str((self.figure.layout.meta or {}).get("note", ""))


def sections(record: StudyRecord, table: pd.DataFrame, judged: Sequence[Finding]) -> list[Section]:
    """Every figure that the study has something to show in.

    `table` and `judged` are its :func:`lrtune.reporting.tables.trials` and :func:`lrtune.reporting.tables.verdicts`.
    """
    shares = tables.importance(record)
    mattered, caution = f"{IMPORTANCE} {_sensitivity(record)}", str(shares.attrs["warning"])
    drawn: list[tuple[str, str, str, go.Figure | None]] = [
        ("landscape", "Learning rate and result", LANDSCAPE, figures.landscape(record, table)),
        ("curves", "Loss curves", CURVES, figures.curves(record, judged)),
        ("schedule", "Schedule as applied", SCHEDULE, figures.schedule(record)),
        ("contour", "Learning rate and batch size", _scaling(record), figures.contour(record)),
        ("slices", "Each setting by itself", SLICES, figures.slices(record)),
        ("parallel", "All settings together", PARALLEL, figures.parallel(record)),
        ("worth", "What the other settings were worth", WORTH, figures.worth(record)),
        ("importance", "What mattered", mattered, figures.importance(record, shares)),
        *((key, title, about, draw(record)) for key, title, about, draw in FIGURES),
    ]
    return [
        Section(key=key, title=title, about=about, figure=figure, caution=caution if key == "importance" else "")
        for key, title, about, figure in drawn
        if figure is not None and (figure.data or key == "landscape")
    ]


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


def _sensitivity(record: StudyRecord) -> str:
    table = tables.sensitivity(record)
    if not len(table):
        return ""
    loss, low, high = (number(float(table[column].iloc[-1]), 2) for column in ("sensitivity", "low", "high"))
    return (
        f"Sensitivity to the learning rate (Wortsman et al. 2023): over {table['over'].iloc[-1]} a blind choice loses "
        f"{loss} ({low} to {high})."
    )
