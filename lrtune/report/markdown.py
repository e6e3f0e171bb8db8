"""The answer in Markdown: for notes beside a study, in the Optuna dashboard and wherever else Markdown is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lrtune.errors import InputError
from lrtune.report import words
from lrtune.snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.records import StudyRecord
    from lrtune.report.words import Answer

__all__ = ["as_code", "as_markdown", "markdown"]

MOST_FINDINGS, MOST_WARNINGS = 4, 6
PUNCTUATION = re.compile(r"([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])")
LINKED = re.compile(r"(?i)(://|www\.|@|xmpp:|mailto:)")
JOINER = "\N{WORD JOINER}"  # what looks like an address is made a link even where its signs are escaped


def as_markdown(value: object, most: int = 400) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no formula and no link comes of it, and no new line."""
    return PUNCTUATION.sub(r"\\\1", LINKED.sub(rf"\1{JOINER}", words.plain(value, most)))


def as_code(value: object, most: int = 80) -> str:
    """Text as a piece of code within a line, or within a cell of a table."""
    shown = words.plain(value, most).strip() or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", r"\|")


def markdown(record: StudyRecord, state: str = "") -> str:
    """The answer: the learning rate first, what it costs to be wrong about it next, then all the rest.

    Parameters
    ----------
    record
        The study.
    state
        A sentence on where the search stands, while it runs.
    """
    said = words.answer(record)
    parts = [*_head(record, said), *_verdict(said), _table(record, said, state), _paste(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: StudyRecord, said: Answer) -> Iterator[str]:
    if said.lr is None:
        yield "# No learning rate yet"
        yield "Nothing was trained to its end."
        return
    yield f"# Learning rate {as_markdown(said.lr)}"
    settings = ", ".join(f"{as_markdown(name)} **{as_markdown(value, 60)}**" for name, value in said.settings)
    reached = f"reached {as_code(record.metric)} **{as_markdown(said.value)}**"
    yield f"{reached}, with {settings}" if settings else reached


def _table(record: StudyRecord, said: Answer, state: str) -> str:
    """What belongs to the answer, a line each."""
    rows = [
        ("As good, within noise", f"**{as_markdown(said.band)}**" if said.lr else ""),
        ("Diverges from", f"**{as_markdown(said.edge)}**"),
        ("Cost of the search", as_markdown(said.cost)),
        ("Trials", as_markdown(said.trials)),
        ("Stopped because", "" if state else as_markdown(record.result.get("stopped_because") or "")),
        ("Still running", as_markdown(state)),
    ]
    return "\n".join(["| | |", "|:--|:--|", *(f"| {name} | {text} |" for name, text in rows if text)])


def _verdict(said: Answer) -> Iterator[str]:
    """What the study shows, the gravest first, and what the user should know."""
    lines = [
        f"- **{as_markdown(_sentence(found.kind.value))}** {as_markdown(_sentence(found.why))} "
        f"*{as_markdown(_sentence(found.advice))}*"
        for found in list(said.findings)[:MOST_FINDINGS]
    ]
    lines += [f"- **Warning:** {as_markdown(_sentence(warning))}" for warning in list(said.warnings)[:MOST_WARNINGS]]
    more = len(said.findings) + len(said.warnings) - len(lines)
    lines += [f"- and {more} more in the report"] if more else []
    yield "\n".join(lines)


def _sentence(text: str) -> str:
    shown = f"{text[:1].upper()}{text[1:]}".strip()
    return shown if not shown or shown.endswith((".", "!", "?")) else f"{shown}."


def _paste(record: StudyRecord) -> str:
    """Lines for the user's own code; nothing where the schedule has no lines of ours."""
    if record.best is None:
        return ""
    try:
        code = snippet(record.best.recipe, "torch")
    except InputError:
        return ""
    return "\n".join(["In PyTorch:", "", *_fenced(code.strip("\n").splitlines())])


def _fenced(lines: Sequence[str]) -> list[str]:
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}python", *lines, fence]
