"""One optimizer step: forward and backward, gradient clipping and scaling, and micro-batches where memory runs out.

The batch that the optimizer sees is always the recipe's. Where it does not fit in memory it is split into
micro-batches whose gradients add up to that of the whole batch: each is weighted by its share of what the loss divides
by. That is known for PyTorch's own losses (:mod:`lrtune.training.networks.torch_losses`) and returned by a loss that
gives ``(loss, weight)``. A function ``(output, target)`` that returns its loss alone is treated as a mean over samples
as long as each two neighbouring micro-batches agree with that; where they do not, and for a function
``(model, batch)``, where that cannot be checked, the batch is not split.

Only BatchNorm sees a difference: its statistics are those of micro-batches, of at least two samples each, and its
running averages count those of a failed attempt.
"""

from __future__ import annotations

import cmath
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from lrtune.errors import RecipeError
from lrtune.training.networks.amp import autocast, free_memory, scaler_for
from lrtune.training.networks.fused_step import backward, step_of
from lrtune.training.networks.loss import RETURN_WEIGHT, SampleMeanCheck, inputs_and_target, scalar_loss
from lrtune.training.networks.nested import length, sliced
from lrtune.training.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from lrtune.training.networks.loss import LossResult, Objective
    from lrtune.training.networks.torch_losses import TorchLoss

__all__ = ["NoMemoryError", "Stepper"]

LOWEST_SCALE = 2.0**-14
"""Scale of the loss below which fp16 gradients have overflowed at any scale: only a divergence does that."""


class NoMemoryError(Exception):
    """Memory ran out, and no smaller micro-batches are possible; it never leaves the trainer."""


class _CannotSplitError(Exception):
    """The loss of a batch cannot be computed from its micro-batches."""


class Stepper:
    """Takes optimizer steps with one model; `accumulate` is the least number of micro-batches, `notify` takes notices.

    Attributes
    ----------
    micro_batch
        Samples of a micro-batch, since memory ran out; None before.
    never_split
        Whether the loss has been found to allow no micro-batches.
    begun
        Whether the optimizer has taken a step, here or before it was saved.
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
        notify: Callable[[str], object] = str,
    ) -> None:
        self.model, self.optimizer, self.objective = model, optimizer, objective
        self.device, self.precision = device, precision
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.scaler = scaler_for(precision, device)
        self.micro_batch: int | None = None
        self.never_split = self.begun = False
        self._notify = notify
        self._optimizer_step = step_of(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._on_gpu = device.type == "cuda"
        self._ones = torch.ones((), dtype=torch.float32, device="cpu") if objective.builtin else None
        normed = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
        self._fewest_samples = 2 if normed else 1
        # Class weights may be zero for a whole batch; the mean over it would have gradients that are not numbers.
        self._may_divide_by_zero = objective.torch_loss is not None and objective.torch_loss.class_weight is not None
        self._weight: float | None = None

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
                self._optimizer_step()
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

    def loss_weight(self, batch: Any) -> Any:
        """Of the last batch, what :meth:`has_loss` reads: the weight that the user's loss returned, or the target."""
        return self._weight if self.objective.torch_loss is None else inputs_and_target(batch)[1]

    def has_loss(self, weight: Any) -> bool:
        """Whether any target of a batch counts; where none does its loss is NaN and its gradient zero."""
        loss = self.objective.torch_loss
        if loss is None:
            return weight is None or weight != 0
        if not isinstance(weight, torch.Tensor) or not loss.may_ignore_all(weight):
            return True
        divisor = loss.divisor(weight)
        return divisor is None or bool(divisor != 0)

    def _gradients(self, batch: Any) -> torch.Tensor:
        """The gradients of the whole batch, in smaller micro-batches each time that memory runs out."""
        host = torch.get_rng_state()
        device = torch.cuda.get_rng_state(self.device) if self._on_gpu else None
        while True:
            why: str | None = None
            try:
                return self._backward(batch)
            except _CannotSplitError:
                self.never_split = True
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = str(error)
            # Not within the handler: there the traceback still holds the tensors that filled the memory.
            self.zero_grad()
            free_memory(self.device)
            torch.set_rng_state(host)
            if device is not None:
                torch.cuda.set_rng_state(device, self.device)
            if why is not None:
                self._halve(batch, why)

    def _halve(self, batch: Any, why: str) -> None:
        samples = length(batch)
        if self.never_split:
            name = self.objective.name
            msg = f"the batch is not cut, because what the loss {name} divides by is not known; {RETURN_WEIGHT} ({why})"
            raise NoMemoryError(msg)
        if samples == 0 or self.objective.why_not_split(batch):
            raise NoMemoryError(why)
        now = _largest_of(self._splits(samples))
        self.micro_batch = max(now // 2, 1)
        if _largest_of(self._splits(samples)) >= now:
            raise NoMemoryError(why)

    def _splits(self, samples: int) -> list[tuple[int, int]]:
        """Where a batch is split: as few micro-batches as may be, whose sizes differ by one at most."""
        count = self.accumulate
        if self.micro_batch is not None:
            count = max(count, math.ceil(samples / self.micro_batch))
        count = max(1, min(count, samples // self._fewest_samples))
        edges = [samples * part // count for part in range(count + 1)]
        return list(pairwise(edges))

    def _backward(self, batch: Any) -> torch.Tensor:
        self.zero_grad()
        if self.accumulate == 1 and self.micro_batch is None and not self._may_divide_by_zero:
            return self._whole(batch)
        samples = length(batch)
        splits = self._splits(samples) if samples else []
        if len(splits) > 1 and (why := self._why_not_split(batch)):
            if self.accumulate > 1:
                self._notify(f"batches are not cut into {self.accumulate} micro-batches: {why}")
            splits = []
        loss = self.objective.torch_loss
        if len(splits) < 2 and not self._may_divide_by_zero:  # noqa: PLR2004 -- one is the whole
            return self._whole(batch)
        parts = [sliced(batch, *part, samples) for part in splits] if len(splits) > 1 else [batch]
        return self._own_loss_of(parts) if loss is None else self._torch_loss_of(loss, batch, parts)

    def _why_not_split(self, batch: Any) -> str:
        if self.never_split:
            name = self.objective.name
            how = (
                "cannot be known to be a mean over samples"
                if self.objective.custom_forward
                else "is no mean over samples"
            )
            return f"the loss {name} {how}; {RETURN_WEIGHT}"
        return self.objective.why_not_split(batch)

    def _evaluated(self, batch: Any) -> LossResult:
        with autocast(self.precision, self.device):
            return self.objective.outputs(self.model, batch)

    def _whole(self, batch: Any) -> torch.Tensor:
        if self.objective.torch_loss is None:
            found = self._evaluated(batch)
            self._weight = None if found.weight is None else float(found.weight)
            if self._weight == 0:
                return self._nan()
            loss = found.loss
        elif self.precision == "float32":  # to enter a context that does nothing takes its time, too
            loss = self.objective(self.model, batch)
        else:
            with autocast(self.precision, self.device):
                loss = self.objective(self.model, batch)
        self._add_gradients(loss)
        return loss.detach()

    def _torch_loss_of(self, loss: TorchLoss, batch: Any, parts: Sequence[Any]) -> torch.Tensor:
        """Of PyTorch's own loss: each part's sum over what the whole batch's mean divides by."""
        divisor = loss.divisor(inputs_and_target(batch)[1])
        safe = torch.where(divisor == 0, 1, divisor) if isinstance(divisor, torch.Tensor) else divisor
        totals = []
        for part in parts:
            inputs, target = inputs_and_target(part)
            with autocast(self.precision, self.device):
                total = scalar_loss(loss.total(self.model(*inputs), target))
            self._add_gradients(total if safe is None else total / safe)
            totals.append(total.detach())
        total = torch.stack(totals).sum()
        return total if divisor is None else total / divisor

    def _own_loss_of(self, parts: Sequence[Any]) -> torch.Tensor:
        """Of a loss of the user's own: by the weights that it returns, else by samples while neighbours agree."""
        sizes = [length(part) for part in parts]
        check = SampleMeanCheck(self.objective.function)
        losses: list[torch.Tensor] = []
        weights: list[float] = []
        first_total, returned = 0.0, False
        for part, size in zip(parts, sizes, strict=True):
            found = self._evaluated(part)
            returned = returned or found.weight is not None
            if found.weight is None:
                if returned or self.objective.custom_forward or not self._is_sample_mean(check, found, size):
                    raise _CannotSplitError
                weight, first_total = float(size), float(sum(sizes))
            elif (weight := float(found.weight)) == 0:
                continue
            else:  # the sum of weights is known at the end: till then each is taken to be the first one's
                first_total = first_total or weight * len(parts)
            self._add_gradients(found.loss * (weight / first_total))
            losses.append(found.loss.detach())
            weights.append(weight)
        total = sum(weights)
        self._weight = total if returned else None
        if not total:
            return self._nan()
        if total != first_total:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(first_total / total)
        shares = torch.tensor(weights, dtype=losses[0].dtype, device=losses[0].device) / total
        return (torch.stack(losses) * shares).sum()

    def _is_sample_mean(self, check: SampleMeanCheck, found: LossResult, samples: int) -> bool:
        with autocast(self.precision, self.device):
            return check.holds(found, samples)

    def _nan(self) -> torch.Tensor:
        return torch.full((), math.nan, device=self.device)

    def _add_gradients(self, loss: torch.Tensor) -> None:
        backward(loss if self.scaler is None else self.scaler.scale(loss), self._ones)

    def non_finite(self) -> str:
        """What is not finite: ``"a gradient"``, ``"a weight"`` or ``""``; in the last case the device is read once.

        Gradients that a scaler has scaled may overflow: then its scale decides.
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

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self._parameters:
            parameter.grad = None


def _largest_of(splits: list[tuple[int, int]]) -> int:
    return max(end - begin for begin, end in splits)


def _all_finite(numbers: list[torch.Tensor]) -> bool:
    return not numbers or all(map(cmath.isfinite, torch.stack(numbers).tolist()))


def _largest(tensor: torch.Tensor) -> torch.Tensor:
    """The largest magnitude, which unlike a sum of squares cannot overflow on its own."""
    largest: torch.Tensor = torch.linalg.vector_norm(tensor, math.inf)
    return largest.float()
