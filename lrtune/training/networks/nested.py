"""Tensors in nested tuples, lists and dicts: to a checkpoint's arrays and back, to a device, sliced by sample."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "ITEMS",
    "TENSOR",
    "TUPLE",
    "concatenated",
    "decoded",
    "detached",
    "encoded",
    "length",
    "moved",
    "sliced",
    "tensors",
]

TENSOR, TUPLE, ITEMS = "tensor", "tuple", "items"
WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PLAIN = frozenset({bool, int, float, str, bytes, type(None)})


def encoded(value: Any) -> Any:
    """A snapshot in plain values: arrays for tensors, whatever their type, marked dicts for the rest.

    TypeError if something in it cannot be written without a pickle.
    """
    if isinstance(value, torch.Tensor):
        return {TENSOR: _array(value), "dtype": str(value.dtype).removeprefix("torch.")}
    if type(value) in PLAIN:
        return value
    if isinstance(value, tuple):
        return {TUPLE: [encoded(item) for item in value]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {ITEMS: [[encoded(key), encoded(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        return np.array(value)
    msg = f"a value of type {type(value).__name__} cannot be saved without a pickle"
    raise TypeError(msg)


def decoded(value: Any) -> Any:
    """What :func:`encoded` was given, its tensors on the host.

    InputError if it is nothing that :func:`encoded` returns.
    """
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return _tensor(value[TENSOR], value["dtype"])
    if TUPLE in value:
        return tuple(decoded(item) for item in value[TUPLE])
    if ITEMS in value:
        return {decoded(key): decoded(item) for key, item in value[ITEMS]}
    msg = f"the state holds a mapping of unknown making (keys {sorted(value)[:5]}); start the run again"
    raise InputError(msg)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A copy on the host; types that NumPy lacks (bfloat16, float8) as integers of the same width."""
    plain = tensor.detach().to("cpu", copy=True).contiguous()
    try:
        return plain.numpy()
    except TypeError:
        return plain.view(WIDTHS[plain.element_size()]).numpy()


def _tensor(array: Any, name: str) -> torch.Tensor:
    dtype = getattr(torch, name, None)
    if not isinstance(array, np.ndarray) or not isinstance(dtype, torch.dtype):
        msg = f"the state holds no tensor of type {name!r} where one is due; start the run again"
        raise InputError(msg)
    plain = torch.from_numpy(np.array(array))
    return plain if plain.dtype == dtype else plain.view(dtype)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor within, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor on the device."""
    if isinstance(value, torch.Tensor):
        # To the host it has to wait, or the numbers would be read before they are there.
        return value if value.device == device else value.to(device, non_blocking=device.type != "cpu")
    if isinstance(value, Mapping):
        return _renewed(value, {key: moved(item, device) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return _alike(value, [moved(item, device) for item in value])
    return value.to(device) if hasattr(value, "to") else value  # e.g. a PackedSequence


def detached(value: Any) -> Any:
    """The same with every tensor detached from its graph."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return _renewed(value, {key: detached(item) for key, item in value.items()})
    return _alike(value, [detached(item) for item in value]) if isinstance(value, list | tuple) else value


def _renewed(value: Any, items: dict[Any, Any]) -> Any:
    """The items as a mapping of the same class, which may have attributes."""
    if type(value) is dict:
        return items
    made = copy.copy(value)
    for key, item in items.items():
        made[key] = item
    return made


def _alike(value: Any, items: list[Any]) -> Any:
    """The items as the same named tuple, or as a tuple."""
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def length(batch: Any) -> int:
    """Samples of a batch: the first dimension of its first tensor that has one; 0 where none has."""
    if isinstance(batch, tuple) and batch and isinstance(first := batch[0], torch.Tensor) and first.ndim:
        return first.size(0)  # nearly every batch, in a tenth of the time
    return next((int(tensor.shape[0]) for tensor in tensors(batch) if tensor.ndim), 0)


def sliced(batch: Any, begin: int, end: int, samples: int) -> Any:
    """The samples from `begin` to `end` of a batch of `samples`; what has no dimension of samples is not sliced."""
    if isinstance(batch, torch.Tensor):
        return batch[begin:end] if batch.ndim and batch.shape[0] == samples else batch
    if isinstance(batch, Mapping):
        return _renewed(batch, {key: sliced(item, begin, end, samples) for key, item in batch.items()})
    if isinstance(batch, list | tuple):
        if batch and len(batch) == samples and not any(True for _ in tensors(batch)):
            return batch[begin:end]  # e.g. a list of strings
        return _alike(batch, [sliced(item, begin, end, samples) for item in batch])
    return batch


def concatenated(parts: Sequence[Any]) -> Any:
    """Outputs of several batches as one."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts)) if first.ndim else torch.stack(list(parts))
    if isinstance(first, Mapping):
        return _renewed(first, {key: concatenated([part[key] for part in parts]) for key in first})
    if isinstance(first, list | tuple):
        return _alike(first, [concatenated(column) for column in zip(*parts, strict=True)])
    return list(parts)
