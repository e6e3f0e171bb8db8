"""The code for frameworks with optimizers of their own: transformers, Keras, optax, Paddle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.as_trained import compiled_lines, trainer_lines
from lrtune.reporting.snippets.hosts import LAMBDA, made_of, planned, with_imports
from lrtune.reporting.snippets.optimizer import torch_optimizer
from lrtune.reporting.snippets.source import assigned, spaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["OPTIMIZERS", "keras_lines", "optax_lines", "paddle_lines", "transformers_lines"]

DECAY = 0.01  # of PyTorch's AdamW where nothing else is said; the defaults of others differ
OPTIMIZERS: Mapping[str, Mapping[str, str]] = {
    "keras": {
        "SGD": "keras.optimizers.SGD({lr}, momentum={momentum}, nesterov={nesterov})",
        "Adam": "keras.optimizers.Adam({lr}, beta_1={beta1}, beta_2={beta2}, epsilon=1e-8)",
        "AdamW": "keras.optimizers.AdamW({lr}, weight_decay={decay}, beta_1={beta1}, beta_2={beta2}, epsilon=1e-8)",
    },
    "optax": {
        "SGD": "optax.sgd({lr}, momentum={momentum}, nesterov={nesterov})",
        "Adam": "optax.adam({lr}, b1={beta1}, b2={beta2})",
        "AdamW": "optax.adamw({lr}, b1={beta1}, b2={beta2}, weight_decay={decay})",
    },
    "paddle": {
        "SGD": "paddle.optimizer.Momentum({lr}, momentum={momentum}, use_nesterov={nesterov}, "
        "parameters=model.parameters(), weight_decay={decay})",
        "Adam": "paddle.optimizer.Adam({lr}, beta1={beta1}, beta2={beta2}, parameters=model.parameters(), "
        "weight_decay={decay})",
        "AdamW": "paddle.optimizer.AdamW({lr}, beta1={beta1}, beta2={beta2}, parameters=model.parameters(), "
        "weight_decay={decay})",
    },
    "transformers": {
        "SGD": 'optim="sgd", optim_args="momentum={momentum},nesterov={nesterov}", weight_decay={decay}',
        "AdamW": 'optim="adamw_torch", adam_beta1={beta1}, adam_beta2={beta2}, weight_decay={decay}',
    },
}
"""PyTorch's optimizers as each framework writes them, with PyTorch's own defaults."""
COUPLED = ("keras", "optax")  # whose SGD and Adam take no weight decay that is added to the gradient
KNOWN = {"momentum", "nesterov", "betas", "weight_decay", "eps"}


def transformers_lines(
    recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]
) -> list[str]:
    """``TrainingArguments``, and the same schedule for a loop of one's own."""
    if setup:
        return trainer_lines(recipe, schedule, total_steps, setup)
    plan = planned("transformers", recipe, schedule, total_steps)
    made = _made("transformers", recipe, "")
    options = [f"learning_rate={recipe.lr!r}", f"num_train_epochs={recipe.epochs}"]
    options += [f"seed={recipe.seed}"] if recipe.seed else []
    options += [f"per_device_train_batch_size={recipe.batch_size}"] if recipe.batch_size is not None else []
    options += [made] if made else []
    if plan.call is None:
        lines = [
            *plan.before,
            *made_of("args", "TrainingArguments", options),
            *([] if made else [*_unmade(recipe, "optim")]),
            f"scheduler = {LAMBDA}  # its optimizer: yours, made with lr",
            "# Trainer(model, args, ..., optimizers=(optimizer, scheduler)): it has no such schedule by name",
        ]
        return with_imports(["import torch", "from transformers import TrainingArguments", *plan.imports], lines)
    name, _, kwargs = plan.call.partition(", ")
    options.append(f"lr_scheduler_type={name}")
    options += [f"lr_scheduler_kwargs={kwargs}"] if kwargs != "{}" else []
    warmup = ", warmup_steps" if recipe.warmup else ", 0"
    specific = f", scheduler_specific_kwargs={kwargs}" if kwargs != "{}" else ""
    lines = list(plan.before)
    if not any("total_steps" in line for line in lines):
        lines.append(f"total_steps = {total_steps or f'{recipe.epochs} * len(train_loader)'}")
    if recipe.warmup:
        options.append(f"warmup_steps={recipe.warmup!r}")
    lines += made_of("args", "TrainingArguments", options)
    if 0 < recipe.warmup < 1:
        lines.append(
            "# The Trainer rounds a fraction up to whole steps: off by at most 100 / steps of warmup % of the peak."
        )
    lines += [
        *([] if made else _unmade(recipe, "optim")),
        "# The same in a loop of your own, exact at every step; scheduler.step() after every optimizer.step():",
        *assigned("scheduler", f"get_scheduler({name}, optimizer{warmup}, total_steps{specific})"),
    ]
    return with_imports(["from transformers import TrainingArguments, get_scheduler", *plan.imports], lines)


def keras_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A schedule of Keras's, or a callback that sets the learning rate."""
    if setup:
        return compiled_lines(recipe, schedule, total_steps, setup)
    plan = planned("keras", recipe, schedule, total_steps, batches="train_data")
    fit = f"# model.fit(train_data, epochs={recipe.epochs}"
    if plan.call is not None:
        own = plan.call.startswith("schedules.")
        lines = [
            *plan.before,
            *assigned("learning_rate", plan.call),
            *_assigned("keras", recipe, "learning_rate"),
            f"{fit})",
        ]
        if own:
            lines.append(
                "# With gradient_accumulation_steps=k Keras counts micro-batches here: multiply the lengths by k."
            )
        needed = ["import keras", *(["from keras.optimizers import schedules"] if own else []), *plan.imports]
        return with_imports(needed, lines)
    callback = [
        "class LearningRate(keras.callbacks.Callback):",
        "    def on_train_batch_begin(self, batch, logs=None):",
        "        optimizer = self.model.optimizer",
        "        optimizer.learning_rate = lr * multiplier(int(optimizer.iterations))",
    ]
    lines = [*plan.before, *_assigned("keras", recipe, "lr"), *spaced(callback), f"{fit}, callbacks=[LearningRate()])"]
    return with_imports(["import keras", *plan.imports], lines)


def optax_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A schedule of optax's, or a table of all rates."""
    del setup
    plan = planned("optax", recipe, schedule, total_steps)
    if plan.call is not None:
        lines = [*plan.before, *assigned("schedule", plan.call), *_assigned("optax", recipe, "schedule")]
        return with_imports(["import optax", *plan.imports], lines)
    table = [
        "# traced code cannot call a plain function: a table of all rates",
        "rates = jnp.array([lr * multiplier(step) for step in range(total_steps)])",
        "",
        "",
        "def schedule(count):",
        "    return rates[jnp.minimum(count, total_steps - 1)]",
        "",
    ]
    lines = [*plan.before, *table, *_assigned("optax", recipe, "schedule")]
    return with_imports(["import jax.numpy as jnp", "import optax", *plan.imports], lines)


def paddle_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A scheduler of Paddle's."""
    del setup
    plan = planned("paddle", recipe, schedule, total_steps)
    call = plan.call or "paddle.optimizer.lr.LambdaDecay(lr, multiplier)"
    lines = [*plan.before, *assigned("scheduler", call), *_assigned("paddle", recipe, "scheduler")]
    if call != "lr":
        lines.append("# scheduler.step() after every optimizer.step()")
    return with_imports(["import paddle", *plan.imports], lines)


def _assigned(host: str, recipe: Recipe, rate: str) -> list[str]:
    made = _made(host, recipe, rate)
    return [f"optimizer = {made}", *_coupled(host, recipe)] if made else _unmade(recipe, f"optimizer, with {rate}")


def _made(host: str, recipe: Recipe, rate: str) -> str | None:
    """The recipe's optimizer in the framework's words; None where it has none."""
    found = torch_optimizer(recipe)
    if found is None or found[0] not in OPTIMIZERS[host] or not set(found[1]) <= KNOWN:
        return None
    kind, options = found
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    values = {
        "lr": rate,
        "momentum": options.get("momentum", 0.0),
        "nesterov": bool(options.get("nesterov", False)),
        "beta1": beta1,
        "beta2": beta2,
        "decay": options.get("weight_decay", DECAY if kind == "AdamW" else 0.0),
    }
    return OPTIMIZERS[host][kind].format(**values)


def _coupled(host: str, recipe: Recipe) -> list[str]:
    """A remark where a weight decay of PyTorch's is left out."""
    found = torch_optimizer(recipe)
    decay = found[1].get("weight_decay", 0.0) if found else 0.0
    if host not in COUPLED or not decay or (found and found[0] == "AdamW"):
        return []
    return [f"# and a weight decay of {decay!r} that is added to the gradient, which this optimizer does not do itself"]


def _unmade(recipe: Recipe, what: str) -> list[str]:
    return [f"# {what}: yours{f', {recipe.optimizer.split()[0]}' if recipe.optimizer else ''}"]
