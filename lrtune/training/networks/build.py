"""Builds a fresh model, its optimizer with parameter groups, and its batches for one run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lrtune.errors import InputError, RecipeError
from lrtune.training.callables import call_with
from lrtune.training.networks.averaged_weights import batchnorm_of_other_weights, set_train_mode
from lrtune.training.networks.composed_optimizers import plain_optimizers
from lrtune.training.networks.data import TensorSource
from lrtune.training.networks.loss import inputs_and_target
from lrtune.training.networks.optimizer_check import checked
from lrtune.training.networks.optimizer_setup import optimizer_setup
from lrtune.training.networks.optimizers import build, layer_groups
from lrtune.training.networks.rng import RngStream, derived_seed
from lrtune.training.networks.step import Stepper
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from weakref import WeakSet

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule
    from lrtune.training.base import Setup
    from lrtune.training.networks.data_loaders import Feed, Source
    from lrtune.training.networks.loss import Metric, Objective
    from lrtune.training.networks.optimizer_check import OptimizerBehavior
    from lrtune.training.networks.optimizers import Groups

__all__ = ["LiveModel", "NetworkSettings", "build_live", "described", "setup_of_live"]

EVALUATION = 0xE7A1  # separates the random stream of evaluations from the others of a seed
SHAPE_SAMPLES = 2  # enough to initialize lazy parameters; BatchNorm takes no single sample
BATCHNORM = (
    "BatchNorm under a schedule-free optimizer: its running averages belong to the weights that are trained, not to "
    "the averaged ones that are judged, so the held-out loss may look worse than it is; GroupNorm has no such averages"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How to train: what the trainer was given, checked, the same for all its runs.

    Attributes
    ----------
    compiled
        Options of ``torch.compile``; None where the model is not compiled.
    made
        The models that the user's function has returned, each of which must be a new one.
    notices
        Notices for the user, in order.
    behaviors
        Behavior of the optimizers that the user's functions make.
    """

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
    behaviors: dict[object, OptimizerBehavior]

    def notify(self, notice: str) -> None:
        """Tell the user something, once."""
        self.notices[notice] = None

    def watched(self, schedule: Schedule) -> str:
        """What a metric-driven schedule is updated with: the held-out loss, or for `mode=max` the first metric."""
        loss = "train_loss" if self.valid is None else "valid_loss"
        return loss if schedule.minimizes else next(iter(self.metrics), loss)


@dataclass(slots=True)
class LiveModel:
    """A model in memory and all that trains it.

    Attributes
    ----------
    model, forward
        The module, and what is called: the same, or its compiled form.
    stepper, feed
        What takes optimizer steps, and where their batches come from.
    user_code
        Whether training runs code that is not PyTorch's, and so may draw from NumPy's and Python's generators.
    eval_stream
        The random numbers of an evaluation; each begins from the same ones.
    notices
        Notices about the optimizer and BatchNorm.
    restorable
        Whether the optimizer can be saved and restored bit for bit.
    """

    model: nn.Module
    forward: nn.Module
    stepper: Stepper
    feed: Feed
    user_code: bool
    eval_stream: RngStream
    notices: tuple[str, ...]
    restorable: bool


def build_live(settings: NetworkSettings, recipe: Recipe) -> LiveModel:
    """Everything that trains a recipe, its weights drawn from the global generators as they are now.

    RecipeError if the recipe asks for something that cannot be had.
    """
    model = _fresh(settings, recipe)
    _initialize_lazy(model, settings)
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    groups = _groups(settings, recipe, model)
    make = partial(build, settings.optimizer, settings.options, fuse=not sparse)
    chosen = recipe.optimizer or settings.optimizer
    found = checked(chosen, make, groups, recipe, options=settings.options, behaviors=settings.behaviors)
    optimizer = found.optimizer
    set_train_mode(optimizer)
    compiled = settings.compiled
    forward = model if compiled is None else cast("nn.Module", torch.compile(model, **compiled))
    return LiveModel(
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
            notify=settings.notify,
        ),
        feed=settings.train.feed(recipe, settings.batch_size, settings.device),
        user_code=_runs_user_code(settings, model, optimizer),
        eval_stream=RngStream(derived_seed(recipe.seed, EVALUATION), settings.device),
        notices=(*([BATCHNORM] if batchnorm_of_other_weights(model, optimizer) else []), *found.notices),
        restorable=found.restorable,
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


def _initialize_lazy(model: nn.Module, settings: NetworkSettings) -> None:
    """Initialize lazy parameters by a small batch, before an optimizer is made: it would train none that come later."""
    if not _uninitialized(model):
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    why = "that batch does not use them"
    try:
        with torch.no_grad():
            batch = next(iter(settings.train.ordered(SHAPE_SAMPLES, settings.device)))
            if settings.objective.custom_forward:
                settings.objective.outputs(model, batch)
            else:
                model(*inputs_and_target(batch)[0])
    except Exception as error:  # anything else wrong with the batch is raised again at the first step
        if is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
    finally:
        for module, mode in modes:
            module.training = mode
    lazy = _uninitialized(model)
    if lazy:
        msg = (
            f"the model has parameters that are not initialized, such as {lazy[0]}, and a batch of train_data does not "
            f"initialize them ({why}); run a batch through the model in the function that makes it"
        )
        raise InputError(msg)


def _uninitialized(model: nn.Module) -> list[str]:
    return [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]


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


def _runs_user_code(settings: NetworkSettings, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
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


def setup_of_live(settings: NetworkSettings, live: LiveModel, recipe: Recipe, total_steps: int, watched: str) -> Setup:
    """How a model was set up beyond its recipe; `watched` is what a metric-driven schedule is updated with."""
    return {
        "library": "torch",
        "optimizers": optimizer_setup(live.model, live.stepper.optimizer),
        "steps": total_steps,
        "batch_size": settings.train.batch_size(recipe, settings.batch_size),
        "clip_norm": settings.clip_norm,
        "accumulate": settings.accumulate,
        "precision": settings.precision,
        "device": settings.device.type,
        "hears": watched,
    }
