"""What the trackers for TensorBoard and MLflow share: an observer of a search that logs its trials and its result.

A trial is logged when it has ended, the result at the end of the search. A trial is recognised by its number and the
time it began, so that a resumed search logs none twice. Nothing is written under the study's lock, and a tracker that
fails warns once and is silent from then on.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from lrtune.core.redaction import redact
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import TrialRecord
    from lrtune.study.events import Progress
    from lrtune.study.result import Result

__all__ = [
    "MLFLOW",
    "NAMES",
    "TENSORBOARD",
    "Tracker",
    "answer_numbers",
    "answer_text",
    "check",
    "missing",
    "run_name",
    "settings",
    "tracker",
]

TENSORBOARD, MLFLOW = "tensorboard", "mlflow"
NAMES = {TENSORBOARD: "TensorBoard", MLFLOW: "MLflow"}
"""What each is called: its class is ``{name}Tracker``. The key names its module here, the package that it needs, the
extra that brings it, and its option of the command line."""


class Tracker(abc.ABC):
    """An observer that logs each ended trial and the result; an exception while it does never ends the search.

    Parameters
    ----------
    warn
        Called once, with one sentence, if something cannot be logged.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._waiting: deque[TrialRecord] = deque()
        self._failed = False

    def __call__(self, progress: Progress) -> None:
        """Take in an event of the search."""
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


def missing(package: str) -> InputError:
    """The error for a package that is not installed; names the extra that brings it."""
    return InputError(f"{NAMES[package]} is not installed; install it with: pip install 'lrtune[{package}]'")


def check(*packages: str) -> None:
    """That these packages are installed.

    Raises
    ------
    InputError
        If one is not; names the extra that brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def tracker(package: str, where: Any, *, warn: Callable[[str], object]) -> Tracker:
    """The tracker of :data:`NAMES` that needs this package, logging to a folder or an address.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    module = importlib.import_module(f"lrtune.integrations.{package}")
    made: Tracker = getattr(module, f"{NAMES[package]}Tracker")(where, warn=warn)
    return made


def run_name(ended: TrialRecord) -> str:
    """Number, learning rate and start of a trial: the same whenever the trial is logged, and no other trial's."""
    began = time.strftime("%Y%m%d-%H%M%S", time.gmtime(ended.started or 0.0))
    return f"trial-{ended.number:03d}_lr-{ended.recipe.lr:.3g}_{began}"


def settings(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that are set."""
    return {name: value for name, value in recipe.to_json().items() if value is not None}


def answer_numbers(result: Result) -> dict[str, float]:
    """The answer as numbers by name; what is not known is left out."""
    best, band = result.best_recipe, result.band or (None, None)
    known = {
        "lr": None if best is None else best.lr,
        "value": result.best_value,
        "band_low": band[0],
        "band_high": band[1],
        "edge": result.edge.lr,
        "cost": result.cost,
        "machine_time": result.machine_time,
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def answer_text(result: Result) -> str:
    """The answer in Markdown, which both of them show."""
    from lrtune.reporting.html.markdown import markdown
    from lrtune.study.trials.study_reader import read

    return "" if result.study is None else markdown(read(result.study))
