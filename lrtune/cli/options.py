"""Options of the command line: those of the schema, and those that several commands share.

:func:`add_command` registers a command with typer. Options that :func:`lrtune.config.study_file.schema` declares are
added to its own, so that no command repeats their names, types and helps.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from lrtune.cli.console import debugging
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lrtune.core.options import Option

__all__ = [
    "AnyStudy",
    "Name",
    "Out",
    "Quiet",
    "Storage",
    "StudyPath",
    "add_command",
    "default_out",
    "here",
    "stored_at",
]

OUT_ROOT = "lrtune-out"
DATABASE = "study.db"


StudyPath: TypeAlias = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
AnyStudy: TypeAlias = Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="The study file.")]
Name: TypeAlias = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="Name of the study, where it is not the study file's."),
]
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of what is written; lrtune-out/NAME unless given."),
]
Storage: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Where the study is kept: an SQLite file, postgresql://..., or @FILE whose first line says it. "
        "Unless given: LRTUNE_STORAGE, the study file's, study.db in the output folder.",
    ),
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the answer.")]


def add_command(app: typer.Typer, name: str, command: Callable[..., Any], **schema: Iterable[Option]) -> None:
    """Register a command, with ``--debug`` behind its own options.

    Parameters
    ----------
    app, name
        Where, and under which name.
    command
        A function, or a dataclass with a method ``run``. Its parameters are its own options, its docstring its help.
    schema
        Options of the schema; the help shows those that have one behind the command's parameter of that name. The
        command gets what was given for them as its argument `given`, a mapping.
    """
    signature = inspect.signature(command, eval_str=True).parameters
    shown, names = [], set()
    for own in signature.values():
        added = [_parameter(option) for option in schema.get(own.name, ()) if option.help]
        shown += [own, *added] if own.name != "given" else added
        names |= {option.name for option in added}
    debug = typer.Option("--debug", callback=debugging, is_eager=True, help="Print lrtune's own tracebacks too.")
    shown.append(_keyword("debug", Annotated[bool, debug], default=False))

    def called(*, debug: bool, **values: Any) -> None:
        del debug  # its callback has read it
        given = {name: values.pop(name) for name in names}
        made = command(**values, given=given) if "given" in signature else command(**values)
        if isinstance(command, type):
            made.run()

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # what typer reads
    called.__doc__ = command.__doc__
    app.command(name)(called)


def _parameter(option: Option) -> inspect.Parameter:
    kind: Any = list[str] if option.kind is list else bool if option.switch else option.kind
    shown = typer.Option(*filter(None, [option.declared]), metavar=option.metavar, help=option.help)
    return _keyword(option.name, Annotated[kind | None, shown], default=None)


def _keyword(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def here() -> Path:
    """The working directory at the start: the user's code may change it at any time.

    Raises
    ------
    InputError
        If it is gone.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        msg = "the working directory has been deleted; go to one that exists"
        raise InputError(msg) from None


def default_out(name: str) -> Path:
    """The output folder of a study, relative to the working directory."""
    from lrtune.core.names import short_filename

    return Path(OUT_ROOT) / short_filename(name)


def stored_at(given: str | None, in_file: str | None, folder: Path, out: Path) -> str:
    """Path or URL of the storage: of the option, the environment, the study file, else a file in the output folder.

    Raises
    ------
    lrtune.errors.StorageError
        If the URL is to be read from a file that cannot be read.
    """
    from lrtune.storage import resolve_storage

    found = resolve_storage(given)
    if found is not None:
        return found
    if in_file is None:
        return str(out / DATABASE)
    if in_file.startswith("@"):
        return resolve_storage(f"@{folder / in_file[1:]}") or ""
    return in_file if ":" in in_file else str(folder / in_file)
