"""Four figures: the timeline of segments, cost by outcome, importance of the settings, what fixing each costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.figures.joint import label_of
from lrtune.reporting.tables.importance import importance as importance_table
from lrtune.reporting.tables.joint import worth as worth_table
from lrtune.reporting.tables.trials import costs as costs_table
from lrtune.reporting.tables.trials import timeline as timeline_table

if TYPE_CHECKING:
    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = ["costs", "importance", "timeline", "worth"]

MOST_SEGMENTS = 2500


@own_errstate()
def timeline(record: StudyRecord) -> go.Figure | None:
    """Which worker trained what, and when, coloured by how the trial ended; None where no segments were recorded."""
    table = timeline_table(record)
    if not len(table):
        return None
    kept = table.iloc[theme.thinned(len(table), MOST_SEGMENTS)]
    span, unit = _unit(float((table["second"] + table["seconds"]).max()))
    workers = list(dict.fromkeys(kept["worker"]))
    figure = theme.blank(x=f"{unit} since the start", y="", height=150 + 46 * len(workers))
    for outcome, style in theme.OUTCOMES.items():
        part = kept[kept["outcome"] == outcome]
        if len(part):
            figure.add_trace(_bars(part, style, span, workers))
    texts = [theme.label(worker or "this process", 28) for worker in workers]
    figure.update_yaxes(tickvals=list(range(len(workers))), ticktext=texts, showgrid=False)
    note = theme.note(len(kept), len(table), "segments are drawn.")
    return figure.update_layout(barmode="overlay", bargap=0.35, meta=note)


def _unit(seconds: float) -> tuple[float, str]:
    for size, word in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds > 3 * size:
            return size, word
    return 1.0, "seconds"


def _bars(part: pd.DataFrame, style: theme.OutcomeStyle, span: float, workers: list[str]) -> go.Bar:
    return go.Bar(
        base=(part["second"] / span).round(5).tolist(),
        x=(part["seconds"] / span).round(5).tolist(),
        y=[workers.index(worker) for worker in part["worker"]],
        orientation="h",
        name=style.name,
        marker={"color": style.colour, "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"}},
        opacity=0.85,
        hovertemplate=[
            theme.hover(
                f"trial {row.number}: lr {row.lr:.3g}",
                f"epochs {row.begin:g} to {row.end:g} in {row.seconds:.3g} s",
                row.why,
                "trained again" if row.again > 0 else "",
            )
            for row in theme.rows(part)
        ],
    )


@own_errstate()
def costs(record: StudyRecord) -> go.Figure | None:
    """What each epoch of the budget was spent on, as one bar; None where nothing was."""
    table = costs_table(record)
    if not len(table) or not float(table["cost"].sum()) > 0:
        return None
    figure = theme.blank(x="full trainings", y="", height=150)
    for row in theme.rows(table):
        style = theme.OUTCOMES[row.outcome]
        figure.add_trace(
            go.Bar(
                x=[round(row.cost, 4)],
                y=[""],
                orientation="h",
                name=style.name,
                marker={"color": style.colour},
                text=f"{100 * row.share:.0f} %" if row.share > 0.04 else "",  # noqa: PLR2004 -- room for the text
                textposition="inside",
                insidetextanchor="middle",
                hovertemplate=theme.hover(
                    style.name, f"{row.trials} trials, {row.cost:.2f} full trainings, {100 * row.share:.0f} %"
                ),
            )
        )
    return figure.update_layout(barmode="stack", bargap=0.3).update_yaxes(visible=False)


@own_errstate()
def importance(record: StudyRecord, table: pd.DataFrame | None = None) -> go.Figure | None:
    """Importance with intervals, Optuna's beside it; None with too few trials."""
    table = importance_table(record) if table is None else table
    if not len(table):
        return None
    rows = table.iloc[::-1]
    names = [label_of(str(name)) for name in rows["setting"]]
    figure = theme.blank(x="share of the ranking explained", y="", height=110 + 44 * len(rows))
    figure.add_trace(
        go.Bar(
            x=rows["share"].round(4).tolist(),
            y=names,
            orientation="h",
            name="all trials counted",
            marker={"color": theme.ACCENT},
            error_x=_whiskers(rows, "share"),
            hovertemplate="%{y}: %{x:.2f}<extra>all trials</extra>",
        )
    )
    if rows["optuna"].notna().any():
        figure.add_trace(
            go.Scatter(
                x=rows["optuna"].round(4).tolist(),
                y=names,
                mode="markers",
                name="Optuna (completed trials only)",
                marker={"symbol": "diamond-open", "size": 11, "color": theme.EDGE, "line": {"width": 2}},
                hovertemplate="%{y}: %{x:.2f}<extra>Optuna</extra>",
            )
        )
    figure.update_xaxes(range=[0, max(1.0, float(rows["high"].max()) * 1.02)])
    return figure.update_layout(bargap=0.45).update_yaxes(showgrid=False)


def _whiskers(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["high"] - rows[column]).clip(lower=0).round(5).tolist(),
        "arrayminus": (rows[column] - rows["low"]).clip(lower=0).round(5).tolist(),
        "color": theme.MUTED,
        "thickness": 1.4,
        "width": 4,
    }


@own_errstate()
def worth(record: StudyRecord) -> go.Figure | None:
    """What it costs to fix a setting at one of its levels, with intervals; None where nothing can be compared."""
    table = worth_table(record)
    table = table[table["loss"].map(math.isfinite)]
    if not len(table):
        return None
    rows = table.iloc[::-1]
    names = [f"{label_of(row.setting)} = {theme.label(row.level, 28)}" for row in theme.rows(rows)]
    figure = theme.blank(x=f"loss in {record.metric}", y="", height=90 + 30 * len(rows))
    figure.add_trace(
        go.Scatter(
            x=[float(f"{v:.4g}") for v in rows["loss"]],
            y=names,
            mode="markers",
            marker={"size": 9, "color": theme.ACCENT},
            error_x=_whiskers(rows, "loss"),
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    return figure.update_layout(showlegend=False)
