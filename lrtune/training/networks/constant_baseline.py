"""Loss or metric of the best constant prediction on the held-out part: the level of a model that has not learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from lrtune.errors import DataError
from lrtune.training.networks.accuracy import Accuracy
from lrtune.training.networks.loss import inputs_and_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrtune.training.networks.build import NetworkSettings
    from lrtune.training.networks.torch_losses import TorchLoss

__all__ = ["chance_of"]


def chance_of(settings: NetworkSettings, metric: str) -> float | None:
    """The metric of the best constant prediction on the held-out part; None where it is not known."""
    find = _finder(settings, metric)
    if settings.valid is None or find is None:
        return None
    try:
        batches = settings.valid.ordered(settings.eval_batch_size, torch.device("cpu"))
        value = find([inputs_and_target(batch)[1] for batch in batches])
    except (AttributeError, DataError, IndexError, TypeError, RuntimeError):  # no tensors, or of many shapes
        return None
    return value if value is not None and math.isfinite(value) else None


def _finder(settings: NetworkSettings, metric: str) -> Callable[[Sequence[torch.Tensor]], float | None] | None:
    """What computes it from the targets of all batches; None where that is not known."""
    if metric != "valid_loss":
        scored = settings.metrics.get(metric)
        return scored.constant if isinstance(scored, Accuracy) else None
    loss = settings.objective.torch_loss
    if loss is None or loss.module.reduction != "mean":
        return None
    if isinstance(loss.module, nn.CrossEntropyLoss):
        return None if loss.module.label_smoothing else lambda targets: _entropy(loss, targets)
    find = CONSTANTS.get(type(loss.module))
    return None if find is None else lambda targets: find(loss.module, torch.cat(list(targets)).double())


def _entropy(loss: TorchLoss, targets: Sequence[torch.Tensor]) -> float | None:
    """The weighted entropy of class numbers, or of class probabilities with the classes in dimension 1."""
    weights = None if loss.class_weight is None else loss.class_weight.detach().cpu().double()
    if targets[0].is_floating_point():
        masses = torch.cat([t.double().movedim(1, -1).flatten(0, -2) for t in targets]).mean(0)
        masses = masses if weights is None else masses * weights
    else:
        every = torch.cat([t.flatten() for t in targets]).long()
        counted = every[every != loss.ignore_index]
        masses = torch.bincount(counted, None, 0 if weights is None else len(weights)).double()
        masses = masses if weights is None else masses * weights
        masses = masses / masses.sum()
    # The least of -sum(m log p) over probabilities p is where they are the masses' shares.
    return float(-torch.special.xlogy(masses, masses / masses.sum()).sum()) if masses.sum() else None


def _binary_entropy(loss: nn.Module, targets: torch.Tensor) -> float:
    """The mean over columns; ones are weighted by ``pos_weight``."""
    weight = getattr(loss, "pos_weight", None)
    yes, no = targets.mean(0), (1 - targets).mean(0)
    yes = yes if weight is None else yes * weight.detach().cpu().double()
    both = yes + no
    return float(-(torch.special.xlogy(yes, yes / both) + torch.special.xlogy(no, no / both)).mean())


CONSTANTS: dict[type[nn.Module], Callable[[nn.Module, torch.Tensor], float]] = {
    nn.MSELoss: lambda _, targets: float(targets.var(0, correction=0).mean()),
    nn.L1Loss: lambda _, targets: float((targets - targets.median(0).values).abs().mean()),
    nn.BCELoss: _binary_entropy,
    nn.BCEWithLogitsLoss: _binary_entropy,
}
