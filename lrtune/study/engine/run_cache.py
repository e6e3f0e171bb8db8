"""Paused runs: in memory up to a limit, the others as checkpoints on disk, and how they are brought back.

A run that can be saved is written to disk whenever it is paused (where the study has a folder), so that a killed
process loses at most the segment it was training. The checkpoint holds the curve too.

The state in which a completed run ended is kept too, of the few best ones (:meth:`.SearchState.finalists`), and in the
end of the best alone: :mod:`lrtune.study.winner` takes the trained model from it.

Studies may share a folder. A checkpoint holds the identity of its study (drawn when the study was made) and its recipe,
and is never used for others. The data and model of a study cannot change under one identity:
:func:`lrtune.study.tuning.tune` refuses that.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.curve import Curve
from lrtune.core.os_errors import cure, reason
from lrtune.errors import LrtuneError
from lrtune.training import checkpoint
from lrtune.workers.process import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Run, State, Trainer

__all__ = ["PausedRun", "RunCache", "checkpoint_path"]

NAMED = 12
"""Digits of a study's identity in the file names of its checkpoints."""


@dataclass(slots=True, kw_only=True)
class PausedRun:
    """A live run of one trial: what can go on training, which no record can.

    Attributes
    ----------
    curve
        All that it has reported.
    step
        Steps that it has taken; more than the curve's last point shows where a segment was interrupted.
    """

    run: Run
    curve: Curve
    step: int = 0


@dataclass(slots=True, kw_only=True)
class RunCache:
    """Keeps paused runs and brings them back.

    Attributes
    ----------
    folder
        Of the checkpoints; None for none: then all runs are kept in memory.
    memory_limit
        Bytes of runs in memory; the least recently used one is closed first, if it has a checkpoint.
    study
        The study's identity; None for a study of an earlier version of lrtune, whose checkpoints hold none.
    warn
        Called with a sentence where a checkpoint is another study's, or cannot be read or removed.
    """

    trainer: Trainer
    folder: Path | None = None
    memory_limit: int = 2**30
    study: str | None = None
    warn: Callable[[str], object] = str
    _live: OrderedDict[int, PausedRun] = field(default_factory=OrderedDict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _tidied: bool = False

    @property
    def saving(self) -> bool:
        """Whether runs are saved to disk."""
        return self.folder is not None and self.trainer.saves

    def holds(self, number: int) -> bool:
        """Whether the paused run of that trial is in memory."""
        return number in self._live

    def fetch(self, number: int, recipe: Recipe, known: Curve) -> PausedRun:
        """Bring the run of a trial back: from memory, from its checkpoint, or started anew.

        A run in memory that ends before the trial's stored curve, `known`, is not used: another worker has gone on.
        """
        paused = self._live.pop(number, None)
        if paused is not None and _steps(paused.curve) >= _steps(known):
            return paused
        if paused is not None:
            paused.run.close()
        run = self.trainer.start([recipe])
        if not self.saved(number):
            return PausedRun(run=run, curve=Curve())
        path = self._path(number)
        try:
            state = checkpoint.load(path)
            curve = Curve.from_json(state["curve"])
            if not self._of_another(state, recipe, curve, known):
                run.restore(state["run"])
                return PausedRun(run=run, curve=curve, step=int(state["step"]))
            self.warn(f"{path} is a paused run of another study or recipe: trial {number} does not go on from it")
        except (LrtuneError, RemoteError, KeyError, TypeError, ValueError) as error:
            run.close()
            if not isinstance(error.__cause__, OSError):  # damaged; what cannot be read just now may be whole
                self._remove(number)
            self.warn(f"trial {number} is trained again from its start: {error}")
            run = self.trainer.start([recipe])
        return PausedRun(run=run, curve=Curve())

    def _of_another(self, state: State, recipe: Recipe, curve: Curve, known: Curve) -> bool:
        """Whether a checkpoint is of another study or recipe."""
        if state.get("study") != self.study:
            return True
        if self.study is not None:
            return bool(state["recipe"] != recipe.to_json())
        # an earlier version's: compared by what it reported
        held = {point.step: point.values for point in curve}
        rounded = Curve.from_json(known.to_json())
        return any(held.get(point.step, point.values) != point.values for point in rounded)

    def suspend(self, number: int, paused: PausedRun) -> bool:
        """Keep a paused run; whether it has a checkpoint now."""
        saved = self.save(number, paused)
        paused.run.suspend()
        self._live[number] = paused
        self._make_room()
        return saved

    def save(self, number: int, paused: PausedRun) -> bool:
        """Write a run's checkpoint, where runs are saved; whether it was written."""
        if self.folder is None or not self.trainer.saves:
            return False
        state = paused.run.state()
        if state is None:
            return False
        whole: dict[str, Any] = {"run": state, "curve": paused.curve.to_json(), "step": paused.step}
        if self.study is not None:
            whole |= {"study": self.study, "recipe": paused.run.recipes[0].to_json()}
        self._sizes[number] = checkpoint.save(checkpoint_path(self.folder, number, self.study), whole)
        return True

    def save_completed(self, number: int, paused: PausedRun) -> None:
        """Write the state in which a completed run ended; where it cannot be had, its result counts all the same."""
        saved = False
        try:
            saved = self.save(number, paused)
        except Exception as error:  # noqa: BLE001 -- a full disk, a process that has died, a trainer of the user's
            self.warn(f"the trained model of trial {number} is not kept: {error}")
        if not saved:
            self._remove(number)  # one of a pause is no trained model
        self._sizes.pop(number, None)

    def saved(self, number: int) -> bool:
        """Whether that trial has a checkpoint."""
        if not self.saving:
            return False
        try:
            return self._path(number).is_file()
        except OSError:  # the folder may not be read: saving will say so
            return False

    def forget(self, number: int) -> None:
        """Close the run of a trial that has ended, and remove its checkpoint."""
        paused = self._live.pop(number, None)
        if paused is not None:
            paused.run.close()
        self._sizes.pop(number, None)
        self._remove(number)

    def keep(self, numbers: set[int], ended: Iterable[int] = ()) -> None:
        """Close the runs of all trials but these: other workers have ended them.

        The first call removes the checkpoints of ended trials too: the worker that ended one may have been killed.
        """
        for number in set(self._live) - numbers:
            self._live.pop(number).run.close()
        if not self._tidied and self.study is not None:
            for number in ended:
                self._remove(number)
        self._tidied = True

    def close(self) -> None:
        """Close every run in memory; checkpoints stay."""
        for paused in self._live.values():
            with contextlib.suppress(Exception):  # an error of one leaves no other open
                paused.run.close()
        self._live.clear()

    def _make_room(self) -> None:
        """Close the least recently used runs that have a checkpoint until the rest fits."""
        total = sum(self._sizes.get(number, 0) for number in self._live)
        for number in list(self._live):
            if total <= self.memory_limit:
                return
            if self.saved(number):
                self._live.pop(number).run.close()
                total -= self._sizes.get(number, 0)

    def _remove(self, number: int) -> None:
        """Remove a checkpoint; one that cannot be removed is no error."""
        if self.folder is None:
            return
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.warn(f"the checkpoint {path} cannot be removed ({reason(error)}); {cure(error)}")

    def _path(self, number: int) -> Path:
        if self.folder is None:
            msg = "there is no folder for checkpoints"
            raise ValueError(msg)
        return checkpoint_path(self.folder, number, self.study)


def checkpoint_path(folder: Path, number: int, study: str | None) -> Path:
    """The file of a trial's run; `study` is the study's identity, None for one of an earlier version of lrtune."""
    return folder / (f"{number}.npz" if study is None else f"{number}-{study[:NAMED]}.npz")


def _steps(curve: Curve) -> int:
    """Steps up to the last point: whole numbers, where epochs that were stored are rounded."""
    return curve.last.step if curve.last is not None else 0
