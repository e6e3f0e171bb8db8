"""Following along elsewhere: each trial's curve and the answer in TensorBoard or MLflow, by their own calls.

A tracker is an observer. What a trial reported is logged when it has ended, what was found at the end of the search.
A trial is known by its number and the time it began: a search that goes on where it stopped logs none twice. Nothing is
written under the study's lock, and a tracker that fails says so once and is silent from then on.
"""

from __future__ import annotations

import abc
import importlib.util
import math
import re
import time
import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.names import safe_filename
from lrtune.redaction import redact

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from lrtune.progress import Ended, Progress
    from lrtune.result import Result

__all__ = ["MLflowTracker", "TensorBoardTracker", "check"]

TENSORBOARD, MLFLOW = "tensorboard", "mlflow"
NAMES = {TENSORBOARD: "TensorBoard", MLFLOW: "MLflow"}

MOST_METRICS = 1000
"""Numbers that MLflow takes in one call."""


class _Tracker(abc.ABC):
    """What both have in common: when to log, and that nothing they do ends the search."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._waiting: deque[Ended] = deque()
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
    def _trial(self, progress: Progress, ended: Ended) -> None:
        """Log what a trial reported and how it ended."""

    @abc.abstractmethod
    def _answer(self, progress: Progress, result: Result) -> None:
        """Log what was found."""


class TensorBoardTracker(_Tracker):
    """Logs a study into TensorBoard's event files: a run for each trial, and one for the answer.

    The steps are the optimizer's; ``epoch`` is a series of its own, for trials whose batch sizes differ.

    Parameters
    ----------
    folder
        Of all studies; each has a folder of its own in it.
    warn
        Told once, in one sentence, if the files cannot be written.

    Raises
    ------
    InputError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, warn: Callable[[str], object] = warnings.warn) -> None:
        super().__init__(warn)
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        except ImportError:
            raise _missing(TENSORBOARD) from None
        self._folder = Path(folder).absolute()
        self._writer: Any = SummaryWriter
        self._hparams: Any = hparams

    def _trial(self, progress: Progress, ended: Ended) -> None:
        folder = self._folder / safe_filename(progress.name) / _run_name(ended)
        if folder.exists():
            return
        with self._writer(str(folder)) as writer:
            for point in ended.curve:
                numbers = {**point.values, "epoch": point.epoch, **({} if point.lr is None else {"lr": point.lr})}
                for name, value in numbers.items():
                    writer.add_scalar(name, value, point.step)
            result = f"result/{progress.metric}"
            writer.add_scalar(result, math.nan if ended.value is None else ended.value, len(ended.curve))
            # SummaryWriter.add_hparams would open a second file for these three
            for summary in self._hparams({n: _plain(v) for n, v in _settings(ended).items()}, {result: 0.0}):
                writer.file_writer.add_summary(summary)

    def _answer(self, progress: Progress, result: Result) -> None:
        with self._writer(str(self._folder / safe_filename(progress.name) / "answer")) as writer:
            writer.add_text("answer", _text(result))
            for name, value in _numbers(result).items():
                writer.add_scalar(f"answer/{name}", value, 0)


class MLflowTracker(_Tracker):
    """Logs a study into MLflow: an experiment of its name, a run for the search and one below it for each trial.

    It works through a client of its own, so that the training code's active run, if it has one, stays its own.

    Parameters
    ----------
    uri
        Of the tracking server or store, e.g. ``"http://127.0.0.1:5000"`` or ``"sqlite:///mlflow.db"``; None takes
        what MLflow takes, from ``MLFLOW_TRACKING_URI``.
    warn
        Told once, in one sentence, if the server does not answer.

    Raises
    ------
    InputError
        If MLflow is not installed.
    """

    def __init__(self, uri: str | None = None, *, warn: Callable[[str], object] = warnings.warn) -> None:
        super().__init__(warn)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise _missing(MLFLOW) from None
        anchored = None if uri is None else _anchored(uri)
        self._make: Callable[[], Any] = lambda: MlflowClient(tracking_uri=anchored)
        self._held: tuple[Any, str, str] | None = None

    def _trial(self, progress: Progress, ended: Ended) -> None:
        client, experiment, search = self._opened(progress.name)
        identity = f"{ended.number}@{ended.started}"
        if self._known(client, experiment, "lrtune.trial", identity) is not None:
            return
        tags = {
            "mlflow.parentRunId": search,
            "mlflow.runName": _run_name(ended),
            "lrtune.trial": identity,
            "lrtune.outcome": ended.outcome.value,
        }
        run = client.create_run(experiment, tags=tags).info.run_id
        metrics = list(_metrics(ended, progress.metric))
        for first in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run, metrics=metrics[first : first + MOST_METRICS])
        for name, value in _settings(ended).items():
            client.log_param(run, name, value)
        client.set_terminated(run, "FAILED" if ended.outcome.group == "failed" else "FINISHED")

    def _answer(self, progress: Progress, result: Result) -> None:
        client, _, search = self._opened(progress.name)
        for name, value in _numbers(result).items():
            client.log_metric(search, name, value)
        for name, value in (result.best_recipe.to_json() if result.best_recipe is not None else {}).items():
            client.set_tag(search, f"best.{name}", value)
        client.set_tag(search, "mlflow.note.content", _text(result))
        client.set_terminated(search)

    def _opened(self, name: str) -> tuple[Any, str, str]:
        """The client, the experiment of a study, and the run of its search."""
        if self._held is None:
            client = self._make()
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found is not None else client.create_experiment(name)
            search = self._known(client, experiment, "lrtune.search", "1")
            if search is None:
                tags = {"mlflow.runName": name, "lrtune.search": "1"}
                search = client.create_run(experiment, tags=tags).info.run_id
            self._held = client, experiment, search
        return self._held

    @staticmethod
    def _known(client: Any, experiment: str, tag: str, value: str) -> str | None:
        found = client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None


def _anchored(uri: str) -> str:
    """The same store from wherever the training code goes: MLflow reads a relative path when it is first used."""
    head, scheme, path = uri.rpartition("sqlite:///")
    if scheme and not head:
        return f"{scheme}{Path(path).absolute()}"
    return uri if ":" in uri or uri == "databricks" else str(Path(uri).absolute())


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


def _run_name(ended: Ended) -> str:
    """Readable, and the same for the same trial alone."""
    began = time.strftime("%Y%m%d-%H%M%S", time.gmtime(ended.started or 0.0))
    return f"trial-{ended.number:03d}_lr-{ended.recipe.lr:.3g}_{began}"


def _settings(ended: Ended) -> dict[str, Any]:
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
    from lrtune.reading import read
    from lrtune.report.markdown import markdown

    return "" if result.study is None else markdown(read(result.study))


def _metrics(ended: Ended, metric: str) -> Iterator[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for point in ended.curve:
        numbers = {**point.values, "epoch": point.epoch, **({} if point.lr is None else {"applied_lr": point.lr})}
        for name, value in numbers.items():
            yield Metric(key=_allowed(name), value=float(value), timestamp=now, step=point.step)
    if ended.value is not None:
        yield Metric(key=_allowed(f"result.{metric}"), value=float(ended.value), timestamp=now, step=0)


def _allowed(name: str) -> str:
    """A name that MLflow takes: it refuses most punctuation, and what looks like a path upwards."""
    return re.sub(r"[^\w\-. :/]", "_", name).strip("./") or "_"
