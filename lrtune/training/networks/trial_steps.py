"""Short trainings of an optimizer on small tensors, to see what it does before it trains a model."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from lrtune.training.networks.averaged_weights import begin
from lrtune.training.networks.composed_optimizers import plain_optimizers
from lrtune.training.networks.optimizer_state import load_optimizer, save_optimizer
from lrtune.training.networks.optimizers import RATIO, apply_lr
from lrtune.training.networks.rng import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.optimizers import Groups

__all__ = ["HIGH", "LOW", "TrialSteps", "distinct", "quietly"]

SIZE, SCALE = 4, 0.01
"""Longest side of a stand-in, and the size of its numbers: small, lest small updates vanish beside them."""

LOW, HIGH = 0.01, 1.0
"""Learning rates at which it is looked whether twice as much makes a difference."""

SEED = 0x0971


class TrialSteps:
    """Short trainings of stand-ins, each from the same weights, gradients and random numbers."""

    def __init__(self, make: Callable[[Groups, Recipe], torch.optim.Optimizer], groups: Groups, recipe: Recipe) -> None:
        self._make, self._recipe = make, dataclasses.replace(recipe, lr=LOW)
        self._groups = [{**group, "params": distinct(group["params"])} for group in groups]
        self._device = next((p.device for group in groups for p in group["params"]), torch.device("cpu"))
        self.name = "optimizer(params, lr)"
        self.leaders: set[int] = set()
        self._places: list[list[int]] = []  # of the weights of each optimizer that it is composed of

    def trained(
        self, rates: Sequence[float], *, pause: int | None = None, kept: int | None = None
    ) -> list[torch.Tensor] | None:
        """The weights after a step at each rate; None where the optimizer trains other weights than it was given.

        It is made at the first rate; at the step `pause` it is saved, made anew and restored. All groups but the
        one of number `kept` train at half their rates.
        """
        stream, numbers = Stream(SEED, self._device), torch.Generator().manual_seed(SEED)
        weights, optimizer = self._begun(stream, rates[0])
        self.leaders = _leaders(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if kept not in {None, number}:
                group[RATIO] = group[RATIO] / 2 or 1.0
        if not {id(p) for group in optimizer.param_groups for p in group["params"]} <= {id(w) for w in weights}:
            return None
        if pause is None:
            self._stepped(stream, numbers, weights, optimizer, rates)
            return weights
        self._stepped(stream, numbers, weights, optimizer, rates[:pause])
        saved, place = save_optimizer(optimizer), stream.state()
        weights, optimizer = self._begun(stream, rates[0], weights)
        load_optimizer(optimizer, saved)
        stream.restore(place)
        self._stepped(stream, numbers, weights, optimizer, rates[pause:])
        return weights

    def _stepped(
        self,
        stream: Stream,
        numbers: torch.Generator,
        weights: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        rates: Sequence[float],
    ) -> None:
        with stream.active():
            for rate in rates:
                apply_lr(optimizer, rate)
                for weight in weights:
                    weight.grad = torch.randn(weight.shape, generator=numbers).to(weight)
                optimizer.step()

    def trained_or_not(self, rates: Sequence[float], **told: int | None) -> list[torch.Tensor] | None:
        """The same; None, too, where it fails."""
        with contextlib.suppress(Exception):
            return self.trained(rates, **told)
        return None

    def same(self, known: list[torch.Tensor] | None, rates: Sequence[float], **told: int | None) -> bool:
        """Whether these rates lead to the same finite weights, bit for bit."""
        found = self.trained_or_not(rates, **told)
        return known is not None and found is not None and _equal(found, known)

    def same_of_any(self, known: list[torch.Tensor], rates: Sequence[float]) -> bool:
        """Whether it leaves the weights of any optimizer that it is composed of the same."""
        found, start = self.trained_or_not(rates), self._weights()
        if found is None:
            return False
        parts = [[(found[place], known[place], start[place]) for place in places] for places in self._places]
        return any(
            all(torch.equal(new, old) for new, old, _ in part) and not all(torch.equal(old, at) for _, old, at in part)
            for part in parts
        )

    def stands(self, found: list[torch.Tensor]) -> bool:
        """Whether nothing has moved."""
        return _equal(found, self._weights())

    def _weights(self) -> list[torch.Tensor]:
        numbers = torch.Generator().manual_seed(SEED + 1)
        likes = [like for group in self._groups for like in group["params"]]
        return [SCALE * torch.randn(like.shape, generator=numbers).to(like) for like in likes]

    def _begun(
        self, stream: Stream, rate: float, kept: Sequence[torch.Tensor] | None = None
    ) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
        weights: list[torch.Tensor] = [nn.Parameter(weight.detach().clone()) for weight in kept or self._weights()]
        left = iter(weights)
        groups = [{**group, "params": [next(left) for _ in group["params"]]} for group in self._groups]
        with stream.active():
            optimizer = self._make(groups, dataclasses.replace(self._recipe, lr=rate))
            self.name = type(optimizer).__name__
            begin(optimizer)
            for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):  # they wait for real steps
                getattr(optimizer, hooks, {}).clear()
        owned = [{id(p) for g in one.param_groups for p in g["params"]} for one in plain_optimizers(optimizer)]
        self._places = [[place for place, weight in enumerate(weights) if id(weight) in mine] for mine in owned]
        return weights, optimizer


def _leaders(optimizer: torch.optim.Optimizer) -> set[int]:
    """The numbers of the groups whose rate an optimizer could take for all: the first, and the one with the greatest.

    None where only one group has parameters.
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
    """Without the warnings and the printing of the code behind, and without compiling what is used once."""
    compiler = "torch._dynamo" in sys.modules  # to load it takes seconds, and without it nothing is compiled
    stance = getattr(torch.compiler, "set_stance", None) if compiler else None
    with contextlib.ExitStack() as until_end:
        until_end.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        until_end.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if stance is not None:
            until_end.enter_context(stance("force_eager"))
        yield
