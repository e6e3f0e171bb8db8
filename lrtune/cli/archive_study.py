"""``--fresh``: the stored study is renamed and kept, and a new one begins."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING

from lrtune.cli.console import note
from lrtune.errors import LockedError, StorageError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

__all__ = ["set_aside"]

LONGEST = 170  # characters of the old name, of the 200 that a name may have


def set_aside(storage: BaseStorage, name: str) -> None:
    """Rename the study of that name, if there is one; its checkpoints belong to its identity, which stays.

    Raises
    ------
    LockedError
        If it is being searched.
    """
    import optuna

    from lrtune.core.optuna_logging import quiet
    from lrtune.storage import study_lock
    from lrtune.study.trials.study_reader import creation_interrupted

    stamp = dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    with study_lock(storage, name):
        if name not in {study.study_name for study in storage.get_all_studies()}:
            return
        study = optuna.load_study(study_name=name, storage=storage)
        if creation_interrupted(study):
            return
        _refuse_if_busy(study, name)
        aside = f"{name[:LONGEST]} until {stamp}"
        with quiet():
            optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=aside)
        storage.delete_study(storage.get_study_id_from_name(name))
    note(f"lrtune: the study that was there is called {aside!r} now")


def _refuse_if_busy(study: optuna.Study, name: str) -> None:
    from lrtune.study.trials.stored_trial import RECORD, parse
    from lrtune.workers.lease import alive

    for trial in study.get_trials(deepcopy=False):
        claim = None
        if RECORD in trial.user_attrs:
            with contextlib.suppress(StorageError):  # a damaged record is a reason to start anew
                claim = parse(trial.number, trial.user_attrs[RECORD]).claim
        if claim is not None and alive(claim.lease):
            msg = f"study {name!r} is being searched right now (trial {trial.number}); stop that first, or wait for it"
            raise LockedError(msg)
