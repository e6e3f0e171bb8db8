"""What a search found, or a recipe, as lines of code to paste into a training program: :func:`snippet`.

One function for each host; which call of a host gives which schedule is the table :data:`.calls.CALLS`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.snippets import frameworks, hosts
from lrtune.reporting.snippets.generator_function import generator_lines
from lrtune.reporting.snippets.optimizer import portable
from lrtune.reporting.snippets.pytorch import network_lines
from lrtune.reporting.snippets.scikit_learn import estimator_lines
from lrtune.schedules import Schedule, Warmup, describe, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "TITLES", "Kind", "snippet"]

Kind: TypeAlias = Literal[
    "torch",
    "transformers",
    "lightning",
    "keras",
    "optax",
    "timm",
    "accelerate",
    "ignite",
    "fastai",
    "paddle",
    "mmengine",
    "deepspeed",
    "sklearn",
    "generator",
]

KINDS = {
    "torch": network_lines,
    "transformers": frameworks.transformers_lines,
    "lightning": hosts.lightning_lines,
    "keras": frameworks.keras_lines,
    "optax": frameworks.optax_lines,
    "timm": hosts.timm_lines,
    "accelerate": hosts.accelerate_lines,
    "ignite": hosts.ignite_lines,
    "fastai": hosts.fastai_lines,
    "paddle": frameworks.paddle_lines,
    "mmengine": hosts.mmengine_lines,
    "deepspeed": hosts.deepspeed_lines,
    "sklearn": estimator_lines,
    "generator": generator_lines,
}
"""The function that writes the code for each host."""

TITLES = {
    "torch": "PyTorch",
    "transformers": "transformers",
    "lightning": "Lightning",
    "keras": "Keras",
    "optax": "optax",
    "timm": "timm",
    "accelerate": "accelerate",
    "ignite": "ignite",
    "fastai": "fastai",
    "paddle": "Paddle",
    "mmengine": "MMEngine",
    "deepspeed": "DeepSpeed",
    "sklearn": "scikit-learn",
    "generator": "Your function",
}
"""What each host is called."""

METRIC_DRIVEN = ("torch", "sklearn", "generator")  # hosts whose code can follow a metric


class Found(Protocol):
    """What :func:`snippet` reads of a :class:`lrtune.Result`."""

    @property
    def best_recipe(self) -> Recipe | None:
        """The answer."""

    @property
    def best_setup(self) -> Mapping[str, Any]:
        """How its run was set up."""


def snippet(
    found: Recipe | Found,
    host: Kind | None = None,
    *,
    total_steps: int | None = None,
    setup: Mapping[str, Any] | None = None,
) -> str:
    """What was found as code for a host.

    The learning rate is the searched one at every step: by the host's own schedule where one is exact, else by a
    function of the step; ``docs/hosts.md`` has both, as measured.

    Parameters
    ----------
    found
        A result, or a recipe.
    host
        ``"torch"``: for a ``model``, a ``train_loader`` and, where it is not known how it is made, an ``optimizer``.
        ``"sklearn"``: for a ``model`` with ``partial_fit``, the estimator or Pipeline that was searched with, and a
        list ``batches`` of one epoch. ``"generator"``: for the generator function that was searched with.
        The others: ``transformers``, ``lightning``, ``keras``, ``optax``, ``timm``, ``accelerate``, ``ignite``,
        ``fastai``, ``paddle``, ``mmengine``, ``deepspeed``. By default the one that the result was trained with, else
        PyTorch.
    total_steps
        Optimizer steps of the run; by default the code counts them itself.
    setup
        How such a run was set up beyond the recipe (:attr:`lrtune.core.records.TrialRecord.setup`): then the code sets
        up the same; by default that of the result. Without it the code is of the recipe alone.

    Raises
    ------
    InputError
        If there is no such host, no answer, the recipe's schedule is not known or follows a metric there, or `setup`
        is of another host or damaged.
    """
    if host is not None and host not in KINDS:
        msg = f"snippet: host must be one of {', '.join(KINDS)} (got {host!r}); choose one"
        raise InputError(msg)
    if isinstance(found, Recipe):
        return _snippet(found, host or (setup or {}).get("library", "torch"), total_steps, setup or {})
    if found.best_recipe is None:
        msg = "snippet: the search found no recipe, for no trial completed; search on, or give a recipe"
        raise InputError(msg)
    known = setup if setup is not None else found.best_setup
    trained = str(known.get("library", ""))
    used = host or (trained if trained in KINDS else "torch")
    if known.get("library") == used:
        return _snippet(found.best_recipe, used, total_steps, known)
    return _snippet(portable(found.best_recipe, known), used, total_steps, {})


def _snippet(recipe: Recipe, host: str, total_steps: int | None, setup: Mapping[str, Any]) -> str:
    if setup and setup.get("library") != host:
        msg = f"snippet: this run was set up with {setup.get('library')!r}, not with {host!r}; leave setup out"
        raise InputError(msg)
    schedule = parse(recipe.schedule)
    if isinstance(schedule, Warmup):  # "warmup(0.1) + cosine"
        plain = dataclasses.replace(recipe, schedule=str(schedule.after), warmup=schedule.fraction)
        return _snippet(plain, host, total_steps, setup)
    if schedule.metric_driven and host not in METRIC_DRIVEN:
        msg = f"snippet: {schedule.name} follows a metric, which is written for torch and sklearn alone; choose one"
        raise InputError(msg)
    try:
        lines = KINDS[host](recipe, schedule, total_steps, setup)
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
