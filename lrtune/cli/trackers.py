"""What else follows a search of the command line: the dashboard's note, TensorBoard, MLflow."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from lrtune.cli.console import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage

    from lrtune.study.events import Observer, Progress

__all__ = ["tracking"]


@contextlib.contextmanager
def tracking(
    storage: BaseStorage,
    display: Observer,
    *,
    tensorboard: Path | None,
    mlflow: str | None,
    stopping: Callable[[], bool],
) -> Iterator[Observer]:
    """One observer for the display, the trackers, and the note that optuna-dashboard shows of a study.

    Parameters
    ----------
    storage
        Where the note is kept.
    display
        Called first.
    tensorboard, mlflow
        Folder of TensorBoard's event files, and address of an MLflow server or store; None for none.
    stopping
        Whether a signal has asked for the end: the note's figures take seconds, so they are not drawn then.

    Raises
    ------
    lrtune.errors.InputError
        If a tracker is not installed.
    """
    from lrtune.integrations.mlflow import MLflowTracker
    from lrtune.integrations.optuna_dashboard import Notes, installed
    from lrtune.integrations.tensorboard import TensorBoardTracker

    observers = [display]
    if tensorboard is not None:
        observers.append(TensorBoardTracker(tensorboard, warn=warn))
    if mlflow is not None:
        observers.append(MLflowTracker(mlflow, warn=warn))
    notes = Notes(storage, warn=warn) if installed() else None

    def observe(progress: Progress) -> None:
        for observer in observers:
            observer(progress)
        if notes is not None and not stopping():
            notes(progress)

    try:
        yield observe
    finally:
        if notes is not None and not stopping():
            notes.close()
