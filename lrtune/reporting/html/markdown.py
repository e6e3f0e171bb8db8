"""The answer in Markdown: for the Optuna dashboard, TensorBoard, MLflow and wherever else Markdown is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lrtune.reporting import answer_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.records import StudyRecord
    from lrtune.reporting.answer_text import AnswerText

__all__ = ["as_code", "as_markdown", "markdown"]

MOST_FINDINGS, MOST_WARNINGS = 4, 6
PUNCTUATION = re.compile(r"([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])")
LINKED = re.compile(r"(?i)(://|www\.|@|xmpp:|mailto:)")
JOINER = "\N{WORD JOINER}"  # what looks like an address is made a link even where its signs are escaped


def as_markdown(value: object, most: int = 400) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no formula and no link comes of it, and no new line."""
    return PUNCTUATION.sub(r"\\\1", LINKED.sub(rf"\1{JOINER}", answer_text.plain(value, most)))


def as_code(value: object, most: int = 80) -> str:
    """Text as code within a line; not for a table, whose cells a bar ends even there."""
    shown = answer_text.plain(value, most).strip() or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def markdown(record: StudyRecord, state: str = "") -> str:
    """The answer: the learning rate first, how far one may go from it next, then all the rest.

    `state` is a sentence on the progress of the search, while it runs.
    """
    answer = answer_text.answer(record)
    parts = [*_head(record, answer), *_verdict(answer), _table(record, answer, state)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: StudyRecord, answer: AnswerText) -> Iterator[str]:
    if answer.lr is None:
        yield "# No learning rate yet"
        yield f"Nothing was trained to its end. Diverges from: **{as_markdown(answer.edge)}**."
        return
    yield f"# Learning rate {as_markdown(answer.lr)}"
    yield f"As good, within noise: **{as_markdown(answer.band)}**. Diverges from: **{as_markdown(answer.edge)}**."
    settings = ", ".join(f"{as_markdown(name)} **{as_markdown(value, 60)}**" for name, value in answer.settings)
    reached = f"{as_code(record.metric)} **{as_markdown(answer.value)}**"
    yield f"Reached {reached} with {settings}." if settings else f"Reached {reached}."


def _verdict(answer: AnswerText) -> Iterator[str]:
    """What the study shows, the most serious first, and what the user should know."""
    said = [
        tuple(as_markdown(answer_text.sentence(words)) for words in (found.kind.value, found.why, found.advice))
        for found in answer.findings[:MOST_FINDINGS]
    ]
    lines = [f"- **{kind}** {why} *{advice}*" for kind, why, advice in said]
    lines += [f"- **Warning:** {as_markdown(answer_text.sentence(one))}" for one in answer.warnings[:MOST_WARNINGS]]
    more = len(answer.findings) + len(answer.warnings) - len(lines)
    lines += [f"- and {more} more in the report"] if more else []
    yield "\n".join(lines)


def _table(record: StudyRecord, answer: AnswerText, state: str) -> str:
    """What it took, a line each; no lines of code, because one that is wide makes all of the note too wide to read."""
    stopped = "" if state else str(record.result.get("stopped_because") or "")
    rows = [
        ("How sure", answer.sure or ""),
        ("Cost", answer.cost),
        ("Trials", answer.trials),
        ("Stopped because", stopped),
        ("Still running", state),
    ]
    return "\n".join(["| | |", "|:--|:--|", *(f"| {name} | {as_markdown(text)} |" for name, text in rows if text)])
