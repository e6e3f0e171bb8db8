"""The report of a study: one self-contained HTML page, its answer as plain text, and the figures as images."""

from __future__ import annotations

from lrtune.reporting.answer_text import text
from lrtune.reporting.html.comparison import Compared
from lrtune.reporting.html.images import images
from lrtune.reporting.html.page import page, write, write_comparison

__all__ = ["Compared", "images", "page", "text", "write", "write_comparison"]
