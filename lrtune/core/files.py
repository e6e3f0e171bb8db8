"""Files that are whole or not there: written beside their place, made durable, moved into it.

Whoever is killed in between leaves the part that was written. It is locked (``flock``) for as long as its
writer lives, and the kernel frees the lock however the writer dies: so :func:`sweep` can tell a part that
belongs to nobody from one that another process is writing at this moment. The same holds for the folders
of :func:`passing_folder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.core.os_errors import cure, reason
from lrtune.core.redaction import redact
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

import contextlib
import functools
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PRIVATE", "clean", "make_folder", "passing_folder", "public", "replace", "sweep", "write_atomically"]

PRIVATE = 0o600
PART = re.compile(r"\..+\.lrtune-[0-9a-f]{8}\.part")
EARLIER = re.compile(
    r"\.(?:\d+\.npz|(?:report|compare)\.html)\.[a-z0-9_]{8}\.part"
    r"|\.(?:result|compare|range-test|state)\.json\.\d+"
)
"""Parts as earlier versions of lrtune named them; they took no lock."""

EARLIER_SECONDS = 3600.0
"""Age from which a part without a lock belongs to nobody: none takes a minute to write."""

PASSING = "lrtune-runs-"


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
    descriptor, part = _begun(path)
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


def public() -> int:
    """The mode of a file that anybody may read whom the user lets."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def sweep(folder: Path) -> None:
    """Remove the parts in a folder that nobody writes any more; what cannot be looked at stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if PART.fullmatch(entry.name):
                _remove_nobodys(path, path.unlink)
            elif EARLIER.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > EARLIER_SECONDS:
                        path.unlink()


@contextlib.contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder for the length of the block; those of processes that were killed in theirs are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PASSING}*"):
        _remove_nobodys(left, functools.partial(shutil.rmtree, left, ignore_errors=True))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PASSING))
        descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
        if descriptor is None or _locked(descriptor, folder):
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _begun(path: Path) -> tuple[int, Path]:
    """A part beside the file, open and locked."""
    while True:
        part = path.with_name(f".{path.name[:40]}.lrtune-{secrets.token_hex(4)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(part, flags, PRIVATE)
        if _locked(descriptor, part):
            return descriptor, part


def _locked(descriptor: int, path: Path) -> bool:
    """Lock what was made just now, where the system has locks; false, and closed, where it was swept away before."""
    with contextlib.suppress(OSError):  # a file system without locks: there nobody sweeps
        _lock(descriptor)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return True
    os.close(descriptor)
    return False


def _remove_nobodys(path: Path, remove: Callable[[], object]) -> None:
    """Remove what nobody holds, where that can be told."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        try:
            _lock(descriptor, wait=False)
            remove()
        finally:
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool = True) -> None:
    """Lock a file for as long as it is open.

    Raises
    ------
    OSError
        If another process has it, or there are no locks.
    """
    try:
        import fcntl
    except ImportError:
        msg = "this system has no flock"
        raise OSError(msg) from None
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean(value: Any) -> Any:
    """The JSON value with every secret hidden in its texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def make_folder(out: Path) -> None:
    """The output folder, once it can be written to, without what killed processes have left there half-written.

    Raises
    ------
    StorageError
        If it cannot.
    """
    import tempfile

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        sweep(out)
    except OSError as error:
        msg = f"not writable: {out} ({reason(error)}); {cure(error)}, or give another folder with --out"
        raise StorageError(msg) from None


def write_atomically(path: Path, text: str) -> None:
    """The file is the old or the new one, never a part; it is its owner's alone.

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
