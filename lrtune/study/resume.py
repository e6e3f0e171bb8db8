"""The study in its storage: made, or checked to be the same and continued; and which folder its checkpoints go to."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.core.environment import environment
from lrtune.core.files import passing_folder, sweep
from lrtune.core.names import safe_filename
from lrtune.core.optuna_logging import quiet
from lrtune.core.os_errors import cure, reason
from lrtune.core.space import Space
from lrtune.errors import MismatchError, StorageError
from lrtune.storage import file_of, rows_of, study_lock
from lrtune.study.trials.stored_trial import RECORD
from lrtune.study.trials.study_reader import IDENTITY, NOTICES, RANGE, SETTINGS, SPACE, checked, creation_interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from optuna.storages import BaseStorage

    from lrtune.study.settings import Settings
    from lrtune.training.base import Trainer

__all__ = ["checkpoint_folder", "exists", "lasting_folder", "open_study", "seed_warning"]

SCHEMA = 1
"""Version of what lrtune stores in a study."""


def open_study(trainer: Trainer, space: Space, settings: Settings, storage: BaseStorage) -> optuna.Study:
    """Make the study, or check that the one there is the same.

    A new study's settings are written last: one without them, of a process that was killed or found the disk full, is
    made again.

    Raises
    ------
    MismatchError
        If the study there was made for something else.
    """
    with study_lock(storage, settings.name):
        if exists(storage, settings.name):
            study = optuna.load_study(study_name=settings.name, storage=storage)
            if not creation_interrupted(study):
                _check_same(study, trainer, space, settings)
                return study
        study = _created(storage, settings)
        with contextlib.closing(rows_of(storage, storage.get_study_id_from_name(settings.name))) as rows:
            rows.describe(
                {
                    IDENTITY: uuid.uuid4().hex,
                    SPACE: space.to_json(),
                    NOTICES: list(trainer.notices),
                    RANGE: list(space.lr_range),
                    SETTINGS: _description(trainer, space, settings),
                }
            )
        return study


def _created(storage: BaseStorage, settings: Settings) -> optuna.Study:
    """An empty study; one that was left without settings is used, unless it has another direction.

    A study that was deleted from SQLite while it was written to may leave trials behind, and the next study gets its
    id and those trials: then both are deleted.
    """
    name, direction = settings.name, settings.direction
    with quiet():
        if not exists(storage, name):
            optuna.create_study(study_name=name, storage=storage, direction=direction)
        study = optuna.load_study(study_name=name, storage=storage)
        if study.get_trials(deepcopy=False) or [way.name.lower() for way in study.directions] != [direction]:
            optuna.delete_study(study_name=name, storage=storage)
            study = optuna.create_study(study_name=name, storage=storage, direction=direction)
        study.set_metric_names([settings.metric])
    return study


def exists(storage: BaseStorage, name: str) -> bool:
    """Whether the storage holds a study of that name."""
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _description(trainer: Trainer, space: Space, settings: Settings) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **settings.identity(),
        "strategy": settings.strategy,
        "seed": settings.seed,
        "space": space.to_json(),
        "work": dict(trainer.fingerprint()),
        "environment": environment(),
    }


def _check_same(study: optuna.Study, trainer: Trainer, space: Space, settings: Settings) -> None:
    """Raise a MismatchError with both sides of every difference, if there is one."""
    stored = checked(study.user_attrs, settings.name).get(SETTINGS)
    if stored is None:
        made = any(RECORD in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        partial = f"holds trials of lrtune's without their settings ({SETTINGS}): copy it whole, or"
        what = partial if made else "was not made by lrtune:"
        msg = f"study {settings.name!r} in this storage {what} choose another name"
        raise MismatchError(msg)
    now = json.loads(json.dumps(_description(trainer, space, settings)))
    lines = [f"{key}: {stored.get(key)} -> {now[key]}" for key in settings.identity() if stored.get(key) != now[key]]
    lines += Space.from_json(stored["space"]).difference(space)
    before, after = stored.get("work", {}), now["work"]
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    lines += [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed]
    held = ", ".join(direction.name.lower() for direction in study.directions) or "none"
    if held != settings.direction:
        lines.append(f"direction: {held} -> {settings.direction}")
    if lines:
        msg = (
            f"study {settings.name!r} was made for something else ({'; '.join(dict.fromkeys(lines))}): "
            "change it back, or choose another name"
        )
        raise MismatchError(msg)


def seed_warning(stored: Mapping[str, Any], settings: Settings) -> list[str]:
    """A sentence where another seed is asked for than the study was begun with."""
    begun = stored[SETTINGS].get("seed", settings.seed)
    if begun == settings.seed:
        return []
    return [f"the study was begun with seed {begun}: what was trained before keeps it, beside the new {settings.seed}"]


def lasting_folder(name: str, storage: BaseStorage, checkpoints: Path | None = None) -> Path | None:
    """Where a study's checkpoints stay: the folder given, or one beside the storage's file; None where nothing stays.

    The name is the study's.
    """
    if checkpoints is not None:
        return checkpoints.absolute()  # the training code may change the working directory
    file = file_of(storage)
    return None if file is None else file.with_name(f"{file.stem}-checkpoints") / safe_filename(name)


@contextlib.contextmanager
def checkpoint_folder(settings: Settings, storage: BaseStorage) -> Iterator[Path]:
    """The folder given, one beside the storage's file, or a temporary one; an empty one is removed at the end."""
    folder = lasting_folder(settings.name, storage, settings.checkpoints)
    if folder is None:
        with passing_folder() as passing:
            yield passing
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        why = f"no folder for paused runs can be made there ({reason(error)})"
        msg = f"{folder}: {why}; {cure(error)}, or choose another"
        raise StorageError(msg) from None
    sweep(folder)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty: it holds checkpoints
            folder.rmdir()
            if settings.checkpoints is None:
                folder.parent.rmdir()
