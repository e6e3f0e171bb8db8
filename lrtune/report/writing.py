"""Whole or not at all: a file is written beside its place, made durable, and moved there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from lrtune.errors import StorageError

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file so that whoever looks finds either the old one or the new one, complete.

    Raises
    ------
    StorageError
        If it cannot be written (no space, no folder, no permission); the old one is left as it was.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        msg = f"report: {target} cannot be written ({reason.lower()}); free space or choose another place"
        raise StorageError(msg) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the move durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
