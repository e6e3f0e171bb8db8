"""The page: one HTML file that asks nobody for anything, with the answer on its first screen.

A content security policy forbids every request; scripts run only if their digest is named in it, so that even
markup that slipped through could not.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from lrtune import analysis, figures
from lrtune.errors import InputError
from lrtune.figures.joint import label_of
from lrtune.report.escape import as_json, as_text
from lrtune.report.ruler import ruler
from lrtune.report.table import trials_data
from lrtune.report.words import answer, number
from lrtune.report.writing import write_whole

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import plotly.graph_objects as go

    from lrtune.diagnosis import Finding
    from lrtune.records import StudyRecord
    from lrtune.report.words import Answer

__all__ = ["page", "write"]

CALM = {"clear", "warmup_widens", "schedule_irrelevant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One figure of the page, with what is said around it."""

    key: str
    title: str
    about: str
    figure: go.Figure
    caution: str = ""
    note: str = ""


def write(record: StudyRecord, path: str | os.PathLike[str]) -> None:
    """Write the report of a study as one self-contained HTML file, whole or not at all.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older report is left as it was.
    """
    write_whole(path, page(record))


def page(record: StudyRecord) -> str:
    """The report as HTML."""
    judged = analysis.verdicts(record)
    table = analysis.trials(record, judged)
    said = answer(record)
    groups = [_answered(record, table, judged), _joint(record), _spent(record)]
    parts = [part for group in groups for part in group]
    scripts = [_plotly(), _read("script.js")]
    head = (
        '<!DOCTYPE html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="generator" content="lrtune">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{as_text(record.name)}: learning rate {as_text(said.lr or 'not found yet')}</title>\n"
        f"<style>{_read('style.css')}</style>\n</head>\n<body>\n"
    )
    body = [
        '<header class="top"><span class="mark">lrtune</span>',
        f"<h1>{as_text(record.name)}</h1>",
        '<button id="theme" type="button" aria-label="Switch between light and dark">Dark</button></header>\n<main>\n',
        _first_screen(record, said),
        '<noscript><p class="caution">The figures and the table of trials need JavaScript; the answer above does not.</p></noscript>\n',
        *(_section(part) for part in parts),
        _trials(),
        _repeat(record),
        "</main>\n<footer><p>Made by lrtune. This page is complete in itself: nothing in it is loaded from anywhere.</p></footer>\n",
    ]
    data = [
        f'<script type="application/json" id="figure-{part.key}">{as_json(_figure_data(part.figure))}</script>\n'
        for part in parts
    ]
    data.append(f'<script type="application/json" id="trials-data">{as_json(trials_data(record, table))}</script>\n')
    code = [f"<script>{script}</script>\n" for script in scripts]
    return "".join([head, *body, *data, *code, "</body>\n</html>\n"])


def _policy(scripts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
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
    layout = {k: v for k, v in plain["layout"].items() if k not in {"template", "meta"}}
    return {"data": plain["data"], "layout": layout}


# --- the first screen


def _first_screen(record: StudyRecord, said: Answer) -> str:
    if said.lr is None:
        lead = '<p class="what">Learning rate</p><p class="lr none">None yet: nothing was trained to its end.</p>'
    else:
        chips = "".join(f"<li>{as_text(name)} <b>{as_text(value, 60)}</b></li>" for name, value in said.settings)
        lead = f'<p class="what">Learning rate</p><p class="lr">{as_text(said.lr)}</p><ul class="with">{chips}</ul>'
    facts = [
        ("As good, within noise", said.band),
        ("Diverges from", said.edge),
        (f"{record.metric}, {record.direction}d", said.value or "none"),
        ("Cost of the search", said.cost),
    ]
    more = [
        ("Trials", said.trials),
        ("Stopped because", str(record.result.get("stopped_because") or "it has not stopped yet")),
    ]
    verdicts = "".join(_finding(finding) for finding in said.findings)
    warned = "".join(f'<li class="warning">{as_text(warning, 400)}</li>' for warning in said.warnings)
    return (
        f'<div class="answer"><div>{lead}{ruler(record)}<dl class="facts">{_facts(facts)}</dl>'
        f'<ul class="verdicts">{verdicts}{warned}</ul></div>'
        f'<div>{_paste(record)}<dl class="facts more">{_facts(more, "long")}</dl></div></div>\n'
    )


def _facts(facts: list[tuple[str, str]], tone: str = "") -> str:
    return "".join(f'<div><dt>{as_text(n, 60)}</dt><dd class="{tone}">{as_text(v, 300)}</dd></div>' for n, v in facts)


def _finding(finding: Finding) -> str:
    tone = "" if finding.kind.key in CALM else "grave"
    words = finding.kind.value
    return (
        f'<li class="{tone}"><b>{as_text(words[:1].upper() + words[1:])}.</b> {as_text(_sentence(finding.why))} '
        f'<span class="advice">{as_text(_sentence(finding.advice))}</span></li>'
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _paste(record: StudyRecord) -> str:
    best = record.best
    if best is None:
        return ""
    from lrtune.snippets import snippet

    shown = []
    for kind, name in (("torch", "PyTorch"), ("sklearn", "scikit-learn")):
        try:
            shown.append((kind, name, snippet(best.recipe, "torch" if kind == "torch" else "sklearn")))
        except InputError:  # a schedule of the user's own has no lines of ours
            continue
    if not shown:
        return ""
    tabs = "".join(
        f'<button type="button" role="tab" aria-selected="{"true" if i == 0 else "false"}" aria-controls="paste-{kind}">{name}</button>'
        for i, (kind, name, _) in enumerate(shown)
    )
    codes = "".join(
        f'<pre id="paste-{kind}" role="tabpanel"{"" if i == 0 else " hidden"}>{as_text(code, 6000)}</pre>'
        for i, (kind, _, code) in enumerate(shown)
    )
    return f'<div class="paste"><div class="bar" role="tablist">{tabs}<span></span><button type="button" id="copy">Copy</button></div>{codes}</div>'


# --- figures


def _answered(record: StudyRecord, table: Any, judged: Any) -> Iterator[Part]:
    yield _part(
        "landscape", "Learning rate and result",
        "Every trial at its learning rate. What stopped early stands where it stopped; what diverged stands on the rim.",
        figures.landscape(record, table),
    )  # fmt: skip
    yield _part(
        "curves", "Loss curves",
        "Coloured by learning rate, the answer drawn thick. The scale ends where a model that knows nothing stands. "
        "Marks show where a run was paused, stopped or lost; hover for its verdict.",
        figures.curves(record, judged),
    )  # fmt: skip
    applied = figures.schedule(record)
    if len(applied.data):
        yield _part(
            "schedule", "Schedule as applied", "The learning rate that each run really used, warmup included.", applied
        )


def _joint(record: StudyRecord) -> Iterator[Part]:
    exponent = analysis.batch_exponent(record)
    about = "Between trials it is interpolated."
    if len(exponent):
        fitted = exponent.iloc[0]
        agree = [
            str(rule)
            for rule, fits in zip(exponent["rule"], exponent["agrees"], strict=True)
            if fits and rule != "fitted"
        ]
        about = (
            f"The best learning rate grows as batch^p with p = {fitted['p']:.2f} ({fitted['low']:.2f} to {fitted['high']:.2f}); "
            + (
                f"the {' and the '.join(agree)} rule fits. "
                if agree
                else "neither the linear nor the square-root rule fits. "
            )
            + about
        )
    known: list[tuple[str, str, str, Callable[[StudyRecord], go.Figure | None]]] = [
        ("contour", "Learning rate and batch size", about, figures.contour),
        (
            "slices",
            "Each setting by itself",
            "Trials that were trained to their end, coloured by learning rate.",
            figures.slices,
        ),
        (
            "parallel",
            "All settings together",
            "One line a trial, coloured by learning rate; the answer drawn thick.",
            figures.parallel,
        ),
    ]
    for key, title, words, draw in known:
        figure = draw(record)
        if figure is not None:
            yield _part(key, title, words, figure)
    table = analysis.worth(record)
    figure = figures.worth(record, table)
    if figure is not None:
        words = (
            "What it costs to fix a setting at one of its levels, the learning rate still searched; "
            "every level is given as many tries. Whiskers: 5 % to 95 % from resampling the trials."
        )
        yield _part("worth", "What the other settings were worth", words, figure)


def _spent(record: StudyRecord) -> Iterator[Part]:
    shares = analysis.importance(record)
    figure = figures.importance(record, shares)
    sensitive = analysis.sensitivity(record)
    if figure is not None:
        words = "How much of the trials' ranking each setting explains alone, pruned and diverged trials counted. "
        words += _sensitivity(sensitive)
        yield _part("importance", "What mattered", words, figure, caution=str(shares.attrs.get("warning", "")))
    cost = figures.costs(record)
    if cost is not None:
        yield _part("costs", "What the budget was spent on", "In full trainings, by how the trials ended.", cost)
    yield _part(
        "regret", "Regret over cost", "How far the best full training so far was from the best one of this study.",
        figures.regret(record),
    )  # fmt: skip
    when = figures.timeline(record)
    if when is not None:
        yield _part("timeline", "Who trained when", "One bar a piece of training.", when)


def _sensitivity(table: Any) -> str:
    if not len(table):
        return ""
    row = table.iloc[-1]
    return (
        f"Sensitivity to the learning rate (Wortsman et al. 2023): over {row['over']} a blind choice loses "
        f"{number(float(row['sensitivity']), 2)} ({number(float(row['low']), 2)} to {number(float(row['high']), 2)})."
    )


def _part(key: str, title: str, about: str, figure: go.Figure, *, caution: str = "") -> Part:
    meta = figure.layout.meta or {}
    return Part(key=key, title=title, about=about, figure=figure, caution=caution, note=str(meta.get("note", "")))


def _section(part: Part) -> str:
    caution = f'<p class="caution">{as_text(part.caution)}</p>' if part.caution else ""
    note = f'<p class="note">{as_text(part.note)}</p>' if part.note else ""
    height = int(part.figure.layout.height or 400)
    return (
        f'<section id="{part.key}"><h2>{as_text(part.title)}</h2><p class="sub">{as_text(part.about)}</p>{caution}'
        f'<div class="figure" data-source="figure-{part.key}" style="height:{height}px"></div>{note}</section>\n'
    )


# --- the table, and what it takes to repeat the study


def _trials() -> str:
    return (
        '<section id="trials"><h2>Trials</h2>'
        '<div class="tools"><input id="filter" type="search" placeholder="Filter, e.g. cosine 64" aria-label="Filter trials">'
        '<select id="only" aria-label="Outcome"><option value="">every outcome</option></select>'
        '<button id="csv" type="button">Download CSV</button><span class="count" id="count" role="status"></span></div>'
        '<div class="scroll"><table><thead></thead><tbody></tbody></table></div>'
        '<div class="pager"><button id="before" type="button">Previous</button><span id="where"></span>'
        '<button id="after" type="button">Next</button></div></section>\n'
    )


def _repeat(record: StudyRecord) -> str:
    space = record.space.to_json()
    rows: list[tuple[str, object]] = [
        ("metric", f"{record.metric}, {record.direction}d, {record.rule} value of the curve"),
        ("full training", f"{record.epochs} epochs"),
        ("strategy", record.strategy or "not recorded"),
        ("seed", record.seed),
        *((f"space: {label_of(name)}", _axis(value)) for name, value in space.items()),
        *record.environment.items(),
    ]
    listed = "".join(f"<div><dt>{as_text(name, 80)}</dt><dd>{as_text(value, 400)}</dd></div>" for name, value in rows)
    import json

    raw = as_text(json.dumps(dict(record.result), indent=2, default=str), 20000)
    return (
        '<section id="repeat"><h2>To repeat it</h2><p class="sub">Settings, versions, hardware and seeds of this study.</p>'
        f'<dl class="repeat">{listed}</dl><details><summary>result.json</summary><pre>{raw}</pre></details></section>\n'
    )


def _axis(value: object) -> str:
    if isinstance(value, dict) and {"low", "high"} <= set(value):
        return f"{value['low']:g} to {value['high']:g}"
    if isinstance(value, list):
        return ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
