"""The trainer of PyTorch modules: checks what the user gives, starts runs, measures baselines and fingerprints."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError, RecipeError
from lrtune.training.base import Baseline
from lrtune.training.final import trained_model
from lrtune.training.member_run import JointRun, MemberRun
from lrtune.training.networks.amp import checked_precision, chosen_device
from lrtune.training.networks.build import NetworkSettings, described
from lrtune.training.networks.constant_baseline import chance_of
from lrtune.training.networks.data import DatasetSource, TensorSource
from lrtune.training.networks.data_loaders import LoaderSource
from lrtune.training.networks.loss import metrics_of, objective_of
from lrtune.training.networks.optimizers import parsed
from lrtune.training.networks.run import NetworkMember
from lrtune.training.networks.stacked_run import Stacks
from lrtune.training.networks.stacking import Stacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lrtune.training.base import Run
    from lrtune.training.networks.data_loaders import Source

__all__ = ["TorchTrainer", "source_of"]

KIND = "torch-1"
NOMINAL = Recipe(lr=1e-3)  # where any recipe will do: the held-out part, the model's shapes


class TorchTrainer:
    """Trains PyTorch modules.

    Parameters
    ----------
    model
        Makes a fresh module each time: ``model()`` or ``model(recipe)``. It may be a class. Lazy modules
        get their shapes from a small batch before they are trained.
    train_data
        Tensors or arrays ``(inputs..., target)``, a ``Dataset``, a ``DataLoader``, or a function that
        returns a ``DataLoader`` and takes any of ``recipe``, ``batch_size`` and ``generator`` by name. Each
        run has a copy of a loader's samplers, seeded each epoch from the recipe; generators that a Dataset
        has are seeded before each batch.
        Tensors, and those of a ``TensorDataset``, live on the device and are indexed there; an array of
        float64 becomes a tensor of PyTorch's default type.
    valid_data
        The held-out part, likewise; with None only the training loss is measured.
    loss
        ``"cross_entropy"``, ``"mse"``, ``"l1"``, ``"huber"``, ``"bce_with_logits"``, a loss module or
        function of PyTorch, a function ``(output, target)``, or ``(model, batch)`` for full control (its
        first argument is called ``model``). A function returns the mean over the samples of the batch, or
        ``(loss, weight)`` where it divides by something else, the weight being that number, zero where
        nothing counts; ``(model, batch)`` may also return ``(loss, outputs, targets)``, of which metrics
        are made, with or without the weight after them.
    optimizer
        The name of any of :mod:`torch.optim`, ``"prodigy"`` or ``"schedule-free-adamw"``, see
        :mod:`lrtune.training.networks.optimizers`, or a callable ``(params, lr)``. The recipe's own optimizer,
        momentum and weight decay override it. One that has ``train()`` and ``eval()`` is set to the latter
        while the held-out part is evaluated. Before anything is trained, a few steps on small tensors find out whether
        it uses its learning rate, follows a schedule, and can be saved; what it does not do is a notice.
    optimizer_options
        Options of the optimizer, by name.
    metrics
        Names out of ``"accuracy"`` and ``"error"``, see :mod:`lrtune.training.networks.accuracy`, or a mapping of
        names to functions ``(outputs, targets)`` of all held-out samples, tensors on the host, that return
        a number.
    device
        ``"auto"`` (the CUDA device if there is one), or a device's name.
    precision
        ``"float32"``, ``"bf16"`` or, on a GPU, ``"fp16"``: automatic mixed precision.
    batch_size
        Samples of an optimizer step where the recipe does not say.
    eval_batch_size
        Samples evaluated at once; halved when memory runs out. ``valid_loss`` does not depend on it, except
        for a function that returns its loss alone and takes no mean over samples, of which a notice tells.
    layer_decay
        Each block's learning rate over that of the next one, e.g. 0.8; the last block has the recipe's.
    param_groups
        ``(model)`` or ``(model, recipe)``: parameter groups of your own, with ``lr_ratio`` or ``lr``, whose
        ratios to the recipe's learning rate stay fixed.
    clip_norm
        Largest norm of the gradient; a greater one is scaled down to it.
    accumulate
        Micro-batches that each batch is split into, or fewer of at least two samples under BatchNorm; more where
        memory runs out. Gradients are those of the whole batch (BatchNorm's statistics are not). Under a loss of
        which it is not known what it divides by, batches are not split, and a notice says so
        (see :mod:`lrtune.training.networks.step`).
    stack
        Whether runs that are advanced together (:meth:`start` with several recipes, :meth:`together`) are trained as
        one model with a leading dimension: one forward and backward pass and one optimizer step for all, the same as
        alone within rounding. ``"auto"``: where a few steps show that it is faster; True: wherever it is possible;
        False: never, and each run is then the same bit for bit however many there are. Runs may differ in learning
        rate, schedule, warmup, momentum, weight decay, seed and length. It needs tensors in memory as `train_data`,
        SGD, Adam or AdamW, and a model that :func:`torch.func.vmap` takes; dropout only of ``nn.Dropout`` on the CPU.
        Whatever is not possible goes one by one, and a notice says why. What is stacked is recorded as tensor
        operations and not called again, so a model must do nothing else; a loss function of your own needs True.
    compile
        Whether to compile the model with ``torch.compile``, or its options, such as ``{"mode": ...}``.

    Raises
    ------
    InputError
        If something cannot be used: an unknown name, no such device, data that does not fit together.

    Notes
    -----
    The same recipe and seed give the same curve on the CPU, bit for bit, for a fixed number of threads; stacked with
    others, within rounding.
    Neither the process's random generators nor its settings are changed. A metric-driven schedule (``plateau``) is
    updated with the held-out loss at the end of each epoch, or with the first metric for ``mode=max``.
    """

    saves = True
    names_optimizers = True
    """Whether a recipe may name any optimizer of :mod:`lrtune.training.networks.optimizers`."""

    def __init__(
        self,
        *,
        model: Callable[..., nn.Module],
        train_data: Any,
        valid_data: Any = None,
        loss: str | Callable[..., Any] = "cross_entropy",
        optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
        optimizer_options: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | Iterable[str] | None = None,
        device: str | torch.device = "auto",
        precision: str = "float32",
        batch_size: int = 32,
        eval_batch_size: int = 512,
        layer_decay: float | None = None,
        param_groups: Callable[..., Any] | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        stack: bool | str = "auto",
        compile: bool | Mapping[str, Any] = False,  # noqa: A002 -- PyTorch's word
    ) -> None:
        if isinstance(model, nn.Module) or not callable(model):
            got = type(model).__name__
            msg = f"model must be a function that makes a fresh module, such as lambda: Net() (got {got})"
            raise InputError(msg)
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("accumulate", accumulate),
        ):
            _positive(name, value, integer=True)
        for name, number in (("layer_decay", layer_decay), ("clip_norm", clip_norm)):
            if number is not None:
                _positive(name, number)
        if isinstance(optimizer, str):
            parsed(optimizer)
        if not isinstance(stack, bool) and stack != "auto":
            msg = f'stack must be "auto", True or False (got {stack!r})'
            raise InputError(msg)
        where = chosen_device(device)
        objective = objective_of(loss, where)
        self._notices: dict[str, None] = {}
        self._settings = NetworkSettings(
            model=model,
            train=source_of(train_data, "train_data"),
            valid=None if valid_data is None else source_of(valid_data, "valid_data"),
            objective=objective,
            metrics=metrics_of(metrics, objective),
            optimizer=optimizer,
            options=dict(optimizer_options or {}),
            groups=param_groups,
            device=where,
            precision=checked_precision(precision, where),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            layer_decay=layer_decay,
            clip_norm=clip_norm,
            accumulate=accumulate,
            compiled=(dict(compile) if isinstance(compile, Mapping) else {} if compile else None),
            made=WeakSet(),
            notices=self._notices,
            behaviors={},
        )
        self._stacking = Stacking(self._settings, stack)
        self._fingerprint: dict[str, str] | None = None

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, one sentence each."""
        return tuple(self._notices)

    @property
    def optimizer(self) -> str | None:
        """The optimizer where a recipe names none; None where it is the user's own function."""
        return self._settings.optimizer if isinstance(self._settings.optimizer, str) else None

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[NetworkMember]:
        """Start a run: one model for each recipe.

        Raises
        ------
        RecipeError
            If a recipe asks for something that this trainer cannot do.
        """
        for recipe in recipes:
            self._check(recipe)
        members = [NetworkMember(number, recipe, self._settings) for number, recipe in enumerate(recipes)]
        for member in members:
            self._notices.update(dict.fromkeys(member.live.notices if member.live is not None else ()))
        return MemberRun(members, {"kind": KIND}, Stacks(self._stacking))

    def together(self, runs: Sequence[Run], /) -> JointRun[NetworkMember] | None:
        """A run whose members are those of runs of this trainer; None where it is not faster than one by one.

        See :class:`lrtune.training.base.Trainer` for what holds of it.
        """
        if not all(isinstance(run, MemberRun) and self._stacking.owns(run.members) for run in runs):
            return None
        members = [member for run in runs if isinstance(run, MemberRun) for member in run.members]
        able = self._stacking.groups([member for member in members if not member.done])
        return JointRun(members, Stacks(self._stacking)) if able else None

    def stack_speedup(self, recipe: Recipe, members: int, /) -> float:
        """Member-steps a second of so many runs like this one side by side, over one by one; 1 where not stacked.

        Measured once for each shape and power of two (the largest up to `members`), on a few steps of models that
        are thrown away.
        """
        return self._stacking.speedup(recipe, members)

    def _check(self, recipe: Recipe) -> None:
        if recipe.optimizer is not None:
            parsed(recipe.optimizer)
        if recipe.layer_decay == 0:
            msg = "recipe: layer_decay must be above zero (got 0); leave it out, or give 1 for equal learning rates"
            raise RecipeError(msg)
        asked = recipe.batch_size or self._settings.batch_size
        used = self._settings.train.batch_size(recipe, self._settings.batch_size)
        if used < asked:
            self._notices[f"a batch size of {asked} is more than the data has: {used} is used"] = None

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe."""
        return self._settings.train.steps(recipe, self._settings.batch_size)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The untrained model's, and the best constant prediction's where it can be computed."""
        if self._settings.valid is None:
            return Baseline()
        member = NetworkMember(0, recipe, self._settings)
        try:
            untrained = member.evaluate().get(metric) if member.live is not None else None
        finally:
            member.end()
        undefined = untrained is not None and not math.isfinite(untrained)
        chance = None if self._settings.objective.custom_forward else chance_of(self._settings, metric)
        return Baseline(untrained=None if undefined else untrained, chance=chance, undefined=undefined)

    def refit(self, recipe: Recipe, train_data: Any = None) -> nn.Module:
        """A module trained anew under a recipe, on other training data where they are given; on the CPU in eval mode.

        Nothing is held out, so a metric-driven schedule is updated with the training loss.

        Raises
        ------
        DataError
            If there is no training on these data.
        SearchError
            If training diverges.
        """
        anew = copy.copy(self)
        source = self._settings.train if train_data is None else source_of(train_data, "train_data")
        anew._settings = dataclasses.replace(self._settings, train=source, valid=None)  # noqa: SLF001 -- a copy of self
        module: nn.Module = trained_model(anew, recipe)
        return module

    def fingerprint(self) -> Mapping[str, str]:
        """Data (hashed where it is tensors), model (class and shapes) and loss."""
        if self._fingerprint is None:
            settings = self._settings
            member = NetworkMember(0, NOMINAL, settings)
            self._fingerprint = {
                "data": settings.train.describe(),
                "model": "too large for the device" if member.live is None else described(member.live.model),
                "loss": settings.objective.name,
            }
            member.end()
            if settings.valid is not None:
                self._fingerprint["held-out"] = settings.valid.describe()
        return dict(self._fingerprint)


def _positive(name: str, value: object, *, integer: bool = False) -> None:
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        msg = (
            f"{name} must be a {'whole number of at least 1' if integer else 'positive, finite number'} (got {value!r})"
        )
        raise InputError(msg)


def source_of(data: Any, name: str) -> Source:
    """The source of batches from what the user gave; DataError if it is none of those."""
    if isinstance(data, TensorDataset):
        return TensorSource(data.tensors, name)
    if isinstance(data, list | tuple):
        return TensorSource([_tensor(item, name) for item in data], name)
    if isinstance(data, IterableDataset):
        msg = f"{name}: an IterableDataset has no samples to shuffle; give a DataLoader over it that has a length"
        raise DataError(msg)
    if isinstance(data, DataLoader):
        return LoaderSource(data, name, NOMINAL)
    if isinstance(data, Mapping):
        msg = (
            f"{name} must be no dict of columns (got {', '.join(map(repr, list(data)[:5]))}); give a Dataset over them"
        )
        raise DataError(msg)
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, type)
    if isinstance(data, Dataset) or indexed:
        return DatasetSource(data, name)
    if callable(data):
        return LoaderSource(data, name, NOMINAL)
    allowed = "tensors (inputs, target), a Dataset, a DataLoader or a function that returns one"
    msg = f"{name} must be {allowed} (got {type(data).__name__})"
    raise DataError(msg)


def _tensor(item: Any, name: str) -> torch.Tensor:
    if isinstance(item, torch.Tensor):
        return item
    try:
        tensor = torch.as_tensor(np.asarray(item))
    except (TypeError, ValueError) as error:
        msg = f"{name} must hold tensors or arrays of numbers (got {type(item).__name__})"
        raise DataError(msg) from error
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
