"""Loss and metrics of the held-out part: the same numbers whatever the batches it is measured in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import DataError
from lrtune.training.networks.accuracy import Accuracy
from lrtune.training.networks.loss import RETURN_WEIGHT, LossResult, SampleMeanCheck, inputs_and_target
from lrtune.training.networks.nested import concatenated, length, moved, sliced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from lrtune.training.networks.loss import Batch, Metric, Objective
    from lrtune.training.networks.torch_losses import TorchLoss

__all__ = ["measure", "measure_each"]


def measure(
    model: nn.Module,
    objective: Objective,
    metrics: Mapping[str, Metric],
    batches: Iterable[Batch],
    *,
    most: int,
    notify: Callable[[str], object],
) -> dict[str, float]:
    """Loss and metrics over all batches, in evaluation mode and without gradients.

    The loss is that of all samples together: the batches' means are weighted by what they were divided by, which is
    known of PyTorch's own losses and returned by others; of the rest it is the mean by samples, with a notice unless
    that is the same. Accuracy is counted batch by batch; any other metric is given all outputs and targets at once, as
    float32 on the host. How many values are read from the device does not depend on the number of batches.

    At most `most` samples pass through the model at once; `notify` takes the notices. DataError if there are metrics
    and the loss does not return outputs and targets.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = _MeanLoss(objective, notify)
    counts: dict[str, list[torch.Tensor]] = {
        name: [] for name, metric in metrics.items() if isinstance(metric, Accuracy)
    }
    functions = len(counts) < len(metrics)
    outputs: list[Any] = []
    targets: list[Any] = []
    try:
        with torch.no_grad():
            for batch in batches:
                for found, samples in _evaluated(model, objective, batch, most):
                    loss.add(found, samples)
                    if metrics and (found.output is None or found.target is None):
                        msg = "metrics need outputs and targets: let loss(model, batch) return (loss, outputs, targets)"
                        raise DataError(msg)
                    for name, counted in counts.items():
                        counted.append(metrics[name].count(found.output, found.target))  # type: ignore[union-attr]  # see above
                    if functions:
                        outputs.append(_on_host(found.output))
                        targets.append(_on_host(found.target))
    finally:
        for module, mode in modes:
            module.training = mode
    values = {"valid_loss": loss.value()}
    output, target = _together(outputs), _together(targets)
    for name, metric in metrics.items():
        if isinstance(metric, Accuracy):
            values[name] = metric.value(torch.stack(counts[name]).sum(0).tolist())
        else:
            values[name] = float(metric(output, target))
    return values


def measure_each(
    results: Callable[[Batch], Sequence[torch.Tensor]],
    loss: TorchLoss,
    metrics: Mapping[str, Accuracy],
    batches: Iterable[Batch],
) -> list[dict[str, float]]:
    """Loss and metrics of several models over the same batches, under one of PyTorch's own losses.

    `results` gives the losses of a batch, of shape (members,), and of each metric the counts, of shape (members, ...).
    """
    losses: list[torch.Tensor] = []
    divisors: list[float] = []
    counts: list[list[torch.Tensor]] = []
    for batch in batches:
        found, *counted = results(batch)
        divisor = loss.divisor(inputs_and_target(batch)[1])
        losses.append(found.double())
        divisors.append(1.0 if divisor is None else float(divisor))
        counts.append(counted)
    weights = torch.tensor(divisors, dtype=torch.float64, device=losses[0].device).unsqueeze(1)
    total = torch.where(weights == 0, 0, torch.stack(losses) * weights).sum(0)  # where nothing counts the loss is NaN
    means = total if loss.module.reduction == "sum" else total / weights.sum()
    shares = {
        name: [metric.value(row) for row in torch.stack([counted[place] for counted in counts]).sum(0).tolist()]
        for place, (name, metric) in enumerate(metrics.items())
    }
    return [
        {"valid_loss": mean, **{name: values[row] for name, values in shares.items()}}
        for row, mean in enumerate(means.tolist())
    ]


def _evaluated(model: nn.Module, objective: Objective, batch: Batch, most: int) -> Iterator[tuple[LossResult, int]]:
    """The results of a batch and their samples: one for each part of at most `most` samples where that is possible."""
    samples = length(batch)
    if samples <= most or objective.why_not_split(batch):
        yield objective.outputs(model, batch), max(1, samples)
        return
    edges = [*range(0, samples, most), samples]
    parts = [(sliced(batch, begin, end, samples), end - begin) for begin, end in pairwise(edges)]
    if objective.torch_loss is not None or objective.custom_forward:
        for part, size in parts:
            yield objective.outputs(model, part), size
        return
    output = concatenated([model(*inputs_and_target(part)[0]) for part, _ in parts])
    yield objective.of(output, inputs_and_target(batch)[1]), samples


class _MeanLoss:
    """The loss of all batches together."""

    def __init__(self, objective: Objective, notify: Callable[[str], object]) -> None:
        self._objective, self._notify = objective, notify
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor | float | None] = []
        self._first_target: Any = None  # of a single batch, whose divisor is not needed
        self._check = SampleMeanCheck(objective.function)
        # Under class weights a part may weigh nothing and have a loss all the same, where labels are smoothed.
        self._totals = objective.torch_loss is not None and objective.torch_loss.class_weight is not None

    def add(self, found: LossResult, samples: int) -> None:
        """One batch, or a part of one."""
        own, weight, loss = self._objective.torch_loss, found.weight, found.loss
        if own is not None and self._totals:
            weight, loss = own.divisor(found.target), own.total(found.output, found.target)
        elif own is not None and not self._losses:
            self._first_target = found.target
        elif own is not None:
            weight = own.divisor(found.target)
            if self._first_target is not None:
                self._weights, self._first_target = [own.divisor(self._first_target)], None
        elif weight is None:
            weight = samples
            self._warn(found, samples, first=not self._losses)
        self._losses.append(loss.detach().double())
        self._weights.append(weight)

    def _warn(self, found: LossResult, samples: int, *, first: bool) -> None:
        """A notice where the mean by samples may not be the loss of all of them."""
        name = self._objective.name
        if not self._objective.custom_forward:
            if not self._check.holds(found, samples):
                self._notify(
                    f"the loss {name} is no mean over samples, so that valid_loss depends on the size of the held-out "
                    f"batches (eval_batch_size); {RETURN_WEIGHT}"
                )
        elif not first:
            self._notify(
                f"what the loss {name} divides by is not known: valid_loss is the mean of held-out batches by their "
                f"samples; if it is no mean over samples, {RETURN_WEIGHT}"
            )

    def value(self) -> float:
        """The mean by weight, or the sum of a loss that is a sum; NaN where all weights are zero."""
        if self._first_target is not None:
            return float(self._losses[0])
        tensors = [weight.double() for weight in self._weights if isinstance(weight, torch.Tensor)]
        read = torch.stack([*self._losses, *(t.to(self._losses[0].device).reshape(()) for t in tensors)]).tolist()
        losses, of_tensors = read[: len(self._losses)], iter(read[len(self._losses) :])
        if all(weight is None for weight in self._weights):
            return float(sum(losses))
        weights = [next(of_tensors) if isinstance(w, torch.Tensor) else float(w or 0.0) for w in self._weights]
        total = sum(weights)
        if not total:
            return float("nan")
        parts = losses if self._totals else [v * w for v, w in zip(losses, weights, strict=True) if w]
        return float(sum(parts)) / total


def _together(parts: list[Any]) -> Any:
    try:
        return concatenated(parts) if parts else None
    except RuntimeError as error:
        msg = (
            "the held-out batches have outputs or targets of different shapes, so that no metric can be given them "
            "all at once; pad them to one length, or leave that metric out"
        )
        raise DataError(msg) from error


def _on_host(value: Any) -> Any:
    """On the host, half precision as float32: what NumPy and scikit-learn can take."""
    return _widened(moved(value, torch.device("cpu")))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_widened(item) for item in value)
    return value
