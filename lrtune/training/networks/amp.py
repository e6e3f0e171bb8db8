"""Devices and precision: which device is meant, autocast, gradient scaling for fp16, freeing GPU memory."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["PRECISIONS", "autocast", "checked_precision", "chosen_device", "free_memory", "scaler_for"]

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def chosen_device(name: str | torch.device) -> torch.device:
    """The device of that name; ``"auto"`` is the first CUDA device, or the host without one.

    InputError if there is no such device here.
    """
    if name == "auto":
        # Counted by the driver's own library, so that CUDA is not in use yet and the process may still be forked.
        name = "cuda" if torch.cuda.device_count() > 0 else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f'device must be "auto" or a device that PyTorch knows, such as "cpu" or "cuda:0" (got {name!r})'
        raise InputError(msg) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        return device
    index: Any = device.index  # None where the name has no number, whatever the stubs say
    count = torch.cuda.device_count()
    if (index or 0) >= count:
        msg = f'device {name!r} is not here: PyTorch sees {count} CUDA devices; use "auto" or "cpu"'
        raise InputError(msg)
    if index is None:
        in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # PyTorch is untyped here
        index = torch.cuda.current_device() if in_use else 0
    return torch.device("cuda", index)


def checked_precision(name: str, device: torch.device) -> str:
    """The precision, if that device can compute in it.

    InputError if there is no such precision, or the device has it not.
    """
    if name not in PRECISIONS:
        msg = f"precision must be one of {', '.join(PRECISIONS)} (got {name!r})"
        raise InputError(msg)
    if name == "fp16" and device.type == "cpu":
        msg = 'precision "fp16" needs a GPU: on the CPU use "bf16" or "float32"'
        raise InputError(msg)
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        msg = f'precision "bf16" is not supported by {torch.cuda.get_device_name(device)}; use "fp16" or "float32"'
        raise InputError(msg)
    return name


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def scaler_for(precision: str, device: torch.device) -> Any:
    """A gradient scaler for fp16, None for precisions of a wider range."""
    if precision != "fp16":
        return None
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type)
    return torch.cuda.amp.GradScaler()  # before torch 2.3


def free_memory(device: torch.device) -> None:
    """Empty PyTorch's cache of GPU memory."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
