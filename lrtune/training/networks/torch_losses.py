"""PyTorch's own losses: what each divides its sum by, and one-sentence errors for shapes and types it cannot take.

The mean that PyTorch takes is not always one over samples. For class numbers it is over the targets that are not
`ignore_index`, each counted by its class weight; for class probabilities over rows; for elementwise losses over
elements. With that divisor the loss of a batch is computed from those of its parts, however it is split.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional

from lrtune.errors import DataError
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NAMED", "TorchLoss", "torch_loss"]

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

HALF = (torch.bfloat16, torch.float16)

OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
ELEMENTWISE = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss),
    *(nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.MultiLabelSoftMarginLoss),
)
"""Of outputs and targets of equal shape. Where they take a mean over rows it is one over elements, of equal rows."""

FUNCTIONS: Mapping[Any, type[nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.mse_loss: nn.MSELoss,
    functional.l1_loss: nn.L1Loss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
    functional.huber_loss: nn.HuberLoss,
    functional.binary_cross_entropy: nn.BCELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.kl_div: nn.KLDivLoss,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchLoss:
    """A loss of PyTorch's: that of a batch is the sum of its parts' `total` over the sum of their `divisor`.

    Attributes
    ----------
    module
        The loss as PyTorch has it, with its options.
    mean
        `module` as a function of output and target, whose errors are one sentence; class numbers may be of any integer
        type, and a target may be a column where the output is a vector.
    summed
        The same with ``reduction="sum"``, for class numbers.
    """

    module: nn.Module
    mean: Loss
    summed: Loss

    @property
    def of_classes(self) -> bool:
        """Whether the targets are class numbers or class probabilities."""
        return isinstance(self.module, OF_CLASSES)

    @property
    def ignore_index(self) -> int | None:
        """The class number that does not count; None where targets are no classes."""
        return int(self.module.ignore_index) if isinstance(self.module, OF_CLASSES) else None

    @property
    def class_weight(self) -> torch.Tensor | None:
        """Weight of each class, shape (classes,)."""
        return self.module.weight if isinstance(self.module, OF_CLASSES) else None

    def may_ignore_all(self, target: torch.Tensor) -> bool:
        """Whether it is possible that no target counts: only of class numbers."""
        return self.of_classes and self.module.reduction != "sum" and not target.is_floating_point()

    def divisor(self, target: torch.Tensor) -> torch.Tensor | float | None:
        """What the mean over that target divides by; None where the loss is a sum.

        For class numbers a tensor without dimensions on the target's device, so that nothing waits for it.
        """
        reduction = self.module.reduction
        if reduction == "sum":
            return None
        if not self.of_classes:
            return target.shape[0] if reduction == "batchmean" else target.numel()
        if target.is_floating_point():  # probabilities, the classes in dimension 1
            return target.numel() / target.shape[1] if target.ndim > 1 else 1.0
        counted = target.ne(cast("int", self.module.ignore_index))
        weights = self.class_weight
        if weights is None:
            return counted.sum()
        classes = torch.where(counted, target, 0).long().clamp(0, len(weights) - 1)
        return (weights[classes] * counted).sum()

    def total(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum that the mean divides; zero where no class number counts, where the mean is NaN."""
        if self.of_classes and not target.is_floating_point():
            return self.summed(output, target)
        divisor = self.divisor(target)
        mean = self.mean(output, target)
        return mean if divisor is None else mean * divisor


def torch_loss(loss: Any, device: torch.device) -> TorchLoss | None:
    """A loss module, a function of :mod:`torch.nn.functional` or a ``partial`` of one, its class weights on the device.

    None where it is not PyTorch's own, or has weights by element.
    """
    module = loss if isinstance(loss, nn.Module) else _module_of(loss)
    of_classes = type(module) in OF_CLASSES
    if module is None or not (of_classes or type(module) in ELEMENTWISE):
        return None
    if module.reduction not in ("mean", "sum", "batchmean"):
        return None
    if not of_classes and getattr(module, "weight", None) is not None:
        return None  # its shape may be that of one batch
    return _torch_loss(copy.deepcopy(module).to(device))


def _module_of(loss: Any) -> Any:
    """The module of a function of torch.nn.functional, its options by keyword."""
    function, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    try:
        return FUNCTIONS[function](**options)
    except (KeyError, TypeError):
        return None


def _torch_loss(module: nn.Module, name: str = "", call: Any = None) -> TorchLoss:
    """A loss by name calls its function, without the time that a module takes at every step."""
    prepare, summed = _aligned, module
    if isinstance(module, OF_CLASSES):
        prepare = functools.partial(_classes, strict=bool(name))
        summed = copy.copy(module)
        summed.reduction = "sum"
    kind = type(module).__name__
    shown = (name, f"torch.nn.functional.{call.__name__}") if call else (kind, f"torch.nn.{kind}()")
    return TorchLoss(
        module=module, mean=_checked(shown, call or module, prepare), summed=_checked(shown, summed, prepare)
    )


def _checked(shown: tuple[str, str], call: Loss, prepare: Callable[[Any, Any], Pair]) -> Loss:
    """A loss whose errors are one sentence; `shown` is its name and how it is called by hand."""

    def loss(output: Any, target: Any) -> torch.Tensor:
        try:
            return call(*prepare(output, target))
        except DataError:
            raise
        except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise DataError(_refusal(shown, output, target, error)) from error

    return loss


def _classes(output: torch.Tensor, target: torch.Tensor, *, strict: bool) -> Pair:
    """Classes in dimension 1, as torch has it, or sequences with the classes last; class numbers as int64.

    `strict` refuses where both are possible; else it is torch's.
    """
    if target.dtype is torch.int64 and output.ndim == 2 and target.ndim == 1:  # noqa: PLR2004 -- nearly every batch
        return output, target
    if target.is_floating_point():
        return output, target
    target = target.long()
    if target.ndim == output.ndim:  # a column
        dimension = next((d for d in (1, -1) if target.ndim > 1 and target.shape[d] == 1), None)
        target = target if dimension is None else target.squeeze(dimension)
    if output.ndim > 2:  # noqa: PLR2004 -- (batch, ..., classes)
        last = output.shape[:-1] == target.shape
        second = output.shape[:1] + output.shape[2:] == target.shape
        if last and second and strict:
            msg = (
                f"cross_entropy cannot tell which dimension of {tuple(output.shape)} holds the classes; "
                "give loss as a function(output, target)"
            )
            raise DataError(msg)
        if last and not second:
            return output.flatten(0, -2), target.flatten()
    return output, target


def _aligned(output: torch.Tensor, target: torch.Tensor) -> Pair:
    """The target in the output's shape and type; half precision becomes float32."""
    if output.shape != target.shape:
        if output.numel() == target.numel():
            target = target.reshape(output.shape)
        elif not _broadcasts(output, target):
            shapes = f"the shape {tuple(output.shape)}, the target {tuple(target.shape)}"
            msg = f"the model's output has {shapes}; give them equal shapes"
            raise DataError(msg)
    if output.dtype in HALF:
        output = output.float()
    return output, target.to(output.dtype)


def _broadcasts(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a target of one column, say, is meant for each column of the output, sample by sample."""
    if output.ndim != target.ndim or output.shape[:1] != target.shape[:1]:
        return False
    return all(1 in {a, b} or a == b for a, b in zip(output.shape, target.shape, strict=True))


def _refusal(shown: tuple[str, str], output: Any, target: Any, error: Exception) -> str:
    """One sentence: what the loss was given, and what it takes."""
    name, call = shown
    if not isinstance(output, torch.Tensor):
        taken = "output[0]" if isinstance(output, list | tuple) else 'output["logits"]'
        return (
            f"the model returns a {type(output).__name__} and {name} takes one tensor; give loss as a "
            f"function(output, target) that takes it out, such as lambda output, target: {call}({taken}, target)"
        )
    if not isinstance(target, torch.Tensor):
        return (
            f"the target is a {type(target).__name__} and {name} takes a tensor; "
            "give loss as a function(output, target) that makes one of it"
        )
    given = f"{name} cannot compare an output of shape {tuple(output.shape)} with a target of {_shown(target)}"
    classes = "cross_entropy" in name or name in {kind.__name__ for kind in OF_CLASSES}
    return f"{given}: {_advice(output, target, error) if classes else f'give them equal shapes ({first_line(error)})'}"


def _advice(output: torch.Tensor, target: torch.Tensor, error: Exception) -> str:
    """The advice of an error about classes."""
    if target.is_floating_point() and output.shape != target.shape:
        return "give class numbers as integers, such as y.long(), or probabilities of the output's shape"
    if not target.is_floating_point() and output.shape == target.shape and output.ndim > 1:
        return "give class numbers, such as y.argmax(1), or probabilities as floats, such as y.float()"
    if "out of bounds" in str(error) and output.ndim > 1:
        return (
            f"its values go from {int(target.min())} to {int(target.max())}, class numbers from 0 to one less than the "
            "model's outputs; number them so, give the model as many outputs, or use -100 for what does not count"
        )
    return f"give one class number for each row of the output ({first_line(error)})"


def _shown(target: torch.Tensor) -> str:
    return f"shape {tuple(target.shape)} and type {str(target.dtype).removeprefix('torch.')}"


NAMED: dict[str, TorchLoss] = {
    name: _torch_loss(module, name, call)
    for name, module, call in (
        ("cross_entropy", nn.CrossEntropyLoss(), functional.cross_entropy),
        ("mse", nn.MSELoss(), functional.mse_loss),
        ("l1", nn.L1Loss(), functional.l1_loss),
        ("huber", nn.HuberLoss(), functional.huber_loss),
        ("bce_with_logits", nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits),
    )
}
"""The losses by name."""
