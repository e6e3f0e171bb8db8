"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from lrtune.cli.console import debugging
from lrtune.errors import InputError

__all__ = ["AnyStudy", "Debug", "Name", "Out", "Storage", "StudyPath", "default_out", "here", "stored_at"]

OUT_ROOT = "lrtune-out"
DATABASE = "study.db"


def _remember(value: bool) -> bool:  # noqa: FBT001 -- the callback of a flag
    return debugging(value)


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
Debug: TypeAlias = Annotated[
    bool,
    typer.Option("--debug", callback=_remember, is_eager=True, help="Print lrtune's own tracebacks too."),
]


def here() -> Path:
    """The working directory: the user's code may go elsewhere at any time, so paths are made absolute at the start.

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
    """The folder of a study: its own name where that is a plain one, else a safe one made from it."""
    from lrtune.core.names import safe_filename

    safe = safe_filename(name)
    plain = name == name.lower() and safe.rpartition("-")[0] == name
    return Path(OUT_ROOT) / (name if plain else safe)


def stored_at(given: str | None, in_file: str | None, folder: Path, out: Path) -> str:
    """Where the study is: the option, the environment, the study file, a file in the output folder.

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
