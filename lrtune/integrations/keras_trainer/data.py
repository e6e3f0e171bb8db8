"""Batches for Keras models from whatever ``fit`` takes, in an order that follows from seed and epoch where it can.

Arrays and a PyDataset give any batch by its position. What only gives the next one (a ``tf.data.Dataset``, a
DataLoader, a generator) is read from its beginning up to there when a run is resumed; its global random numbers are
then the same again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lrtune.errors import DataError, RecipeError
from lrtune.training.callables import call_with
from lrtune.training.networks.data import epoch_order
from lrtune.training.networks.rng import RngStream, derived_seed, generators_in, seed_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.rng import OwnGenerator

__all__ = ["ArraySource", "Batch", "BatchSource", "Source", "source_of"]

Batch: TypeAlias = tuple[Any, ...]
"""``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``; each an array, or arrays in a dict, list or tuple."""

BATCHES = 0xBA7C  # separates the random stream of batches from the others of a seed
HASHED = 2**28
"""Bytes of an array that are hashed."""


class ArraySource:
    """Arrays in memory, in the dtype that ``fit`` gives them."""

    def __init__(self, data: Sequence[Any], name: str) -> None:
        from keras import tree

        self.name = name
        self.parts = tuple(tree.map_structure(self._array, part) for part in data if part is not None)
        self._flat: list[Any] = [leaf for part in self.parts for leaf in tree.flatten(part)]
        lengths = sorted({len(leaf) if leaf.ndim else 0 for leaf in self._flat})
        if len(lengths) != 1 or lengths[0] == 0:
            msg = f"{name}: the arrays must have as many samples each, at least one (got the lengths {lengths})"
            raise DataError(msg)
        self.samples = lengths[0]

    def _array(self, value: Any) -> Any:
        import keras

        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            msg = f"{self.name} must hold arrays of numbers (got {type(value).__name__})"
            raise DataError(msg) from error
        if array.dtype.kind not in "biufc":
            msg = f"{self.name} must hold arrays of numbers (got {array.dtype}); encode them first"
            raise DataError(msg)
        return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array

    def batch_size(self, recipe: Recipe, default: int) -> int:
        """At most all samples that there are."""
        return min(recipe.batch_size or default, self.samples)

    def steps(self, recipe: Recipe, default: int) -> int:
        """Batches of one epoch; the last one may be smaller, as in ``fit``."""
        return -(-self.samples // self.batch_size(recipe, default))

    def feed(self, recipe: Recipe, default: int) -> ArrayFeed:
        """The batches of one run."""
        return ArrayFeed(self, self.batch_size(recipe, default), recipe.seed)

    def take(self, indices: Any) -> Batch:
        """The samples of those indices, or of a slice."""
        from keras import tree

        return tuple(tree.map_structure(lambda array: array[indices], part) for part in self.parts)

    def ordered(self, recipe: Recipe, size: int) -> Iterator[Batch]:
        """All samples in their own order."""
        del recipe
        return (self.take(slice(begin, begin + size)) for begin in range(0, self.samples, size))

    def describe(self) -> str:
        """Shapes, types and a hash of the bytes."""
        shapes = " ".join(f"{' x '.join(map(str, a.shape))}:{a.dtype}" for a in self._flat)
        digest = hashlib.sha256()
        for array in self._flat:
            rows = array if array.nbytes <= HASHED else array[:: -(-array.nbytes // HASHED)]
            digest.update(np.ascontiguousarray(rows).tobytes())
        return f"{shapes}, sha256 {digest.hexdigest()[:16]}"


class ArrayFeed:
    """Batches of arrays, shuffled anew each epoch."""

    def __init__(self, source: ArraySource, size: int, seed: int) -> None:
        self._source, self._size, self._seed = source, size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, epoch: int, position: int) -> Batch:
        """The samples that the order of that epoch has there."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._source.samples, self._seed, epoch).numpy()
        return self._source.take(self._order[position * self._size : (position + 1) * self._size])

    def release(self) -> None:
        """Free the order."""
        self._epoch, self._order = -1, np.empty(0, np.int64)


class BatchSource:
    """What makes batches itself: by number (a PyDataset), or one after the other; or a function that makes one of them.

    A function takes any of ``recipe``, ``batch_size`` and ``seed`` by name and is called for each epoch with another
    seed. `per_epoch` are the batches of an epoch where the data has no length.
    """

    def __init__(self, made: Any, name: str, per_epoch: int | None) -> None:
        self.made, self.name, self.per_epoch = made, name, per_epoch
        self.function = callable(made) and not hasattr(made, "__iter__") and not hasattr(made, "__getitem__")
        self._lengths: dict[tuple[int, int], int] = {}

    def epoch(self, recipe: Recipe, default: int, seed: int) -> Any:
        """The data of an epoch: the user's own, or what the function makes."""
        if not self.function:
            return self.made
        made = call_with(self.made, recipe=recipe, batch_size=self.batch_size(recipe, default), seed=seed % 2**31)
        if isinstance(made, tuple | list | dict) or not (hasattr(made, "__iter__") or hasattr(made, "__getitem__")):
            msg = (
                f"{self.name}: the function must return a PyDataset, a tf.data.Dataset, a DataLoader or a generator of "
                f"batches (got {type(made).__name__})"
            )
            raise DataError(msg)
        return made

    def steps(self, recipe: Recipe, default: int) -> int:
        """Batches of one epoch."""
        self._check(recipe)
        if self.per_epoch is not None:
            return self.per_epoch
        key = (self.batch_size(recipe, default), recipe.seed if self.function else 0)
        if key not in self._lengths:
            data = self.epoch(recipe, default, derived_seed(recipe.seed, 0, BATCHES))
            try:
                self._lengths[key] = len(data)
            except TypeError as error:
                msg = f"{self.name} has no length ({error}); give steps_per_epoch, its batches in one epoch"
                raise DataError(msg) from error
        if self._lengths[key] < 1:
            msg = f"{self.name} has no batches; lower its batch size or leave drop_remainder out"
            raise DataError(msg)
        return self._lengths[key]

    def _check(self, recipe: Recipe) -> None:
        if recipe.batch_size is not None and not self.function:
            msg = (
                f"recipe: {self.name} makes its own batches, so a batch_size of {recipe.batch_size} cannot be set; "
                "give a function of batch_size that makes it"
            )
            raise RecipeError(msg)

    def feed(self, recipe: Recipe, default: int) -> BatchFeed:
        """The batches of one run."""
        return BatchFeed(self, recipe, default)

    def ordered(self, recipe: Recipe, size: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        data = self.epoch(recipe, size, derived_seed(0, BATCHES))
        number = self.per_epoch or (len(data) if hasattr(data, "__len__") else None)
        if by_number(data):
            yield from (unpacked(data[index]) for index in range(number or 0))
            return
        for index, batch in enumerate(data):
            if number is not None and index >= number:
                return
            yield unpacked(batch)

    def batch_size(self, recipe: Recipe, default: int) -> int:
        """Samples of a batch as far as lrtune decides it."""
        return recipe.batch_size or default

    def repeats(self, recipe: Recipe, default: int) -> bool:
        """Whether a stream gives the same first batch twice under the same global random numbers."""
        from keras import tree

        if self.function or by_number(self.made):
            return True
        feeds = [self.feed(recipe, default).batch(0, 0) for _ in range(2)]
        one, other = (tree.flatten(list(batch)) for batch in feeds)
        return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))

    def describe(self) -> str:
        """The class, and for a stream its length."""
        return f"{type(self.made).__name__} of batches"


class BatchFeed:
    """Batches of one run, with random numbers that follow from its seed and the epoch."""

    def __init__(self, source: BatchSource, recipe: Recipe, default: int) -> None:
        self._source, self._recipe, self._default = source, recipe, default
        self._steps = source.steps(recipe, default)
        # Without a length of its own the data is one stream, which goes on from epoch to epoch as it does in `fit`.
        self._endless = source.per_epoch is not None and not source.function
        self.release()

    def release(self) -> None:
        """Free what reads; the next batch begins again and passes over those before it."""
        self._epoch, self._next = -1, 0
        self._data: Any = None
        self._iterator: Iterator[Any] | None = None
        self._order: Any = None
        self._stream: RngStream | None = None
        self._generators: Sequence[OwnGenerator] = ()

    def batch(self, epoch: int, position: int) -> Batch:
        """The batch at that position of the epoch."""
        if self._endless:
            epoch, position = 0, epoch * self._steps + position
        if epoch != self._epoch or position < self._next:
            self._begin(epoch)
        if by_number(self._data):
            stream = RngStream(derived_seed(self._recipe.seed, epoch, position, BATCHES))
            seed_all(self._generators, derived_seed(self._recipe.seed, epoch, position, BATCHES))
            with stream.active():
                return unpacked(self._data[int(self._order[position % len(self._order)])])
        while self._next < position:
            self._read()
        return unpacked(self._read())

    def _begin(self, epoch: int) -> None:
        self.release()
        seed = derived_seed(self._recipe.seed, epoch, BATCHES)
        self._stream = RngStream(seed)
        with self._stream.active():
            self._data = self._source.epoch(self._recipe, self._default, seed)
        self._epoch = epoch
        if not type(self._data).__module__.startswith("tensorflow"):  # whose objects refer to all of the library
            self._generators = generators_in(self._data)
        if by_number(self._data):
            count = len(self._data)
            self._order = epoch_order(count, self._recipe.seed, epoch).numpy()

    def _read(self) -> Any:
        """The next batch of the stream, which begins again where it ends."""
        stream = self._stream or RngStream(0)
        with stream.active():
            for _ in range(2):
                if self._iterator is None:
                    seed_all(self._generators, derived_seed(self._recipe.seed, self._epoch, self._next, BATCHES))
                    self._iterator = iter(self._data)
                try:
                    found = next(self._iterator)
                except StopIteration:
                    self._iterator = None
                else:
                    self._next += 1
                    return found
        msg = f"{self._source.name} ended after {self._next} batches, fewer than the {self._steps} of an epoch"
        raise DataError(msg)


Source: TypeAlias = ArraySource | BatchSource
"""What the user gave, shared by all runs."""


def by_number(data: Any) -> bool:
    """Whether the data is a PyDataset, whose batches have numbers."""
    import keras

    return isinstance(data, keras.utils.PyDataset)


def unpacked(batch: Any) -> Batch:
    """A batch as ``(x, y, sample_weight)``, without the parts that it lacks."""
    import keras
    from keras import tree

    parts = keras.utils.unpack_x_y_sample_weight(batch)
    native = keras.backend.backend() == "tensorflow"

    def plain(leaf: Any) -> Any:
        return leaf if native and type(leaf).__module__.startswith("tensorflow") else np.asarray(leaf)

    return tuple(tree.map_structure(plain, part) for part in parts if part is not None)


def source_of(data: Any, name: str, per_epoch: int | None) -> Source:
    """The source of batches from what the user gave; DataError if ``fit`` would not take it, or only once."""
    if isinstance(data, tuple | list):
        if not 1 <= len(data) <= 3:  # noqa: PLR2004 -- x, y, sample_weight
            msg = f"{name} must be (x, y) or (x, y, sample_weight) (got {len(data)} parts)"
            raise DataError(msg)
        return ArraySource(data, name)
    if hasattr(data, "__array__"):
        return ArraySource([data], name)
    if hasattr(data, "__next__"):
        msg = f"{name} is a {type(data).__name__}, which can be read only once; give the function that makes it"
        raise DataError(msg)
    if isinstance(data, dict) or not (callable(data) or hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        allowed = "arrays (x, y), a PyDataset, a tf.data.Dataset, a DataLoader or a function that makes one of them"
        msg = f"{name} must be {allowed} (got {type(data).__name__})"
        raise DataError(msg)
    return BatchSource(data, name, per_epoch)
