"""The code for a generator function: a loop that calls it with the recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.source import imported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["generator_lines"]

UNKNOWN = {"name": "", "module": ""}


def generator_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """Train with the function to the recipe's end."""
    del schedule, total_steps  # the function applies the schedule itself
    name, first = imported(setup.get("function", UNKNOWN), "your generator function", "train")
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
    changed = {key: value for key, value in recipe.to_json().items() if value != defaults[key]}
    return [
        "from lrtune import Recipe",
        *first,
        "",
        f"recipe = Recipe({', '.join(f'{key}={value!r}' for key, value in changed.items())})",
        f"for epoch, values in zip(range(1, recipe.epochs + 1), {name}(recipe)):",
        "    print(epoch, values)",
    ]
