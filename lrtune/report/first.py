"""The first screen: the answer, read in ten seconds, and the lines to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.errors import InputError
from lrtune.report.escape import as_text
from lrtune.report.ruler import ruler
from lrtune.snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.diagnosis import Finding
    from lrtune.records import StudyRecord
    from lrtune.report.words import Answer
    from lrtune.snippets import Kind

__all__ = ["first_screen"]

CALM = {"clear", "warmup_widens", "schedule_irrelevant"}
TABS: dict[Kind, str] = {"torch": "PyTorch", "sklearn": "scikit-learn", "generator": "Your function"}
ANYWHERE = ("torch", "sklearn")
"""Libraries whose code can be written of a recipe alone, whoever trained it."""
MOST_CODE = 200_000


def first_screen(record: StudyRecord, said: Answer) -> str:
    """The answer as HTML."""
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
        f'<div class="answer"><div>{_lead(said)}{ruler(record)}<dl class="facts">{_facts(facts)}</dl>'
        f'<ul class="verdicts">{verdicts}{warned}</ul></div>'
        f'<div>{_paste(record)}<dl class="facts more">{_facts(more, "long")}</dl></div></div>\n'
    )


def _lead(said: Answer) -> str:
    what = '<p class="what">Learning rate</p>'
    if said.lr is None:
        return f'{what}<p class="lr none">None yet: nothing was trained to its end.</p>'
    chips = "".join(f"<li>{as_text(name)} <b>{as_text(value, 60)}</b></li>" for name, value in said.settings)
    return f'{what}<p class="lr">{as_text(said.lr)}</p><ul class="with">{chips}</ul>'


def _facts(facts: Sequence[tuple[str, str]], tone: str = "") -> str:
    return "".join(f'<div><dt>{as_text(n, 60)}</dt><dd class="{tone}">{as_text(v, 300)}</dd></div>' for n, v in facts)


def _finding(finding: Finding) -> str:
    tone = "calm" if finding.kind.key in CALM else "grave"
    return (
        f'<li class="{tone}"><b>{as_text(_sentence(finding.kind.value))}</b> {as_text(_sentence(finding.why))} '
        f'<span class="advice">{as_text(_sentence(finding.advice))}</span></li>'
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _paste(record: StudyRecord) -> str:
    """Lines for the user's own code, a tab for each library, open at the one that the run was trained with.

    Nothing where the schedule has no lines of ours.
    """
    best = record.best
    if best is None:
        return ""
    used = best.setup.get("library")
    kinds = [kind for kind in TABS if kind in ANYWHERE or kind == used]
    opened = used if used in kinds else kinds[0]
    try:
        codes = [(kind, snippet(best.recipe, kind, setup=best.setup if kind == used else None)) for kind in kinds]
    except InputError:
        return ""
    tabs, panels = "", ""
    for kind, code in codes:
        first = kind == opened
        tabs += f'<button type="button" role="tab" aria-selected="{str(first).lower()}" aria-controls="paste-{kind}">'
        tabs += f"{TABS[kind]}</button>"
        panels += f'<pre id="paste-{kind}" role="tabpanel"{"" if first else " hidden"}>{as_text(code, MOST_CODE)}</pre>'
    copy = '<span></span><button type="button" id="copy">Copy</button>'
    return f'<div class="paste"><div class="bar" role="tablist">{tabs}{copy}</div>{panels}</div>'
