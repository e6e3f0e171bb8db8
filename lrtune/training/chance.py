"""What the best constant prediction is worth on the held-out part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lrtune.errors import DataError
from lrtune.training.objectives import METRICS, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.making import Settings

__all__ = ["chance_of"]

IGNORED = -100  # the target that PyTorch's cross-entropy leaves out


def chance_of(settings: Settings, metric: str) -> float | None:
    """The metric of the best constant prediction on the held-out part; None where it is not known."""
    if settings.valid is None:
        return None
    name = settings.objective.name if metric == "valid_loss" else _metric_name(settings, metric)
    find = CONSTANTS.get(name)
    if find is None:
        return None
    try:
        batches = settings.valid.ordered(settings.eval_batch_size, torch.device("cpu"))
        targets = torch.cat([split(batch)[1] for batch in batches])
    except (DataError, TypeError, RuntimeError):  # targets that are no tensors, or of many shapes
        return None
    value = find(targets)
    return value if value is not None and math.isfinite(value) else None


def _metric_name(settings: Settings, metric: str) -> str:
    known = {function: name for name, function in METRICS.items()}
    classes = settings.objective.name == "cross_entropy"
    return known.get(settings.metrics[metric], "") if classes and metric in settings.metrics else ""


def _shares(targets: torch.Tensor) -> torch.Tensor | None:
    """Share of each class, shape (classes,)."""
    if targets.is_floating_point():
        return None
    kept = targets[targets != IGNORED].flatten()
    if kept.numel() == 0:
        return None
    counts: torch.Tensor = torch.unique(kept, return_counts=True)[1].double()
    return counts / counts.sum()


def _entropy(targets: torch.Tensor) -> float | None:
    """Of class indices, or of rows of class probabilities."""
    shares = _shares(targets)
    if shares is None and targets.is_floating_point() and targets.ndim == 2:  # noqa: PLR2004 -- (samples, classes)
        shares = targets.double().mean(0)
    return None if shares is None else float(torch.special.entr(shares).sum())


def _commonest(targets: torch.Tensor) -> float | None:
    shares = _shares(targets)
    return None if shares is None else float(shares.max())


def _rarely_right(targets: torch.Tensor) -> float | None:
    most = _commonest(targets)
    return None if most is None else 1.0 - most


def _variance(targets: torch.Tensor) -> float:
    return float(targets.double().var(0, correction=0).mean())


def _deviation(targets: torch.Tensor) -> float:
    values = targets.double()
    return float((values - values.median(0).values).abs().mean())


def _binary_entropy(targets: torch.Tensor) -> float:
    shares = targets.double().mean(0)
    return float((torch.special.entr(shares) + torch.special.entr(1 - shares)).mean())


CONSTANTS: dict[str, Callable[[torch.Tensor], float | None]] = {
    "cross_entropy": _entropy,
    "accuracy": _commonest,
    "error": _rarely_right,
    "mse": _variance,
    "l1": _deviation,
    "bce_with_logits": _binary_entropy,
}
