"""The loss of a batch and the metrics, from a name, a PyTorch module or a function; whether a loss is a sample mean."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import nn

from lrtune.errors import DataError, InputError
from lrtune.training.callables import wanted
from lrtune.training.networks.accuracy import Accuracy
from lrtune.training.networks.nested import concatenated, detached, length
from lrtune.training.networks.torch_losses import NAMED, TorchLoss, torch_loss
from lrtune.training.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "RETURN_WEIGHT",
    "Batch",
    "LossResult",
    "Metric",
    "Objective",
    "SampleMeanCheck",
    "inputs_and_target",
    "metrics_of",
    "objective_of",
    "scalar_loss",
]

Batch = Any
Metric: TypeAlias = "Accuracy | Callable[[Any, Any], Any]"
PAIR = 2
HOST = torch.device("cpu")
RETURN_WEIGHT = "let it return (loss, weight), the weight being the number that it divides by"


class LossResult(NamedTuple):
    """The loss of a batch.

    Attributes
    ----------
    loss
        A tensor without dimensions.
    output, target
        From which it was computed; None where a loss with a forward pass of its own does not return them.
    weight
        What the loss was divided by, where the user's own loss returned it; else None.
    """

    loss: torch.Tensor
    output: Any
    target: Any
    weight: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A loss.

    Attributes
    ----------
    name
        Its name, for the fingerprint.
    function
        ``(output, target)``, or ``(model, batch)`` where `custom_forward` is set.
    custom_forward
        Whether the function does the forward pass itself.
    torch_loss
        What it divides by, where it is PyTorch's own; else None.
    """

    name: str
    function: Callable[..., Any]
    custom_forward: bool = False
    torch_loss: TorchLoss | None = None

    @property
    def builtin(self) -> bool:
        """Whether it is one of the losses by name, whose results no user's code can see or change."""
        return self.torch_loss is not None and NAMED.get(self.name) is self.torch_loss

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a batch, a tensor of no dimensions."""
        if self.torch_loss is not None and type(batch) is tuple and len(batch) == PAIR:  # nearly every batch
            return scalar_loss(self.function(model(batch[0]), batch[1]))
        return self.outputs(model, batch).loss

    def outputs(self, model: nn.Module, batch: Batch) -> LossResult:
        """Loss, outputs and targets of a batch."""
        if self.custom_forward:
            return _result(self.function(model, batch), None, None)
        inputs, target = inputs_and_target(batch)
        return self.of(model(*inputs), target)

    def of(self, output: Any, target: Any) -> LossResult:
        """The loss of outputs; not where `custom_forward` is set."""
        return _result(self.function(output, target), output, target)

    def why_not_split(self, batch: Batch) -> str:
        """Why a batch cannot be split along its samples, as the rest of a sentence; ``""`` where it can."""
        samples = length(batch)
        if self.custom_forward or samples == 0:
            return ""
        rows = length((inputs_and_target(batch)[1],))
        return "" if rows in {0, samples} else f"the target has {rows} rows and the inputs {samples}"


def _result(found: Any, output: Any, target: Any) -> LossResult:
    """``loss``, ``(loss, weight)``, ``(loss, outputs, targets)`` or ``(loss, outputs, targets, weight)``."""
    if not isinstance(found, tuple):
        return LossResult(scalar_loss(found), output, target, None)
    if len(found) not in (2, 3, 4):
        msg = (
            f"loss must return the loss, (loss, weight), (loss, outputs, targets) or (loss, outputs, targets, weight) "
            f"(got a tuple of {len(found)})"
        )
        raise DataError(msg)
    if len(found) > PAIR:
        output, target = found[1:3]
    return LossResult(scalar_loss(found[0]), output, target, None if len(found) == 3 else _weight(found[-1]))  # noqa: PLR2004 -- see above


def _weight(given: Any) -> Any:
    if isinstance(given, int | float) or (isinstance(given, torch.Tensor) and given.numel() == 1):
        return given
    msg = (
        "the weight that loss returns beside it must be one number, what the loss was divided by "
        f"(got {type(given).__name__})"
    )
    raise DataError(msg)


def scalar_loss(loss: Any) -> torch.Tensor:
    """The loss, if it is a tensor without dimensions; DataError if it is anything else."""
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        got = f"the shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        msg = (
            f"loss must return one number, the mean over the batch, as a tensor without dimensions (got {got}); "
            "with a weight beside it, return (loss, weight)"
        )
        raise DataError(msg)
    return loss


def inputs_and_target(batch: Batch) -> tuple[tuple[Any, ...], Any]:
    """Inputs and target of a batch: the last item is the target.

    DataError if the batch is not a sequence of at least two.
    """
    if isinstance(batch, list | tuple) and len(batch) > 1:
        return tuple(batch[:-1]), batch[-1]
    msg = f"a batch must be (inputs..., target) (got {type(batch).__name__}); or give loss as a function(model, batch)"
    raise DataError(msg)


MODEL_NAMES = frozenset({"model", "module", "net", "network"})


def objective_of(loss: Any, device: torch.device = HOST) -> Objective:
    """The objective of a name, of a ``function(output, target)`` or of a ``function(model, batch)``.

    A function whose first argument is called ``model`` does the forward pass itself.

    Parameters
    ----------
    loss
        As the user gave it.
    device
        Where the class weights of PyTorch's own losses go.

    Raises
    ------
    InputError
        If there is no loss of that name, or it is a class.
    """
    if isinstance(loss, str):
        predefined = _by_name(NAMED, loss, "loss")
        return Objective(name=loss, function=predefined.mean, torch_loss=predefined)
    if isinstance(loss, type):
        msg = f"loss is the class {loss.__name__}; give an instance of it: {loss.__name__}()"
        raise InputError(msg)
    if not callable(loss):
        msg = f"loss must be one of {', '.join(NAMED)} or a function (got {type(loss).__name__})"
        raise InputError(msg)
    name = _plain_name(loss) if isinstance(loss, nn.Module) else getattr(loss, "__name__", type(loss).__name__)
    found = torch_loss(loss, device)
    if found is not None:
        return Objective(name=name, function=found.mean, torch_loss=found)
    if isinstance(loss, nn.Module):
        return Objective(name=name, function=loss)
    required, _ = wanted(loss)
    return Objective(name=name, function=loss, custom_forward=bool(required) and required[0] in MODEL_NAMES)


def _plain_name(loss: nn.Module) -> str:
    """The name of a loss module; of the named ones only where it is set up as they are."""
    default = getattr(loss, "reduction", "") == "mean" and getattr(loss, "weight", None) is None
    smooth = getattr(loss, "label_smoothing", 0.0) != 0.0 or getattr(loss, "pos_weight", None) is not None
    names = {nn.CrossEntropyLoss: "cross_entropy", nn.MSELoss: "mse", nn.BCEWithLogitsLoss: "bce_with_logits"}
    return names.get(type(loss), repr(loss)) if default and not smooth else repr(loss)


def _by_name(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    msg = f"there is no {what} {name!r}; known are {', '.join(known)}, or give a function{hint}"
    raise InputError(msg)


METRICS = {"accuracy": False, "error": True}
"""Names of metrics, and whether each counts the wrong answers."""


def metrics_of(metrics: Mapping[str, Any] | Iterable[str] | None, objective: Objective) -> dict[str, Metric]:
    """Metrics by name: predefined ones, or functions ``(outputs, targets)`` of all held-out samples.

    InputError if a name is not known, or taken by the losses, or a metric is no function.
    """
    if metrics is None:
        return {}
    listed = [metrics] if isinstance(metrics, str) else metrics
    given = dict(listed) if isinstance(listed, Mapping) else {name: name for name in listed}
    taken = {"train_loss", "valid_loss"} & set(given)
    if taken:
        msg = f"a metric cannot be called {min(taken)!r}, which is a loss; choose another name"
        raise InputError(msg)
    return {name: _metric(name, metric, objective) for name, metric in given.items()}


def _metric(name: str, metric: Any, objective: Objective) -> Metric:
    if isinstance(metric, str):
        return Accuracy(wrong=_by_name(METRICS, metric, "metric"), loss=objective.torch_loss)
    if isinstance(metric, type) or not callable(metric):
        got = f"the class {metric.__name__}; give an instance" if isinstance(metric, type) else type(metric).__name__
        msg = f"the metric {name!r} must be one of {', '.join(METRICS)} or a function(outputs, targets) (got {got})"
        raise InputError(msg)
    return metric  # type: ignore[no-any-return]  # whatever it is, it can be called


class SampleMeanCheck:
    """Checks that a loss is a mean over samples: that of two parts of a batch together must be the mean of theirs.

    A mean over targets that are not masked, or over weights, shows at the first two parts that differ in them.
    It takes the memory of the outputs of two parts, and the loss once more; no forward pass.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._last: tuple[LossResult, int] | None = None

    def holds(self, found: LossResult, samples: int) -> bool:
        """Whether it is so for this part and the one before it."""
        part = found._replace(output=detached(found.output), loss=found.loss.detach()), samples
        last, self._last = self._last, part
        return last is None or self._together(*last, *part)

    def _together(self, one: LossResult, one_samples: int, two: LossResult, two_samples: int) -> bool:
        try:
            with torch.no_grad():
                both = self._function(concatenated([one.output, two.output]), concatenated([one.target, two.target]))
                both = float(both[0] if isinstance(both, tuple) else both)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False  # the parts have different shapes, say, or the loss depends on its batch size
        first, second = float(one.loss), float(two.loss)
        mean = (first * one_samples + second * two_samples) / (one_samples + two_samples)
        if not math.isfinite(mean):
            return not math.isfinite(both)
        # Rounding alone: each sample's loss is the same number both times, only their sum is put together anew.
        tolerance: float = torch.finfo(one.loss.dtype).eps ** 0.6
        return abs(both - mean) <= tolerance * max(abs(first), abs(second), abs(both))
