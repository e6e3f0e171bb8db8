"""The top of the page: findings, and the recipe as code to paste, for the template ``answer.html.jinja``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.reporting.diagnosis import FindingKind
from lrtune.reporting.html.lr_axis import lr_axis
from lrtune.reporting.snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.answer_text import AnswerText
    from lrtune.reporting.diagnosis import Finding
    from lrtune.reporting.snippets import Kind

__all__ = ["answer_section", "toned"]

CALM = {FindingKind.CLEAR, FindingKind.LIKELY, FindingKind.WARMUP_WIDENS, FindingKind.SCHEDULE_IRRELEVANT}
TABS: dict[Kind, str] = {
    "torch": "PyTorch",
    "sklearn": "scikit-learn",
    "generator": "Your function",
    "transformers": "Your Trainer, as PyTorch",
}
ANYWHERE = ("torch", "sklearn")  # libraries whose code can be written from a recipe alone, whoever trained it


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
    """The recipe as code, a tab for each library, open at the one that it was trained with.

    Empty where the schedule cannot be written as code.
    """
    best = record.best
    if best is None:
        return []
    used = best.setup.get("library")
    kinds = [kind for kind in TABS if kind in ANYWHERE or kind == used]
    opened = used if used in kinds else kinds[0]
    try:
        codes = [(kind, snippet(best.recipe, kind, setup=best.setup if kind == used else None)) for kind in kinds]
    except InputError:
        return []
    return [{"kind": kind, "name": TABS[kind], "code": code, "open": kind == opened} for kind, code in codes]
