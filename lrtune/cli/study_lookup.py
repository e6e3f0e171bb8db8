"""Where a study is stored, and opening it to read."""

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
    """Name of a study, path or URL of its storage, and the output folder."""

    name: str
    storage: str
    folder: Path


def located(file: Path | None, *, name: str | None, storage: str | None, out: Path | None) -> StudyLocation:
    """The location of the study of a file, or without a file of the study of that name.

    Raises
    ------
    lrtune.errors.InputError
        If neither is given, or the file cannot be read.
    """
    in_file, base = None, Path()
    if file is not None:
        study = read_study(file, {"name": name})
        name, in_file, base = study.settings.name, study.storage, study.folder
    elif name is None:
        msg = "which study? give its study file, or its name with --study"
        raise InputError(msg)
    folder = out or default_out(valid_name(name))
    return StudyLocation(name=name, storage=stored_at(storage, in_file, base, folder), folder=folder)


def opened(where: str) -> optuna.storages.BaseStorage:
    """An existing storage.

    Raises
    ------
    InputError
        If it is a file that does not exist.
    """
    from lrtune.storage import open_storage
    from lrtune.storage.url import FileAddress, parse

    address = parse(where)
    if isinstance(address, FileAddress) and not Path(address.path).exists():
        msg = f"{address}: there is no study yet; run lrtune optimize first, or say where it is with --storage"
        raise InputError(msg)
    return open_storage(where)


def load(where: str, name: str) -> optuna.Study:
    """An existing study.

    Raises
    ------
    InputError
        If there is none.
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
    """Numbers of the finished trials of a study; none where there is no such study."""
    if name not in {study.study_name for study in storage.get_all_studies()}:
        return frozenset()
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return frozenset(trial.number for trial in trials if trial.state.is_finished())
