"""One optimizer step: forward and backward in micro-batches, clipping, scaling, and room for it in memory.

The batch that the optimizer sees is always the recipe's. Where it does not fit it is cut into
micro-batches whose gradients are added up to that of the whole batch: each weighted by its share of what
the loss divides by, which is known of PyTorch's own losses (see :mod:`lrtune.training.networks.torch_losses`) and
told by a loss that returns ``(loss, weight)``. A function ``(output, target)`` that returns its loss alone
is taken for a mean over samples as long as each two neighbouring micro-batches agree with that; where they
do not, and for a function ``(model, batch)``, of which that cannot be seen, the batch is not cut.

Only BatchNorm can tell: it then sees statistics of micro-batches, of at least two samples each, and counts
those of a failed attempt in its running averages.
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
from lrtune.training.networks.loss import one_number, split
from lrtune.training.networks.loss_averaging import CURE, Averages
from lrtune.training.networks.nested import cut, length
from lrtune.training.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from lrtune.training.networks.loss import Evaluated, Objective
    from lrtune.training.networks.torch_losses import Known

__all__ = ["NoMemoryError", "Stepper"]

LOWEST_SCALE = 2.0**-14
"""Scale of the loss below which fp16 gradients have overflowed at any scale: only a divergence does that."""


class NoMemoryError(Exception):
    """Not even the smallest piece of a batch fits; it never leaves the trainer."""


class _WholeOnly(Exception):  # noqa: N818 -- a message within this module, not an error
    """The pieces of a batch do not tell its loss."""


class Stepper:
    """Takes optimizer steps with one model.

    Parameters
    ----------
    model, optimizer
        On the same device.
    objective
        The loss.
    device, precision
        Where, and in which format the forward pass computes.
    clip_norm
        Largest norm of all gradients together; None for no limit.
    accumulate
        Micro-batches into which each batch is cut from the beginning.
    tell
        Takes what the user should be told; nobody is by default.
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
        tell: Callable[[str], object] = str,
    ) -> None:
        self.model, self.optimizer, self.objective = model, optimizer, objective
        self.device, self.precision = device, precision
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.scaler = scaler_for(precision, device)
        self.micro: int | None = None
        self.whole_only = False
        self._tell = tell
        self.begun = False  # whether the optimizer has taken a step, here or before it was saved
        self._take = step_of(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._on_gpu = device.type == "cuda"
        self._unit = torch.ones((), dtype=torch.float32, device="cpu") if objective.named else None
        normed = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
        self._least = 2 if normed else 1
        # Class weights may be zero for a whole batch; the mean over it would have gradients that are not numbers.
        self._careful = objective.known is not None and objective.known.class_weight is not None
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

    def evidence(self, batch: Any) -> Any:
        """What :meth:`counts` decides by, of the batch of the last step: its target, or the weight that was told."""
        return self._weight if self.objective.known is None else split(batch)[1]

    def counts(self, evidence: Any) -> bool:
        """Whether anything of a batch counted; where nothing did, its loss is no number and its gradient zero."""
        known = self.objective.known
        if known is None:
            return evidence is None or evidence != 0
        if not isinstance(evidence, torch.Tensor) or not known.may_count_nothing(evidence):
            return True
        weight = known.weight(evidence)
        return weight is None or bool(weight != 0)

    def _gradients(self, batch: Any) -> torch.Tensor:
        """The gradients of the whole batch, in smaller pieces each time that memory runs out."""
        host = torch.get_rng_state()
        device = torch.cuda.get_rng_state(self.device) if self._on_gpu else None
        while True:
            why: str | None = None
            try:
                return self._backward(batch)
            except _WholeOnly:
                self.whole_only = True
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = str(error)
            # Not within the handler: there the traceback still holds the tensors that filled the memory.
            self.suspend()
            free_memory(self.device)
            torch.set_rng_state(host)
            if device is not None:
                torch.cuda.set_rng_state(device, self.device)
            if why is not None:
                self._halve(batch, why)

    def _halve(self, batch: Any, why: str) -> None:
        samples = length(batch)
        if self.whole_only:
            name = self.objective.name
            msg = f"the batch is not cut, because what the loss {name} divides by is not known; {CURE} ({why})"
            raise NoMemoryError(msg)
        if samples == 0 or self.objective.uncuttable(batch):
            raise NoMemoryError(why)
        now = _largest_of(self._pieces(samples))
        self.micro = max(now // 2, 1)
        if _largest_of(self._pieces(samples)) >= now:
            raise NoMemoryError(why)

    def _pieces(self, samples: int) -> list[tuple[int, int]]:
        """Where a batch is cut: as few pieces as may be, of sizes that differ by one at most."""
        count = self.accumulate
        if self.micro is not None:
            count = max(count, math.ceil(samples / self.micro))
        count = max(1, min(count, samples // self._least))
        edges = [samples * piece // count for piece in range(count + 1)]
        return list(pairwise(edges))

    def _backward(self, batch: Any) -> torch.Tensor:
        self.suspend()
        if self.accumulate == 1 and self.micro is None and not self._careful:
            return self._whole(batch)
        samples = length(batch)
        pieces = self._pieces(samples) if samples else []
        if len(pieces) > 1 and (why := self._uncuttable(batch)):
            if self.accumulate > 1:
                self._tell(f"batches are not cut into {self.accumulate} micro-batches: {why}")
            pieces = []
        known = self.objective.known
        if len(pieces) < 2 and not self._careful:  # noqa: PLR2004 -- one piece is the whole
            return self._whole(batch)
        cuts = [cut(batch, *piece, samples) for piece in pieces] if len(pieces) > 1 else [batch]
        return self._own_parts(cuts) if known is None else self._parts(known, batch, cuts)

    def _uncuttable(self, batch: Any) -> str:
        if self.whole_only:
            name = self.objective.name
            how = "cannot be known to be a mean over samples" if self.objective.whole else "is no mean over samples"
            return f"the loss {name} {how}; {CURE}"
        return self.objective.uncuttable(batch)

    def _evaluated(self, batch: Any) -> Evaluated:
        with autocast(self.precision, self.device):
            return self.objective.outputs(self.model, batch)

    def _whole(self, batch: Any) -> torch.Tensor:
        if self.objective.known is None:
            found = self._evaluated(batch)
            self._weight = None if found.weight is None else float(found.weight)
            if self._weight == 0:
                return self._no_number()
            loss = found.loss
        elif self.precision == "float32":  # to enter a context that does nothing takes its time, too
            loss = self.objective(self.model, batch)
        else:
            with autocast(self.precision, self.device):
                loss = self.objective(self.model, batch)
        self._add(loss)
        return loss.detach()

    def _parts(self, known: Known, batch: Any, cuts: Sequence[Any]) -> torch.Tensor:
        """Of a loss that is known: each piece's sum over what the whole batch's mean divides by."""
        weight = known.weight(split(batch)[1])
        divisor = torch.where(weight == 0, 1, weight) if isinstance(weight, torch.Tensor) else weight
        losses = []
        for piece in cuts:
            inputs, target = split(piece)
            with autocast(self.precision, self.device):
                loss = one_number(known.total(self.model(*inputs), target))
            self._add(loss if divisor is None else loss / divisor)
            losses.append(loss.detach())
        total = torch.stack(losses).sum()
        return total if weight is None else total / weight

    def _own_parts(self, cuts: Sequence[Any]) -> torch.Tensor:
        """Of a loss of the user's own: by the weights that it returns, else by samples while neighbours agree."""
        sizes = [length(piece) for piece in cuts]
        averages = Averages(self.objective.function)
        losses: list[torch.Tensor] = []
        weights: list[float] = []
        unit, told = 0.0, False
        for piece, size in zip(cuts, sizes, strict=True):
            found = self._evaluated(piece)
            told = told or found.weight is not None
            if found.weight is None:
                if told or self.objective.whole or not self._agrees(averages, found, size):
                    raise _WholeOnly
                weight, unit = float(size), float(sum(sizes))
            elif (weight := float(found.weight)) == 0:
                continue
            else:  # what all pieces count is known at the end: till then each is taken to count as the first one does
                unit = unit or weight * len(cuts)
            self._add(found.loss * (weight / unit))
            losses.append(found.loss.detach())
            weights.append(weight)
        total = sum(weights)
        self._weight = total if told else None
        if not total:
            return self._no_number()
        if total != unit:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(unit / total)
        shares = torch.tensor(weights, dtype=losses[0].dtype, device=losses[0].device) / total
        return (torch.stack(losses) * shares).sum()

    def _agrees(self, averages: Averages, found: Evaluated, samples: int) -> bool:
        with autocast(self.precision, self.device):
            return averages.hold(found, samples)

    def _no_number(self) -> torch.Tensor:
        return torch.full((), math.nan, device=self.device)

    def _add(self, loss: torch.Tensor) -> None:
        """Add a loss's gradients to those that are there."""
        backward(loss if self.scaler is None else self.scaler.scale(loss), self._unit)

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

    def suspend(self) -> None:
        """Forget the gradients: the next step makes its own."""
        for parameter in self._parameters:
            parameter.grad = None


def _largest_of(pieces: list[tuple[int, int]]) -> int:
    return max(end - begin for begin, end in pieces)


def _all_finite(numbers: list[torch.Tensor]) -> bool:
    return not numbers or all(map(cmath.isfinite, torch.stack(numbers).tolist()))


def _largest(tensor: torch.Tensor) -> torch.Tensor:
    """The largest magnitude, which unlike a sum of squares cannot overflow on its own."""
    largest: torch.Tensor = torch.linalg.vector_norm(tensor, math.inf)
    return largest.float()
