"""The code for scikit-learn: an estimator with the run's settings, trained by minibatches in the run's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.schedule import imports, multiplier, plateau_class, steps
from lrtune.reporting.snippets.skorch import chosen_step, network_lines
from lrtune.reporting.snippets.source import arguments, identifier, one_line
from lrtune.schedules import Plateau
from lrtune.schedules.decays import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["estimator_lines"]


def estimator_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """The estimator's settings, ``learn`` for one minibatch, and where the run is known ``fit`` for all of them."""
    constant = isinstance(schedule, Constant) and not recipe.warmup
    if "module" in setup:
        return network_lines(recipe, schedule, total_steps, setup)
    lines = [f"lr = {recipe.lr!r}", *_settings(setup)]
    if not constant:
        lines += steps(recipe, total_steps, "batches", setup)
        if isinstance(schedule, Plateau):
            lines += ["", "", *plateau_class(recipe, schedule, "update"), "", "", "plateau = Plateau()"]
        lines += ["", "", *multiplier(recipe, schedule)]
    lines += ["", "", *_learn(recipe, schedule, setup, constant=constant)]
    imported = [] if constant else imports(schedule)
    imported += ["import numpy as np"] if setup else []
    imported += [] if constant else ["from sklearn import config_context"]
    if setup:
        lines += ["", "", *_fit(recipe, schedule, setup)]
    elif schedule.metric_driven:
        lines += ["", "", "# plateau.update(metric) after every epoch"]
    return [*imported, *([""] if imported else []), *lines]


def _settings(setup: Mapping[str, Any]) -> list[str]:
    """The estimator's settings, as it was trained."""
    if not setup:
        return [
            'rate = "eta0" if "eta0" in model.get_params() else "learning_rate_init"',
            'if "learning_rate" in model.get_params():',
            '    model.set_params(learning_rate="constant")  # its other settings ignore or change the learning rate',
            "setattr(model, rate, lr)",
        ]
    lines = chosen_step(setup)
    options = arguments(setup["settings"]).removeprefix(", ")
    if options:
        lines.append(f"model.set_params({options})")
    return [*lines, f"model.{identifier(setup['rate'])} = lr"]


def _learn(recipe: Recipe, schedule: Schedule, setup: Mapping[str, Any], *, constant: bool) -> list[str]:
    """``def learn``: one minibatch at the learning rate of its step."""
    rate = f"model.{identifier(setup['rate'])}" if setup else None
    kept = setup.get("kept_by") if setup else "_optimizer"
    body = ["rate_now = lr" if constant else "rate_now = lr * multiplier(step)"]
    body.append(f"{rate} = rate_now" if rate else "setattr(model, rate, rate_now)")
    if kept:
        inner = f"model.{identifier(kept)}"
        if setup:
            body.append("model.batch_size = len(y)  # or it would split them again")
        body += [
            f'if hasattr(model, "{identifier(kept)}"):  # made by the first partial_fit, and has the rate from then on',
            f"    {inner}.learning_rate_init = {inner}.learning_rate = rate_now",
        ]
    if constant:
        body.append("model.partial_fit(X, y, **more)")
    else:
        body.append("with config_context(skip_parameter_validation=True):  # which refuses a learning rate of zero")
        body.append("    model.partial_fit(X, y, **more)")
    if schedule.metric_driven and recipe.warmup:
        body.append("plateau.steps = step + 1")
    more = "; more: classes=... on the first" if not setup or setup["classifies"] else ""
    return [
        f"def learn(step, X, y, **more):  # step counts minibatches from 0{more}",
        *(f"    {line}" for line in body),
    ]


def _fit(recipe: Recipe, schedule: Schedule, setup: Mapping[str, Any]) -> list[str]:
    """``def fit``: the whole training, in the order of the run's rows."""
    rows = int(setup["batch_size"])
    weight = ", sample_weight" if setup["weighted"] else ""
    passed = ", classes=classes" if setup["classifies"] else ""
    if weight:
        passed += ", sample_weight=sample_weight[chosen]"
    body = [
        *(["X = steps.fit_transform(X, y)"] if setup["pipeline"] else []),
        *(["classes = np.unique(y)"] if setup["classifies"] else []),
        "step = 0",
        f"for epoch in range({recipe.epochs}):",
        f"    order = np.random.default_rng([{recipe.seed}, epoch]).permutation(len(y))",
        f"    for first in range(0, len(y), {rows}):",
        f"        chosen = order[first : first + {rows}]",
        f"        learn(step, X[chosen], y[chosen]{passed})",
        "        step += 1",
    ]
    if schedule.metric_driven:
        body.append(f"    plateau.update(measure(model))  # measure: yours, the {one_line(setup['hears'])}")
    measure = ", measure" if schedule.metric_driven else ""
    return [
        f"def fit(X, y{weight}{measure}):  # all of it, on arrays of the rows to train on",
        *(f"    {line}" for line in body),
    ]
