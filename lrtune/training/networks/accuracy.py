"""The share of right and of wrong answers, counted batch by batch, and that of the best constant answer.

What counts as an answer depends on the loss. Of class numbers and class probabilities, one-hot or soft, the largest
class is compared, without the targets of `ignore_index`. Binary targets, and those of several labels under a binary
loss, are compared one by one. Under a loss that is not PyTorch's own, targets of the outputs' shape are class
probabilities where each of their rows adds up to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lrtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.networks.torch_losses import TorchLoss

__all__ = ["Accuracy"]

IGNORE_INDEX = -100
"""PyTorch's default."""

HALF = 0.5
ROW_SUM = 1e-3
"""How far from one a row of class probabilities in half precision may add up."""

BINARY = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss, nn.SoftMarginLoss)
REGRESSION = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of right answers, or with `wrong` of wrong ones.

    `loss` is the trainer's, which says what a target means; None where it is not PyTorch's own.
    """

    wrong: bool
    loss: TorchLoss | None

    @property
    def ignore_index(self) -> int:
        """The class number that does not count."""
        of_loss = None if self.loss is None else self.loss.ignore_index
        return IGNORE_INDEX if of_loss is None else of_loss

    @property
    def _of_classes(self) -> bool:
        return self.loss is not None and self.loss.of_classes

    @property
    def _binary(self) -> bool:
        return self.loss is not None and isinstance(self.loss.module, BINARY)

    def count(self, output: Any, target: Any) -> torch.Tensor:
        """Counts of one batch, float64 on its device; their sum over batches goes to :meth:`value`.

        Shape (2,): right classes, and how many. Where output and target have one shape (7,): also rows that are no
        probabilities, right elements at a threshold of 0 and of 0.5, how many elements, and how many targets are
        negative.

        DataError if they are not tensors that belong together.
        """
        if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
            got = f"{type(output).__name__} and {type(target).__name__}"
            msg = f"accuracy needs outputs and targets that are tensors (got {got}); {ADVICE}"
            raise DataError(msg)
        if output.numel() == target.numel():
            return self._of_one_shape(output, target.reshape(output.shape).float())
        return self._of_numbers(output, target)

    def _of_numbers(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.ndim == output.ndim and target.shape[-1] == 1:  # a column
            target = target.squeeze(-1)
        second = output.shape[:1] + output.shape[2:] == target.shape
        if not second and output.shape[:-1] != target.shape:
            shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
            msg = f"accuracy cannot compare outputs and targets of the shapes {shapes}; {ADVICE}"
            raise DataError(msg)
        counted = target != self.ignore_index
        right = (output.argmax(1 if second else -1) == target) & counted
        return torch.stack([right.sum(), counted.sum()]).double()

    def _of_one_shape(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        dimension = 1 if self._of_classes and output.ndim > 1 else -1
        many = output.ndim > 1 and output.shape[dimension] > 1
        if many:
            right = output.argmax(dimension) == target.argmax(dimension)
            strays = (target.double().sum(dimension) - 1).abs() > ROW_SUM
        else:
            right = torch.zeros(0, dtype=torch.bool, device=output.device)
            strays = torch.ones(1, dtype=torch.bool, device=output.device)
        yes = target > HALF
        elements = [((output > limit) == yes).sum() for limit in (0.0, HALF)]
        sizes = [torch.full((), tensor.numel(), device=output.device) for tensor in (right, output)]
        parts = [right.sum(), sizes[0], strays.sum(), *elements, sizes[1], (target < 0).sum()]
        return torch.stack([part.double() for part in parts])

    def value(self, counts: Sequence[float]) -> float:
        """The share, from the sum of all batches' counts; NaN where nothing counts."""
        classes, rows, strays, at_zero, at_half, elements, negative = (*counts, *[0.0] * 5)[:7]
        if not elements or (rows and not self._binary and (self._of_classes or not strays)):
            right, count = classes, rows
        else:
            right, count = (at_half if self._at_half(negative) else at_zero), elements
        share = right / count if count else float("nan")
        return 1.0 - share if self.wrong else share

    def _at_half(self, negative: float) -> bool:
        """Whether an output says yes above 0.5: a probability does, and what is fitted to zeros and ones."""
        if self.loss is None:
            return False
        return isinstance(self.loss.module, nn.BCELoss) or (isinstance(self.loss.module, REGRESSION) and not negative)

    def constant(self, targets: Sequence[torch.Tensor]) -> float | None:
        """The best constant prediction's value over batches of targets; None where it is not known."""
        share = self._commonest(targets)
        return None if share is None else 1.0 - share if self.wrong else share

    def _commonest(self, targets: Sequence[torch.Tensor]) -> float | None:
        first = targets[0]
        if not first.is_floating_point() and not self._binary:
            return _largest_share(torch.cat([t.flatten() for t in targets]), self.ignore_index)
        every = torch.cat(list(targets)).double()
        many = every.ndim > 1 and every.shape[1] > 1
        if many and (self._of_classes or (not self._binary and bool(((every.sum(-1) - 1).abs() <= ROW_SUM).all()))):
            return _largest_share(every.argmax(1 if self._of_classes else -1).flatten(), None)
        if many and not self._binary:
            return None
        if not bool(((every >= 0) & (every <= 1)).all()):
            return None
        yes = (every > HALF).double().mean(0)
        return float(torch.maximum(yes, 1 - yes).mean())


ADVICE = "give metrics={'accuracy': function(outputs, targets)} of your own"


def _largest_share(classes: torch.Tensor, ignored: int | None) -> float | None:
    counted = classes if ignored is None else classes[classes != ignored]
    if counted.numel() == 0:
        return None
    counts = torch.unique(counted, return_counts=True)[1]
    return int(counts.max()) / int(counts.sum())
