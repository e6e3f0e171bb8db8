"""A search in a notebook: a display in one output cell that is updated while it runs, and shows the answer in the end.

``%load_ext lrtune.integrations.notebook`` also shows plain Optuna studies that lrtune made by their answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.reporting.html.cell import cell, live_cell
from lrtune.study.progress_text import rows
from lrtune.study.trials.study_reader import SETTINGS, read

if TYPE_CHECKING:
    import optuna

    from lrtune.study.events import Progress

__all__ = ["NotebookDisplay", "load_ipython_extension", "study_html"]


class NotebookDisplay:
    """An observer for notebooks: one output cell, updated while a search runs; in the end it holds the answer.

    ::

        result = lrtune.tune(trainer, space, epochs=9, observer=lrtune.NotebookDisplay())

    Parameters
    ----------
    every
        Seconds between two updates.

    Raises
    ------
    InputError
        If there is no IPython, as there is in every notebook.
    """

    def __init__(self, *, every: float = 0.5) -> None:
        try:
            from IPython import display
        except ImportError:
            msg = "NotebookDisplay needs IPython, which every notebook has; elsewhere give another observer, or none"
            raise InputError(msg) from None
        self._ipython: Any = display
        self._every = every
        self._handle: Any = None
        self._drawn = -float("inf")

    def __call__(self, progress: Progress) -> None:
        """Draw a snapshot, unless the last one has just been drawn."""
        if progress.result is not None:
            self._draw(progress.result)
            self._handle = None  # the next search gets a cell of its own
            return
        # a snapshot with an event comes under the study's lock, where nothing should take long
        if progress.event or time.monotonic() - self._drawn < self._every:
            return
        self._draw(self._ipython.HTML(live_cell(rows(progress, 0.0, ascii_only=False))))
        self._drawn = time.monotonic()

    def _draw(self, shown: Any) -> None:
        if self._handle is None:
            self._handle = self._ipython.display(shown, display_id=True)
        else:
            self._handle.update(shown)


def study_html(study: optuna.Study) -> str | None:
    """The answer of a study that lrtune made; None of another, which is shown as Optuna shows it."""
    return cell(read(study)) if SETTINGS in study.user_attrs else None


def load_ipython_extension(ipython: Any) -> None:
    """Called by ``%load_ext``: studies are shown by their answer."""
    formatter = ipython.display_formatter.formatters["text/html"]
    formatter.for_type_by_name("optuna.study.study", "Study", study_html)
