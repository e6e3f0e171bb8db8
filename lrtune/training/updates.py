"""One optimizer step: forward and backward in micro-batches, clipping, scaling, and room for it in memory.

The batch that the optimizer sees is always the recipe's. Where it does not fit it is cut into
micro-batches whose gradients are added up, each weighted by its share of the samples, which for a loss
that is a mean is the gradient of the whole batch. Only BatchNorm can tell: it then sees statistics of
micro-batches, and counts those of a failed attempt in its running averages.
"""

from __future__ import annotations

import cmath
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import RecipeError
from lrtune.training.direct import backward, step_of
from lrtune.training.faults import is_out_of_memory
from lrtune.training.precision import autocast, free_memory, scaler_for
from lrtune.training.tensors import cut, length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lrtune.training.objectives import Objective

__all__ = ["NoMemoryError", "Stepper"]

LOWEST_SCALE = 2.0**-14
"""Scale of the loss below which fp16 gradients have overflowed at any scale: only a divergence does that."""


class NoMemoryError(Exception):
    """Not even one sample fits; it never leaves the trainer."""


class Stepper:
    """Takes optimizer steps with one model.

    Parameters
    ----------
    model, optimizer
        On the same device.
    objective
        The loss, a mean over the samples.
    device, precision
        Where, and in which format the forward pass computes.
    clip_norm
        Largest norm of all gradients together; None for no limit.
    accumulate
        Micro-batches into which each batch is cut from the beginning.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        *,
        device: torch.device,
        precision: str,
        clip_norm: float | None,
        accumulate: int,
    ) -> None:
        self.model, self.optimizer, self.objective = model, optimizer, objective
        self.device, self.precision = device, precision
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.scaler = scaler_for(precision, device)
        self.micro: int | None = None
        self.begun = False  # whether the optimizer has taken a step, here or before it was saved
        self._take = step_of(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._on_gpu = device.type == "cuda"
        self._unit = torch.ones((), dtype=torch.float32, device="cpu") if objective.named else None

    def step(self, batch: Any) -> torch.Tensor:
        """Train on a batch; its loss before the step, detached, on the device.

        Raises
        ------
        NoMemoryError
            If not even one sample fits.
        RecipeError
            If the optimizer refuses its very first step, e.g. for want of sparse gradients.
        """
        loss = self._gradients(batch)
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        try:
            if self.scaler is None:
                self._take()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        except Exception as error:
            if self.begun or is_out_of_memory(error):
                raise
            # None of its steps went well, and none of the user's code was running.
            msg = f"optimizer {type(self.optimizer).__name__!r} cannot train this model: {error}; choose another"
            raise RecipeError(msg) from error
        self.begun = True
        return loss

    def _gradients(self, batch: Any) -> torch.Tensor:
        """The gradients of the whole batch, in smaller pieces each time that memory runs out."""
        host = torch.get_rng_state()
        device = torch.cuda.get_rng_state(self.device) if self._on_gpu else None
        while True:
            try:
                return self._backward(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = str(error)
            # Not within the handler: there the traceback still holds the tensors that filled the memory.
            self.park()
            free_memory(self.device)
            torch.set_rng_state(host)
            if device is not None:
                torch.cuda.set_rng_state(device, self.device)
            self._halve(length(batch), why)

    def _halve(self, samples: int, why: str) -> None:
        now = max(end - begin for begin, end in self._pieces(samples)) if samples else 0
        if now <= 1:
            raise NoMemoryError(why)
        self.micro = now // 2

    def _pieces(self, samples: int) -> list[tuple[int, int]]:
        """Where a batch is cut: as few pieces as may be, of sizes that differ by one at most."""
        count = min(self.accumulate, samples)
        if self.micro is not None:
            count = max(count, math.ceil(samples / self.micro))
        edges = [samples * piece // count for piece in range(count + 1)]
        return list(pairwise(edges))

    def _backward(self, batch: Any) -> torch.Tensor:
        self.park()
        if (self.accumulate == 1 and self.micro is None) or (samples := length(batch)) <= 1:
            return self._one(batch)
        losses = [
            self._one(cut(batch, begin, end, samples), (end - begin) / samples) for begin, end in self._pieces(samples)
        ]
        return torch.stack(losses).sum()

    def _one(self, batch: Any, share: float = 1.0) -> torch.Tensor:
        if self.precision == "float32":  # to enter a context that does nothing takes its time, too
            loss = self.objective(self.model, batch)
        else:
            with autocast(self.precision, self.device):
                loss = self.objective(self.model, batch)
        if share != 1.0:
            loss = loss * share
        backward(loss if self.scaler is None else self.scaler.scale(loss), self._unit)
        return loss.detach()

    def trouble(self) -> str:
        """What is not finite: ``"a gradient"``, ``"a weight"``, or nothing; where nothing, the device is read once.

        Gradients that a scaler has not yet brought to their size may overflow: then its scale is asked.
        """
        if self.scaler is not None and self.scaler.get_scale() < LOWEST_SCALE:
            return "a gradient"
        weights = [parameter.detach() for parameter in self._parameters if parameter.numel()]
        gradients = [] if self.scaler is not None else list(self._dense_gradients())
        # A sum takes a tenth of the time and is not finite where any of it is not, but may overflow on its own.
        if not weights or _all_finite([tensor.sum() for tensor in (*gradients, *weights)]):
            return ""
        if not _all_finite([_largest(gradient) for gradient in gradients]):
            return "a gradient"
        return "" if _all_finite([_largest(weight) for weight in weights]) else "a weight"

    def _dense_gradients(self) -> Iterator[torch.Tensor]:
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.numel():
                yield gradient.coalesce().values() if gradient.is_sparse else gradient

    def park(self) -> None:
        """Forget the gradients: the next step makes its own."""
        for parameter in self._parameters:
            parameter.grad = None


def _all_finite(numbers: list[torch.Tensor]) -> bool:
    return not numbers or all(map(cmath.isfinite, torch.stack(numbers).tolist()))


def _largest(tensor: torch.Tensor) -> torch.Tensor:
    """The largest magnitude, which unlike a sum of squares cannot overflow on its own."""
    largest: torch.Tensor = torch.linalg.vector_norm(tensor, math.inf)
    return largest.float()
