"""The garage: where paused runs stand, in memory up to a limit, beyond that on disk.

A run that can save is written to disk whenever it is parked (where the study has a folder for it), so
a killed process loses at most the piece it was training; the one in memory is kept all the same, since
going on with it costs nothing. The checkpoint carries the curve with it: whoever restores the run
knows exactly what it had reported.

Studies may share a folder. A checkpoint names its study (an identity drawn when the study was made) and its
recipe, in its file name and within; one that names others is never gone on with. What a study trains on, its
fingerprint, cannot change while the identity is the same: :func:`lrtune.study.tuning.tune` refuses it.
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

__all__ = ["PausedRun", "RunCache"]

NAMED = 12
"""Digits of a study's identity in the names of its checkpoints."""


@dataclass(slots=True, kw_only=True)
class PausedRun:
    """A run of one recipe, with what it has reported and where it stands.

    Attributes
    ----------
    run
        The run itself.
    curve
        What it has reported.
    step
        Steps it has taken; beyond the curve's last point where it stopped within a piece.
    """

    run: Run
    curve: Curve
    step: int = 0


@dataclass(slots=True, kw_only=True)
class RunCache:
    """Keeps paused runs and brings them back.

    Attributes
    ----------
    trainer
        Who starts runs.
    folder
        Where they are saved; None for nowhere: then all are kept in memory.
    memory_limit
        Bytes of runs in memory; the one used longest ago goes first, if it is on disk.
    study
        The study's identity; None for a study that an earlier version of lrtune made, whose checkpoints name none.
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
        """Whether the run of that trial is here in memory."""
        return number in self._live

    def fetch(self, number: int, recipe: Recipe, known: Curve) -> PausedRun:
        """Bring the run of a trial back: from memory, from disk, or started anew.

        Parameters
        ----------
        number
            The trial's number.
        recipe
            What the run was told.
        known
            What the study knows of its curve: a run in memory that another worker has overtaken, and a
            checkpoint that has fallen behind, are not continued.
        """
        paused = self._live.pop(number, None)
        if paused is not None and _steps(paused.curve) >= _steps(known):
            return paused
        if paused is not None:
            paused.run.close()
        run = self.trainer.start([recipe])
        if not self.saved(number):
            return PausedRun(run=run, curve=Curve())
        try:
            state = checkpoint.load(self._path(number))
            curve = Curve.from_json(state["curve"])
            if self._foreign(state, recipe, curve, known):
                path = self._path(number)
                self.warn(f"{path} is a paused run of another study or recipe: trial {number} does not go on from it")
                return PausedRun(run=run, curve=Curve())
            run.restore(state["run"])
            return PausedRun(run=run, curve=curve, step=int(state["step"]))
        except (LrtuneError, RemoteError, KeyError, TypeError, ValueError) as error:
            run.close()
            if not isinstance(error.__cause__, OSError):  # damaged; what cannot be read just now may be whole
                self._remove(number)
            self.warn(f"trial {number} is trained again from its start: {error}")
            return PausedRun(run=self.trainer.start([recipe]), curve=Curve())

    def _foreign(self, state: State, recipe: Recipe, curve: Curve, known: Curve) -> bool:
        """Whether a checkpoint is of another study or recipe."""
        if state.get("study") != self.study:
            return True
        if self.study is not None:
            return bool(state["recipe"] != recipe.to_json())
        # It names nothing: then what it reported tells, where the study knows a part of it.
        held = {point.step: point.values for point in curve}
        rounded = Curve.from_json(known.to_json())
        return any(held.get(point.step, point.values) != point.values for point in rounded)

    def suspend(self, number: int, paused: PausedRun) -> bool:
        """Keep a paused run; whether it is on disk now."""
        saved = self.save(number, paused)
        paused.run.suspend()
        self._live[number] = paused
        self._make_room()
        return saved

    def save(self, number: int, paused: PausedRun) -> bool:
        """Write a run to disk, where runs are saved; whether it was."""
        if not self.saving:
            return False
        state = paused.run.state()
        if state is None:
            return False
        whole: dict[str, Any] = {"run": state, "curve": paused.curve.to_json(), "step": paused.step}
        if self.study is not None:
            whole |= {"study": self.study, "recipe": paused.run.recipes[0].to_json()}
        self._sizes[number] = checkpoint.save(self._path(number), whole)
        return True

    def saved(self, number: int) -> bool:
        """Whether a checkpoint of that trial lies on disk."""
        if self.folder is None or not self.trainer.saves:
            return False
        try:
            return self._path(number).is_file()
        except OSError:  # nobody may look into the folder: saving says so
            return False

    def forget(self, number: int) -> None:
        """Let go of a trial that has ended."""
        paused = self._live.pop(number, None)
        if paused is not None:
            paused.run.close()
        self._sizes.pop(number, None)
        self._remove(number)

    def keep(self, numbers: set[int], ended: Iterable[int] = ()) -> None:
        """Close the runs of all trials but these: others have ended them.

        The first time, the checkpoints of those that have ended go, too: whoever ended them may have been killed
        before they were removed.
        """
        for number in set(self._live) - numbers:
            self._live.pop(number).run.close()
        if not self._tidied and self.study is not None:
            for number in ended:
                self._remove(number)
        self._tidied = True

    def close(self) -> None:
        """Close every run in memory; what is on disk stays."""
        for paused in self._live.values():
            with contextlib.suppress(Exception):  # one that fails to close keeps no other open
                paused.run.close()
        self._live.clear()

    def _make_room(self) -> None:
        """Close what was used longest ago until the rest fits; only what is on disk can go."""
        total = sum(self._sizes.get(number, 0) for number in self._live)
        for number in list(self._live):
            if total <= self.memory_limit:
                return
            if self.saved(number):
                self._live.pop(number).run.close()
                total -= self._sizes.get(number, 0)

    def _remove(self, number: int) -> None:
        """Remove a checkpoint; one that cannot be removed costs its space and nothing else."""
        if self.folder is None:
            return
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.warn(f"the checkpoint {path} cannot be removed ({reason(error)}); {cure(error)}")

    def _path(self, number: int) -> Path:
        if self.folder is None:
            msg = "this garage has no folder"
            raise ValueError(msg)
        return self.folder / (f"{number}.npz" if self.study is None else f"{number}-{self.study[:NAMED]}.npz")


def _steps(curve: Curve) -> int:
    """Steps up to the last point: whole numbers, where epochs that were stored are rounded."""
    return curve.last.step if curve.last is not None else 0
