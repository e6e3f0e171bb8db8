"""What the user's own data objects draw from: their samplers, copied for each run, and generators of their own.

A DataLoader, its sampler and its Dataset may hold random generators (of PyTorch, NumPy or Python) and other state
that moves on. Runs that are trained in turn must not share it: samplers are copied. Data is too large for that, so
the generators that a Dataset holds are seeded before each batch, and no run is any wiser that there are others.
"""

from __future__ import annotations

import copy
import random
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lrtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Drawing", "copied", "generators_in", "samplers_of", "seed_all", "tell_epoch"]

Drawing: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
DRAWING = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
PLAIN = (str, bytes, int, float, torch.Tensor, np.ndarray, type, FunctionType, MethodType, ModuleType)
LONGEST, DEEPEST = 64, 6
"""Items of a collection, and attributes of attributes, that are looked through for generators."""


def copied(loader: DataLoader[Any], name: str) -> DataLoader[Any]:
    """A loader over the same data, with a sampler and a generator of its own.

    Raises
    ------
    DataError
        If the sampler cannot be copied.
    """
    own = copy.copy(loader)
    shared = {id(item): item for sampler in samplers_of(loader) for item in _data_in(sampler)}
    parts = (loader.sampler, loader.batch_sampler, loader.generator)
    try:
        sampler, batch_sampler, generator = copy.deepcopy(parts, {id(loader.dataset): loader.dataset, **shared})
    except Exception as error:
        kind = type(loader.sampler).__name__
        msg = (
            f"{name}: the sampler {kind} cannot be copied for each run ({type(error).__name__}: {str(error)[:80]}); "
            "give a function that returns a DataLoader"
        )
        raise DataError(msg) from error
    dataset = copy.copy(loader.dataset) if isinstance(loader.dataset, IterableDataset) else loader.dataset
    # Not through setattr, which a loader refuses; an iterator that the user has begun is the user's.
    own.__dict__.update(
        sampler=sampler, batch_sampler=batch_sampler, generator=generator, dataset=dataset, _iterator=None
    )
    return own


def samplers_of(loader: Any) -> Iterator[Any]:
    """The samplers of a loader, and those within them."""
    found = [getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)]
    while found:
        sampler = found.pop()
        if sampler is not None:
            yield sampler
            found.append(getattr(sampler, "sampler", None))


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tell those that ask for it which epoch it is, as samplers for distributed training do."""
    for holder in (*samplers_of(loader), getattr(loader, "dataset", None)):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def generators_in(*holders: Any, within: bool = True) -> Sequence[Drawing]:
    """The random generators that objects hold, except for the process's global ones.

    Parameters
    ----------
    holders
        The objects.
    within
        Whether those of a Dataset that they hold count, too.
    """
    found: dict[int, Drawing] = {}
    seen: set[int] = set()
    left = [(holder, 0) for holder in holders]
    while left:
        item, depth = left.pop()
        if item is None or id(item) in seen or isinstance(item, PLAIN) or depth > DEEPEST:
            continue
        seen.add(id(item))
        if isinstance(item, DRAWING):
            if item is not torch.default_generator and item is not np.random.mtrand._rand:  # noqa: SLF001 -- no public name
                found[id(item)] = item
        elif within or depth == 0 or not isinstance(item, Dataset):
            left += [(part, depth + 1) for part in _parts(item)]
    return tuple(found.values())


def seed_all(generators: Sequence[Drawing], seed: int) -> None:
    """Seed each of them."""
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(seed).state
        else:
            generator.seed(seed % 2**32)


def _parts(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values()) if len(item) <= LONGEST else []
    if isinstance(item, list | tuple | set):
        return list(item) if len(item) <= LONGEST else []
    return list(getattr(item, "__dict__", {}).values())


def _data_in(sampler: Any) -> list[Any]:
    """What a sampler holds of the data, which is not copied with it."""
    held = getattr(sampler, "__dict__", {})
    return [value for name, value in held.items() if name == "data_source" or isinstance(value, Dataset)]
