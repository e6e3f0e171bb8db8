"""The answer as a study's note in the Optuna dashboard, and two figures, kept up to date while a search runs.

The dashboard reads notes and figures from system attributes of the study (optuna-dashboard 0.21, ``_note.py`` and
``_custom_plot_data.py``). They are written here in its own format, but in one attribute instead of chunks of 2,045
characters: one transaction each, so that a reader finds the old one or the new one. Importing the dashboard's own
writers would take longer than all of the writing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
import warnings
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import optuna
    import plotly.graph_objects as go
    from optuna.storages import BaseStorage

    from lrtune.core.records import StudyRecord
    from lrtune.study.events import Progress

__all__ = ["BAND", "CURVES", "Notes", "installed"]

BAND, CURVES = "learning-rates", "curves"
"""The ids of the figures; they never change, so that a figure replaces the one before."""

EVERY_SECONDS = 10.0
MOST_SHARE = 0.005
"""Processor seconds of writing per second that passes, at most: a long update is followed by a long pause."""

MOST_TRIALS, MOST_CURVES, MOST_REPORTS = 300, 50, 40
YOURS = "*Kept current by lrtune. All figures are in report.html. What you write below this line stays.*"
"""Separates lrtune's part of a stored note from the user's: were it changed, lrtune's would be taken for theirs."""

_NOTE_VERSION, _NOTE = "dashboard:note_ver", "dashboard:note_str:"
_FIGURE = "dashboard:plot_data:"


def installed() -> bool:
    """Whether the Optuna dashboard is installed."""
    return importlib.util.find_spec("optuna_dashboard") is not None


class Notes:
    """An observer that keeps a study's note and figures up to date.

    It writes between two segments of training, never under the study's lock, at most every `every` seconds and for
    no more than a two-hundredth of the time; and once more at the end.

    Parameters
    ----------
    storage
        Where the study is: what :func:`lrtune.tune` was given.
    every
        Seconds between two updates, at least.
    warn
        Called once, with one sentence, if the note cannot be written; the search goes on.

    Attributes
    ----------
    spent
        Seconds of processor time that writing has taken so far.

    Raises
    ------
    InputError
        If the dashboard is not installed.

    Examples
    --------
    >>> notes = Notes("study.db")  # doctest: +SKIP
    >>> lrtune.tune(train, space, epochs=27, storage="study.db", observer=notes)  # doctest: +SKIP
    """

    def __init__(
        self,
        storage: str | os.PathLike[str] | BaseStorage,
        *,
        every: float = EVERY_SECONDS,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        if not installed():
            msg = "the dashboard is not installed; install it with: pip install 'lrtune[dashboard]'"
            raise InputError(msg)
        self._given = storage
        self._every = every
        self._warn = warn
        self._studies: dict[str, optuna.Study] = {}
        self._written: dict[str, str] = {}
        self._last: Progress | None = None
        self._due = time.monotonic() + every
        self._failed = False
        self.spent = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take in an event of the search."""
        if self._failed:
            return
        self._last = progress
        if progress.result is not None or (not progress.event and time.monotonic() >= self._due):
            self._attempt(progress)

    def close(self) -> None:
        """Write the last event; for a search that ended without an answer."""
        if self._last is not None and self._last.result is None and not self._failed:
            self._attempt(self._last)

    def _attempt(self, progress: Progress) -> None:
        self._last = None
        try:
            _load()
            began = time.thread_time()
            self.write(progress.name, progress)
            took = time.thread_time() - began
            self.spent += took
            self._due = time.monotonic() + max(self._every, took / MOST_SHARE)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the search is worth more than its note
            self._failed = True
            self._warn(f"the note for the dashboard could not be written ({error}); the search goes on without it")

    def there(self, name: str) -> bool:
        """Whether a study has a note of lrtune."""
        return YOURS in _joined(_system_attributes(self._study(name)), _NOTE)

    def write(self, name: str, progress: Progress | None = None) -> None:
        """Write note and figures of a study as it is stored.

        Parameters
        ----------
        name
            Of the study.
        progress
            The last event of its search, if it is running.

        Raises
        ------
        InputError
            If lrtune did not make it.
        """
        from lrtune.reporting.html.markdown import markdown
        from lrtune.study.trials.study_reader import read

        study = self._study(name)
        record, state = read(study), ""
        if progress is not None and progress.result is None:
            record, state = _with_progress(record, progress), _state(progress)
        self._put_note(study, markdown(record, state))
        for identity, figure in _figures(record):
            self._put(study, f"{_FIGURE}{identity}:", figure.to_json(engine="json"))

    def _study(self, name: str) -> optuna.Study:
        if name not in self._studies:
            import optuna

            from lrtune.storage import open_storage

            self._studies[name] = optuna.load_study(study_name=name, storage=open_storage(self._given))
        return self._studies[name]

    def _put_note(self, study: optuna.Study, body: str) -> None:
        """Write the note above what users have written into it."""
        attributes = _system_attributes(study)
        before = _joined(attributes, _NOTE)
        body = f"{body}\n---\n{YOURS}\n{_users_part(before)}"
        if body == before:
            return
        self._set(study, _NOTE_VERSION, int(attributes.get(_NOTE_VERSION, 0)) + 1)
        self._put(study, _NOTE, body)

    def _put(self, study: optuna.Study, prefix: str, text: str) -> None:
        """Write a text as the first chunk under its prefix; further chunks are emptied."""
        if self._written.get(prefix) == text:
            return
        self._set(study, f"{prefix}0", text)
        for key, value in _system_attributes(study).items():
            if key.startswith(prefix) and key != f"{prefix}0" and value:
                self._set(study, key, "")
        if prefix != _NOTE:  # a note may change by other hands
            self._written[prefix] = text

    @staticmethod
    def _set(study: optuna.Study, key: str, value: Any) -> None:
        study._storage.set_study_system_attr(study._study_id, key, value)  # noqa: SLF001 -- as the dashboard does


def _load() -> None:
    """Import what drawing needs, before its time is measured; the report at the end needs it anyway."""
    import lrtune.reporting.figures
    import lrtune.reporting.html  # noqa: F401 -- loaded early


def _system_attributes(study: optuna.Study) -> dict[str, Any]:
    return dict(study._storage.get_study_system_attrs(study._study_id))  # noqa: SLF001 -- as the dashboard does


def _joined(attributes: dict[str, Any], prefix: str) -> str:
    """The chunks under a prefix, joined."""
    chunks = {int(key[len(prefix) :]): str(text) for key, text in attributes.items() if key.startswith(prefix)}
    return "".join(chunks[index] for index in sorted(chunks))


def _users_part(note: str) -> str:
    """What users have written: all below lrtune's line, or the whole of a note that has none."""
    before, line, after = note.partition(YOURS)
    return after.removeprefix("\n") if line else before


# What is shown.


def _with_progress(record: StudyRecord, progress: Progress) -> StudyRecord:
    """The study with the answer so far, in place of one that an earlier call has left."""
    band = progress.band
    result = {
        "best": None if progress.best is None else {**progress.best.to_json(), "value": progress.best_value},
        "band": None if band is None else {"low": band[0], "high": band[1]},
        "cost": progress.spent,
        "warnings": progress.warnings,
    }
    return dataclasses.replace(record, result=result)


def _state(progress: Progress) -> str:
    left = progress.seconds_left
    about = "" if left is None else f", about {max(1, math.ceil(left / 60))} min left"
    return f"{progress.spending} spent{about}"


def _figures(record: StudyRecord) -> Iterator[tuple[str, go.Figure]]:
    """The figures by their ids, of fewer trials and reports: the dashboard loads them whenever it shows the study."""
    from lrtune.reporting import figures
    from lrtune.reporting.tables import trials, verdicts

    few = _thinned(record, MOST_TRIALS)
    judged = verdicts(few)
    yield BAND, _styled(figures.landscape(few, trials(few, judged)), "Learning rates")
    by_number = {trial.number: verdict for trial, verdict in zip(few.records, judged, strict=True)}
    fewer = _thinned(few, MOST_CURVES).records
    small = [dataclasses.replace(trial, curve=trial.curve.thinned(MOST_REPORTS)) for trial in fewer]
    curves = figures.curves(
        dataclasses.replace(few, records=tuple(small)), [by_number[trial.number] for trial in small]
    )
    curves.layout.updatemenus = ()
    curves.data = [trace for trace in curves.data if trace.visible is not False]
    yield CURVES, _styled(curves, "Curves")


def _styled(figure: go.Figure, title: str) -> go.Figure:
    """A figure for the dashboard's page: with a title and a background of its own, without the default template."""
    return figure.update_layout(
        template={},
        title={"text": title, "x": 0.02, "y": 0.98, "yanchor": "top", "font": {"size": 15}},
        margin={"t": 84, "l": 56, "r": 16, "b": 48},
        modebar={"orientation": "h"},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        height=None,
    )


def _thinned(record: StudyRecord, most: int) -> StudyRecord:
    """The study with so many trials at most: the best of them, and the rest evenly over the learning rates."""
    from lrtune.reporting.figures.theme import chosen

    kept = sorted(chosen(record, range(len(record.records)), most))
    return dataclasses.replace(record, records=tuple(record.records[i] for i in kept))
