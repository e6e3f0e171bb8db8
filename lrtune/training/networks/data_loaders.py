"""Batches from a DataLoader: the user's own, or one that the user's function makes for each run.

A loader is a stream: it can be asked for the next batch, not for the tenth. Each run has a copy of it. Each
epoch of it is seeded from the run's seed and the epoch's number and draws from a stream of its own, so that
to go on within an epoch is to seed it again and pass over the batches that were already seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lrtune.errors import DataError, RecipeError
from lrtune.training.callables import call_with
from lrtune.training.networks.data_samplers import copied, generators_in, samplers_of, seed_all, tell_epoch
from lrtune.training.networks.nested import moved
from lrtune.training.networks.rng import Stream, derived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.data import Feed
    from lrtune.training.networks.data_samplers import Drawing

__all__ = ["LoaderSource"]

LOADER = 0x10AD  # tells the stream of loaders from the others of a seed


class LoaderSource:
    """A DataLoader, or a function that makes one.

    Parameters
    ----------
    made
        The loader, or a function that takes any of ``recipe``, ``batch_size`` and ``generator`` by name
        and returns an iterable with a length. It is called once for each run.
    name
        What the user called it, for messages.
    recipe
        For data that no recipe changes, such as the held-out part: the recipe its function is told.
    """

    def __init__(self, made: Any, name: str, recipe: Recipe) -> None:
        self._made, self._name, self._recipe = made, name, recipe
        self._lengths: dict[int, int] = {}

    def batch_size(self, recipe: Recipe, default: int) -> int:
        """What the loader says of itself, else what the recipe does."""
        own = getattr(self._made, "batch_size", None) if isinstance(self._made, DataLoader) else None
        return own if isinstance(own, int) else recipe.batch_size or default

    def steps(self, recipe: Recipe, default: int) -> int:
        """Batches of one epoch."""
        size = self.batch_size(recipe, default)
        if size not in self._lengths:
            self._lengths[size] = self._length(self._loader(recipe, default))
        return self._lengths[size]

    def _length(self, loader: Any) -> int:
        try:
            batches = len(loader)
        except TypeError as error:
            msg = f"{self._name}: the loader must have a length, the number of its batches ({error})"
            raise DataError(msg) from error
        if batches == 0:
            msg = f"{self._name}: the loader has no batches; lower its batch size or leave drop_last out"
            raise DataError(msg)
        return batches

    def _loader(self, recipe: Recipe, default: int) -> Any:
        if isinstance(self._made, DataLoader):
            return self._checked(copied(self._made, self._name), recipe)
        with Stream(derived(recipe.seed, LOADER)).active():
            size = recipe.batch_size or default
            generator = torch.Generator().manual_seed(derived(recipe.seed, LOADER))
            loader = call_with(self._made, recipe=recipe, batch_size=size, generator=generator)
        if not hasattr(loader, "__iter__"):
            msg = f"{self._name}: the function must return a DataLoader (got {type(loader).__name__})"
            raise DataError(msg)
        # a function may return one and the same loader each time
        return self._checked(copied(loader, self._name) if isinstance(loader, DataLoader) else loader, recipe)

    def _checked(self, loader: Any, recipe: Recipe) -> Any:
        own = getattr(loader, "batch_size", None)
        if recipe.batch_size is not None and isinstance(own, int) and own != recipe.batch_size:
            msg = (
                f"{self._name}: the loader has a batch size of {own} and the recipe asks for {recipe.batch_size}; "
                "give a function of batch_size that returns a DataLoader"
            )
            raise RecipeError(msg)
        return loader

    def feed(self, recipe: Recipe, default: int, device: torch.device) -> Feed:
        """A member's way through a loader of its own."""
        return Streamed(self._loader(recipe, default), self.steps(recipe, default), recipe.seed, device, self._name)

    def ordered(self, batch_size: int, device: torch.device) -> Iterator[Any]:
        """All batches of one epoch as the loader cuts them."""
        loader = self._loader(self._recipe, batch_size)
        seed_all(_generators(loader), derived(0, LOADER))
        own = generators_in(getattr(loader, "dataset", None))
        seed_all(own, derived(0, LOADER))
        for number, batch in enumerate(loader):
            yield moved(batch, device)
            seed_all(own, derived(0, number + 1, LOADER))  # for the next one; others may draw in between

    def describe(self) -> str:
        """Class and length of the loader's data set."""
        loader = self._loader(self._recipe, self._recipe.batch_size or 1)
        dataset = getattr(loader, "dataset", loader)
        count = "" if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") else len(dataset)
        return f"{count} samples, {type(dataset).__name__}".lstrip()


class Streamed:
    """A feed over an iterable of batches."""

    def __init__(self, loader: Any, batches: int, seed: int, device: torch.device, name: str) -> None:
        self._loader, self._batches, self._seed, self._device, self._name = loader, batches, seed, device, name
        self._stream = Stream(seed)
        self._generators = _generators(loader)
        self._data = generators_in(getattr(loader, "dataset", None))
        self._iterator: Iterator[Any] | None = None
        self._next = (-1, 0)

    def batch(self, epoch: int, position: int) -> Any:
        """The batch at that position, after passing over those before it if the loader is not there yet."""
        fresh = self._iterator is None or self._next != (epoch, position)
        seed = derived(self._seed, epoch, LOADER)
        if fresh:
            self._end()
            self._stream.seed(seed)
        with self._stream.active():
            if fresh:
                tell_epoch(self._loader, epoch)
                seed_all(self._generators, seed)
                seed_all(self._data, seed)  # worker processes begin with a copy
                self._iterator = iter(self._loader)
                for _ in range(position):
                    self._pull()
            if self._data:
                seed_all(self._data, derived(self._seed, epoch, position, LOADER))
            batch = self._pull()
            self._next = (epoch, position + 1)
            if position + 1 == self._batches:
                self._end()
        return moved(batch, self._device)

    def _pull(self) -> Any:
        try:
            return next(self._iterator)  # type: ignore[arg-type]  # _begin made it
        except StopIteration:
            self._end()
            msg = f"{self._name}: the loader ended before the {self._batches} batches that it said it has"
            raise DataError(msg) from None
        except (ConnectionError, EOFError) as error:  # a worker died while it handed a batch over
            self._end()
            msg = f"{self._name}: a worker process of the loader ended unexpectedly ({type(error).__name__})"
            raise RuntimeError(msg) from error
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        iterator, self._iterator = self._iterator, None
        if getattr(self._loader, "persistent_workers", False):
            self._loader._iterator = None  # noqa: SLF001 -- or its workers would outlive the run
        shutdown: Callable[[], None] | None = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:  # at once, and not when the last traceback that holds the iterator is gone
            shutdown()

    def release(self) -> None:
        """End the worker processes; an iterator within this process keeps its place."""
        if hasattr(self._iterator, "_shutdown_workers"):
            self._end()


def _generators(loader: Any) -> Sequence[Drawing]:
    """The generators that a loader and its samplers have of their own."""
    return generators_in(getattr(loader, "generator", None), *samplers_of(loader), within=False)
