"""``lrtune report``: the page of a study, from what is stored of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.cli.console import say
from lrtune.cli.options import AnyStudy, Name, Out, Storage, add_command
from lrtune.core.files import make_folder

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "report", report)


def report(study: AnyStudy = None, *, name: Name = None, storage: Storage = None, out: Out = None) -> None:
    """Write the report of a study again, without training anything; also while it is running."""
    from lrtune.cli.study_lookup import load, located
    from lrtune.reporting import html as page
    from lrtune.study.trials.study_reader import read

    place = located(study, name=name, storage=storage, out=out)
    record = read(load(place.storage, place.name))
    make_folder(place.folder)
    path = place.folder / "report.html"
    page.write(record, path)
    say(page.text(record))
    say(f"\nreport   {path}")
