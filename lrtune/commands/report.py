"""``lrtune report``: the page of a study, from what is stored of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.commands.options import Debug, Out, Storage, StudyPath, default_out, stored_at
from lrtune.commands.output import say

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(study: StudyPath, *, storage: Storage = None, out: Out = None, debug: Debug = False) -> None:
    """Write the report of a study again, without training anything; also while it is running."""
    del debug
    from lrtune import report as page
    from lrtune.commands.stored import load
    from lrtune.config import read_study
    from lrtune.reading import read

    told = read_study(study)
    folder = out or default_out(told.question.name)
    record = read(load(stored_at(storage, told.search.storage, told.folder, folder), told.question.name))
    path = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    page.write(record, path)
    say(page.text(record))
    say(f"\nreport   {path}")
