"""Batches of a run from tensors in memory or a Dataset, in an order that follows from seed and epoch.

A *source* is what the user gave, shared by all runs; a *feed* gives one run its batches by (epoch, position), so a run
resumes from those two numbers. DataLoaders: :mod:`lrtune.training.networks.data_loaders`.
"""

from __future__ import annotations

import abc
import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from lrtune.errors import DataError
from lrtune.training.networks.nested import moved
from lrtune.training.networks.rng import derived_seed, generators_in, seed_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.rng import OwnGenerator

__all__ = ["DatasetSource", "IndexedFeed", "TensorSource", "epoch_order"]

ORDER = 0x0DE5  # separates the random stream of orders from the others of a seed
HASHED_WHOLE = 2**28
"""Bytes of a tensor up to which all of them are hashed; beyond it, evenly spaced samples up to that size."""

HASHED_PIECES = 16
"""Such samples are copied in so many pieces, one after the other."""

SHUFFLED_WHOLE = (2**25, 2**28)
"""Bytes of data, on the host and on a GPU, up to which each epoch is a shuffled copy."""

ON_DEVICE = 0.5
"""Share of the device's free memory that the data may take; larger data stays on the host."""


def epoch_order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of an epoch: a permutation of shape (samples,), a function of its arguments alone."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch, ORDER))
    return torch.randperm(samples, generator=generator)


class SizedSource(abc.ABC):
    """A source of known length, whose samples can be taken by index."""

    samples: int
    generators: Sequence[OwnGenerator] = ()
    """Generators of the data itself; seeded before each batch."""

    def batch_size(self, recipe: Recipe, default: int) -> int:
        """Samples per optimizer step: at most all there are."""
        return min(recipe.batch_size or default, self.samples)

    def steps(self, recipe: Recipe, default: int) -> int:
        """Steps of one epoch; a last batch of a single sample is left out, BatchNorm cannot train on it."""
        size = self.batch_size(recipe, default)
        alone = size > 1 and self.samples % size == 1 and self.samples > 1
        return self.samples // size if alone else math.ceil(self.samples / size)

    @abc.abstractmethod
    def take(self, indices: torch.Tensor, device: torch.device) -> Any:
        """The samples of those indices, on the device."""

    def feed(self, recipe: Recipe, default: int, device: torch.device) -> IndexedFeed:
        """The batches of one run."""
        return IndexedFeed(self, self.batch_size(recipe, default), recipe.seed, device)


class IndexedFeed:
    """The batches of one run from samples by index."""

    __slots__ = ("_batches", "_chunks", "_device", "_epoch", "_seed", "_size", "_source")

    def __init__(self, source: SizedSource, size: int, seed: int, device: torch.device) -> None:
        self._source, self._size, self._seed, self._device = source, size, seed, device
        self._epoch = -1
        self._chunks: Sequence[torch.Tensor] = ()
        self._batches: list[Any] | None = None

    def batch(self, epoch: int, position: int) -> Any:
        """The batch at that position; an epoch's order is computed once."""
        if epoch != self._epoch:
            self._start_epoch(epoch)
        if self._batches is not None:
            return self._batches[position]
        if self._source.generators:
            seed_all(self._source.generators, derived_seed(self._seed, epoch, position, ORDER))
        return self._source.take(self._chunks[position], self._device)

    def _start_epoch(self, epoch: int) -> None:
        """Order the samples for an epoch: small data at once, so that its batches are views that cost nothing."""
        source = self._source
        permutation = epoch_order(source.samples, self._seed, epoch)
        if isinstance(source, TensorSource):
            permutation = permutation.to(source.location(self._device))
            if source.nbytes <= SHUFFLED_WHOLE[self._device.type == "cuda"]:
                shuffled = source.take(permutation, self._device)
                self._batches = list(zip(*(torch.split(tensor, self._size) for tensor in shuffled), strict=True))
        if self._batches is None:
            self._chunks = torch.split(permutation, self._size)
        self._epoch = epoch

    def release(self) -> None:
        """Free the order and the shuffled copy; the next batch makes them again."""
        self._epoch, self._chunks, self._batches = -1, (), None


class TensorSource(SizedSource):
    """Tensors in memory, moved to the device of the runs and indexed there.

    Inputs, and the target last, of equal first dimension: else DataError, with `name`, the argument's.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], name: str) -> None:
        lengths = [int(tensor.shape[0]) if tensor.ndim else 0 for tensor in tensors]
        if not lengths or min(lengths) == 0:
            msg = f"{name} is empty (lengths {lengths}); give tensors with at least one sample each"
            raise DataError(msg)
        if len(set(lengths)) > 1:
            msg = f"{name}: the tensors must have as many samples each (got the lengths {lengths})"
            raise DataError(msg)
        self.samples = lengths[0]
        self._tensors = tuple(tensor.detach() for tensor in tensors)
        self._placed: dict[torch.device, tuple[torch.Tensor, ...]] = {}
        self.nbytes = sum(tensor.nbytes for tensor in self._tensors)

    def location(self, device: torch.device) -> torch.device:
        """Where the tensors are for runs on that device: there, or on the host if they are too large for it."""
        return self._on(device)[0].device

    def _on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        if device not in self._placed:
            added = sum(tensor.nbytes for tensor in self._tensors if not tensor.is_cuda)
            fits = device.type != "cuda" or added <= ON_DEVICE * torch.cuda.mem_get_info(device)[0]
            self._placed[device] = tuple(t.to(device) for t in self._tensors) if fits else self._tensors
        return self._placed[device]

    def take(self, indices: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The samples of those indices."""
        taken = tuple(tensor.index_select(0, indices) for tensor in self._on(device))
        return taken if indices.device == device else moved(taken, device)

    def ordered(self, batch_size: int, device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
        """All samples in their own order; copies, since models may change them in place."""
        tensors = self._on(device)
        for begin in range(0, self.samples, batch_size):
            yield moved(tuple(tensor[begin : begin + batch_size].clone() for tensor in tensors), device)

    def describe(self) -> str:
        """Shapes, types and the hash of the bytes."""
        shapes = " ".join(f"{_shape(t)}:{str(t.dtype).removeprefix('torch.')}" for t in self._tensors)
        return f"{shapes}, {_hashed(self._tensors)}"


class DatasetSource(SizedSource):
    """A map-style Dataset, indexed and collated in this process.

    Its global random numbers are the run's own, and generators among its attributes are seeded before each batch. For
    worker processes give a function that makes a DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], name: str, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.samples = len(dataset)  # type: ignore[arg-type]  # a map-style one has a length
        if self.samples == 0:
            msg = f"{name} is empty; give a Dataset with at least one sample"
            raise DataError(msg)
        self._dataset = dataset
        self._collate = collate or default_collate
        self.generators = generators_in(dataset)

    def take(self, indices: torch.Tensor, device: torch.device) -> Any:
        """The samples of those indices, collated."""
        wanted = indices.tolist()
        many = getattr(self._dataset, "__getitems__", None)
        items = many(wanted) if many is not None else [self._dataset[index] for index in wanted]
        return moved(self._collate(items), device)

    def ordered(self, batch_size: int, device: torch.device) -> Iterator[Any]:
        """All samples in their own order."""
        for number, indices in enumerate(torch.split(torch.arange(self.samples), batch_size)):
            seed_all(self.generators, derived_seed(number, ORDER))
            yield self.take(indices, device)

    def describe(self) -> str:
        """Class and length; the samples are not hashed."""
        return f"{self.samples} samples, {type(self._dataset).__name__}"


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape)


def _hashed(tensors: Sequence[torch.Tensor]) -> str:
    """Sha256 of the bytes, or of evenly spaced samples where there are very many bytes."""
    digest = hashlib.sha256()
    sampled = False
    for tensor in tensors:
        digest.update(f"{_shape(tensor)}{tensor.dtype}".encode())
        samples: Sequence[Any] = (slice(None),)
        if tensor.nbytes > HASHED_WHOLE:
            keep = max(2, int(len(tensor) * HASHED_WHOLE / tensor.nbytes))
            chosen = torch.from_numpy(np.linspace(0, len(tensor) - 1, keep).round().astype(np.int64))
            samples = torch.tensor_split(chosen, HASHED_PIECES)
            sampled = True
        for some in samples:
            plain = tensor[some].to("cpu").contiguous()
            if plain.numel():
                digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256 {'of evenly spaced samples ' if sampled else ''}{digest.hexdigest()[:16]}"
