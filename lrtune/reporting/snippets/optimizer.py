"""The optimizers of a run as lines of PyTorch: one as ``optimizer``, or several that share the model in a list."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from lrtune.reporting.snippets.source import arguments, as_source, imported, one_line, spaced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.recipe import Recipe

__all__ = ["TORCH_OPTIMIZERS", "optimizer_lines", "portable", "torch_optimizer"]

TORCH_OPTIMIZERS = (
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD"),
    *("Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam"),
)
SHORT = {"momentum": "SGD", "nesterov": "SGD"}
WITH_MOMENTUM = ("SGD", "RMSprop", "Muon")
WITHOUT_DECAY = ("Rprop", "SparseAdam")
WITH_BETAS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam")
READS_ONCE = ("Rprop",)  # of PyTorch's, those that read their learning rate at the first step only

NAMED = spaced(
    [
        "def named(*names):  # parameters, or with a dot at the end all of a module",
        '    modules = tuple(name for name in names if name.endswith(".") or not name)',
        "    found = model.named_parameters()",
        "    return [p for name, p in found if p.requires_grad and (name in names or name.startswith(modules))]",
    ]
)
SCALE_UPDATES = spaced(
    [
        "def scale_updates(optimizer):  # it reads its learning rate once: each update is scaled by the schedule",
        '    peaks, before = [group["lr"] for group in optimizer.param_groups], []',
        "",
        "    def step_at_the_peak(optimizer, *_):",
        "        for group, peak in zip(optimizer.param_groups, peaks):",
        '            before.append((group["lr"], [p.detach().clone() for p in group["params"]]))',
        '            group["lr"] = peak',
        "",
        "    @torch.no_grad()",
        "    def keep_the_share(optimizer, *_):",
        "        for group, peak in zip(optimizer.param_groups, peaks):",
        '            group["lr"], olds = before.pop(0)',
        '            share = group["lr"] / peak if peak else 1',
        '            for p, old in zip(group["params"], olds):',
        "                if share != 1:",
        "                    p.copy_(old + share * (p - old))",
        "",
        "    optimizer.register_step_pre_hook(step_at_the_peak)",
        "    optimizer.register_step_post_hook(keep_the_share)",
    ]
)
"""What :class:`lrtune.training.networks.composed_optimizers.ScaledUpdates` does, as hooks around the step."""
SPLIT = spaced(
    [
        "def split(matrices, groups=groups):  # Muon trains matrices only",
        '    parts = [(group, [p for p in group["params"] if (p.ndim == 2) == matrices]) for group in groups]',
        '    return [{**group, "params": mine} for group, mine in parts if mine]',
    ]
)
ALL = [{"ratio": 1.0, "parameters": [""], "options": {}}]


def optimizer_lines(recipe: Recipe, setup: Mapping[str, Any], *, moves: bool) -> tuple[list[str], bool]:
    """The lines that make what trains the model.

    Parameters
    ----------
    recipe
        Its learning rate; without a setup, its optimizer and the options that it sets.
    setup
        What the run says of itself, or nothing.
    moves
        Whether the learning rate changes within the run.

    Returns
    -------
    list of str
        The lines.
    bool
        Whether they make a list ``optimizers`` instead of one ``optimizer``.
    """
    return _of_setup(recipe, setup["optimizers"]) if setup else _of_recipe(recipe, moves=moves)


def _of_setup(recipe: Recipe, made: Sequence[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """The optimizers as the run had them."""
    several = len(made) > 1
    foreign = any(group["parameters"] is None for one in made for group in one["groups"])
    whole = not several and made[0]["groups"] == ALL and not made[0]["changes_lr"]
    first, lines, after = [], [], []
    for place, one in enumerate(made):
        name = f"optimizers[{place}]" if several else "optimizer"
        kind, before = imported(one["optimizer"], "your own optimizer", "make_optimizer")
        if one["optimizer"]["module"] == "torch.optim":
            kind, before = f"torch.optim.{kind}", []
        unread = list(map(one_line, one["unread"]))
        if unread:
            before.append(f"# what it does not tell, and is as you made it: {', '.join(unread)}")
        first += before
        options = arguments(one["options"])
        if foreign:
            ratios = ", ".join(as_source(group["ratio"]) for group in one["groups"])
            lines += [
                f"# {name}: your own, a {kind} made with lr={recipe.lr!r}{options}; it also trains",
                f"# parameters that are not the model's; the learning rates of its groups are this times ({ratios})",
            ]
        elif whole:
            lines.append(f"optimizer = {kind}(model.parameters(), lr={recipe.lr!r}{options})")
        else:
            call = f"{kind}(groups, lr=lr{options})"
            lines += [*_groups(one["groups"]), f"optimizers.append({call})" if several else f"optimizer = {call}"]
        if one["two_points"]:
            after.append(
                f"{name}.train()  # {name}.eval() before the model is evaluated or saved, train() again afterwards"
            )
        if one["scaled"]:
            after.append(f"scale_updates({name})")
    if not foreign and not whole:
        first += [f"lr = {recipe.lr!r}", *NAMED, *(["optimizers = []"] if several else [])]
    scaling = SCALE_UPDATES if any(one["scaled"] for one in made) else []
    return [*first, *lines, *scaling, *after], several


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["groups = ["]
    for group in groups:
        names = ", ".join(as_source(str(name)) for name in group["parameters"])
        rate = "lr" if group["ratio"] == 1 else f"{as_source(float(group['ratio']))} * lr"
        own = "".join(f", {as_source(str(name))}: {as_source(value)}" for name, value in group["options"].items())
        lines.append(f'    {{"params": named({names}), "lr": {rate}{own}}},')
    return [*lines, "]"]


def _of_recipe(recipe: Recipe, *, moves: bool) -> tuple[list[str], bool]:
    """The optimizer from the recipe alone."""
    if recipe.optimizer is None:
        return [f"# optimizer: your own, made with lr={recipe.lr!r}"], False
    name, options = _read(recipe.optimizer)
    others, ratio = options.pop("others", None), options.pop("others_lr_ratio", 1.0)
    calls = [_call(recipe, name, options), *([] if others is None else [_call(recipe, *_read(str(others)))])]
    if not all(kind for kind, _ in calls):
        return [f"# optimizer: {one_line(recipe.optimizer)}, made with lr={recipe.lr!r}"], False
    scaled = [moves and kind in READS_ONCE for kind, _ in calls]
    scaling = SCALE_UPDATES if any(scaled) else []
    if others is not None:
        made = [f"optimizers.append(torch.optim.{kind}(groups, lr=lr{settings}))" for kind, settings in calls]
        lines = [
            *_blocks(recipe),
            *SPLIT,
            "optimizers = []",
            "groups = split(matrices=True)",
            made[0],
            "groups = split(matrices=False)",
            *([] if ratio == 1 else ["for group in groups:", f'    group["lr"] *= {ratio!r}']),
            made[1],
        ]
        return [*lines, *scaling, *(f"scale_updates(optimizers[{n}])" for n, one in enumerate(scaled) if one)], True
    kind, settings = calls[0]
    after = [*scaling, *(["scale_updates(optimizer)"] if scaling else [])]
    if recipe.layer_decay in {None, 1}:
        return [f"optimizer = torch.optim.{kind}(model.parameters(), lr={recipe.lr!r}{settings})", *after], False
    return [*_blocks(recipe), f"optimizer = torch.optim.{kind}(groups, lr=lr{settings})", *after], False


def _blocks(recipe: Recipe) -> list[str]:
    """The parameters in groups, one for each block of layers."""
    if recipe.layer_decay in {None, 1}:
        trained = "[p for p in model.parameters() if p.requires_grad]"
        return [f"lr = {recipe.lr!r}", f'groups = [{{"params": {trained}, "lr": lr}}]']
    return [
        "from lrtune.training.networks.optimizers import layer_groups",
        "",
        f"lr = {recipe.lr!r}",
        f"groups = layer_groups(model, {recipe.layer_decay!r})",
        "for group in groups:",
        '    group["lr"] = group.pop("lr_ratio", 1.0) * lr',
    ]


def portable(recipe: Recipe, setup: Mapping[str, Any]) -> Recipe:
    """The recipe with what a run of PyTorch's says of its optimizer and batch size, for the code of other hosts.

    An optimizer that is not one of PyTorch's alone, or trains groups at rates of their own, stays unsaid.
    """
    if recipe.batch_size is None and isinstance(setup.get("batch_size"), int):
        recipe = dataclasses.replace(recipe, batch_size=setup["batch_size"])
    with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):  # damaged
        (made,) = setup["optimizers"]
        kind, options = made["optimizer"], arguments(made["options"]).removeprefix(", ")
        plain = made["groups"] == ALL and kind["module"] == "torch.optim" and kind["name"] in TORCH_OPTIMIZERS
        if plain and recipe.optimizer is None:
            recipe = dataclasses.replace(recipe, optimizer=f"{kind['name'].lower()}({options})")
    return recipe


def torch_optimizer(recipe: Recipe) -> tuple[str, dict[str, Any]] | None:
    """The class of ``torch.optim`` and its options; None where it is none, several, or of several learning rates."""
    name, options = _read(recipe.optimizer or "")
    kind, options = _options(recipe, name, options)
    return None if not kind or "others" in options or recipe.layer_decay not in {None, 1} else (kind, options)


def _call(recipe: Recipe, name: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """The class of that name and its options as source; an empty class where it is none of PyTorch's."""
    kind, options = _options(recipe, name, options)
    return kind, "".join(f", {option}={value!r}" for option, value in options.items())


def _options(recipe: Recipe, name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class and its options, those of the recipe included."""
    known = {kind.lower(): kind for kind in TORCH_OPTIMIZERS}
    kind = SHORT.get(name) or known.get(name, "")
    options = dict(options)
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
    return kind, options


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
