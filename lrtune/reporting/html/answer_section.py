"""The top of the page: findings, and the recipe as code to paste, for the template ``answer.html.jinja``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from lrtune.errors import InputError
from lrtune.reporting.diagnosis import FindingKind
from lrtune.reporting.html.lr_axis import lr_axis
from lrtune.reporting.snippets import TITLES, Kind, snippet
from lrtune.reporting.snippets.optimizer import portable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.answer_text import AnswerText
    from lrtune.reporting.diagnosis import Finding

__all__ = ["answer_section", "toned"]

CALM = {FindingKind.CLEAR, FindingKind.LIKELY, FindingKind.WARMUP_WIDENS, FindingKind.SCHEDULE_IRRELEVANT}


def answer_section(record: StudyRecord, answer: AnswerText) -> dict[str, Any]:
    """Values of the template: the answer, its findings with their CSS class, why the search stopped, and the code."""
    return {
        "answer": answer,
        "findings": toned(answer.findings),
        "stopped": str(record.result.get("stopped_because") or "it has not stopped yet"),
        "paste": _paste(record),
        "axis": lr_axis(record),
    }


def toned(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Findings with their CSS class."""
    return [("calm" if found.kind in CALM else "grave", found) for found in findings]


def _paste(record: StudyRecord) -> list[dict[str, Any]]:
    """The recipe as code, a tab for each host, the one that it was trained with first; those that can be written."""
    best = record.best
    if best is None:
        return []
    used = best.setup.get("library")
    kinds = [kind for kind in TITLES if kind != "generator" or kind == used]
    codes, told = [], portable(best.recipe, best.setup)
    for kind in sorted(kinds, key=lambda kind: kind != used):
        with contextlib.suppress(InputError):
            recipe, setup = (best.recipe, best.setup) if kind == used else (told, None)
            codes.append((kind, snippet(recipe, cast(Kind, kind), setup=setup)))
    return [{"kind": kind, "name": TITLES[kind], "code": code, "open": not n} for n, (kind, code) in enumerate(codes)]
