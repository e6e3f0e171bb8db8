"""The first screen: the answer, read in ten seconds, and the lines to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.reporting.snippets import snippet

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord
    from lrtune.reporting.html.plain_text import AnswerText
    from lrtune.reporting.snippets import Kind

__all__ = ["first_screen"]

CALM = {"clear", "likely", "warmup_widens", "schedule_irrelevant"}
TABS: dict[Kind, str] = {"torch": "PyTorch", "sklearn": "scikit-learn", "generator": "Your function"}
ANYWHERE = ("torch", "sklearn")
"""Libraries whose code can be written of a recipe alone, whoever trained it."""


def first_screen(record: StudyRecord, said: AnswerText) -> dict[str, Any]:
    """What the template takes beside the answer: findings with their tone, why it stopped, and the lines to paste."""
    return {
        "verdicts": [("calm" if found.kind.key in CALM else "grave", found) for found in said.findings],
        "stopped": str(record.result.get("stopped_because") or "it has not stopped yet"),
        "paste": _paste(record),
    }


def _paste(record: StudyRecord) -> list[dict[str, Any]]:
    """Lines for the user's own code, a tab for each library, open at the one that the run was trained with.

    Nothing where the schedule has no lines of ours.
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
