"""The answer to look at: one self-contained page, the same in plain text, and every figure as an image."""

from __future__ import annotations

from lrtune.reporting.html.comparison import Compared
from lrtune.reporting.html.images import images
from lrtune.reporting.html.page import page, write, write_comparison
from lrtune.reporting.html.plain_text import text

__all__ = ["Compared", "images", "page", "text", "write", "write_comparison"]
