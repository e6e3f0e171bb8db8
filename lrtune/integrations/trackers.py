"""Following along elsewhere: each trial's curve and the answer in TensorBoard or MLflow, by their own calls.

A tracker is an observer. What a trial reported is logged when it has ended, what was found at the end of the search.
A trial is known by its number and the time it began: a search that goes on where it stopped logs none twice. Nothing is
written under the study's lock, and a tracker that fails says so once and is silent from then on.
"""

from __future__ import annotations

import abc
import importlib.util
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from lrtune.core.redaction import redact
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.records import TrialRecord
    from lrtune.study.events import Progress
    from lrtune.study.result import Result

__all__ = ["check"]

TENSORBOARD, MLFLOW = "tensorboard", "mlflow"
NAMES = {TENSORBOARD: "TensorBoard", MLFLOW: "MLflow"}


class _Tracker(abc.ABC):
    """What both have in common: when to log, and that nothing they do ends the search."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._waiting: deque[TrialRecord] = deque()
        self._failed = False

    def __call__(self, progress: Progress) -> None:
        """Hear of an event."""
        self._waiting.extend(progress.ended)
        if self._failed or (progress.event and progress.result is None):
            return
        try:
            while self._waiting:
                self._trial(progress, self._waiting[0])
                self._waiting.popleft()
            if progress.result is not None:
                self._answer(progress, progress.result)
        except Exception as error:  # noqa: BLE001 -- a server that is down is no reason to lose a search
            self._failed = True
            reason = redact(str(error)).strip().partition("\n")[0]
            self._warn(f"{type(self).__name__} could not write ({reason}); the search goes on without it")

    @abc.abstractmethod
    def _trial(self, progress: Progress, ended: TrialRecord) -> None:
        """Log what a trial reported and how it ended."""

    @abc.abstractmethod
    def _answer(self, progress: Progress, result: Result) -> None:
        """Log what was found."""


def _missing(package: str) -> InputError:
    return InputError(f"{NAMES[package]} is not installed; install it with: pip install 'lrtune[{package}]'")


def check(*packages: str) -> None:
    """That these packages are there.

    Raises
    ------
    InputError
        If one is not; names the extra that brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise _missing(package)


def _run_name(ended: TrialRecord) -> str:
    """Readable, and the same for the same trial alone."""
    began = time.strftime("%Y%m%d-%H%M%S", time.gmtime(ended.started or 0.0))
    return f"trial-{ended.number:03d}_lr-{ended.recipe.lr:.3g}_{began}"


def _settings(ended: TrialRecord) -> dict[str, Any]:
    return {name: value for name, value in ended.recipe.to_json().items() if value is not None}


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _numbers(result: Result) -> dict[str, float]:
    """The answer as numbers by name; what is not known is left out."""
    best, band = result.best_recipe, result.band
    known = {
        "lr": None if best is None else best.lr,
        "value": result.best_value,
        "band_low": None if band is None else band[0],
        "band_high": None if band is None else band[1],
        "edge": result.edge.lr,
        "cost": result.cost,
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def _text(result: Result) -> str:
    """The answer in Markdown, which both of them show."""
    from lrtune.reporting.html.markdown import markdown
    from lrtune.study.trials.study_reader import read

    return "" if result.study is None else markdown(read(result.study))
