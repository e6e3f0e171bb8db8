"""A stored study, opened to be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.errors import InputError

if TYPE_CHECKING:
    import optuna

__all__ = ["load", "opened"]

SHOWN = 10


def opened(where: str) -> optuna.storages.BaseStorage:
    """The storage, which has to be there already.

    Raises
    ------
    InputError
        If it is a file that does not exist.
    lrtune.errors.StorageError
        If it cannot be opened.
    """
    from lrtune.storage import open_storage
    from lrtune.storage.address import FileAddress, parse

    address = parse(where)
    if isinstance(address, FileAddress) and not Path(address.path).exists():
        msg = f"{address}: there is no study yet; run lrtune optimize first, or say where it is with --storage"
        raise InputError(msg)
    return open_storage(where)


def load(where: str, name: str) -> optuna.Study:
    """The study of that name.

    Raises
    ------
    InputError
        If there is none.
    lrtune.errors.StorageError
        If the storage cannot be opened.
    """
    import optuna

    storage = opened(where)
    names = sorted(optuna.get_all_study_names(storage))
    if name not in names:
        held = ", ".join(map(repr, names[:SHOWN])) or "none"
        msg = f"study {name!r} is not in this storage, which holds {held}; run lrtune optimize first"
        raise InputError(msg)
    return optuna.load_study(study_name=name, storage=storage)
