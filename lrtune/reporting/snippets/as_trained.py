"""The code for a run of transformers' Trainer, or of a compiled Keras model, with all that it was trained with."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.calls import call_of
from lrtune.reporting.snippets.hosts import LAMBDA, made_of, with_imports
from lrtune.reporting.snippets.schedule import imports, multiplier, steps
from lrtune.reporting.snippets.source import arguments, as_source, assigned, identifier, imported, spaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["compiled_lines", "trainer_lines"]

ROUNDING = 1e-9
AVERAGING = ("use_ema", "ema_momentum", "ema_overwrite_frequency")


def trainer_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """``TrainingArguments``; with a schedule that they cannot name exactly, a Trainer that makes it."""
    kind, needed = imported(setup["trainer"], "your Trainer", "Trainer")
    options = [f"learning_rate={recipe.lr!r}", f"num_train_epochs={recipe.epochs}"]
    options += [f"seed={recipe.seed}"] if recipe.seed else []
    found = _named(recipe, schedule, total_steps, int(setup["steps"]))
    if found is not None:
        name, _, kwargs = found.partition(", ")
        options.append(f"lr_scheduler_type={name}")
        options += [f"lr_scheduler_kwargs={kwargs}"] if kwargs != "{}" else []
        options += [f"warmup_steps={recipe.warmup!r}"] if recipe.warmup else []
    options += [
        f"{identifier(name)}={as_source(value)}" for name, value in _given(setup["arguments"]) if value is not False
    ]
    before = [f"lr = {recipe.lr!r}"] if re.search(r"\blr\b", found or "") else []
    own = []
    if setup["own_optimizer"]:
        (made,) = setup["optimizers"]
        told = f"{identifier(made['optimizer']['name'])}{arguments(made['options'])}"
        own = [f"# optimizers=(optimizer, None): yours, {told}"]
    if found is not None:
        lines = [*before, *made_of("args", "TrainingArguments", options), *own]
        return with_imports(["from transformers import TrainingArguments"], lines)
    lengths = steps(recipe, total_steps, "", {})[1:]
    body = [
        "optimizer = optimizer or self.optimizer",
        f"total_steps = {total_steps or 'num_training_steps'}",
        *lengths,
        *spaced(multiplier(recipe, schedule)),
        f"self.lr_scheduler = {LAMBDA}",
        "return self.lr_scheduler",
    ]
    made = [
        f"class ScheduledTrainer({kind}):",
        "    def create_scheduler(self, num_training_steps, optimizer=None):",
        *(f"        {line}".rstrip() for line in body),
    ]
    used = f"# ScheduledTrainer(model, args, ...) in the place of {kind}: no lr_scheduler_type is this schedule exactly"
    lines = [*made_of("args", "TrainingArguments", options), *own, "", *spaced(made), used]
    return with_imports(
        ["import torch", "from transformers import TrainingArguments", *needed, *imports(schedule)], lines
    )


def _named(recipe: Recipe, schedule: Schedule, total_steps: int | None, known: int) -> str | None:
    """Name and ``lr_scheduler_kwargs``; None where they need the length of the run, or the warmup is no whole steps."""
    warmup = recipe.warmup if recipe.warmup >= 1 else recipe.warmup * (total_steps or known)
    found = call_of("transformers", recipe, schedule, total_steps)
    if found is None or "total_steps" in found[1] or math.ceil(warmup) - warmup > ROUNDING:
        return None
    return found[1]


def compiled_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """The optimizer that the model was compiled with, under a schedule of Keras's or a callback that sets its rate."""
    options = dict(_given(setup["options"]))
    if not options.get("use_ema"):
        options = {name: value for name, value in options.items() if name not in AVERAGING}
    kind, needed = setup["optimizer"]["name"], ["import keras"]
    if setup["optimizer"]["module"].startswith("keras."):
        kind = f"keras.optimizers.{identifier(kind)}"
    else:
        kind, more = imported(setup["optimizer"], "your optimizer", "make_optimizer")
        needed += more
    arrays = bool(setup["arrays"])
    rows = int(setup["batch_size"])
    fit = f"model.fit({f'x, y, batch_size={rows}' if arrays else 'train_data'}, epochs={recipe.epochs}"
    lines = [f"lr = {recipe.lr!r}"]
    found = call_of("keras", recipe, schedule, total_steps)
    if found is None or recipe.warmup or "total_steps" in found[1]:
        counted = arrays and total_steps is None
        lines += [f"batches = range(0, len(x), {rows})"] if counted else []
        lines += steps(recipe, total_steps, "batches" if counted else "train_data", setup)
    if found is None:
        lines += spaced(multiplier(recipe, schedule))
        needed += imports(schedule)
        fit += ", callbacks=[LearningRate()]"
    else:
        needed += ["from keras.optimizers import schedules"] if found[1].startswith("schedules.") else []
        needed += ["import math"] if "math." in found[1] else []
        lines += assigned("learning_rate", found[1])
    rate = "lr" if found is None else "learning_rate"
    lines += assigned("optimizer", f"{kind}({rate}{arguments(options)})")
    if found is None:
        lines += spaced(_callback(int(options.get("gradient_accumulation_steps", 1))))
    lines += ["# model.compile(optimizer, ...) with your loss and metrics", f"# {fit})"]
    return with_imports(needed, lines)


def _callback(micro: int) -> list[str]:
    """Sets the learning rate before each batch, of which `micro` make an update."""
    head = ["class LearningRate(keras.callbacks.Callback):"]
    if micro == 1:
        body = [
            "def on_train_batch_begin(self, batch, logs=None):",
            "    optimizer = self.model.optimizer",
            "    optimizer.learning_rate = lr * multiplier(int(optimizer.iterations))",
        ]
    else:
        body = [
            f"step = 0  # batches so far; optimizer.iterations counts updates, of {micro} batches each",
            "",
            "def on_train_batch_begin(self, batch, logs=None):",
            "    self.model.optimizer.learning_rate = lr * multiplier(self.step)",
            "    self.step += 1",
        ]
    return [*head, *(f"    {line}".rstrip() for line in body)]


def _given(options: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Those that say something."""
    return [(name, value) for name, value in options.items() if value is not None]
