"""Lazy modules: parameters that have no shape until a batch has passed through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from lrtune.errors import InputError
from lrtune.training.networks.loss import split
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from lrtune.training.networks.data import Source
    from lrtune.training.networks.loss import Objective

__all__ = ["materialized"]

SAMPLES = 2
"""Enough for shapes; BatchNorm takes no single one."""


def materialized(model: nn.Module, data: Source, objective: Objective, device: torch.device) -> nn.Module:
    """The model, its lazy parameters drawn as a small batch of `data` passes through it in evaluation mode.

    Before anything looks at its parameters: an optimizer would train none that come later.

    Raises
    ------
    InputError
        If the batch does not pass through, or leaves some of them without a shape.
    """
    if not _without_shape(model):
        return model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    why = "that batch does not use them"
    try:
        with torch.no_grad():
            batch = next(iter(data.ordered(SAMPLES, device)))
            if objective.whole:
                objective.outputs(model, batch)
            else:
                model(*split(batch)[0])
    except Exception as error:  # what else is wrong with the batch comes up again in the first step
        if is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
    finally:
        for module, mode in modes:
            module.training = mode
    lazy = _without_shape(model)
    if lazy:
        msg = (
            f"the model has parameters that are not initialized, such as {lazy[0]}, and a batch of train_data does not "
            f"initialize them ({why}); run a batch through the model in the function that makes it"
        )
        raise InputError(msg)
    return model


def _without_shape(model: nn.Module) -> list[str]:
    return [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
