"""The code for PyTorch: optimizers (lines of :mod:`.optimizer`) and schedulers (formulas of :mod:`.schedule`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.optimizer import optimizer_lines
from lrtune.reporting.snippets.schedule import imports, multiplier, plateau_class, steps
from lrtune.reporting.snippets.source import as_source, one_line, spaced
from lrtune.schedules import Plateau
from lrtune.schedules.decays import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["network_lines"]

TYPES = {"bf16": "bfloat16", "fp16": "float16"}
ALL_GROUPS = [
    "def param_groups():",
    "    return [group for optimizer in optimizers for group in optimizer.param_groups]",
]


def network_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """Optimizer, scheduler, and what else was set."""
    moves = recipe.warmup > 0 or not isinstance(schedule, Constant)
    made, several = optimizer_lines(recipe, setup, moves=moves)
    if several:
        made = [*made, "# zero_grad() and step() of each of them at every step, in this order"]
    lines = [*made, *_around(setup, several=several)]
    if isinstance(schedule, Plateau):
        scheduler = _plateau(recipe, schedule, total_steps, setup, several=several)
    elif not moves:
        return ["import torch", "", *lines]
    else:
        lines = [*lines, *steps(recipe, total_steps, "train_loader", setup)]
        scheduler = [*spaced(multiplier(recipe, schedule)), *_scheduler(several=several)]
    return [*imports(schedule), "import torch", "", *lines, *scheduler]


def _scheduler(*, several: bool) -> list[str]:
    make = "torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)"
    if not several:
        return [f"scheduler = {make}", "# scheduler.step() after every optimizer.step()"]
    return [
        f"schedulers = [{make} for optimizer in optimizers]",
        "# scheduler.step() of each of them after every step of the optimizers",
    ]


def _around(setup: Mapping[str, Any], *, several: bool) -> list[str]:
    """What is done around a step of the optimizer: gradient clipping, micro-batches, mixed precision."""
    lines = []
    if setup.get("clip_norm") is not None:
        groups, first = ("param_groups()", "optimizers[0]") if several else ("optimizer.param_groups", "optimizer")
        lines += [
            *(spaced(ALL_GROUPS)[:-1] if several else []),
            *spaced(
                [
                    "def clip_gradients(*_):",
                    f'    parameters = [p for group in {groups} for p in group["params"]]',
                    f"    torch.nn.utils.clip_grad_norm_(parameters, {as_source(float(setup['clip_norm']))})",
                ]
            ),
            f"{first}.register_step_pre_hook(clip_gradients)",
        ]
    micro = int(setup.get("accumulate", 1))
    if micro > 1:
        lines.append(
            f"# Each batch was cut into {micro} micro-batches to save memory; their gradients add up to the batch's."
        )
    if setup.get("precision") in TYPES:
        device = as_source(str(setup["device"]))
        lines.append(f"autocast = torch.autocast({device}, torch.{TYPES[setup['precision']]})")
        lines.append("# with autocast: around the forward pass and the loss")
        if setup["precision"] == "fp16":
            lines += [f"scaler = torch.amp.GradScaler({device})", *_scaled_steps(several=several)]
    return lines


def _scaled_steps(*, several: bool) -> list[str]:
    if not several:
        return ["# scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update()"]
    return [
        "# scaler.scale(loss).backward(), scaler.unscale_(optimizer) of each, then scaler.step(optimizer) of each,",
        "# scaler.update(); where gradients overflow the search left out the step of all, not of one alone",
    ]


def _plateau(
    recipe: Recipe, plateau: Plateau, total_steps: int | None, setup: Mapping[str, Any], *, several: bool
) -> list[str]:
    metric = one_line(setup.get("hears", "metric"))
    groups = "param_groups()" if several else "optimizer.param_groups"
    rates = f"for group, peak in zip({groups}, peaks):"
    lines = [
        *(steps(recipe, total_steps, "train_loader", setup) if recipe.warmup else []),
        *(spaced(ALL_GROUPS) if several and setup.get("clip_norm") is None else []),
        f'peaks = [group["lr"] for group in {groups}]',
        *spaced(plateau_class(recipe, plateau, "step", [rates, '    group["lr"] = peak * self.multiplier'])),
        "scheduler = Plateau()",
    ]
    if recipe.warmup:
        lines += spaced(
            [
                "def warm_up(step):  # before every optimizer.step(); step counts from 0",
                f"    {rates}",
                '        group["lr"] = peak * min(step / warmup_steps, 1) * scheduler.multiplier',
                "    scheduler.steps = step + 1",
            ]
        )
    return [*lines, f"# scheduler.step({metric}) after every epoch"]
