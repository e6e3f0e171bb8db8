"""Loss and metrics of the held-out part: the same numbers whatever the batches it is measured in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import DataError
from lrtune.training.networks.accuracy import Accuracy
from lrtune.training.networks.loss import Evaluated, split
from lrtune.training.networks.loss_averaging import CURE, Averages
from lrtune.training.networks.nested import cut, joined, length, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import nn

    from lrtune.training.networks.loss import Batch, Metric, Objective

__all__ = ["measure"]


def measure(
    model: nn.Module,
    objective: Objective,
    metrics: Mapping[str, Metric],
    batches: Iterable[Batch],
    *,
    most: int,
    tell: Callable[[str], object],
) -> dict[str, float]:
    """Loss and metrics over all batches, in evaluation mode and without gradients.

    The loss is that of all batches together: its means are put together by what they were divided by, which is known
    of PyTorch's own losses and told by others that return it. Of the rest it is the mean by samples, and `tell` is
    given a sentence unless that is so. Accuracy is counted batch by batch; any other metric is given all outputs and
    targets at once, as float32 on the host. The number of values read from the device does not depend on that of
    batches.

    Parameters
    ----------
    model, objective, metrics, batches
        What is measured, and on what.
    most
        Samples that may pass through the model at once.
    tell
        Takes what the user should be told.

    Raises
    ------
    DataError
        If metrics are asked for and the loss does not hand out what they are made of.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = _Loss(objective, tell)
    scores = {name: _Counted(metric) for name, metric in metrics.items() if isinstance(metric, Accuracy)}
    functions = {name: metric for name, metric in metrics.items() if not isinstance(metric, Accuracy)}
    outputs: list[Any] = []
    targets: list[Any] = []
    try:
        with torch.no_grad():
            for batch in batches:
                for found, samples in _evaluated(model, objective, batch, most):
                    loss.add(found, samples)
                    if metrics:
                        _need(found)
                    for score in scores.values():
                        score.add(found)
                    if functions:
                        outputs.append(_on_host(found.output))
                        targets.append(_on_host(found.target))
    finally:
        for module, mode in modes:
            module.training = mode
    values = {"valid_loss": loss.value()}
    every = _together(outputs), _together(targets)
    for name in metrics:
        values[name] = scores[name].value() if name in scores else float(functions[name](*every))
    return values


def _evaluated(model: nn.Module, objective: Objective, batch: Batch, most: int) -> Iterator[tuple[Evaluated, int]]:
    """A batch, with its samples; where it is too large in parts, or of parts put together before the loss is taken."""
    samples = length(batch)
    if samples <= most or objective.uncuttable(batch):
        yield objective.outputs(model, batch), max(1, samples)
        return
    edges = [*range(0, samples, most), samples]
    pieces = [(cut(batch, begin, end, samples), end - begin) for begin, end in pairwise(edges)]
    if objective.known is not None or objective.whole:
        for piece, size in pieces:
            yield objective.outputs(model, piece), size
        return
    output = joined([model(*split(piece)[0]) for piece, _ in pieces])
    yield objective.of(output, split(batch)[1]), samples


class _Loss:
    """The loss of all batches, put together of each one's."""

    def __init__(self, objective: Objective, tell: Callable[[str], object]) -> None:
        self._objective, self._tell = objective, tell
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor | float | None] = []
        self._first: Any = None  # target of the first batch: what it weighs matters when there is a second one
        self._averages = Averages(objective.function)
        # Under class weights a part may weigh nothing and have a loss all the same, where labels are smoothed.
        self._divided_last = objective.known is not None and objective.known.class_weight is not None

    def add(self, found: Evaluated, samples: int) -> None:
        """One batch, or a part of one."""
        known, weight, loss = self._objective.known, found.weight, found.loss
        if known is not None and self._divided_last:
            weight, loss = known.weight(found.target), known.total(found.output, found.target)
        elif known is not None and not self._losses:
            self._first = found.target
        elif known is not None:
            weight = known.weight(found.target)
            if self._first is not None:
                self._weights, self._first = [known.weight(self._first)], None
        elif weight is None:
            weight = samples
            self._doubt(found, samples, first=not self._losses)
        self._losses.append(loss.detach().double())
        self._weights.append(weight)

    def _doubt(self, found: Evaluated, samples: int, *, first: bool) -> None:
        """Say so where the mean by samples may not be the loss of all of them."""
        name = self._objective.name
        if not self._objective.whole:
            if not self._averages.hold(found, samples):
                self._tell(
                    f"the loss {name} is no mean over samples, so that valid_loss depends on the size of the held-out "
                    f"batches (eval_batch_size); {CURE}"
                )
        elif not first:
            self._tell(
                f"what the loss {name} divides by is not known: valid_loss is the mean of held-out batches by their "
                f"samples; if it is no mean over samples, {CURE}"
            )

    def value(self) -> float:
        """The mean by weight, or the sum of a loss that is a sum; NaN where nothing counts."""
        if self._first is not None:
            return float(self._losses[0])
        tensors = [weight.double() for weight in self._weights if isinstance(weight, torch.Tensor)]
        read = torch.stack([*self._losses, *(t.to(self._losses[0].device).reshape(()) for t in tensors)]).tolist()
        losses, told = read[: len(self._losses)], iter(read[len(self._losses) :])
        if all(weight is None for weight in self._weights):
            return float(sum(losses))
        weights = [next(told) if isinstance(w, torch.Tensor) else float(w or 0.0) for w in self._weights]
        total = sum(weights)
        if not total:
            return float("nan")
        parts = losses if self._divided_last else [v * w for v, w in zip(losses, weights, strict=True) if w]
        return float(sum(parts)) / total


class _Counted:
    """An accuracy over all batches."""

    def __init__(self, metric: Accuracy) -> None:
        self._metric = metric
        self._counts: list[torch.Tensor] = []

    def add(self, found: Evaluated) -> None:
        """One batch, or a part of one."""
        self._counts.append(self._metric.count(found.output, found.target))

    def value(self) -> float:
        """Of them all."""
        return self._metric.value(torch.stack(self._counts).sum(0).tolist())


def _need(found: Evaluated) -> None:
    if found.output is None or found.target is None:
        msg = "metrics need outputs and targets: let loss(model, batch) return (loss, outputs, targets)"
        raise DataError(msg)


def _together(parts: list[Any]) -> Any:
    try:
        return joined(parts) if parts else None
    except RuntimeError as error:
        msg = (
            "the held-out batches have outputs or targets of different shapes, so that no metric can be given them "
            "all at once; pad them to one length, or leave that metric out"
        )
        raise DataError(msg) from error


def _on_host(value: Any) -> Any:
    """Detached, on the host, half precision as float32: what NumPy and scikit-learn can take."""
    return _widened(moved(value, torch.device("cpu")))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_widened(item) for item in value)
    return value
