"""The loss, the gradients and the evaluation of several models at once, as recorded programs.

Made by :mod:`torch.func`: a call of the model with given weights, its gradient, and ``vmap`` over the models. Dropout
is taken out of the model, and its masks are drawn from each model's own generator, as it would draw them alone; that
holds on the CPU. UnstackableError where any of it is not possible.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from lrtune.training.networks.program import recorded
from lrtune.training.networks.stackable import UnstackableError, attributes, difference
from lrtune.training.networks.stacked_attention import StackedAttention
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.training.networks.accuracy import Accuracy
    from lrtune.training.networks.loss import Objective
    from lrtune.training.networks.program import Program

__all__ = ["StackedFunctions", "TrainingProgram", "refusal"]

RANDOM = "called random operation while in randomness error mode"


class TrainingProgram(NamedTuple):
    """Losses of shape (members,) and gradients, from weights, held tensors, a batch and dropout masks.

    `dropped` has the probability of each mask, and a tensor of its shape, (members, ...).
    """

    program: Program
    dropped: Sequence[tuple[float, torch.Tensor]]

    def masks(self, generators: Sequence[torch.Generator]) -> list[torch.Tensor]:
        """What dropout multiplies by, drawn as :func:`torch.nn.functional.dropout` does, each row by its generator."""
        found = []
        for chance, like in self.dropped:
            mask = torch.empty_like(like)
            for row, generator in zip(mask, generators, strict=True):
                row.bernoulli_(1 - chance, generator=generator)
            found.append(mask.div_(1 - chance))
        return found


class _Loss(nn.Module):
    """Model and loss as one module of a batch, whatever the loss, one with a forward pass of its own included."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, *batch: torch.Tensor) -> Any:
        """The result of a batch."""
        return self._objective.outputs(self.model, batch)


class StackedFunctions:
    """Of models that do the same as `model` with tensors of their own.

    Parameters
    ----------
    model, objective
        What is called; its own tensors are not used.
    trained, held
        The tensors of all models by name, each of shape (members, ...); no program keeps them.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, trained: dict[str, torch.Tensor], held: dict[str, torch.Tensor]
    ) -> None:
        self._model = model
        self._loss = _Loss(model, objective)
        self._trained, self._held = trained, held

    def training(self, batch: Sequence[torch.Tensor], *, shared: bool) -> TrainingProgram:
        """For batches of these shapes; where they are not shared each tensor is of shape (members, samples, ...)."""
        before, outside = attributes(self._model), _outside()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*performance drop.*")  # vmap then loops over the models
                found = self._training(batch, shared=shared)
        except Exception as error:
            raise refusal(error) from error
        odd = difference(before, attributes(self._model))
        if odd:
            msg = f"the model changes {odd} as it is called"
            raise UnstackableError(msg)
        if outside != _outside():
            msg = "the model draws random numbers of NumPy's or Python's"
            raise UnstackableError(msg)
        return found

    def _training(self, batch: Sequence[torch.Tensor], *, shared: bool) -> TrainingProgram:
        count = len(self._trained), len(self._held), len(batch)
        members = len(next(iter(self._trained.values())))
        drops = _Dropouts(self._model, members)

        def of_one(*parts: Sequence[torch.Tensor]) -> torch.Tensor:
            weights, held, inputs, masks = parts
            with drops.replaced(masks):
                loss: torch.Tensor = self._called([*weights, *held], inputs).loss
            return loss

        each = vmap(grad_and_value(of_one), in_dims=(0, 0, None if shared else 0, 0), randomness="error")

        def of_all(*tensors: torch.Tensor) -> list[torch.Tensor]:
            gradients, losses = each(*_split(tensors, count))
            return [losses, *gradients]

        inputs = [*self._trained.values(), *(tensor.clone() for tensor in self._held.values()), *batch]
        if drops.any:
            with torch.no_grad():
                of_all(*inputs[: count[0]], *(tensor.clone() for tensor in inputs[count[0] :]))
            drops.known = True
        dropped = drops.found()  # made here: within a transform it would be a tensor of that transform
        return TrainingProgram(recorded(of_all, [*inputs, *(like for _, like in dropped)]), dropped)

    def evaluation(self, batch: Sequence[torch.Tensor], metrics: Sequence[Accuracy]) -> Program:
        """Losses of shape (members,) and the counts of each metric, from weights, held tensors and one batch for all.

        The model is in evaluation mode.
        """
        count = len(self._trained) + len(self._held)

        def of_one(tensors: Sequence[torch.Tensor], batch: Sequence[torch.Tensor]) -> Any:
            found = self._called(tensors, batch)
            return found.loss, [metric.count(found.output, found.target) for metric in metrics]

        each = vmap(of_one, in_dims=(0, None), randomness="error")

        def of_all(*tensors: torch.Tensor) -> list[torch.Tensor]:
            losses, counts = each(list(tensors[:count]), list(tensors[count:]))
            return [losses, *counts]

        try:
            return recorded(of_all, [*self._trained.values(), *self._held.values(), *batch])
        except Exception as error:
            raise refusal(error) from error

    def _called(self, tensors: Sequence[torch.Tensor], batch: Sequence[torch.Tensor]) -> Any:
        names = [f"model.{name}" for name in (*self._trained, *self._held)]
        with StackedAttention():
            found = functional_call(self._loss, dict(zip(names, tensors, strict=True)), tuple(batch))
        if found.weight is not None:
            msg = "the loss returns a weight"
            raise UnstackableError(msg)
        return found


class _Dropouts:
    """The dropout modules of a model, whose masks are given to it."""

    def __init__(self, model: nn.Module, members: int) -> None:
        drops = [module for module in model.modules() if type(module) is nn.Dropout and module.training]
        on_cpu = all(parameter.is_cpu for parameter in model.parameters())
        self._modules = [module for module in drops if 0 < module.p < 1] if on_cpu else []
        self._members = members
        self.any = bool(self._modules)
        self.known = False
        self._calls: list[tuple[float, torch.Size, torch.dtype]] = []

    @contextlib.contextmanager
    def replaced(self, masks: Sequence[torch.Tensor]) -> Iterator[None]:
        """Within this context each call takes the next mask; before they are known, it notes what it needs."""
        left = iter(masks)
        for module in self._modules:
            module.forward = partial(self._dropout, left, module.p)  # type: ignore[method-assign]  # for a moment
        try:
            yield
        finally:
            for module in self._modules:
                del module.forward

    def _dropout(self, masks: Iterator[torch.Tensor], chance: float, x: torch.Tensor) -> torch.Tensor:
        if self.known:
            return x * next(masks)
        self._calls.append((chance, x.shape, x.dtype))
        return x

    def found(self) -> list[tuple[float, torch.Tensor]]:
        """Of each call its probability, and a tensor of the shape of its masks."""
        return [(p, torch.empty(self._members, *shape, dtype=kind, device="cpu")) for p, shape, kind in self._calls]


def _split(tensors: Sequence[torch.Tensor], counts: Sequence[int]) -> list[list[torch.Tensor]]:
    """Lists of so many tensors each, and one of the rest."""
    left = list(tensors)
    return [*([left.pop(0) for _ in range(count)] for count in counts), left]


def _outside() -> tuple[Any, ...]:
    """The state of the generators that no transform sees."""
    drawn: tuple[Any, ...] = np.random.get_state()  # type: ignore[assignment]  # noqa: NPY002 -- what users' code draws from
    return random.getstate(), drawn[1].tobytes(), drawn[2:]


def refusal(error: Exception) -> UnstackableError:
    """Why a model could not be called for several at once; an error of memory is raised as it is."""
    if isinstance(error, UnstackableError):
        return error
    if is_out_of_memory(error):
        raise error
    if RANDOM in str(error):
        return UnstackableError("the model draws random numbers other than those of nn.Dropout on the CPU")
    return UnstackableError(f"torch.func refuses the model or its loss ({type(error).__name__}: {first_line(error)})")
