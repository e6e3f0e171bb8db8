"""What a model is trained and measured by: the loss of a batch, and the metrics of the held-out part."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from lrtune.errors import DataError, InputError
from lrtune.training.calls import wanted
from lrtune.training.tensors import joined, length, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["METRICS", "Objective", "measure", "metrics_of", "objective_of", "split"]

Batch = Any
PAIR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A loss: the mean over the samples of a batch.

    Attributes
    ----------
    name
        Its name, for the fingerprint and for what a constant prediction is worth.
    function
        ``(output, target)``, or ``(model, batch)`` where `whole` is set.
    whole
        Whether the function does the forward pass itself. It may then return the loss alone, or
        ``(loss, outputs, targets)``, of which metrics are made.
    """

    name: str
    function: Callable[..., Any]
    whole: bool = False

    @property
    def named(self) -> bool:
        """Whether it is one of those that have a name here: nobody else holds its results, or hooks on them."""
        return LOSSES.get(self.name) is self.function

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a batch, a tensor of no dimensions."""
        if self.whole:
            loss = self.function(model, batch)
            return _one_number(loss[0] if isinstance(loss, tuple) else loss)
        if type(batch) is tuple and len(batch) == PAIR:  # nearly every batch: nothing to take apart
            return _one_number(self.function(model(batch[0]), batch[1]))
        inputs, target = split(batch)
        return _one_number(self.function(model(*inputs), target))

    def outputs(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Any, Any]:
        """Loss, outputs and targets of a batch; the last two are None where the loss keeps them."""
        if self.whole:
            found = self.function(model, batch)
            return found if isinstance(found, tuple) else (_one_number(found), None, None)
        inputs, target = split(batch)
        output = model(*inputs)
        return _one_number(self.function(output, target)), output, target


def _one_number(loss: Any) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        got = f"the shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        msg = f"loss must return one number, the mean over the batch, as a tensor without dimensions (got {got})"
        raise DataError(msg)
    return loss


def split(batch: Batch) -> tuple[tuple[Any, ...], Any]:
    """Inputs and target of a batch: the last item is the target.

    Raises
    ------
    DataError
        If the batch is not a sequence of at least two.
    """
    if isinstance(batch, list | tuple) and len(batch) > 1:
        return tuple(batch[:-1]), batch[-1]
    msg = f"a batch must be (inputs..., target) (got {type(batch).__name__}); or give loss as a function(model, batch)"
    raise DataError(msg)


def _cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of classes in dimension 1, as torch has it, or of sequences with the classes last."""
    if output.ndim > 2 and not target.is_floating_point():  # noqa: PLR2004 -- (batch, ..., classes)
        last = output.shape[:-1] == target.shape
        second = output.shape[:1] + output.shape[2:] == target.shape
        if last and second:
            msg = (
                f"cross_entropy cannot tell which dimension of {tuple(output.shape)} holds the classes; "
                "give loss as a function(output, target)"
            )
            raise DataError(msg)
        if last:
            return functional.cross_entropy(output.flatten(0, -2), target.flatten())
    return functional.cross_entropy(output, target)


def _aligned(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loss of equal shapes: a column of outputs meets a vector of targets, anything else is refused."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.shape != target.shape:
            if output.numel() != target.numel():
                msg = f"the model's output has the shape {tuple(output.shape)}, the target {tuple(target.shape)}"
                raise DataError(msg)
            target = target.reshape(output.shape)
        return function(output, target.to(output.dtype))

    return loss


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _aligned(functional.mse_loss),
    "l1": _aligned(functional.l1_loss),
    "huber": _aligned(functional.huber_loss),
    "bce_with_logits": _aligned(functional.binary_cross_entropy_with_logits),
}

FULL = frozenset({"model", "module", "net", "network"})


def objective_of(loss: Any) -> Objective:
    """The objective of a name, of a ``function(output, target)`` or of a ``function(model, batch)``.

    A function whose first argument is called ``model`` does the forward pass itself.

    Raises
    ------
    InputError
        If there is no loss of that name.
    """
    if isinstance(loss, str):
        return Objective(name=loss, function=_by_name(LOSSES, loss, "loss"))
    if not callable(loss):
        msg = f"loss must be one of {', '.join(LOSSES)} or a function (got {type(loss).__name__})"
        raise InputError(msg)
    if isinstance(loss, nn.Module):
        return Objective(name=_plain_name(loss), function=loss)
    required, _ = wanted(loss)
    whole = bool(required) and required[0] in FULL
    return Objective(name=getattr(loss, "__name__", type(loss).__name__), function=loss, whole=whole)


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


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of right classes: the largest of the last dimension, or of dimension 1; a sign for one output."""
    if outputs.shape == targets.shape or outputs.numel() == targets.numel():
        right = (outputs.reshape(-1) > 0) == (targets.reshape(-1) > 0.5)  # noqa: PLR2004 -- logits of yes and no
    else:
        dimension = 1 if outputs.shape[:1] + outputs.shape[2:] == targets.shape else -1
        right = outputs.argmax(dimension) == targets
    return right.double().mean()


METRICS: dict[str, Callable[[Any, Any], Any]] = {
    "accuracy": _accuracy,
    "error": lambda outputs, targets: 1.0 - _accuracy(outputs, targets),
}


def metrics_of(metrics: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Callable[[Any, Any], Any]]:
    """Metrics by name: names of known ones, or functions ``(outputs, targets)`` of all held-out samples.

    Raises
    ------
    InputError
        If a name is not known, or taken by the losses.
    """
    if metrics is None:
        return {}
    given = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    taken = {"train_loss", "valid_loss"} & set(given)
    if taken:
        msg = f"a metric cannot be called {min(taken)!r}, which is a loss; choose another name"
        raise InputError(msg)
    return {
        name: _by_name(METRICS, metric, "metric") if isinstance(metric, str) else metric
        for name, metric in given.items()
    }


def measure(
    model: nn.Module,
    objective: Objective,
    metrics: Mapping[str, Callable[[Any, Any], Any]],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Loss and metrics over all batches, in evaluation mode and without gradients.

    The loss is the mean over samples; a metric's function is given all outputs and targets at once,
    as float32 on the host. The number of values read from the device does not depend on that of batches.

    Raises
    ------
    DataError
        If metrics are asked for and the loss does not hand out what they are made of.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    losses: list[torch.Tensor] = []
    sizes: list[int] = []
    outputs: list[Any] = []
    targets: list[Any] = []
    try:
        with torch.no_grad():
            for batch in batches:
                loss, output, target = objective.outputs(model, batch)
                losses.append(loss.detach())
                sizes.append(max(1, length(batch)))
                if metrics:
                    _need(output, target)
                    outputs.append(_on_host(output))
                    targets.append(_on_host(target))
    finally:
        for module, mode in modes:
            module.training = mode
    values = torch.stack(losses).double().tolist()
    found = {"valid_loss": sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)}
    if metrics:
        every, wanted_ = joined(outputs), joined(targets)
        found.update({name: float(metric(every, wanted_)) for name, metric in metrics.items()})
    return found


def _need(output: Any, target: Any) -> None:
    if output is None or target is None:
        msg = "metrics need outputs and targets: let loss(model, batch) return (loss, outputs, targets)"
        raise DataError(msg)


def _on_host(value: Any) -> Any:
    """Detached, on the host, half precision as float32: what NumPy and scikit-learn can take."""
    here = moved(value, torch.device("cpu"))
    return _widened(here)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_widened(item) for item in value)
    return value
