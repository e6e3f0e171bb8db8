"""Each trial's curve and the answer in TensorBoard."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.core.names import safe_filename
from lrtune.integrations.trackers import TENSORBOARD, Tracker, answer_numbers, answer_text, missing, run_name, settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from lrtune.core.records import TrialRecord
    from lrtune.study.events import Progress
    from lrtune.study.result import Result

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker(Tracker):
    """Logs a study into TensorBoard's event files: a run for each trial, and one for the answer.

    The steps are the optimizer's; ``epoch`` is a series of its own, for trials whose batch sizes differ.

    Parameters
    ----------
    folder
        Of all studies; each has a folder of its own in it.
    warn
        Called once, with one sentence, if the files cannot be written.

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
            raise missing(TENSORBOARD) from None
        self._folder = Path(folder).absolute()
        self._writer: Any = SummaryWriter
        self._hparams: Any = hparams

    def _trial(self, progress: Progress, ended: TrialRecord) -> None:
        folder = self._folder / safe_filename(progress.name) / run_name(ended)
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
            hparams = {n: v if isinstance(v, int | float | str) else str(v) for n, v in settings(ended.recipe).items()}
            for summary in self._hparams(hparams, {result: 0.0}):
                writer.file_writer.add_summary(summary)

    def _answer(self, progress: Progress, result: Result) -> None:
        with self._writer(str(self._folder / safe_filename(progress.name) / "answer")) as writer:
            writer.add_text("answer", answer_text(result))
            for name, value in answer_numbers(result).items():
                writer.add_scalar(f"answer/{name}", value, 0)
