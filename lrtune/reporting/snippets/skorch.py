"""The code for a network of skorch's: its settings, and a callback that sets the learning rate of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.schedule import imports, multiplier, plateau_class, steps
from lrtune.reporting.snippets.source import arguments, as_source, assigned, spaced
from lrtune.schedules import Plateau
from lrtune.schedules.decays import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["chosen_step", "network_lines"]

OWNED = ("EarlyStopping", "LRScheduler", "WarmRestartLR")


def chosen_step(setup: Mapping[str, Any]) -> list[str]:
    """Where a Pipeline was searched with: its last step as ``model``, those before it as ``steps`` if there are any."""
    if setup["pipeline"]:
        return ["steps, model = model[:-1], model[-1]  # the Pipeline: model takes what its earlier steps make of X"]
    return ["model = model[-1]  # of the Pipeline"] if setup["only_step"] else []


def network_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """The net's settings, and a callback that sets the learning rate before each step where it moves."""
    rows = int(setup["batch_size"])
    heard = isinstance(schedule, Plateau)
    own = {name: value for name, value in setup["settings"].items() if name != "train_split"}
    settings = arguments({"lr": recipe.lr, **own, "batch_size": rows, "max_epochs": recipe.epochs})
    settings += f"{'' if heard else ', train_split=None'}, iterator_train__shuffle=True"
    told = "train_split holds out the rows that plateau hears of" if heard else "on the rows to train on"
    after = [
        f"owned = {OWNED!r}  # what a search leaves out",
        "callbacks = [one for one in model.callbacks or [] if not any(name in str(one) for name in owned)]",
        *assigned("model", f"model.set_params({settings.removeprefix(', ')})"),
    ]
    fit = f"# model.fit({'steps.fit_transform(X, y)' if setup['pipeline'] else 'X'}, y); {told}"
    if isinstance(schedule, Constant) and not recipe.warmup:
        return [*chosen_step(setup), *after, "model.set_params(callbacks=callbacks)", fit]
    lines = chosen_step(setup)
    lines += [f"batches = range(0, len(y), {rows})"] if total_steps is None else []
    lines += steps(recipe, total_steps, "batches", setup)
    if isinstance(schedule, Plateau):
        lines += [*spaced(plateau_class(recipe, schedule, "update")), "plateau = Plateau()"]
    lines += [*spaced(multiplier(recipe, schedule)), *spaced(_callback(recipe, setup, heard=heard))]
    lines += [*after, 'model.set_params(callbacks=[*callbacks, ("learning_rate", LearningRate())])', fit]
    return [*imports(schedule), "from skorch.callbacks import Callback", "", *lines]


def _callback(recipe: Recipe, setup: Mapping[str, Any], *, heard: bool) -> list[str]:
    body = [
        "def initialize(self):",
        "    self.step = 0",
        "    return self",
        "",
        "def on_batch_begin(self, net, batch=None, training=False, **kwargs):",
        "    if not training:",
        "        return",
        "    groups = net.optimizer_.param_groups",
        "    if self.step == 0:",
        '        self.peaks = [group["lr"] for group in groups]',
        "    for group, peak in zip(groups, self.peaks):",
        '        group["lr"] = peak * multiplier(self.step)',
        "    self.step += 1",
    ]
    if heard:
        body[-1:] += ["    plateau.steps = self.step"] if recipe.warmup else []
        body += [
            "",
            "def on_epoch_end(self, net, **kwargs):",
            f"    plateau.update(net.history[-1, {as_source(str(setup['hears']))}])",
        ]
    return ["class LearningRate(Callback):", *(f"    {line}".rstrip() for line in body)]
