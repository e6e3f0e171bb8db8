"""A stored study, opened to be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.cli.options import default_out, stored_at
from lrtune.config.study_file import read_study
from lrtune.core.names import valid_name
from lrtune.errors import InputError

if TYPE_CHECKING:
    import optuna

__all__ = ["StudyLocation", "ended", "load", "located", "opened"]

SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyLocation:
    """Where a study is: its name, its storage, and the folder of what is written of it."""

    name: str
    storage: str
    folder: Path


def located(file: Path | None, *, name: str | None, storage: str | None, out: Path | None) -> StudyLocation:
    """Where the study of a file is, or the study of that name that a command without a file has made.

    Raises
    ------
    lrtune.errors.InputError
        If neither is given, or the file cannot be read.
    """
    if file is None:
        if name is None:
            msg = "which study? give its study file, or its name with --study"
            raise InputError(msg)
        folder = out or default_out(valid_name(name))
        return StudyLocation(name=name, storage=stored_at(storage, None, Path(), folder), folder=folder)
    study = read_study(file, {"name": name})
    folder = out or default_out(study.settings.name)
    where = stored_at(storage, study.storage, study.folder, folder)
    return StudyLocation(name=study.settings.name, storage=where, folder=folder)


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
    from lrtune.storage.url import FileAddress, parse

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


def ended(storage: optuna.storages.BaseStorage, name: str) -> frozenset[int]:
    """Numbers of the trials that have ended already; none where there is no such study."""
    if name not in {study.study_name for study in storage.get_all_studies()}:
        return frozenset()
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return frozenset(trial.number for trial in trials if trial.state.is_finished())
