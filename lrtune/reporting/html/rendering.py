"""The Jinja environment of the page: the templates beside this module escape every value that they are given."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lrtune.reporting.answer_text import plain, sentence

__all__ = ["asset", "environment", "render"]

LONGEST = 200_000  # characters of one value; what a user names gets less, by the filter `short`


@cache
def environment() -> Environment:
    """The Jinja environment: values lose their control characters and are escaped; an unknown name is an error."""
    made = Environment(
        loader=PackageLoader(str(__package__)),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"short": plain, "sentence": sentence}
    made.policies |= {"json.dumps_function": _json, "json.dumps_kwargs": {}}
    return made


def render(template: str, **values: Any) -> str:
    """A template of the folder ``templates``, filled with these values."""
    return environment().get_template(template).render(values)


def asset(name: str) -> str:
    """The text of a file beside this module."""
    return resources.files(str(__package__)).joinpath(name).read_text(encoding="utf-8")


def _shown(value: object) -> object:
    """What is escaped and written for a value; markup, which only templates make, is left as it is."""
    return value if hasattr(value, "__html__") else plain(value, LONGEST, kept="\n\t")


def _json(data: Any) -> str:
    """JSON for the filter ``tojson``, which escapes what could end a script element; NaN becomes null."""
    return json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
