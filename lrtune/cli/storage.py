"""``lrtune storage``: what lies in a storage, and whether it is sound; nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lrtune.cli.console import say
from lrtune.cli.options import AnyStudy, Name, Out, Storage, add_command

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["register"]

ORDER = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(callback=_group, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    add_command(group, "check", check)
    app.add_typer(group, name="storage")


def _group() -> None:
    """Look after a storage."""  # a group of one command would otherwise be that command


def check(study: AnyStudy = None, *, name: Name = None, storage: Storage = None, out: Out = None) -> None:
    """Say whether a storage is sound and what it holds, without changing it; exit 4 if it cannot be used."""
    from lrtune.cli.study_lookup import located
    from lrtune.storage import resolve_storage
    from lrtune.storage.check import check_storage

    where = resolve_storage(storage) if study is None and name is None else None
    if where is None:
        where = located(study, name=name, storage=storage, out=out).storage
    checked = check_storage(where, judge=_judge)
    say(f"{checked.shown}: {checked.what}")
    for title, states in checked.studies.items():
        say(f"  study {title!r}: {_counts(states)}")


def _judge(number: int | None, attributes: Mapping[str, Any]) -> str:
    """What is wrong with what lrtune stored of a study, or of a trial of it."""
    from lrtune.study.trials import stored_trial, study_reader

    if number is None:
        return study_reader.damage(attributes)
    what = stored_trial.damage(attributes[stored_trial.RECORD]) if stored_trial.RECORD in attributes else ""
    return what and f"its record is damaged ({what})"


def _counts(states: Mapping[str, int]) -> str:
    total = sum(states.values())
    parts = [f"{states[state]} {state.lower()}" for state in ORDER if states.get(state)]
    inner = f" ({', '.join(parts)})" if parts else ""
    return f"{total} trial{'' if total == 1 else 's'}{inner}"
