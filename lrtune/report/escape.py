"""The only way text gets into the page: as text."""

from __future__ import annotations

import html
import json
import math
from typing import Any

__all__ = ["as_json", "as_text"]


def as_text(value: object, most: int = 2000) -> str:
    """Text for HTML, in an element or in a quoted attribute; control characters and lone surrogates become blanks."""
    kept = "".join(c if c.isprintable() or c in "\n\t" else " " for c in str(value))
    kept = kept.encode("utf-8", "replace").decode("utf-8")
    return html.escape(kept if len(kept) <= most else f"{kept[: most - 1]}…", quote=True)


def as_json(data: Any) -> str:
    """JSON for a ``<script type="application/json">``: nothing in it can end the element; NaN becomes null."""
    written = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
