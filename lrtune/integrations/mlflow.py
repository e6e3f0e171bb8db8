"""Each trial's curve and the answer in MLflow."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.integrations.trackers import MLFLOW, Tracker, answer_numbers, answer_text, missing, run_name, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.core.records import TrialRecord
    from lrtune.study.events import Progress
    from lrtune.study.result import Result

__all__ = ["MLflowTracker"]

MOST_METRICS = 1000  # that MLflow takes in one call


class MLflowTracker(Tracker):
    """Logs a study into MLflow: an experiment of its name, a run for the search and one below it for each trial.

    It uses a client of its own: the active run of the training code, if it has one, is not touched.

    Parameters
    ----------
    uri
        Of the tracking server or store, e.g. ``"http://127.0.0.1:5000"`` or ``"sqlite:///mlflow.db"``; None takes
        what MLflow takes, from ``MLFLOW_TRACKING_URI``.
    warn
        Called once, with one sentence, if the server does not answer.

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
            raise missing(MLFLOW) from None
        location = None if uri is None else absolute(uri)
        self._make: Callable[[], Any] = lambda: MlflowClient(tracking_uri=location)
        self._open: tuple[Any, str, str] | None = None

    def _trial(self, progress: Progress, ended: TrialRecord) -> None:
        client, experiment, search = self._opened(progress.name)
        identity = f"{ended.number}@{ended.started}"
        if self._known(client, experiment, "lrtune.trial", identity) is not None:
            return
        outcome = ended.outcome or Outcome.INTERRUPTED
        tags = {
            "mlflow.parentRunId": search,
            "mlflow.runName": run_name(ended),
            "lrtune.trial": identity,
            "lrtune.outcome": outcome.value,
        }
        run = client.create_run(experiment, tags=tags).info.run_id
        metrics = list(_metrics(ended, progress.metric))
        for first in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run, metrics=metrics[first : first + MOST_METRICS])
        for name, value in settings(ended.recipe).items():
            client.log_param(run, name, value)
        client.set_terminated(run, "FAILED" if outcome.group == "failed" else "FINISHED")

    def _answer(self, progress: Progress, result: Result) -> None:
        client, _, search = self._opened(progress.name)
        for name, value in answer_numbers(result).items():
            client.log_metric(search, name, value)
        for name, value in ({} if result.best_recipe is None else result.best_recipe.to_json()).items():
            client.set_tag(search, f"best.{name}", value)
        client.set_tag(search, "mlflow.note.content", answer_text(result))
        client.set_terminated(search)

    def _opened(self, name: str) -> tuple[Any, str, str]:
        """The client, the experiment of a study, and the run of its search."""
        if self._open is None:
            client = self._make()
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found is not None else client.create_experiment(name)
            search = self._known(client, experiment, "lrtune.search", "1")
            if search is None:
                tags = {"mlflow.runName": name, "lrtune.search": "1"}
                search = client.create_run(experiment, tags=tags).info.run_id
            self._open = client, experiment, search
        return self._open

    @staticmethod
    def _known(client: Any, experiment: str, tag: str, value: str) -> str | None:
        found = client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None


def absolute(uri: str) -> str:
    """The same store from wherever the training code goes: MLflow reads a relative path when it is first used."""
    head, scheme, path = uri.rpartition("sqlite:///")
    if scheme and not head:
        return f"{scheme}{Path(path).absolute()}"
    return uri if ":" in uri or uri == "databricks" else str(Path(uri).absolute())


def _metrics(ended: TrialRecord, metric: str) -> Iterator[Any]:
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
