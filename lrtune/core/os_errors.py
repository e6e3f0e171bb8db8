"""An operating system's error on a file, in words: the reason, and what the user can do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cure", "os_sentence", "reason"]

CURES: Mapping[int, str] = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "remove files of this user, or ask for a larger quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "choose a place on a file system that is not read-only",
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it",
    errno.ENOENT: "it, or a folder on the way to it, is gone; make the folder again",
    errno.ENOTDIR: "a folder is needed where a file is; move the file away",
    errno.EISDIR: "a folder is where the file should be; move it away",
    errno.ENOTEMPTY: "a folder is where the file should be; move it away",
    errno.EEXIST: "something else is in its place; move it away",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close what else has files open on this machine",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "remove the links that lead to themselves",
    errno.EBUSY: "end what uses it",
    errno.ETXTBSY: "end what uses it",
    errno.ENODEV: "check that the disk is there",
    errno.ENXIO: "check that the disk is there",
    errno.ESTALE: "mount the network file system again",
    errno.EHOSTDOWN: "check the file server",
    errno.ETIMEDOUT: "check the file server",
}


def reason(error: OSError) -> str:
    """What the system says, without the file's name."""
    return error.strerror or str(error) or type(error).__name__


def cure(error: OSError) -> str:
    """What to do about it, as a clause; for an error that is not listed, to check the disk and the rights."""
    return CURES.get(error.errno or 0, "check the disk and the rights to it")


def os_sentence(error: OSError, shown: str) -> str:
    """One sentence for a file that cannot be made or opened."""
    what = "no space left on device" if error.errno == errno.ENOSPC else "not writable"
    return f"{what}: {shown} ({reason(error)}); {cure(error)}, or choose another storage"
