"""Optimizers by name with their options, and parameter groups with fixed ratios of their learning rates.

A name is that of any class of :mod:`torch.optim`, in any case, with options or without, such as
``"adamw"`` or ``"sgd(momentum=0.9, nesterov=True)"``; ``"momentum"`` and ``"nesterov"`` are SGD with a
momentum of 0.9; ``"prodigy"`` and ``"schedule-free-adamw"`` come from other packages, see
:mod:`lrtune.training.networks.optimizer_packages`. The recipe's momentum is SGD's and RMSprop's, and the first beta of
the Adam family.

Muon trains matrices only. ``'muon(others="adamw", others_lr_ratio=0.1)'`` gives every parameter that is not one
(biases, norms, convolutions) to another optimizer, at so many times the learning rate, which is 1 where it is left
out; the schedule, the clipping and a checkpoint are those of both.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import io
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lrtune.errors import RecipeError
from lrtune.training.callables import call_with
from lrtune.training.networks.averaged_weights import has_averaged_weights
from lrtune.training.networks.composed_optimizers import Composed
from lrtune.training.networks.optimizer_packages import PACKAGED, PackagedOptimizer
from lrtune.training.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lrtune.core.recipe import Recipe

__all__ = [
    "FUSED_ON_CPU",
    "FUSED_SAFE",
    "RATIO",
    "Groups",
    "OptimizerSpec",
    "apply_lr",
    "blocks",
    "build",
    "layer_groups",
    "parsed",
    "plain_step",
    "several_evaluations",
]

SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
}
CLOSURES = frozenset({"lbfgs"})  # they evaluate the loss several times a step
FUSED_SAFE = frozenset({torch.float32, torch.float64})
FUSED_ON_CPU = [int(number) for number in torch.__version__.split(".")[:2]] >= [2, 5]  # before, only some and not all
FEW = 8  # tensors up to which plain SGD on the CPU is faster without a fused kernel (measured)
RATIO = "lr_ratio"
MATRICES = 2  # dimensions of what Muon trains
OTHERS, OTHERS_RATIO = "others", "others_lr_ratio"

Groups = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """A class of :mod:`torch.optim`, or of another package, and its options."""

    name: str
    kind: Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    package: PackagedOptimizer | None = None

    @property
    def accepted(self) -> frozenset[str]:
        """Names of the options that the class takes."""
        ours = {OTHERS, OTHERS_RATIO} if self.matrices_only else set()
        return frozenset(inspect.signature(self.kind).parameters) - {"params", "lr"} | ours

    @property
    def matrices_only(self) -> bool:
        """Whether the class refuses parameters that are not matrices."""
        return self.kind is getattr(torch.optim, "Muon", None)


def _known() -> dict[str, type[torch.optim.Optimizer]]:
    found = {}
    for name, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            found[name.lower()] = kind
    return found


def parsed(text: str) -> OptimizerSpec:
    """The optimizer of that name, with its options.

    RecipeError if there is no such optimizer, it needs a closure, its package is not installed, or its options
    cannot be read.
    """
    name, options = _read(text)
    canonical, preset = SHORT.get(name, (name, {}))
    known, package = _known(), PACKAGED.get(name)
    if canonical in CLOSURES:
        raise several_evaluations(text)
    if canonical not in known and package is None:
        names = sorted({*known, *SHORT, *PACKAGED} - CLOSURES)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
        msg = f"there is no optimizer {text!r} in torch.optim: {hint}"
        raise RecipeError(msg)
    kind = known[canonical] if package is None else package.kind()
    spec = OptimizerSpec(name=name, kind=kind, options={**preset, **options}, package=package)
    strange = sorted(set(spec.options) - spec.accepted)
    if strange:
        msg = f"optimizer {name!r} has no option {strange[0]!r}; it has {', '.join(sorted(spec.accepted))}"
        raise RecipeError(msg)
    return spec


def several_evaluations(name: str) -> RecipeError:
    """The error for an optimizer whose step needs a closure."""
    return RecipeError(
        f"optimizer {name!r} evaluates the loss several times a step, which lrtune cannot drive; choose another"
    )


def _read(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``"name"`` or ``"name(option=value, ...)"``; values are Python literals."""
    name, bracket, rest = text.strip().partition("(")
    try:
        tree = ast.parse(name.replace("-", "_") + bracket + rest, mode="eval").body
        if isinstance(tree, ast.Name):
            return name.strip().lower(), {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            return name.strip().lower(), {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except (SyntaxError, ValueError):
        pass
    msg = f'optimizer must be a name, with options or without, such as "adamw(weight_decay=0.01)" (got {text!r})'
    raise RecipeError(msg)


def build(
    optimizer: str | Callable[..., torch.optim.Optimizer],
    options: Mapping[str, Any],
    groups: Groups,
    recipe: Recipe,
    *,
    fuse: bool = True,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the groups, each with its ratio to the recipe's learning rate.

    Parameters
    ----------
    optimizer, options
        A name, or a callable ``(params, lr)`` (more by name: ``recipe``), and its options; the recipe's own optimizer
        overrides it, with those of the options that it has.
    groups
        Dicts with ``params`` and the options of the group; ``lr_ratio``, or ``lr`` at the peak.
    recipe
        Its momentum and weight decay replace the optimizer's, but not those of a group.
    fuse
        Whether fused kernels may be used; sparse gradients forbid them.

    Raises
    ------
    RecipeError
        If an option is unknown, out of its range, or asked of an optimizer without it.
    """
    for group in groups:
        group["lr"] = group.pop(RATIO) * recipe.lr if RATIO in group else group.get("lr", recipe.lr)
    own = [set(group) for group in groups]
    chosen = recipe.optimizer or optimizer
    if isinstance(chosen, str):
        built = _named(parsed(chosen), options, groups, recipe, strict=recipe.optimizer is None, fuse=fuse)
    else:
        built = _called(chosen, groups, recipe)
        _override(built, own, recipe)
    for group in built.param_groups:
        group[RATIO] = float(group["lr"]) / recipe.lr
    return built


def _called(function: Callable[..., Any], groups: Groups, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer that the user's function makes; RecipeError where it is none, or needs a closure."""
    try:
        made = call_with(function, params=groups, lr=recipe.lr, recipe=recipe)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        odd = _vectors(groups)
        if odd and "2D" in str(error):
            raise _no_matrices("Muon" if "Muon" in str(error) else "optimizer(params, lr)", odd) from error
        msg = f"optimizer(params, lr) failed ({type(error).__name__}: {error}); mend it, or name an optimizer"
        raise RecipeError(msg) from error
    if not isinstance(made, torch.optim.Optimizer):
        msg = f"optimizer(params, lr) must return a torch.optim.Optimizer (got {type(made).__name__})"
        raise RecipeError(msg)
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise several_evaluations(type(made).__name__)
    return made


def _vectors(groups: Groups) -> list[torch.Tensor]:
    """The parameters that are no matrices."""
    return [parameter for group in groups for parameter in group["params"] if parameter.ndim != MATRICES]


def _no_matrices(name: str, odd: list[torch.Tensor]) -> RecipeError:
    return RecipeError(
        f"optimizer {name!r} trains matrices only, and {len(odd)} parameters of the model are none (e.g. of shape "
        f'{tuple(odd[0].shape)}); give those to another one, such as optimizer=\'muon(others="adamw", '
        f"others_lr_ratio=0.1)', or choose another"
    )


def _named(
    spec: OptimizerSpec, options: Mapping[str, Any], groups: Groups, recipe: Recipe, *, strict: bool, fuse: bool
) -> torch.optim.Optimizer:
    strange = sorted(set(options) - spec.accepted)
    if strict and strange:
        msg = f"optimizer {spec.name!r} has no option {strange[0]!r}; it has {', '.join(sorted(spec.accepted))}"
        raise RecipeError(msg)
    kept = {name: value for name, value in options.items() if name in spec.accepted}
    arguments = {**kept, **spec.options, **_of_recipe(spec, {**kept, **spec.options}, recipe)}
    if spec.matrices_only and (odd := _vectors(groups)):
        if OTHERS not in arguments:
            raise _no_matrices(spec.name, odd)
        return _shared(spec, arguments, groups, recipe, fuse=fuse)
    for name in (OTHERS, OTHERS_RATIO):
        arguments.pop(name, None)
    if spec.package is not None:
        spec.package.check(groups)
        arguments = {**spec.package.options(recipe), **arguments}
    if arguments.get("nesterov") and not arguments.get("momentum") and "momentum" in spec.accepted:
        arguments["nesterov"] = False  # without momentum it is plain descent, which torch spells that way
    if fuse and _may_fuse(spec, groups) and not {"foreach", "fused", "differentiable"} & set(arguments):
        arguments["fused"] = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints which weight decay it uses
            return spec.kind(groups, lr=recipe.lr, **arguments)
    except (ValueError, TypeError) as error:
        msg = f"optimizer {spec.name!r} refuses its options {arguments}: {error}"
        raise RecipeError(msg) from error


def _shared(
    spec: OptimizerSpec, arguments: Mapping[str, Any], groups: Groups, recipe: Recipe, *, fuse: bool
) -> torch.optim.Optimizer:
    """One optimizer for the matrices and another one, at its learning-rate ratio, for all other parameters."""
    text, ratio = arguments[OTHERS], arguments.get(OTHERS_RATIO, 1.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        msg = f"optimizer {spec.name!r}: {OTHERS_RATIO} must be a positive, finite number (got {ratio!r})"
        raise RecipeError(msg)
    if not isinstance(text, str):
        msg = f'optimizer {spec.name!r}: {OTHERS} must be the name of an optimizer, such as "adamw" (got {text!r})'
        raise RecipeError(msg)
    matrices = [{**group, "params": [p for p in group["params"] if p.ndim == MATRICES]} for group in groups]
    others = [{**group, "params": _vectors([group]), "lr": group["lr"] * ratio} for group in groups]
    first, second = ([group for group in part if group["params"]] for part in (matrices, others))
    alone = {name: value for name, value in arguments.items() if name not in {OTHERS, OTHERS_RATIO}}
    rest = _named(parsed(text), {}, second, recipe, strict=False, fuse=fuse)
    if has_averaged_weights(rest):
        msg = f"optimizer {spec.name!r}: {OTHERS}={text!r} is judged at other weights than it trains; choose another"
        raise RecipeError(msg)
    return Composed(_named(spec, alone, first, recipe, strict=False, fuse=fuse), rest) if first else rest


def _of_recipe(spec: OptimizerSpec, given: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The recipe's momentum and weight decay as options of that class."""
    asked: dict[str, Any] = {}
    if recipe.weight_decay is not None:
        if "weight_decay" not in spec.accepted and recipe.weight_decay > 0:
            _lacks(spec.name, "weight decay")
        if "weight_decay" in spec.accepted:
            asked["weight_decay"] = recipe.weight_decay
    if recipe.momentum is None:
        return asked
    if "momentum" in spec.accepted:
        return {**asked, "momentum": recipe.momentum}
    if "betas" not in spec.accepted:
        _lacks(spec.name, "momentum")
    betas = given.get("betas") or inspect.signature(spec.kind).parameters["betas"].default
    return {**asked, "betas": (recipe.momentum, *tuple(betas)[1:])}


def _lacks(name: str, what: str) -> None:
    msg = f"optimizer {name!r} has no {what}; leave it out of the recipe and of the space"
    raise RecipeError(msg)


def _override(optimizer: torch.optim.Optimizer, own: list[set[str]], recipe: Recipe) -> None:
    """Put the recipe's momentum and weight decay into an optimizer that the user made."""
    groups = optimizer.param_groups
    kept = own if len(own) == len(groups) else [set() for _ in groups]
    for group, mine in zip(groups, kept, strict=True):
        if recipe.weight_decay is not None and "weight_decay" not in mine:
            if "weight_decay" not in group:
                _lacks(type(optimizer).__name__, "weight decay")
            group["weight_decay"] = recipe.weight_decay
        if recipe.momentum is not None and not {"momentum", "betas"} & mine:
            if "momentum" in group:
                group["momentum"] = recipe.momentum
            elif "betas" in group:
                group["betas"] = (recipe.momentum, *tuple(group["betas"])[1:])
            else:
                _lacks(type(optimizer).__name__, "momentum")


def _may_fuse(spec: OptimizerSpec, groups: Groups) -> bool:
    """Whether the fused kernel can be used, which saves most of an optimizer's time on small models."""
    if "fused" not in spec.accepted:
        return False
    parameters = [parameter for group in groups for parameter in group["params"]]
    kinds = {parameter.device.type for parameter in parameters}
    small = spec.kind is torch.optim.SGD and len(parameters) <= FEW
    if kinds == {"cpu"} and (small or not FUSED_ON_CPU):
        return False
    return kinds in ({"cuda"}, {"cpu"}) and all(parameter.dtype in FUSED_SAFE for parameter in parameters)


def plain_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """The optimizer's step, without PyTorch's wrapper for its profiler and hooks where there are no hooks.

    The wrapper costs as much as the step of a small model.
    """
    step = type(optimizer).step
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    bare = getattr(step, "__wrapped__", None)
    ours = getattr(step, "hooked", False) and type(optimizer).__module__.startswith("torch.optim.")
    if bare is None or not ours or "step" in vars(optimizer) or any(getattr(optimizer, name, True) for name in hooks):
        return optimizer.step
    return partial(bare, optimizer)


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, each at its own ratio."""
    for group in optimizer.param_groups:
        rate = lr * group[RATIO]
        if isinstance(group["lr"], torch.Tensor):  # capturable optimizers read it on the device
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def layer_groups(model: nn.Module, decay: float | None) -> Groups:
    """One group for each block, the last one at ratio 1 and each before it at `decay` times the next.

    Blocks are the children with parameters in the order in which they were registered; lists and
    sequences of modules count as their items. Parameters of the model itself (class tokens, positions)
    go with the first block, shared ones with the first block that has them. With a decay of None or 1
    there is one group.

    Source: layer-wise learning-rate decay as in ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay is None or decay == 1:
        return [{"params": trained}]
    seen: set[int] = set()
    groups: Groups = []
    for block in blocks(model):
        mine = [p for p in block.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in mine)
        if mine:
            groups.append({"params": mine})
    rest = [parameter for parameter in trained if id(parameter) not in seen]
    if rest and not groups:
        groups.append({"params": []})
    if rest:
        groups[0]["params"] = [*rest, *groups[0]["params"]]
    for depth, group in enumerate(reversed(groups)):
        group[RATIO] = decay**depth
    return groups


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, first to last; a model that only wraps another one has that one's."""
    found = list(_children(model))
    if len(found) == 1 and any(True for _ in found[0].children()):
        return blocks(found[0])
    return found


def _children(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            yield from _children(child)
        elif any(True for _ in child.parameters()):
            yield child
