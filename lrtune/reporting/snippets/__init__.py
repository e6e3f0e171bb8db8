"""A recipe as lines of code to paste into a training program, schedule and warmup included.

:func:`snippet` chooses ``pytorch``, ``scikit_learn`` or ``generator_function``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lrtune.errors import InputError
from lrtune.reporting.snippets.generator_function import generator_lines
from lrtune.reporting.snippets.pytorch import network_lines
from lrtune.reporting.snippets.scikit_learn import estimator_lines
from lrtune.schedules import Schedule, Warmup, describe, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe

__all__ = ["KINDS", "Kind", "snippet"]

Kind: TypeAlias = Literal["torch", "sklearn", "generator", "transformers"]

KINDS = {
    "torch": network_lines,
    "sklearn": estimator_lines,
    "generator": generator_lines,
    "transformers": network_lines,  # a Trainer's run as a loop of PyTorch
}
"""The function that writes the code for each library."""


def snippet(
    recipe: Recipe, kind: Kind = "torch", *, total_steps: int | None = None, setup: Mapping[str, Any] | None = None
) -> str:
    """The recipe as code.

    Parameters
    ----------
    recipe
        What was found.
    kind
        ``"torch"``: for a ``model``, a ``train_loader`` and, where it is not known how it is made, an ``optimizer``.
        ``"sklearn"``: for a ``model`` with ``partial_fit``, the estimator or Pipeline that was searched with, and a
        list ``batches`` of one epoch.
        ``"generator"``: for the generator function that was searched with.
    total_steps
        Optimizer steps of the run; by default the code counts them itself.
    setup
        How such a run was set up beyond the recipe (:attr:`lrtune.core.records.TrialRecord.setup`): then the code sets
        up the same. Without it the code is of the recipe alone.

    Raises
    ------
    InputError
        If there is no such kind, the recipe's schedule is not known, or `setup` is of another kind or damaged.
    """
    if kind not in KINDS:
        msg = f"snippet: kind must be one of {', '.join(KINDS)} (got {kind!r}); choose one"
        raise InputError(msg)
    setup = setup or {}
    if setup and setup.get("library") != kind:
        msg = f"snippet: this run was set up with {setup.get('library')!r}, not with {kind!r}; leave setup out"
        raise InputError(msg)
    schedule = parse(recipe.schedule)
    if isinstance(schedule, Warmup):  # "warmup(0.1) + cosine"
        plain = dataclasses.replace(recipe, schedule=str(schedule.after), warmup=schedule.fraction)
        return snippet(plain, kind, total_steps=total_steps, setup=setup)
    try:
        lines = KINDS[kind](recipe, schedule, total_steps, setup)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if not setup:
            raise
        msg = f"snippet: the stored setup of the run is damaged ({type(error).__name__}: {error}); leave setup out"
        raise InputError(msg) from error
    return "\n".join([*_head(recipe, schedule, setup), *lines]) + "\n"


def _head(recipe: Recipe, schedule: Schedule, setup: Mapping[str, Any]) -> list[str]:
    rows = recipe.batch_size or setup.get("batch_size")
    size = "" if rows is None else f", batches of {int(rows)}"
    decay, epochs = recipe.layer_decay, f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
    return [
        f"# {describe(schedule)} Found by lrtune for {epochs}{size}.",
        *([] if decay is None else [f"# Each block of layers learns {decay:g} times as fast as the one above it."]),
    ]
