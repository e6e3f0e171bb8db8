"""Atomic file writes: a temporary file beside the place, fsynced, then renamed into it.

Whoever is killed in between leaves a temporary file, ``.NAME.lrtune-*.part``. It is locked (``flock``) for as long as
its writer lives, and the kernel frees the lock however the writer dies: so :func:`sweep` can tell one that belongs to
nobody from one that another process is writing at this moment. The same holds for the folders of
:func:`passing_folder`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.core.locks import flock
from lrtune.core.os_errors import cure, reason
from lrtune.core.redaction import redact
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PRIVATE", "clean", "make_folder", "passing_folder", "replace", "sweep", "write_atomically", "write_public"]

PRIVATE = 0o600
PART = re.compile(r"\..+\.lrtune-[0-9a-f]{8}\.part")
FOLDER = "lrtune-runs-"


def replace(path: Path, data: bytes, *, mode: int = PRIVATE, durable_folder: bool = False) -> None:
    """Write a file so that whoever looks finds either the old one or the new one, complete.

    Parameters
    ----------
    path
        The file; its folder has to be there.
    data
        What it holds.
    mode
        Who may read it.
    durable_folder
        Whether the move, too, is forced to the disk, where the system can.

    Raises
    ------
    OSError
        If it cannot be written; the old one is as it was then, and no part is left.
    """
    descriptor, part = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if mode != PRIVATE:
                part.chmod(mode)
            part.replace(path)  # while the lock is held
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable_folder:
        _sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers are dead; what cannot be looked at stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in (Path(entry.path) for entry in entries if PART.fullmatch(entry.name)):
            _remove_unlocked(path, path.unlink)


@contextlib.contextmanager
def passing_folder() -> Iterator[Path]:
    """A temporary folder for the block; those of processes that were killed within theirs are removed, too."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        _remove_unlocked(left, functools.partial(shutil.rmtree, left, ignore_errors=True))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER))
        try:
            descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
        except FileNotFoundError:  # another search swept it away before it was open
            continue
        if descriptor is None or _locked(descriptor, folder):
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _temporary(path: Path) -> tuple[int, Path]:
    """A temporary file beside the file, open and locked."""
    while True:
        part = path.with_name(f".{path.name[:40]}.lrtune-{secrets.token_hex(4)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(part, flags, PRIVATE)
        if _locked(descriptor, part):
            return descriptor, part


def _locked(descriptor: int, path: Path) -> bool:
    """Lock what was made just now, where there are locks; false, and closed, if it was swept away before that."""
    with contextlib.suppress(OSError):  # a file system without locks: there nobody sweeps
        flock(descriptor, wait=True)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return True
    os.close(descriptor)
    return False


def _remove_unlocked(path: Path, remove: Callable[[], object]) -> None:
    """Remove what no process has locked, where that can be told."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        try:
            flock(descriptor, wait=False)
            remove()
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean(value: Any) -> Any:
    """The JSON value with every secret in its texts redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def make_folder(out: Path) -> None:
    """Make the output folder, and remove what killed processes have left there half-written.

    Raises
    ------
    StorageError
        If it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        sweep(out)
    except OSError as error:
        msg = f"not writable: {out} ({reason(error)}); {cure(error)}, or give another folder with --out"
        raise StorageError(msg) from None


def write_atomically(path: Path, text: str) -> None:
    """:func:`replace` a file by a text that only its owner may read.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    try:
        replace(path, text.encode())
    except OSError as error:
        msg = f"{path}: cannot be written ({reason(error)}); the trials are kept, {cure(error)} and run it again"
        raise StorageError(msg) from None


def write_public(path: str | os.PathLike[str], text: str) -> None:
    """:func:`replace` a report by a text that all may read whom the umask allows; its folder is made if missing.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    target, mask = Path(path), os.umask(0o077)
    os.umask(mask)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        replace(target, text.encode(), mode=0o666 & ~mask, durable_folder=True)
    except OSError as error:
        msg = f"report: {target} cannot be written ({reason(error).lower()}); {cure(error)}, or choose another place"
        raise StorageError(msg) from error
