"""Every figure as a PNG, SVG or PDF file, where plotly's optional image writer is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.os_errors import cure, reason
from lrtune.errors import InputError, StorageError
from lrtune.reporting import figures

if TYPE_CHECKING:
    import os

    from lrtune.core.records import StudyRecord

__all__ = ["images"]

FORMATS = ("png", "svg", "pdf")
WIDTH = 1000
DRAWN = (
    *("landscape", "curves", "schedule", "contour", "slices", "parallel", "worth"),
    *("importance", "costs", "regret", "timeline"),
)


@own_errstate()
def images(record: StudyRecord, folder: str | os.PathLike[str], format: str = "png") -> list[Path]:  # noqa: A002 -- plotly's own name
    """Write each figure of the report into a folder; returns the files.

    Raises
    ------
    InputError
        If there is no such format, or the image writer (kaleido, which needs a Chrome) is missing.
    StorageError
        If a file cannot be written.
    """
    if format not in FORMATS:
        msg = f"images: the format must be one of {', '.join(FORMATS)} (got {format!r})"
        raise InputError(msg)
    if importlib.util.find_spec("kaleido") is None:
        msg = "images: plotly's image writer is not installed; install it with: pip install 'lrtune[images]'"
        raise InputError(msg)
    written = []
    for name in DRAWN:
        figure = getattr(figures, name)(record)
        if figure is None or not figure.data:
            continue
        path = Path(folder) / f"{name}.{format}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            still = figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", updatemenus=[])
            still.write_image(path, width=WIDTH, scale=2)
        except OSError as error:
            msg = f"images: {path} cannot be written ({reason(error).lower()}); {cure(error)}, or choose another folder"
            raise StorageError(msg) from error
        except (RuntimeError, ValueError) as error:  # kaleido found no browser, or its browser did not start
            problem = (str(error).splitlines() or [type(error).__name__])[0][:120]
            msg = f"images: the image writer did not work ({problem}); it needs Chrome or Chromium"
            raise InputError(msg) from error
        written.append(path)
    return written
