"""The code for frameworks around PyTorch: their own schedule where :data:`.calls.CALLS` has one, else the function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.calls import call_of, near
from lrtune.reporting.snippets.optimizer import optimizer_lines, torch_optimizer
from lrtune.reporting.snippets.schedule import imports, multiplier, steps
from lrtune.reporting.snippets.source import as_source, assigned, identifier, one_line, spaced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = [
    "LAMBDA",
    "Plan",
    "accelerate_lines",
    "deepspeed_lines",
    "fastai_lines",
    "ignite_lines",
    "lightning_lines",
    "made_of",
    "mmengine_lines",
    "planned",
    "timm_lines",
    "torch_options",
    "with_imports",
]

LAMBDA = "torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)"
EACH_STEP = "# scheduler.step() after every optimizer.step()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a host is given a schedule.

    Attributes
    ----------
    call
        The host's own schedule as source; None where the exact function is taken.
    before
        Lines before it: the learning rate, the lengths, and without a call the function ``multiplier``.
    imports
        What they need.
    """

    call: str | None
    before: list[str]
    imports: list[str]


def planned(
    host: str, recipe: Recipe, schedule: Schedule, total_steps: int | None, *, batches: str = "train_loader"
) -> Plan:
    """The host's own call, or the function of the step where it has none."""
    found = call_of(host, recipe, schedule, total_steps)
    lines = [f"lr = {recipe.lr!r}"]
    if found is None:
        lines += [*steps(recipe, total_steps, batches, {}), *spaced(multiplier(recipe, schedule))]
        return Plan(call=None, before=lines, imports=imports(schedule))
    call, text = found
    if recipe.warmup or "total_steps" in text:
        lines += steps(recipe, total_steps, batches, {})
    if call.whole and 0 < recipe.warmup < 1:
        lines[-1] = f"warmup_steps = round({recipe.warmup!r} * total_steps)  # whole steps: where this rounds,"
        lines.append("# the warmup is off by at most 50 / warmup_steps % of the peak")
    return Plan(call=text, before=lines, imports=["import math"] if "math." in text else [])


def with_imports(needed: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The lines behind what they import, each once."""
    plain = sorted({line for line in needed if line.startswith("import ")})
    named = sorted({line for line in needed if not line.startswith("import ")})
    return [*plain, *named, "", *lines]


def made_of(name: str, kind: str, options: Sequence[str]) -> list[str]:
    """``name = kind(...)`` with each option on a line of its own."""
    return [f"{name} = {kind}(", *(f"    {option}," for option in options), ")"]


def torch_options(recipe: Recipe) -> tuple[str, str]:
    """The optimizer's class as source, and its options as ``", name=value"``; two empty texts where it is not one."""
    found = torch_optimizer(recipe)
    if found is None:
        return "", ""
    return f"torch.optim.{found[0]}", "".join(f", {name}={value!r}" for name, value in found[1].items())


def _optimizer(recipe: Recipe, model: str = "model") -> list[str]:
    kind, options = torch_options(recipe)
    if kind:
        return [f"optimizer = {kind}({model}.parameters(), lr=lr{options})"]
    told = f", {one_line(recipe.optimizer)}" if recipe.optimizer else ""
    return [f"optimizer = make_optimizer({model}, lr)  # yours{told}"]


def accelerate_lines(
    recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]
) -> list[str]:
    """A loop of one's own, prepared by an ``Accelerator``."""
    del setup
    plan = planned("accelerate", recipe, schedule, total_steps)
    prepared = ["model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)"]
    lines = [
        "accelerator = Accelerator()",
        plan.before[0],
        *_optimizer(recipe),
        *prepared,
        *plan.before[1:],
        f"scheduler = {LAMBDA}",
        "# scheduler.step() after every optimizer.step() at which accelerator.sync_gradients is true; it is not",
        "# prepared: that would step it once for each process. total_steps counts the batches of one process",
    ]
    return with_imports(["import torch", "from accelerate import Accelerator", *plan.imports], lines)


def lightning_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """``configure_optimizers`` of a ``LightningModule``, and with a setup the options of the ``Trainer``."""
    plan = planned("lightning", recipe, schedule, total_steps)
    before = list(plan.before)
    if total_steps is None:
        place = next(n for n, line in enumerate(before) if line.startswith("total_steps"))
        before[place] = "total_steps = self.trainer.estimated_stepping_batches  # optimizer steps"
    body = [
        *([before[0], *_optimizer(recipe, "self")] if not setup else _trained_optimizer(recipe, setup)),
        *before[1:],
        f"scheduler = {LAMBDA}",
        'return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}',
    ]
    lines = [
        "def configure_optimizers(self):  # of your LightningModule",
        *(f"    {line}".rstrip() for line in body),
        "",
    ]
    needed = ["import torch", *plan.imports]
    if not setup:
        return with_imports(needed, ["", *lines, f"# Trainer(max_epochs={recipe.epochs})"])
    given = [f"{identifier(name)}={as_source(value)}" for name, value in setup["trainer"].items()]
    lines += ["", *made_of("trainer", "Trainer", [f"max_epochs={recipe.epochs}", *given])]
    if setup["objects"]:
        lines.append(f"# and as you gave them: {', '.join(map(one_line, setup['objects']))}")
    return with_imports(["from lightning.pytorch import Trainer", *needed], ["", *lines])


def _trained_optimizer(recipe: Recipe, setup: Mapping[str, Any]) -> list[str]:
    """The optimizer as the run had it, of a module ``self``."""
    made, _ = optimizer_lines(recipe, setup, moves=True)
    return [*(["model = self"] if any("model." in line for line in made) else []), *made]


def timm_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A scheduler of timm's that counts updates."""
    del setup
    plan = planned("timm", recipe, schedule, total_steps)
    if plan.call is None:
        lines = [*_rest(recipe, plan), f"scheduler = {LAMBDA}", f"{EACH_STEP}; timm's own has no such schedule"]
        return with_imports(["import torch", *plan.imports], lines)
    name = plan.call.partition("(")[0]
    lines = [
        *_rest(recipe, plan),
        *assigned("scheduler", plan.call),
        "# scheduler.step_update(num_updates) after every optimizer.step(), num_updates counted from 1",
    ]
    return with_imports(["import torch", f"from timm.scheduler import {name}", *plan.imports], lines)


def ignite_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A handler at the start of an iteration: at its end the first update would be at the full peak."""
    del setup
    plan = planned("ignite", recipe, schedule, total_steps)
    call = plan.call or f"LRScheduler({LAMBDA})"
    names = [
        name
        for name in ("CosineAnnealingScheduler", "LRScheduler", "PiecewiseLinear", "create_lr_scheduler_with_warmup")
        if f"{name}(" in call
    ]
    lines = [
        *_rest(recipe, plan),
        *assigned("scheduler", call),
        "trainer.add_event_handler(Events.ITERATION_STARTED, scheduler)  # not COMPLETED: that is one update late",
        f"# trainer.run(train_loader, max_epochs={recipe.epochs})",
    ]
    imported = [f"from ignite.handlers import {', '.join(names)}", "from ignite.engine import Events"]
    return with_imports(["import torch", *imported, *plan.imports], lines)


def fastai_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """A function of the part of the run that is over, for ``ParamScheduler``."""
    del setup
    plan = planned("fastai", recipe, schedule, total_steps)
    kind, options = torch_options(recipe)
    opt_func = f"opt_func = partial(OptimWrapper, opt={kind}{options})" if kind else "# opt_func: your own"
    needed = ["import torch", "from functools import partial", "from fastai.optimizer import OptimWrapper"]
    names = ["ParamScheduler"]
    if plan.call is None:
        made = ["def schedule(p):", "    return lr * multiplier(p * total_steps)", ""]
        before = plan.before
    else:
        names += [
            name for name in ("SchedCos", "SchedExp", "SchedLin", "SchedNo", "combine_scheds") if name in plan.call
        ]
        made = assigned("schedule", plan.call)
        before = [plan.before[0]]
        if recipe.warmup >= 1:
            before += [*steps(recipe, total_steps, "train_loader", {}), "warmup = warmup_steps / total_steps"]
        elif recipe.warmup:
            before.append(f"warmup = {recipe.warmup!r}")
    imported = f"from fastai.callback.schedule import {', '.join(sorted(names, key=str.lower))}"
    lines = [
        *before,
        opt_func,
        *made,
        'callback = ParamScheduler({"lr": schedule})',
        f"# Learner(..., opt_func=opt_func).fit({recipe.epochs}, lr, cbs=callback)",
    ]
    return with_imports([*needed, imported, *plan.imports], lines)


def mmengine_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """The parts of a configuration, or a hook."""
    del setup
    plan = planned("mmengine", recipe, schedule, total_steps)
    found = torch_optimizer(recipe)
    if found is None:
        optimizer = "# optim_wrapper: your own, with lr=lr"
    else:
        options = "".join(f", {name}={value!r}" for name, value in found[1].items())
        optimizer = f'optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="{found[0]}", lr=lr{options}))'
    train = f"train_cfg = dict(by_epoch=True, max_epochs={recipe.epochs})"
    if plan.call is not None:
        return with_imports(plan.imports, [*plan.before, optimizer, *assigned("param_scheduler", plan.call), train])
    hook = [
        "class LearningRate(Hook):",
        "    def before_train_iter(self, runner, batch_idx, data_batch=None):",
        "        for group in runner.optim_wrapper.param_groups:",
        '            group["lr"] = lr * multiplier(runner.iter)',
    ]
    lines = [*plan.before, optimizer, train, *spaced(hook), "custom_hooks = [LearningRate()]  # of the Runner"]
    return with_imports(["from mmengine.hooks import Hook", *plan.imports], lines)


def deepspeed_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """The configuration, and the scheduler that no configuration can hold."""
    del setup
    plan = planned("deepspeed", recipe, schedule, total_steps)
    found = torch_optimizer(recipe)
    config = [f'    "train_batch_size": {recipe.batch_size},'] if recipe.batch_size is not None else []
    if found is not None:
        decay = {"weight_decay": 0.01} if found[0] == "AdamW" else {}  # PyTorch's; DeepSpeed's own is zero
        options = ", ".join(f'"{name}": {value!r}' for name, value in {"lr": recipe.lr, **decay, **found[1]}.items())
        config.append(f'    "optimizer": {{"type": "{found[0]}", "params": {{{options}}}}},')
    lines = [*plan.before, "config = {", *config, "}"]
    if plan.call is not None:
        return with_imports(plan.imports, [*lines, "# deepspeed.initialize(model=model, config=config)"])
    made = [
        "def schedule(optimizer):",
        f"    return {LAMBDA}",
    ]
    lines += [*spaced(made), "# deepspeed.initialize(model=model, config=config, lr_scheduler=schedule)"]
    close = near("deepspeed", schedule) if recipe.warmup else None
    if close is None:
        lines.append("# No scheduler of DeepSpeed's JSON comes near this one.")
    else:
        short, long = (f"{100 * off:.2g}" for off in close.off)
        lines += [
            f"# For a launcher that takes JSON alone: {close.name} is one update late, off by up to {short} % of the",
            f"# peak in a run of 97 steps, {long} % in one of 1,000.",
            *assigned("json_scheduler", close.config),
            '# {**config, "scheduler": json_scheduler}',
        ]
    return with_imports(["import torch", *plan.imports], lines)


def _rest(recipe: Recipe, plan: Plan) -> list[str]:
    return [plan.before[0], *_optimizer(recipe), *plan.before[1:]]
