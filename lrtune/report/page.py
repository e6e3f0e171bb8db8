"""The page: one HTML file that asks nobody for anything, with the answer on its first screen.

A content security policy forbids every request; scripts run only if their digest is named in it, so that even
markup that slipped through could not.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from lrtune import analysis
from lrtune.numerics import own_errstate
from lrtune.report.escape import as_json, as_text
from lrtune.report.first import first_screen
from lrtune.report.parts import parts
from lrtune.report.table import trials_data
from lrtune.report.words import answer
from lrtune.report.writing import write_whole

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from lrtune.records import StudyRecord
    from lrtune.report.comparing import Compared
    from lrtune.report.parts import Part

__all__ = ["page", "write", "write_comparison"]

HEAD = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="lrtune">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header class="top"><span class="mark">lrtune</span>
<h1>{name}</h1>
<button id="theme" type="button" aria-label="Switch between light and dark">Dark</button></header>
<main>
"""
NO_SCRIPT = """<noscript><p class="caution">The figures and the table of trials need JavaScript;
the answer above does not.</p></noscript>
"""
TRIALS = """<section id="trials"><h2>Trials</h2>
<div class="tools">
<input id="filter" type="search" placeholder="Filter, e.g. cosine 64" aria-label="Filter trials">
<select id="only" aria-label="Outcome"><option value="">every outcome</option></select>
<button id="csv" type="button">Download CSV</button>
<span class="count" id="count" role="status"></span></div>
<div class="scroll"><table><thead></thead><tbody></tbody></table></div>
<div class="pager"><button id="before" type="button">Previous</button><span id="where"></span>
<button id="after" type="button">Next</button></div></section>
"""
FOOT = """</main>
<footer><p>Made by lrtune. This page is complete in itself: nothing in it is loaded from anywhere.</p></footer>
"""


@own_errstate()
def write(record: StudyRecord, path: str | os.PathLike[str]) -> None:
    """Write the report of a study as one self-contained HTML file, whole or not at all.

    Parameters
    ----------
    record
        The study.
    path
        Where the page goes; its folder is made.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older report is left as it was.
    """
    write_whole(path, page(record))


@own_errstate()
def write_comparison(compared: Compared, path: str | os.PathLike[str]) -> None:
    """Write strategies side by side, then the first one's study, as :func:`write` does.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older page is left as it was.
    """
    write_whole(path, page(compared.first, compared=compared))


@own_errstate()
def page(record: StudyRecord, *, compared: Compared | None = None) -> str:
    """The report as HTML, below a comparison where there is one."""
    judged = analysis.verdicts(record)
    table = analysis.trials(record, judged)
    said = answer(record)
    shown = list(parts(record, table, judged))
    first = first_screen(record, said)
    scripts = [_plotly(), _read("script.js")]
    name, title = record.name, f"{record.name}: learning rate {said.lr or 'not found yet'}"
    if compared is not None:
        name, title = compared.name, f"{compared.name}: {len(compared.searches)} strategies compared"
        together = compared.part()
        first = f"{compared.section()}{_section(together)}{compared.heading()}{first}"
    head = HEAD.format(
        policy=_policy(scripts), name=as_text(name, 200), title=as_text(title, 300), style=_read("style.css")
    )
    drawn = shown if compared is None else [together, *shown]
    data = {f"figure-{part.key}": _figure_data(part.figure) for part in drawn}
    data["trials-data"] = trials_data(record, table)
    return "".join(
        [
            head,
            first,
            NO_SCRIPT,
            *(_section(part) for part in shown),
            TRIALS,
            _repeat(record),
            FOOT,
            *(f'<script type="application/json" id="{key}">{as_json(held)}</script>\n' for key, held in data.items()),
            *(f"<script>{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _read(name: str) -> str:
    return resources.files("lrtune.report").joinpath(name).read_text(encoding="utf-8")


def _figure_data(figure: go.Figure) -> dict[str, Any]:
    plain = figure.to_plotly_json()
    return {
        "data": plain["data"],
        "layout": {key: value for key, value in plain["layout"].items() if key not in {"template", "meta"}},
    }


def _section(part: Part) -> str:
    caution = f'<p class="caution">{as_text(part.caution)}</p>' if part.caution else ""
    note = f'<p class="note">{as_text(part.note)}</p>' if part.note else ""
    height = int(part.figure.layout.height)
    return (
        f'<section id="{part.key}"><h2>{as_text(part.title)}</h2><p class="sub">{as_text(part.about)}</p>{caution}'
        f'<div class="figure" data-source="figure-{part.key}" style="height:{height}px"></div>{note}</section>\n'
    )


def _repeat(record: StudyRecord) -> str:
    """Settings, versions, hardware and seeds."""
    rows: list[tuple[str, object]] = [
        ("metric", f"{record.metric}, {record.direction}d, {record.rule} value of the curve"),
        ("full training", f"{record.epochs} epochs"),
        ("strategy", record.strategy or "not recorded"),
        ("seed", record.seed),
        *((f"space: {name.replace('_', ' ')}", _axis(value)) for name, value in record.space.to_json().items()),
        *record.environment.items(),
    ]
    listed = "".join(f"<div><dt>{as_text(name, 80)}</dt><dd>{as_text(value, 400)}</dd></div>" for name, value in rows)
    raw = as_text(json.dumps(dict(record.result), indent=2, default=str), 20000)
    return (
        '<section id="repeat"><h2>To repeat it</h2>'
        '<p class="sub">Settings, versions, hardware and seeds of this study.</p>'
        f'<dl class="repeat">{listed}</dl><details><summary>result.json</summary><pre>{raw}</pre></details></section>\n'
    )


def _axis(value: object) -> str:
    if isinstance(value, dict) and {"low", "high"} <= set(value):
        return f"{value['low']:g} to {value['high']:g}"
    if isinstance(value, list):
        return ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
