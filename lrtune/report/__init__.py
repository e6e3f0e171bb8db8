"""The answer to look at: one self-contained page, the same in plain text, and every figure as an image."""

from __future__ import annotations

from lrtune.report.comparing import Compared
from lrtune.report.images import images
from lrtune.report.page import page, write, write_comparison
from lrtune.report.words import text

__all__ = ["Compared", "images", "page", "text", "write", "write_comparison"]
