"""The schedules by name (:data:`SCHEDULES`, the one list to which a new one is added), read from text and written back.

``parse("cosine(floor=0.1)")`` makes a schedule, ``str`` of it is the text. The code to paste calls
it from here, unless :data:`lrtune.reporting.snippets.schedule.FORMULAS` has its formula.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, Protocol

import numpy as np

from lrtune.errors import RecipeError
from lrtune.schedules import cycles, decays
from lrtune.schedules.base import Floats, Schedule, shown, suggestion
from lrtune.schedules.plateau import Plateau
from lrtune.schedules.sweep import Sweep
from lrtune.schedules.warmup import Warmup, with_warmup

__all__ = ["SCHEDULES", "describe", "for_recipe", "multipliers", "parse"]

SCHEDULES: dict[str, type[Schedule]] = {
    kind.name: kind
    for kind in (
        decays.Constant,
        decays.Step,
        decays.MultiStep,
        decays.Exponential,
        decays.Polynomial,
        decays.Linear,
        decays.Cosine,
        cycles.CosineRestarts,
        cycles.Cyclical,
        cycles.OneCycle,
        decays.InverseSqrt,
        decays.WarmupStableDecay,
        Sweep,
        Plateau,
    )
}
LONGEST = 4000  # characters of a specification


def parse(spec: str) -> Schedule:
    """The schedule of a specification: a name, with options where they differ from their defaults.

    E.g. ``"cosine"``, ``"cosine(floor=0.1)"``, ``"multistep(at=[0.5, 0.75])"``, ``"cyclical(mode=triangular2)"``, and
    ``"warmup(0.1) + cosine"`` as ``str`` writes a schedule with its warmup.

    Raises
    ------
    RecipeError
        If there is no such schedule or an option is not allowed.
    """
    if not _is_text(spec):
        msg = f"schedule: the name of a schedule is needed (got {shown(spec)}); write for example cosine(floor=0.1)"
        raise RecipeError(msg)
    head, plus, rest = spec.partition("+")
    if plus and head.strip().startswith(Warmup.name):
        return with_warmup(parse(rest), _fraction(head.strip()))
    name, options = _read(spec)
    if name not in SCHEDULES:
        msg = f"schedule: {shown(spec)} is none of {', '.join(SCHEDULES)}{suggestion(name, SCHEDULES)}"
        raise RecipeError(msg)
    kind = SCHEDULES[name]
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for option in options:
        if option == Warmup.name:
            msg = f"schedule: warmup is no option of {name}; give it beside the schedule, e.g. warmup = 0.1"
            raise RecipeError(msg)
        if option not in known:
            have = f"{name} has the options {', '.join(known)}" if known else f"{name} takes no options"
            msg = f"schedule: {have} (got {shown(option)}){suggestion(option, known) if known else '; leave it out'}"
            raise RecipeError(msg)
    return kind(**options)


class Scheduled(Protocol):
    """What :func:`for_recipe` reads of a :class:`lrtune.Recipe`."""

    @property
    def schedule(self) -> str:
        """A schedule as text, e.g. ``cosine(floor=0.1)``."""

    @property
    def warmup(self) -> float | int:
        """A fraction of the run where it is a float, else a number of optimizer steps."""


def for_recipe(recipe: Scheduled, total_steps: int) -> Schedule:
    """The schedule of a recipe with its warmup, for a run of so many optimizer steps.

    Raises
    ------
    RecipeError
        If the schedule is not known, or the warmup is not shorter than the run.
    """
    return with_warmup(parse(recipe.schedule), recipe.warmup, total_steps=total_steps)


def multipliers(schedule: Schedule, total_steps: int) -> Floats:
    """The multiplier at each step of a run, shape (total_steps,)."""
    return schedule(np.arange(total_steps) / total_steps)


def describe(schedule: Schedule) -> str:
    """One sentence for people."""
    return f"The learning rate {schedule.describe()}."


def _is_text(spec: object) -> bool:
    return isinstance(spec, str) and bool(spec.strip()) and len(spec) <= LONGEST


def _read(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and options, not yet checked."""
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if isinstance(tree, ast.Name):
        return tree.id.lower(), {}
    if isinstance(tree, ast.BinOp):  # cosine-restarts
        plain = spec.strip().replace("-", "_", spec.partition("(")[0].count("-"))
        return _read(plain) if plain != spec.strip() else (spec.strip(), {})
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        return spec.strip(), {}
    if tree.args or any(keyword.arg is None for keyword in tree.keywords):
        msg = f"schedule: options are given by name (got {shown(spec)}); write for example cosine(floor=0.1)"
        raise RecipeError(msg)
    return tree.func.id.lower(), {str(keyword.arg): _option(keyword.value, spec) for keyword in tree.keywords}


def _option(node: ast.expr, spec: str) -> Any:
    """A number, a list of numbers or a bare word."""
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        msg = f"schedule: an option is a number, a word or a list of numbers (got {shown(spec)}); change it"
        raise RecipeError(msg) from None


def _fraction(head: str) -> float:
    try:
        return float(head.removeprefix(Warmup.name).strip().removeprefix("(").removesuffix(")"))
    except ValueError:
        msg = (
            f"schedule: warmup takes a fraction of the run (got {shown(head)}); write for example warmup(0.1) + cosine"
        )
        raise RecipeError(msg) from None
