"""A recipe as lines of code that a person can paste into a program of their own, schedule and warmup included."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lrtune.errors import InputError
from lrtune.schedules import Plateau, Schedule, describe, parse
from lrtune.schedules.base import written
from lrtune.schedules.cycles import CosineRestarts, Cyclical, OneCycle
from lrtune.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from lrtune.schedules.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.recipe import Recipe

__all__ = ["Kind", "snippet"]

Kind: TypeAlias = Literal["torch", "sklearn"]

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
WITH_MOMENTUM = ("SGD", "RMSprop")
WITH_BETAS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam")


def snippet(recipe: Recipe, kind: Kind = "torch", *, total_steps: int | None = None) -> str:
    """The recipe as code.

    Parameters
    ----------
    recipe
        What was found.
    kind
        ``"torch"``: for a ``model``, a ``train_loader`` and, where the recipe names no optimizer, an ``optimizer``.
        ``"sklearn"``: for a ``model`` with ``eta0`` and ``partial_fit`` and a list ``batches`` of one epoch.
    total_steps
        Optimizer steps of the run; by default the code counts them itself.

    Raises
    ------
    InputError
        If there is no such kind, or the recipe's schedule is not known.
    """
    if kind not in ("torch", "sklearn"):
        msg = f"snippet: kind must be torch or sklearn (got {kind!r}); choose one"
        raise InputError(msg)
    schedule = parse(recipe.schedule)
    lines = [*_head(recipe, schedule), *(_torch if kind == "torch" else _sklearn)(recipe, schedule, total_steps)]
    return "\n".join(lines) + "\n"


def _head(recipe: Recipe, schedule: Schedule) -> list[str]:
    size = "" if recipe.batch_size is None else f", batches of {recipe.batch_size}"
    decay, epochs = recipe.layer_decay, f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
    return [
        f"# {describe(schedule)} Found by lrtune for {epochs}{size}.",
        *([] if decay is None else [f"# Each block of layers learns {decay:g} times as fast as the one above it."]),
    ]


# PyTorch.


def _torch(recipe: Recipe, schedule: Schedule, total_steps: int | None) -> list[str]:
    lines = ["import torch", "", *_optimizer(recipe)]
    if isinstance(schedule, Plateau):
        return [*lines, *_torch_plateau(recipe, schedule, total_steps)]
    if isinstance(schedule, Constant) and not recipe.warmup:
        return lines
    return [
        *_imports(schedule)[:1],
        *lines,
        *_steps(recipe, total_steps, f"{recipe.epochs} * len(train_loader)"),
        *_multiplier(recipe, schedule),
        "",
        "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)",
        "# scheduler.step() after every optimizer.step()",
    ]


def _optimizer(recipe: Recipe) -> list[str]:
    if recipe.optimizer is None:
        return [f"# optimizer: your own, made with lr={_lr(recipe)}"]
    name, options = _named(recipe.optimizer)
    known = {kind.lower(): kind for kind in TORCH_OPTIMIZERS}
    if name not in known and name not in SHORT:
        return [f"# optimizer: {recipe.optimizer}, made with lr={_lr(recipe)}"]
    kind = SHORT.get(name) or known[name]
    if name in SHORT:
        options = {"momentum": 0.9, **({"nesterov": True} if name == "nesterov" else {}), **options}
    if recipe.momentum is not None and kind in WITH_MOMENTUM:
        options["momentum"] = recipe.momentum
    if recipe.momentum is not None and kind in WITH_BETAS:
        options["betas"] = (recipe.momentum, tuple(options.get("betas", (0.9, 0.999)))[1])
    if recipe.weight_decay is not None:
        options["weight_decay"] = recipe.weight_decay
    written_options = "".join(f", {option}={value!r}" for option, value in options.items())
    return [f"optimizer = torch.optim.{kind}(model.parameters(), lr={_lr(recipe)}{written_options})"]


def _named(optimizer: str) -> tuple[str, dict[str, Any]]:
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


def _torch_plateau(recipe: Recipe, plateau: Plateau, total_steps: int | None) -> list[str]:
    numbers = {
        "factor": written(plateau.factor),
        "patience": str(plateau.patience),
        "threshold": written(plateau.threshold),
        "cooldown": str(plateau.cooldown),
        "min_lr": repr(plateau.floor * recipe.lr),
        "eps": "0.0",
    }
    scheduler = [
        "scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(",
        f'    optimizer, mode="{plateau.mode}", {", ".join(f"{name}={value}" for name, value in numbers.items())}',
        ")",
    ]
    if not recipe.warmup:
        return [*scheduler, "# scheduler.step(metric) after every epoch"]
    return [
        *_steps(recipe, total_steps, f"{recipe.epochs} * len(train_loader)"),
        *scheduler,
        'peaks = [group["lr"] for group in optimizer.param_groups]',
        "",
        "def warm_up(step):  # before every optimizer.step(); step counts from 0",
        "    if step < warmup_steps + 1:",
        "        for group, peak in zip(optimizer.param_groups, peaks):",
        '            group["lr"] = peak * min(step / warmup_steps, 1)',
        "",
        "# scheduler.step(metric) after every epoch that ends beyond warmup_steps",
    ]


# scikit-learn.


def _sklearn(recipe: Recipe, schedule: Schedule, total_steps: int | None) -> list[str]:
    set_up = [
        'model.set_params(learning_rate="constant", eta0=lr)  # other settings of learning_rate ignore or change eta0',
    ]
    beyond = " that ends beyond warmup_steps" if recipe.warmup else ""
    if isinstance(schedule, Constant) and not recipe.warmup:
        return [f"lr = {_lr(recipe)}", *set_up]
    return [
        *(["from lrtune.schedules import parse", ""] if schedule.listens else _imports(schedule)),
        f"lr = {_lr(recipe)}",
        *_steps(recipe, total_steps, f"{recipe.epochs} * len(batches)"),
        *_multiplier(recipe, schedule),
        "",
        *set_up,
        "",
        "def learn(step, X, y, **more):  # step counts minibatches from 0; more: classes=... on the first",
        "    model.set_params(eta0=max(lr * multiplier(step), 1e-30))  # zero is refused",
        "    model.partial_fit(X, y, **more)",
        *(["", f"# plateau.update(metric) after every epoch{beyond}"] if schedule.listens else []),
    ]


# The schedule as a function of the step.


def _imports(schedule: Schedule) -> list[str]:
    uses_math = (Cosine, Step, CosineRestarts, Cyclical, OneCycle, InverseSqrt, WarmupStableDecay)
    return ["import math", ""] if isinstance(schedule, uses_math) else []


def _steps(recipe: Recipe, total_steps: int | None, counted: str) -> list[str]:
    lines = [f"total_steps = {counted if total_steps is None else total_steps}"]
    if recipe.warmup:
        amount = written(recipe.warmup) if recipe.warmup >= 1 else f"{recipe.warmup!r} * total_steps"
        lines.append(f"warmup_steps = {amount}")
    return lines


def _multiplier(recipe: Recipe, schedule: Schedule) -> list[str]:
    """``def multiplier(step)``, with two empty lines before it."""
    if isinstance(schedule, Plateau):
        before = [f'plateau = parse("{schedule}")', ""]
        body = ["return plateau.multiplier"]
        start = "plateau.multiplier * "
    else:
        before = [""]
        body = FORMULAS[type(schedule)](schedule)
        first = schedule(0.0)
        start = "" if first == 1 else f"{first!r} * "
    progress = ["p = min(step / total_steps, 1)"]
    if recipe.warmup:
        progress = [
            "if step < warmup_steps:",
            f"    return {start}step / warmup_steps",
            "p = min((step - warmup_steps) / (total_steps - warmup_steps), 1)",
        ]
    used = progress if any(re.search(r"\bp\b", line) for line in body) else progress[:-1]
    return [*before, "def multiplier(step):", *(f"    {line}" for line in [*used, *body])]


def _constant(_: Constant) -> list[str]:
    return ["return 1.0"]


def _step(s: Step) -> list[str]:
    return [f"return {s.factor!r} ** math.floor(p / {s.every!r} + 1e-9)"]


def _multistep(s: MultiStep) -> list[str]:
    return [f"return {s.factor!r} ** sum(p * (1 + 1e-9) >= at for at in {list(s.at)!r})"]


def _exponential(s: Exponential) -> list[str]:
    return [f"return {s.end!r} ** p"]


def _polynomial(s: Polynomial) -> list[str]:
    return [_from_floor(s.floor, f"(1 - p) ** {s.power!r}")]


def _linear(s: Linear) -> list[str]:
    return [_from_floor(s.floor, "(1 - p)")]


def _cosine(s: Cosine) -> list[str]:
    return [_from_floor(s.floor, "(1 + math.cos(math.pi * p)) / 2")]


def _inverse_sqrt(s: InverseSqrt) -> list[str]:
    return [f"return 1 / math.sqrt(1 + p / {s.timescale!r})"]


def _wsd(s: WarmupStableDecay) -> list[str]:
    left = {"linear": "1 - x", "cosine": "(1 + math.cos(math.pi * x)) / 2", "sqrt": "1 - math.sqrt(x)"}[s.shape]
    return [f"x = max((p - {1 - s.decay!r}) / {s.decay!r}, 0)", _from_floor(s.floor, f"({left})")]


def _cosine_restarts(s: CosineRestarts) -> list[str]:
    return [
        f"length = {float(s.starts()[1])!r}  # of the first cycle",
        f"for _ in range({s.cycles - 1}):",
        "    if p < length - 1e-12:",
        "        break",
        f"    p, length = max(p - length, 0), length * {s.growth!r}",
        _from_floor(s.floor, "(1 + math.cos(math.pi * min(p / length, 1))) / 2"),
    ]


def _cyclical(s: Cyclical) -> list[str]:
    height = {"triangular": "", "triangular2": " * 0.5**cycle", "exp_range": f" * {s.end!r} ** p"}[s.mode]
    return [
        f"cycle = min(math.floor(p * {s.cycles} + 1e-9), {s.cycles - 1})",
        f"x = max(p * {s.cycles} - cycle, 0)",
        f"height = x / {s.up!r} if x <= {s.up!r} else (1 - x) / {1 - s.up!r}",
        _from_floor(s.floor, f"height{height}"),
    ]


def _onecycle(s: OneCycle) -> list[str]:
    bent = "(1 - math.cos(math.pi * x)) / 2" if s.shape == "cosine" else "x"
    return [
        f"if p <= {s.up!r}:",
        f"    x = p / {s.up!r}",
        f"    return {s.start!r} + {1 - s.start!r} * {bent}",
        f"x = (p - {s.up!r}) / {1 - s.up!r}",
        f"return 1 - {1 - s.end!r} * {bent}",
    ]


def _sweep(s: Sweep) -> list[str]:
    return [f"return {s.ratio!r} ** (min(p / {s.over!r}, 1) - 1)"]


def _from_floor(floor: float, left: str) -> str:
    return f"return {floor!r} + {1 - floor!r} * {left}" if floor else f"return {left}"


FORMULAS: dict[type[Schedule], Callable[[Any], list[str]]] = {
    Constant: _constant,
    Step: _step,
    MultiStep: _multistep,
    Exponential: _exponential,
    Polynomial: _polynomial,
    Linear: _linear,
    Cosine: _cosine,
    InverseSqrt: _inverse_sqrt,
    WarmupStableDecay: _wsd,
    CosineRestarts: _cosine_restarts,
    Cyclical: _cyclical,
    OneCycle: _onecycle,
    Sweep: _sweep,
}


def _lr(recipe: Recipe) -> str:
    """The peak learning rate in as many digits as anyone can tell apart."""
    return repr(float(f"{recipe.lr:.5g}"))
