"""Who else follows a search of the command line: the dashboard's note, TensorBoard, MLflow."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.cli.console import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage

    from lrtune.study.events import Observer, Progress

__all__ = ["Followers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Followers:
    """What the options ask for.

    Attributes
    ----------
    tensorboard
        Folder of TensorBoard's event files; None for none.
    mlflow
        Address of an MLflow tracking server or store; None for none.
    """

    tensorboard: Path | None = None
    mlflow: str | None = None

    def check(self) -> None:
        """That all of it is installed; asked before anything is trained.

        Raises
        ------
        lrtune.errors.InputError
            If something is not.
        """
        from lrtune.integrations.trackers import check

        asked = {"tensorboard": self.tensorboard, "mlflow": self.mlflow}
        check(*(package for package, where in asked.items() if where is not None))

    def _trackers(self) -> list[Observer]:
        """Those that the options name."""
        from lrtune.integrations.mlflow import MLflowTracker
        from lrtune.integrations.tensorboard import TensorBoardTracker

        made: list[Observer] = []
        if self.tensorboard is not None:
            made.append(TensorBoardTracker(self.tensorboard, warn=_warn))
        if self.mlflow is not None:
            made.append(MLflowTracker(self.mlflow, warn=_warn))
        return made

    @contextlib.contextmanager
    def following(
        self, storage: BaseStorage, shown: Observer, hurried: Callable[[], bool] = bool
    ) -> Iterator[Observer]:
        """All of them as one observer; the note is brought up to date at the end, but for one that a signal asks for.

        Parameters
        ----------
        storage
            Where the note is kept.
        shown
            Who hears first.
        hurried
            Whether an end was asked for: drawing figures takes seconds, and a signal allows few.

        Raises
        ------
        lrtune.errors.InputError
            If one that an option names is not installed.
        """
        from lrtune.integrations.optuna_dashboard import Notes, installed

        notes = Notes(storage, warn=_warn) if installed() else None
        watchers: list[Observer] = [shown, *self._trackers(), *([notes] if notes is not None else [])]

        def observe(progress: Progress) -> None:
            for watcher in watchers:
                if watcher is not notes or not hurried():
                    watcher(progress)

        try:
            yield observe
        finally:
            if notes is not None and not hurried():
                notes.close()


def _warn(line: str) -> None:
    note(f"lrtune: warning: {line}")
