"""What an optimizer does with its learning rate and its state, found out on a few small tensors before it trains.

Rprop reads its learning rate at its first step only, Adafactor takes the smaller of it and 1 / sqrt(step), and some
optimizers have state that no checkpoint saves. :func:`checked` finds such behavior by a few steps on small stand-ins
for the model's parameters, and turns it into notices, scaled updates, or an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lrtune.errors import RecipeError
from lrtune.training.networks.averaged_weights import set_train_mode
from lrtune.training.networks.composed_optimizers import ScaledUpdates, plain_optimizers
from lrtune.training.networks.optimizer_state import load_optimizer, save_optimizer
from lrtune.training.networks.optimizers import RATIO, apply_lr, several_evaluations
from lrtune.training.networks.rng import RngStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.optimizers import Groups

__all__ = ["CheckedOptimizer", "OptimizerBehavior", "behavior_of", "checked"]

STEPS, PAUSE = 12, 6
SIZE, SCALE = 4, 0.01
"""Longest side of a stand-in, and the size of its numbers: small, so that small updates do not vanish in rounding."""

LOW, HIGH = 0.01, 1.0
"""Learning rates at each of which twice as much should make a difference."""

SEED = 0x0971
WARMUP = re.compile(r"^(num_)?warm_?up_(steps|iterations|iters|init)$")
NOT_OF_THE_RATE = frozenset({"AdaGC"})  # its warmup_steps are those of its clipping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerBehavior:
    """What an optimizer does; the defaults where that cannot be found out.

    Attributes
    ----------
    uses_lr
        Whether another learning rate makes a difference.
    lr_capped
        Whether learning rates of `HIGH` and above make none.
    follows_schedule
        Whether a learning rate that changes after the first steps makes a difference, to each optimizer that it is
        composed of.
    per_group_lr
        Whether each parameter group trains at a learning rate of its own.
    restorable
        Whether, saved and restored, it continues bit for bit as if it had never stopped.
    """

    uses_lr: bool = True
    lr_capped: bool = False
    follows_schedule: bool = True
    per_group_lr: bool = True
    restorable: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOptimizer:
    """An optimizer to train with, notices about it, and whether it can be saved and restored."""

    optimizer: torch.optim.Optimizer
    notices: tuple[str, ...]
    restorable: bool


_NAMED: dict[object, OptimizerBehavior] = {}
"""Of the optimizers by name, which are the same for every trainer."""


def checked(
    chosen: str | Callable[..., Any],
    make: Callable[[Groups, Recipe], torch.optim.Optimizer],
    groups: Groups,
    recipe: Recipe,
    *,
    options: Mapping[str, Any],
    behaviors: dict[object, OptimizerBehavior],
) -> CheckedOptimizer:
    """Make an optimizer, and find out what it does with its learning rate and state.

    Parameters
    ----------
    chosen, options
        Its name, or the function that makes it, and the trainer's options.
    make, groups, recipe
        `make` returns it over parameter groups, for a recipe.
    behaviors
        The cache for the user's functions, which behave alike for recipes that differ in learning rate and seed alone.

    Raises
    ------
    RecipeError
        If it needs a closure, or has a warmup or schedule of its own that would multiply with the recipe's.
    """
    cache, key = (_NAMED, chosen) if isinstance(chosen, str) else (behaviors, id(chosen))
    place = (key, repr(sorted(options.items())), _for_any_lr(recipe, named=cache is _NAMED), _signature(groups))
    if place not in cache:
        cache[place] = behavior_of(make, groups, recipe)
    behavior = cache[place]
    optimizer = make(groups, recipe)
    _refuse_second_schedule(optimizer, recipe)
    name = chosen if isinstance(chosen, str) else type(optimizer).__name__
    lr_changes = recipe.schedule != "constant" or recipe.warmup > 0
    scaled = behavior.uses_lr and not behavior.follows_schedule and lr_changes
    notices = []
    if not behavior.uses_lr:
        relative = any(group.get("relative_step") for group in optimizer.param_groups)
        advice = (
            "set relative_step=False" if relative else "let it use the lr of optimizer(params, lr), or choose another"
        )
        notices.append(
            f"optimizer {name!r} ignores the learning rate: others gave the same weights, bit for bit; {advice}"
        )
    elif behavior.lr_capped and recipe.lr > HIGH:
        notices.append(
            f"optimizer {name!r} ignores a learning rate above {HIGH:g}: greater ones gave the same weights, bit for "
            f"bit; end the range of lr at {HIGH:g}"
        )
    if scaled:
        notices.append(
            f"optimizer {name!r} reads its learning rate at its first step only: lrtune begins with the peak and "
            "scales each of its updates by the schedule"
        )
    if behavior.uses_lr and not behavior.per_group_lr and len(_ratios(optimizer)) > 1:
        notices.append(
            f"optimizer {name!r} ignores that parameter groups have learning rates of their own: others for all groups "
            "but one gave the same weights, bit for bit; give all groups the same learning rate, or choose another"
        )
    if not behavior.restorable:
        notices.append(
            f"optimizer {name!r} cannot be saved and restored bit for bit: its runs are kept in memory alone, and one "
            "whose process ends is trained again from the start"
        )
    return CheckedOptimizer(
        optimizer=ScaledUpdates(optimizer) if scaled else optimizer,
        notices=tuple(notices),
        restorable=behavior.restorable,
    )


def _ratios(optimizer: torch.optim.Optimizer) -> set[float]:
    """The ratios to the recipe's learning rate at which parameters are meant to be trained."""
    return {group[RATIO] for group in optimizer.param_groups if group["params"]}


def _for_any_lr(recipe: Recipe, *, named: bool) -> Recipe:
    """The recipe without what makes no difference to how its optimizer behaves."""
    changes: dict[str, Any] = {"schedule": "constant", "batch_size": None, "epochs": 1} if named else {}
    return dataclasses.replace(recipe, lr=HIGH, seed=0, **changes)


def _signature(groups: Groups) -> tuple[Any, ...]:
    """What identifies groups: their options, and the dimensions, types and devices of their parameters."""
    return tuple(
        (
            repr(sorted((name, value) for name, value in group.items() if name not in {"params", "lr"})),
            tuple((like.ndim, like.dtype, like.device) for like in distinct(group["params"])),
        )
        for group in groups
    )


def behavior_of(
    make: Callable[[Groups, Recipe], torch.optim.Optimizer], groups: Groups, recipe: Recipe
) -> OptimizerBehavior:
    """Find out what the optimizer that `make` returns does with stand-ins for the parameters of `groups`.

    RecipeError where it cannot take a step without evaluating the loss again.
    """
    trial = TrialSteps(make, groups, recipe)
    with quietly():
        try:
            plain = trial.trained([LOW] * STEPS)
        except RecipeError:
            raise
        except Exception as error:  # noqa: BLE001 -- any user's code may raise here; the training itself will show it
            _refuse_closure(error, trial.name)
            return OptimizerBehavior()
        if plain is None:
            return OptimizerBehavior()
        restorable = trial.same(plain, [LOW] * STEPS, pause=PAUSE)
        if trial.unchanged(plain):  # it begins with steps too small to be seen
            return OptimizerBehavior(restorable=restorable)
        changed_lr = [LOW] * PAUSE + [2 * LOW] * (STEPS - PAUSE)
        return OptimizerBehavior(
            restorable=restorable,
            per_group_lr=not any(trial.same(plain, [LOW] * STEPS, full_lr=group) for group in trial.leaders),
            uses_lr=not trial.same(plain, [2 * LOW] * STEPS),
            lr_capped=trial.same(trial.trained_or_none([HIGH] * STEPS), [2 * HIGH] * STEPS),
            follows_schedule=not trial.same_in_any_part(plain, changed_lr),
        )


def _refuse_closure(error: Exception | None, name: str) -> None:
    """Raise RecipeError where an optimizer failed for want of a closure, or of second derivatives."""
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
    """Raise RecipeError where both recipe and optimizer have a warmup or schedule: the two would multiply."""
    name = type(optimizer).__name__
    disabled = vars(optimizer).get("disable_lr_scheduler")
    if disabled is False and (recipe.warmup > 0 or recipe.schedule != "constant"):
        msg = (
            f"optimizer {name!r} warms its learning rate up and down by itself, on top of the recipe's schedule and "
            "warmup; make it with disable_lr_scheduler=True, or leave schedule and warmup out of the space"
        )
        raise RecipeError(msg)
    if recipe.warmup == 0 or disabled is not None or name in NOT_OF_THE_RATE:
        return
    for options in (vars(optimizer), *optimizer.param_groups):
        for option, value in options.items():
            if WARMUP.match(option) and isinstance(value, int | float) and value > 0:
                msg = (
                    f"optimizer {name!r} has a warmup of its own ({option}={value!r}), which would multiply with the "
                    f"recipe's warmup of {recipe.warmup:g}; set it to 0, or leave warmup out of the space"
                )
                raise RecipeError(msg)


class TrialSteps:
    """Short trainings of stand-ins for the parameters, each from the same weights, gradients and random numbers."""

    def __init__(self, make: Callable[[Groups, Recipe], torch.optim.Optimizer], groups: Groups, recipe: Recipe) -> None:
        self._make, self._recipe = make, dataclasses.replace(recipe, lr=LOW)
        self._groups = [{**group, "params": distinct(group["params"])} for group in groups]
        self._device = next((p.device for group in groups for p in group["params"]), torch.device("cpu"))
        self.name = "optimizer(params, lr)"
        self.leaders: set[int] = set()
        self._places: list[list[int]] = []  # of the weights of each optimizer that it is composed of

    def trained(
        self, rates: Sequence[float], *, pause: int | None = None, full_lr: int | None = None
    ) -> list[torch.Tensor] | None:
        """The weights after a step at each rate; None where the optimizer trains other weights than it was given.

        It is made at the first rate; at the step `pause` it is saved, made anew and restored. All groups but number
        `full_lr` train at half their rates.
        """
        stream, numbers = RngStream(SEED, self._device), torch.Generator().manual_seed(SEED)
        weights, optimizer = self._made(stream, rates[0])
        self.leaders = _leaders(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if full_lr not in {None, number}:
                group[RATIO] = group[RATIO] / 2 or 1.0
        if not {id(p) for group in optimizer.param_groups for p in group["params"]} <= {id(w) for w in weights}:
            return None
        for step, rate in enumerate(rates):
            if step == pause:
                saved, random_state = save_optimizer(optimizer), stream.state()
                weights, optimizer = self._made(stream, rates[0], weights)
                load_optimizer(optimizer, saved)
                stream.restore(random_state)
            with stream.active():
                apply_lr(optimizer, rate)
                for weight in weights:
                    weight.grad = torch.randn(weight.shape, generator=numbers).to(weight)
                optimizer.step()
        return weights

    def trained_or_none(self, rates: Sequence[float], **options: int | None) -> list[torch.Tensor] | None:
        """The same; None also where it fails."""
        with contextlib.suppress(Exception):
            return self.trained(rates, **options)
        return None

    def same(self, expected: list[torch.Tensor] | None, rates: Sequence[float], **options: int | None) -> bool:
        """Whether these rates lead to the same finite weights, bit for bit."""
        found = self.trained_or_none(rates, **options)
        return expected is not None and found is not None and _equal(found, expected)

    def same_in_any_part(self, expected: list[torch.Tensor], rates: Sequence[float]) -> bool:
        """Whether these rates lead to the same weights in any of the optimizers that it is composed of."""
        found, start = self.trained_or_none(rates), self._weights()
        if found is None:
            return False
        parts = [[(found[place], expected[place], start[place]) for place in places] for places in self._places]
        return any(
            all(torch.equal(new, old) for new, old, _ in part) and not all(torch.equal(old, at) for _, old, at in part)
            for part in parts
        )

    def unchanged(self, found: list[torch.Tensor]) -> bool:
        """Whether the weights are those before the first step."""
        return _equal(found, self._weights())

    def _weights(self) -> list[torch.Tensor]:
        numbers = torch.Generator().manual_seed(SEED + 1)
        likes = [like for group in self._groups for like in group["params"]]
        return [SCALE * torch.randn(like.shape, generator=numbers).to(like) for like in likes]

    def _made(
        self, stream: RngStream, rate: float, begun: Sequence[torch.Tensor] | None = None
    ) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
        weights: list[torch.Tensor] = [nn.Parameter(weight.detach().clone()) for weight in begun or self._weights()]
        left = iter(weights)
        groups = [{**group, "params": [next(left) for _ in group["params"]]} for group in self._groups]
        with stream.active():
            optimizer = self._make(groups, dataclasses.replace(self._recipe, lr=rate))
            self.name = type(optimizer).__name__
            set_train_mode(optimizer)
            for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):  # they are for real steps
                getattr(optimizer, hooks, {}).clear()
        parts = [{id(p) for g in one.param_groups for p in g["params"]} for one in plain_optimizers(optimizer)]
        self._places = [[place for place, weight in enumerate(weights) if id(weight) in part] for part in parts]
        return weights, optimizer


def _leaders(optimizer: torch.optim.Optimizer) -> set[int]:
    """Numbers of the groups whose learning rate an optimizer could use for all: the first, and that of the greatest.

    Empty where only one group has parameters.
    """
    ratios = {number: group[RATIO] for number, group in enumerate(optimizer.param_groups) if group["params"]}
    return {min(ratios), max(ratios, key=ratios.__getitem__)} if len(ratios) > 1 else set()


def _equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def distinct(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One small tensor for each number of dimensions and type among parameters."""
    found: dict[tuple[int, torch.dtype], torch.Tensor] = {}
    for parameter in parameters:
        sides = [min(side, SIZE) for side in parameter.shape]
        if all(sides):
            found.setdefault((parameter.ndim, parameter.dtype), torch.empty_like(parameter[...]).new_empty(sides))
    return list(found.values())


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without warnings, printing, or compiling what is used once."""
    compiler = "torch._dynamo" in sys.modules  # to load it takes seconds, and without it nothing is compiled
    stance = getattr(torch.compiler, "set_stance", None) if compiler else None
    with contextlib.ExitStack() as until_end:
        until_end.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        until_end.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if stance is not None:
            until_end.enter_context(stance("force_eager"))
        yield
