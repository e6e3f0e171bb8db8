"""The code for PyTorch: an optimizer as the run had it, and a scheduler that follows the same learning rates."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from lrtune.schedules import Plateau
from lrtune.schedules.decays import Constant
from lrtune.snippets.schedule import imports, multiplier, plateau_class, steps
from lrtune.snippets.source import arguments, as_source, imported, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["network_lines"]

TORCH_OPTIMIZERS = (
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ASGD",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
)
SHORT = {"momentum": "SGD", "nesterov": "SGD"}
WITH_MOMENTUM = ("SGD", "RMSprop", "Muon")
WITHOUT_DECAY = ("Rprop", "SparseAdam")
WITH_BETAS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam")
TYPES = {"bf16": "bfloat16", "fp16": "float16"}
RATES = ["for group, peak in zip(optimizer.param_groups, peaks):"]


def network_lines(recipe: Recipe, schedule: Schedule, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    """Optimizer, scheduler, and what else was set."""
    lines = [*_optimizer(recipe, setup), *_around(setup)]
    if isinstance(schedule, Plateau):
        scheduler = _plateau(recipe, schedule, total_steps, setup)
    elif isinstance(schedule, Constant) and not recipe.warmup:
        return ["import torch", "", *lines]
    else:
        lines = [*lines, *steps(recipe, total_steps, "train_loader", setup)]
        scheduler = [
            *_spaced(multiplier(recipe, schedule)),
            "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)",
            "# scheduler.step() after every optimizer.step()",
        ]
    return [*imports(schedule), "import torch", "", *lines, *scheduler]


def _spaced(definition: Sequence[str]) -> list[str]:
    return ["", *definition, ""]


# The optimizer.


def _optimizer(recipe: Recipe, setup: Mapping[str, Any]) -> list[str]:
    if not setup:
        return _of_recipe(recipe)
    what = "your own optimizer"
    kind, before = imported(setup["optimizer"], what, "make_optimizer")
    if setup["optimizer"]["module"] == "torch.optim":
        kind, before = f"torch.optim.{kind}", []
    unread = list(map(one_line, setup["unread"]))
    if unread:
        before.append(f"# what it does not tell, and is as you made it: {', '.join(unread)}")
    after = []
    if setup["two_points"]:
        after = [
            "optimizer.train()  # optimizer.eval() before the model is evaluated or saved, train() again afterwards"
        ]
    groups = setup["groups"]
    if any(group["parameters"] is None for group in groups):
        ratios = ", ".join(as_source(group["ratio"]) for group in groups)
        return [
            *before,
            f"# optimizer: your own, a {kind} made with lr={recipe.lr!r}{arguments(setup['options'])}; it also trains",
            f"# parameters that are not the model's; the learning rates of its groups are this times ({ratios})",
            *after,
        ]
    options = arguments(setup["options"])
    if groups == [{"ratio": 1.0, "parameters": [""], "options": {}}]:
        return [*before, f"optimizer = {kind}(model.parameters(), lr={recipe.lr!r}{options})", *after]
    return [
        *before,
        f"lr = {recipe.lr!r}",
        *_named(),
        *_groups(groups),
        f"optimizer = {kind}(groups, lr=lr{options})",
        *after,
    ]


def _named() -> list[str]:
    return _spaced(
        [
            "def named(*names):  # parameters, or with a dot at the end all of a module",
            '    modules = tuple(name for name in names if name.endswith(".") or not name)',
            "    found = model.named_parameters()",
            "    return [p for name, p in found if p.requires_grad and (name in names or name.startswith(modules))]",
        ]
    )


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["groups = ["]
    for group in groups:
        names = ", ".join(as_source(str(name)) for name in group["parameters"])
        rate = "lr" if group["ratio"] == 1 else f"{as_source(float(group['ratio']))} * lr"
        own = "".join(f", {as_source(str(name))}: {as_source(value)}" for name, value in group["options"].items())
        lines.append(f'    {{"params": named({names}), "lr": {rate}{own}}},')
    return [*lines, "]"]


def _around(setup: Mapping[str, Any]) -> list[str]:
    """What is done around a step of the optimizer: gradient clipping, micro-batches, mixed precision."""
    lines = []
    if setup.get("clip_norm") is not None:
        lines += _spaced(
            [
                "def clip_gradients(*_):",
                '    parameters = [p for group in optimizer.param_groups for p in group["params"]]',
                f"    torch.nn.utils.clip_grad_norm_(parameters, {as_source(float(setup['clip_norm']))})",
            ]
        )
        lines.append("optimizer.register_step_pre_hook(clip_gradients)")
    pieces = int(setup.get("accumulate", 1))
    if pieces > 1:
        lines.append(
            f"# Each batch was cut into {pieces} micro-batches to save memory; their gradients add up to the batch's."
        )
    if setup.get("precision") in TYPES:
        device = as_source(str(setup["device"]))
        lines.append(f"autocast = torch.autocast({device}, torch.{TYPES[setup['precision']]})")
        lines.append("# with autocast: around the forward pass and the loss")
        if setup["precision"] == "fp16":
            lines.append(f"scaler = torch.amp.GradScaler({device})")
            lines.append("# scaler.scale(loss).backward(), scaler.step(optimizer), scaler.update()")
    return lines


# Without a setup: the recipe alone.


def _of_recipe(recipe: Recipe) -> list[str]:
    if recipe.optimizer is None:
        return [f"# optimizer: your own, made with lr={recipe.lr!r}"]
    name, options = _read(recipe.optimizer)
    known = {kind.lower(): kind for kind in TORCH_OPTIMIZERS}
    if name not in known and name not in SHORT:
        return [f"# optimizer: {one_line(recipe.optimizer)}, made with lr={recipe.lr!r}"]
    kind = SHORT.get(name) or known[name]
    if name in SHORT:
        options = {"momentum": 0.9, **({"nesterov": True} if name == "nesterov" else {}), **options}
    if recipe.momentum is not None and kind in WITH_MOMENTUM:
        options["momentum"] = recipe.momentum
    if recipe.momentum is not None and kind in WITH_BETAS:
        options["betas"] = (recipe.momentum, tuple(options.get("betas", (0.9, 0.999)))[1])
    if kind == "SGD" and options.get("nesterov") and not options.get("momentum"):
        options["nesterov"] = False  # as the trainer: without momentum it is plain descent
    if recipe.weight_decay is not None and kind not in WITHOUT_DECAY:
        options["weight_decay"] = recipe.weight_decay
    said = "".join(f", {option}={value!r}" for option, value in options.items())
    if recipe.layer_decay in {None, 1}:
        return [f"optimizer = torch.optim.{kind}(model.parameters(), lr={recipe.lr!r}{said})"]
    return [
        "from lrtune.training.optimizers import layer_groups",
        "",
        f"lr = {recipe.lr!r}",
        f"groups = layer_groups(model, {recipe.layer_decay!r})",
        "for group in groups:",
        '    group["lr"] = group.pop("lr_ratio", 1.0) * lr',
        f"optimizer = torch.optim.{kind}(groups, lr=lr{said})",
    ]


def _read(optimizer: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``"sgd(momentum=0.9)"``; an empty name where it cannot be read."""
    try:
        tree = ast.parse(optimizer.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id.lower(), {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            return tree.func.id.lower(), {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except (SyntaxError, ValueError):
        pass
    return "", {}


# The schedule that listens.


def _plateau(recipe: Recipe, plateau: Plateau, total_steps: int | None, setup: Mapping[str, Any]) -> list[str]:
    heard = one_line(setup.get("hears", "metric"))
    write = [*RATES, '    group["lr"] = peak * self.multiplier']
    lines = [
        *(steps(recipe, total_steps, "train_loader", setup) if recipe.warmup else []),
        'peaks = [group["lr"] for group in optimizer.param_groups]',
        *_spaced(plateau_class(recipe, plateau, "step", write)),
        "scheduler = Plateau()",
    ]
    if recipe.warmup:
        lines += _spaced(
            [
                "def warm_up(step):  # before every optimizer.step(); step counts from 0",
                f"    {RATES[0]}",
                '        group["lr"] = peak * min(step / warmup_steps, 1) * scheduler.multiplier',
                "    scheduler.steps = step + 1",
            ]
        )
    return [*lines, f"# scheduler.step({heard}) after every epoch"]
