"""The tab of code with which a report opens."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import lrtune

__all__ = ["open_tab"]


def open_tab(result: lrtune.Result, folder: Path) -> tuple[str, str]:
    """Its host and its code."""
    result.report(folder / "report.html")
    ((kind, code),) = re.findall(
        r'<pre id="paste-(\w+)" role="tabpanel">(.*?)</pre>', (folder / "report.html").read_text(), re.DOTALL
    )
    return kind, html.unescape(code)
