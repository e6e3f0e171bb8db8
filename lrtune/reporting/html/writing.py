"""A page that is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.core.files import public, replace, sweep
from lrtune.errors import StorageError

if TYPE_CHECKING:
    import os
from lrtune.core.os_errors import cure, reason

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file so that whoever looks finds either the old one or the new one, complete.

    Raises
    ------
    StorageError
        If it cannot be written (no space, no folder, no permission); the old one is left as it was.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        replace(target, content.encode(), mode=public(), durable_folder=True)
    except OSError as error:
        msg = f"report: {target} cannot be written ({reason(error).lower()}); {cure(error)}, or choose another place"
        raise StorageError(msg) from error
