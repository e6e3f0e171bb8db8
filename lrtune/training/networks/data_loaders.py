"""Batches from a DataLoader: the user's own, copied for each run, or one that the user's function makes for each run.

A loader gives the next batch, not the tenth. Each of its epochs is seeded from the run's seed and the epoch's number,
so that a run resumes within an epoch by seeding it again and passing over the batches that it has trained on. Runs
that are trained in turn must not share what changes: samplers are copied. A Dataset is too large for that, so the
generators that it has are seeded before each batch.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lrtune.errors import DataError, RecipeError
from lrtune.training.callables import call_with
from lrtune.training.networks.data import DatasetSource, IndexedFeed, TensorSource
from lrtune.training.networks.nested import moved
from lrtune.training.networks.rng import RngStream, derived_seed, generators_in, seed_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.rng import OwnGenerator

__all__ = ["Feed", "LoaderFeed", "LoaderSource", "Source"]

LOADER = 0x10AD  # separates the random stream of loaders from the others of a seed


class LoaderSource:
    """A DataLoader, or a function that makes one for each run.

    The function takes any of ``recipe``, ``batch_size`` and ``generator`` by name and returns an iterable with a
    length. The held-out part, which no recipe changes, is made with `recipe`; `name` is the argument's, for errors.
    """

    def __init__(self, made: Any, name: str, recipe: Recipe) -> None:
        self._made, self._name, self._recipe = made, name, recipe
        self._lengths: dict[int, int] = {}

    def batch_size(self, recipe: Recipe, default: int) -> int:
        """The loader's own, else the recipe's."""
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
            return self._checked(_copied(self._made, self._name), recipe)
        with RngStream(derived_seed(recipe.seed, LOADER)).active():
            size = recipe.batch_size or default
            generator = torch.Generator().manual_seed(derived_seed(recipe.seed, LOADER))
            loader = call_with(self._made, recipe=recipe, batch_size=size, generator=generator)
        if not hasattr(loader, "__iter__"):
            msg = f"{self._name}: the function must return a DataLoader (got {type(loader).__name__})"
            raise DataError(msg)
        # a function may return one and the same loader each time
        return self._checked(_copied(loader, self._name) if isinstance(loader, DataLoader) else loader, recipe)

    def _checked(self, loader: Any, recipe: Recipe) -> Any:
        own = getattr(loader, "batch_size", None)
        if recipe.batch_size is not None and isinstance(own, int) and own != recipe.batch_size:
            msg = (
                f"{self._name}: the loader has a batch size of {own} and the recipe asks for {recipe.batch_size}; "
                "give a function of batch_size that returns a DataLoader"
            )
            raise RecipeError(msg)
        return loader

    def feed(self, recipe: Recipe, default: int, device: torch.device) -> LoaderFeed:
        """The batches of one run."""
        return LoaderFeed(self._loader(recipe, default), self.steps(recipe, default), recipe.seed, device, self._name)

    def ordered(self, batch_size: int, device: torch.device) -> Iterator[Any]:
        """All batches of one epoch as the loader cuts them."""
        loader = self._loader(self._recipe, batch_size)
        seed_all(_generators(loader), derived_seed(0, LOADER))
        own = generators_in(getattr(loader, "dataset", None))
        seed_all(own, derived_seed(0, LOADER))
        for number, batch in enumerate(loader):
            yield moved(batch, device)
            seed_all(own, derived_seed(0, number + 1, LOADER))  # for the next one; others may draw in between

    def describe(self) -> str:
        """Class and length of the loader's data set."""
        loader = self._loader(self._recipe, self._recipe.batch_size or 1)
        dataset = getattr(loader, "dataset", loader)
        count = "" if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") else len(dataset)
        return f"{count} samples, {type(dataset).__name__}".lstrip()


class LoaderFeed:
    """The batches of one run from an iterable."""

    def __init__(self, loader: Any, batches: int, seed: int, device: torch.device, name: str) -> None:
        self._loader, self._batches, self._seed, self._device, self._name = loader, batches, seed, device, name
        self._stream = RngStream(seed)
        self._generators = _generators(loader)
        self._data = generators_in(getattr(loader, "dataset", None))
        self._iterator: Iterator[Any] | None = None
        self._next = (-1, 0)

    def batch(self, epoch: int, position: int) -> Any:
        """The batch at that position, after passing over those before it where the loader has to begin anew."""
        fresh = self._iterator is None or self._next != (epoch, position)
        seed = derived_seed(self._seed, epoch, LOADER)
        if fresh:
            self._end()
            self._stream.seed(seed)
        with self._stream.active():
            if fresh:
                _set_epoch(self._loader, epoch)
                seed_all(self._generators, seed)
                seed_all(self._data, seed)  # worker processes begin with a copy
                self._iterator = iter(self._loader)
                for _ in range(position):
                    self._pull()
            if self._data:
                seed_all(self._data, derived_seed(self._seed, epoch, position, LOADER))
            batch = self._pull()
            self._next = (epoch, position + 1)
            if position + 1 == self._batches:
                self._end()
        return moved(batch, self._device)

    def _pull(self) -> Any:
        try:
            return next(self._iterator)  # type: ignore[arg-type]  # batch() made it
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
        """End the worker processes; an iterator within this process stays where it is."""
        if getattr(self._loader, "num_workers", 0) or hasattr(self._iterator, "_shutdown_workers"):
            self._end()


Source: TypeAlias = TensorSource | DatasetSource | LoaderSource
"""What the user gave as data; all runs share it."""

Feed: TypeAlias = IndexedFeed | LoaderFeed
"""The batches of one run by (epoch, position)."""


def _generators(loader: Any) -> Sequence[OwnGenerator]:
    """The generators of a loader and its samplers."""
    return generators_in(getattr(loader, "generator", None), *_samplers_of(loader), within=False)


def _copied(loader: DataLoader[Any], name: str) -> DataLoader[Any]:
    """A loader over the same data, with a sampler and a generator of its own."""
    own = copy.copy(loader)
    shared = {id(item): item for sampler in _samplers_of(loader) for item in _data_in(sampler)}
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


def _samplers_of(loader: Any) -> Iterator[Any]:
    """The samplers of a loader, and those that they wrap."""
    found = [getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)]
    while found:
        sampler = found.pop()
        if sampler is not None:
            yield sampler
            found.append(getattr(sampler, "sampler", None))


def _set_epoch(loader: Any, epoch: int) -> None:
    """Call ``set_epoch`` of loader, samplers and data that have it, as those of torch and accelerate do."""
    for holder in (loader, *_samplers_of(loader), getattr(loader, "dataset", None)):
        set_epoch = getattr(holder, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def _data_in(sampler: Any) -> list[Any]:
    """The data that a sampler refers to, which is not copied with it."""
    held = getattr(sampler, "__dict__", {})
    return [value for name, value in held.items() if name == "data_source" or isinstance(value, Dataset)]
