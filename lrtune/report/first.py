"""The first screen: the answer, read in ten seconds, and the lines to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.snippets import snippet

if TYPE_CHECKING:
    from lrtune.records import StudyRecord
    from lrtune.report.words import Answer
    from lrtune.snippets import Kind

__all__ = ["first_screen"]

CALM = {"clear", "warmup_widens", "schedule_irrelevant"}
KINDS: tuple[tuple[Kind, str], ...] = (("torch", "PyTorch"), ("sklearn", "scikit-learn"))


def first_screen(record: StudyRecord, said: Answer) -> dict[str, Any]:
    """What the template takes beside the answer: findings with their tone, why it stopped, and the lines to paste."""
    return {
        "verdicts": [("calm" if found.kind.key in CALM else "grave", found) for found in said.findings],
        "stopped": str(record.result.get("stopped_because") or "it has not stopped yet"),
        "paste": _paste(record),
    }


def _paste(record: StudyRecord) -> list[dict[str, Any]]:
    """Lines for the user's own code, one tab a library; nothing where the schedule has no lines of ours."""
    best = record.best
    if best is None:
        return []
    try:
        codes = [(kind, name, snippet(best.recipe, kind)) for kind, name in KINDS]
    except InputError:
        return []
    return [{"kind": kind, "name": name, "code": code, "open": kind == KINDS[0][0]} for kind, name, code in codes]
