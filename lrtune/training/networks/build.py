"""From a recipe to all that trains it: the module, its groups and optimizer, the way through the data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lrtune.errors import InputError, RecipeError
from lrtune.schedules import for_recipe
from lrtune.training.callables import call_with
from lrtune.training.networks.averaged_weights import begin
from lrtune.training.networks.composed_optimizers import plain_optimizers
from lrtune.training.networks.data import TensorSource
from lrtune.training.networks.lazy_modules import materialized
from lrtune.training.networks.optimizer_check import checked
from lrtune.training.networks.optimizer_setup import optimizer_setup
from lrtune.training.networks.optimizers import build, layer_groups
from lrtune.training.networks.rng import Stream, derived
from lrtune.training.networks.step import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from weakref import WeakSet

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule
    from lrtune.training.base import Setup
    from lrtune.training.networks.data import Feed, Source
    from lrtune.training.networks.loss import Metric, Objective
    from lrtune.training.networks.optimizer_check import Conduct
    from lrtune.training.networks.optimizers import Groups

__all__ = ["Live", "NetworkSettings", "built", "described", "setup_of_live"]

EVALUATION = 0xE7A1  # tells the stream of evaluations from the others of a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How to train: what the trainer was given, checked, the same for all its runs."""

    model: Callable[..., Any]
    train: Source
    valid: Source | None
    objective: Objective
    metrics: Mapping[str, Metric]
    optimizer: str | Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any]
    groups: Callable[..., Any] | None
    device: torch.device
    precision: str
    batch_size: int
    eval_batch_size: int
    layer_decay: float | None
    clip_norm: float | None
    accumulate: int
    compiled: Mapping[str, Any] | None
    made: WeakSet[nn.Module]
    notices: dict[str, None]

    def tell(self, notice: str) -> None:
        """Tell the user something, once."""
        self.notices[notice] = None

    def heard_by(self, schedule: Schedule) -> str:
        """What a metric-driven schedule hears: the held-out loss, or for `mode=max` the first metric."""
        loss = "train_loss" if self.valid is None else "valid_loss"
        return loss if schedule.hears_losses else next(iter(self.metrics), loss)

    seen: dict[object, Conduct]


@dataclass(slots=True)
class Live:
    """What takes memory: gone as soon as its member has ended.

    Attributes
    ----------
    model, forward
        The module, and what is called: the same, or its compiled form.
    stepper, feed, schedule
        What takes the steps, where their batches come from, and the multiplier of the learning rate.
    wide
        Whether training runs code that is not PyTorch's, and so may draw from any random generator.
    evaluation
        The stream that evaluations draw from, each from its beginning.
    notices, restores
        What the user should be told of the optimizer, and whether it can be saved.
    """

    model: nn.Module
    forward: nn.Module
    stepper: Stepper
    feed: Feed
    schedule: Any
    wide: bool
    evaluation: Stream
    notices: tuple[str, ...]
    restores: bool


def built(settings: NetworkSettings, recipe: Recipe, total_steps: int) -> Live:
    """Everything that trains a recipe, its weights drawn from the generators as they are now.

    Raises
    ------
    RecipeError
        If the recipe asks for something that cannot be had.
    """
    schedule = for_recipe(recipe, total_steps)
    model = materialized(_fresh(settings, recipe), settings.train, settings.objective, settings.device)
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    groups = _groups(settings, recipe, model)
    make = partial(build, settings.optimizer, settings.options, fuse=not sparse)
    chosen = recipe.optimizer or settings.optimizer
    found = checked(chosen, make, groups, recipe, options=settings.options, seen=settings.seen)
    optimizer = found.optimizer
    begin(optimizer)
    compiled = settings.compiled
    forward = model if compiled is None else cast("nn.Module", torch.compile(model, **compiled))
    return Live(
        model=model,
        forward=forward,
        stepper=Stepper(
            forward,
            optimizer,
            settings.objective,
            device=settings.device,
            precision=settings.precision,
            clip_norm=settings.clip_norm,
            accumulate=settings.accumulate,
            tell=settings.tell,
        ),
        feed=settings.train.feed(recipe, settings.batch_size, settings.device),
        schedule=schedule,
        wide=_runs_code(settings, model, optimizer),
        evaluation=Stream(derived(recipe.seed, EVALUATION), settings.device),
        notices=found.notices,
        restores=found.restores,
    )


def _fresh(settings: NetworkSettings, recipe: Recipe) -> nn.Module:
    """A model that nobody has trained yet, on the device."""
    model = call_with(settings.model, recipe=recipe)
    if not isinstance(model, nn.Module):
        msg = f"model must return a torch.nn.Module (got {type(model).__name__})"
        raise InputError(msg)
    if model in settings.made:
        msg = "model must make a fresh module each time it is called (it returned the same one again)"
        raise InputError(msg)
    settings.made.add(model)
    return model.to(settings.device)


def _groups(settings: NetworkSettings, recipe: Recipe, model: nn.Module) -> Groups:
    if settings.groups is None:
        groups = layer_groups(model, settings.layer_decay if recipe.layer_decay is None else recipe.layer_decay)
    else:
        made = call_with(settings.groups, model=model, recipe=recipe)
        groups = [{**group, "params": list(group["params"])} for group in made]
    if not any(group["params"] for group in groups):
        msg = "the model has no parameters to train; check requires_grad and param_groups"
        raise RecipeError(msg)
    return groups


def _runs_code(settings: NetworkSettings, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether training runs code that is not PyTorch's, and so may draw from other generators than its own."""
    sources = [source for source in (settings.train, settings.valid) if source is not None]
    functions = [settings.objective.function, *settings.metrics.values()]
    parts = [*model.modules(), *plain_optimizers(optimizer)]
    homes = [str(getattr(function, "__module__", "")) for function in functions]
    homes += [type(part).__module__ for part in parts]
    known = all(isinstance(source, TensorSource) for source in sources)
    return not known or not all(home.startswith(("torch.", "lrtune.")) for home in homes)


def described(model: nn.Module) -> str:
    """The model's class and a hash of the names and shapes of its parameters."""
    shapes = [f"{name} {tuple(parameter.shape)} {parameter.dtype}" for name, parameter in model.named_parameters()]
    count = sum(parameter.numel() for parameter in model.parameters())
    digest = hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16]
    return f"{type(model).__name__}, {count} parameters in {len(shapes)} tensors, sha256 of shapes {digest}"


def setup_of_live(settings: NetworkSettings, live: Live, recipe: Recipe, total_steps: int) -> Setup:
    """How a training was set up beyond its recipe, see :meth:`lrtune.training.base.Run.setup`."""
    return {
        "library": "torch",
        "optimizers": optimizer_setup(live.model, live.stepper.optimizer),
        "steps": total_steps,
        "batch_size": settings.train.batch_size(recipe, settings.batch_size),
        "clip_norm": settings.clip_norm,
        "accumulate": settings.accumulate,
        "precision": settings.precision,
        "device": settings.device.type,
        "hears": settings.heard_by(live.schedule),
    }
