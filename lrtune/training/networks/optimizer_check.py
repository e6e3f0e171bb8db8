"""What an optimizer does with its learning rate and its state, measured on a few small tensors before it trains.

Whoever gives an optimizer, by name or as a function, need not know that Rprop reads its learning rate at its
first step only, that Adafactor takes the smaller of it and 1 / sqrt(step), or that some package keeps state where
no checkpoint looks. A handful of steps on stand-ins for the model's parameters tells, and no training is wasted.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from lrtune.errors import RecipeError
from lrtune.training.networks.composed_optimizers import ScaledUpdates
from lrtune.training.networks.optimizers import RATIO, several_evaluations
from lrtune.training.networks.trial_steps import HIGH, LOW, TrialSteps, distinct, quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.optimizers import Groups

__all__ = ["CheckedOptimizer", "Conduct", "checked", "conduct_of"]

STEPS, PAUSE = 12, 6

WARMUP = re.compile(r"^(num_)?warm_?up_(steps|iterations|iters|init)$")
NOT_OF_THE_RATE = frozenset({"AdaGC"})  # its warmup_steps are those of its clipping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """What an optimizer has been seen to do; where nothing could be seen, what most do.

    Attributes
    ----------
    reads
        Whether another learning rate makes a difference.
    limited
        Whether learning rates of `HIGH` and above are all the same to it.
    follows
        Whether a learning rate that is changed after the first steps makes a difference, to each optimizer that it is
        composed of.
    apart
        Whether each parameter group trains at a learning rate of its own.
    restores
        Whether, saved and restored, it goes on bit for bit as if it had never stopped.
    """

    reads: bool = True
    limited: bool = False
    follows: bool = True
    apart: bool = True
    restores: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOptimizer:
    """An optimizer that can be trained with.

    Attributes
    ----------
    optimizer
        The one that was made, or one that lets its updates follow the schedule.
    notices
        What the user should be told of it, one sentence each.
    restores
        Whether it can be saved and restored.
    """

    optimizer: torch.optim.Optimizer
    notices: tuple[str, ...]
    restores: bool


_NAMED: dict[object, Conduct] = {}
"""Of the optimizers by name, which are the same for every trainer."""


def checked(
    chosen: str | Callable[..., Any],
    make: Callable[[Groups, Recipe], torch.optim.Optimizer],
    groups: Groups,
    recipe: Recipe,
    *,
    options: Mapping[str, Any],
    seen: dict[object, Conduct],
) -> CheckedOptimizer:
    """Make an optimizer, and look at what it does with its learning rate and state.

    Parameters
    ----------
    chosen
        Its name, or the function that makes it.
    make, groups, recipe
        As for :func:`conduct_of`.
    options
        Those that the trainer gives it.
    seen
        What has been seen of functions; those that get the same recipe but for the learning rate and seed behave alike.

    Raises
    ------
    RecipeError
        If it needs a closure, or has a warmup or schedule of its own that would multiply with the recipe's.
    """
    known, key = (_NAMED, chosen) if isinstance(chosen, str) else (seen, id(chosen))
    place = (key, repr(sorted(options.items())), _told(recipe, named=known is _NAMED), _signature(groups))
    if place not in known:
        known[place] = conduct_of(make, groups, recipe)
    conduct = known[place]
    optimizer = make(groups, recipe)
    _refuse_second_schedule(optimizer, recipe)
    name = chosen if isinstance(chosen, str) else type(optimizer).__name__
    moves = recipe.schedule != "constant" or recipe.warmup > 0
    scaled = conduct.reads and not conduct.follows and moves
    notices = []
    if not conduct.reads:
        relative = any(group.get("relative_step") for group in optimizer.param_groups)
        advice = (
            "set relative_step=False" if relative else "let it use the lr of optimizer(params, lr), or choose another"
        )
        notices.append(
            f"optimizer {name!r} ignores the learning rate: others gave the same weights, bit for bit; {advice}"
        )
    elif conduct.limited and recipe.lr > HIGH:
        notices.append(
            f"optimizer {name!r} ignores a learning rate above {HIGH:g}: greater ones gave the same weights, bit for "
            f"bit; end the range of lr at {HIGH:g}"
        )
    if scaled:
        notices.append(
            f"optimizer {name!r} reads its learning rate at its first step only: lrtune begins with the peak and "
            "scales each of its updates by the schedule"
        )
    if conduct.reads and not conduct.apart and len(_ratios(optimizer)) > 1:
        notices.append(
            f"optimizer {name!r} ignores that parameter groups have learning rates of their own: others for all groups "
            "but one gave the same weights, bit for bit; give all groups the same learning rate, or choose another"
        )
    if not conduct.restores:
        notices.append(
            f"optimizer {name!r} cannot be saved and restored bit for bit: its runs are kept in memory alone, and one "
            "whose process ends is trained again from the start"
        )
    return CheckedOptimizer(
        optimizer=ScaledUpdates(optimizer) if scaled else optimizer, notices=tuple(notices), restores=conduct.restores
    )


def _ratios(optimizer: torch.optim.Optimizer) -> set[float]:
    """The ratios to the recipe's learning rate at which parameters are meant to be trained."""
    return {group[RATIO] for group in optimizer.param_groups if group["params"]}


def _told(recipe: Recipe, *, named: bool) -> Recipe:
    """The recipe without what makes no difference to how its optimizer behaves."""
    changes: dict[str, Any] = {"schedule": "constant", "batch_size": None, "epochs": 1} if named else {}
    return dataclasses.replace(recipe, lr=HIGH, seed=0, **changes)


def _signature(groups: Groups) -> tuple[Any, ...]:
    """What tells groups apart: their options, and the kinds of their parameters."""
    return tuple(
        (
            repr(sorted((name, value) for name, value in group.items() if name not in {"params", "lr"})),
            tuple((like.ndim, like.dtype, like.device) for like in distinct(group["params"])),
        )
        for group in groups
    )


def conduct_of(make: Callable[[Groups, Recipe], torch.optim.Optimizer], groups: Groups, recipe: Recipe) -> Conduct:
    """Look at an optimizer.

    Parameters
    ----------
    make
        Makes it over parameter groups.
    groups
        Those that it is to train; stand-ins of as many dimensions take their place.
    recipe
        Its learning rate is replaced.

    Raises
    ------
    RecipeError
        If it cannot take a step without evaluating the loss again.
    """
    look = TrialSteps(make, groups, recipe)
    with quietly():
        try:
            plain = look.trained([LOW] * STEPS)
        except RecipeError:
            raise
        except Exception as error:  # noqa: BLE001 -- any code may be behind it; the training itself will tell
            _refuse_closure(error, look.name)
            return Conduct()
        if plain is None:
            return Conduct()
        restores = look.same(plain, [LOW] * STEPS, pause=PAUSE)
        if look.stands(plain):  # it begins with steps too small to be seen
            return Conduct(restores=restores)
        return Conduct(
            restores=restores,
            apart=not any(look.same(plain, [LOW] * STEPS, kept=kept) for kept in look.leaders),
            reads=not look.same(plain, [2 * LOW] * STEPS),
            limited=look.same(look.trained_or_not([HIGH] * STEPS), [2 * HIGH] * STEPS),
            follows=not look.same_of_any(plain, [LOW] * PAUSE + [2 * LOW] * (STEPS - PAUSE)),
        )


def _refuse_closure(error: Exception | None, name: str) -> None:
    """Refuse an optimizer that failed for want of a closure, or of second derivatives.

    Raises
    ------
    RecipeError
        If that is what the error says.
    """
    text = f"{type(error).__name__}: {error}".lower()
    if "closure" in text:
        raise several_evaluations(name)
    if any(word in text for word in ("create_graph", "hessian", "does not require grad")):
        msg = (
            f"optimizer {name!r} needs second derivatives (backward(create_graph=True)), which lrtune does not "
            "compute; choose another"
        )
        raise RecipeError(msg)


def _refuse_second_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    """Refuse a warmup or schedule of the recipe's on top of the optimizer's own: the two would multiply.

    Raises
    ------
    RecipeError
        If both are asked for.
    """
    name = type(optimizer).__name__
    moves = vars(optimizer).get("disable_lr_scheduler")
    if moves is False and (recipe.warmup > 0 or recipe.schedule != "constant"):
        msg = (
            f"optimizer {name!r} warms its learning rate up and down by itself, on top of the recipe's schedule and "
            "warmup; make it with disable_lr_scheduler=True, or leave schedule and warmup out of the space"
        )
        raise RecipeError(msg)
    if recipe.warmup == 0 or moves is not None or name in NOT_OF_THE_RATE:
        return
    for options in (vars(optimizer), *optimizer.param_groups):
        for option, value in options.items():
            if WARMUP.match(option) and isinstance(value, int | float) and value > 0:
                msg = (
                    f"optimizer {name!r} has a warmup of its own ({option}={value!r}), which would multiply with the "
                    f"recipe's warmup of {recipe.warmup:g}; set it to 0, or leave warmup out of the space"
                )
                raise RecipeError(msg)
