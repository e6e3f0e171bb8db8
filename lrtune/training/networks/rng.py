"""Random numbers of a run's own: streams that leave the process's global generators as they were, and derived seeds.

Models, dropout, augmentations and samplers draw from the global generators of torch, NumPy and Python. An
:class:`RngStream` sets their state while it is active and puts the former one back afterwards, so that several runs
can be trained in turn, whatever the user's program draws in between. Generators that a Dataset or a sampler has of
its own are found here, to be seeded before each batch.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.training.base import State

__all__ = ["OwnGenerator", "RngStream", "derived_seed", "generators_in", "seed_all"]

OwnGenerator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
PLAIN = (str, bytes, int, float, torch.Tensor, np.ndarray, type, FunctionType, MethodType, ModuleType)
LONGEST, DEEPEST = 64, 6
"""Items of a collection, and attributes of attributes, that are searched for generators."""


def derived_seed(*numbers: int) -> int:
    """A seed made of numbers: equal for equal ones, unrelated for others; 63 bits."""
    words = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


class RngStream:
    """A state of the global generators of torch (host and, where `device` is one, CUDA), NumPy and Python."""

    __slots__ = ("_cuda", "_own")

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._own: dict[str, Any] = {}
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin anew."""
        host = torch.Generator().manual_seed(seed)
        self._own = {
            "torch": host.get_state(),
            "numpy": np.random.RandomState(seed % 2**32).get_state(),
            "python": random.Random(seed).getstate(),
        }
        if self._cuda is not None:
            self._own["cuda"] = torch.Generator(device=self._cuda).manual_seed(seed).get_state()

    def generator(self) -> torch.Generator:
        """A generator of the host's in the state of this stream's own."""
        made = torch.Generator()
        made.set_state(self._own["torch"])
        return made

    def advance(self, generator: torch.Generator) -> None:
        """Go on from where a generator stands."""
        self._own["torch"] = generator.get_state()

    @contextmanager
    def active(self, *, all_libraries: bool = True, keep: bool = True) -> Iterator[None]:
        """Within this context the global generators have this state; afterwards they are as before.

        Without `all_libraries` only torch's: to swap NumPy's and Python's takes as long as some steps of a small model.
        Without `keep` the stream does not advance: the next time it begins from the same state.
        """
        before = self._read(all_libraries=all_libraries)
        self._write(self._own, all_libraries=all_libraries)
        try:
            yield
        finally:
            if keep:
                self._own |= self._read(all_libraries=all_libraries)
            self._write(before, all_libraries=all_libraries)

    def _read(self, *, all_libraries: bool) -> dict[str, Any]:
        states: dict[str, Any] = {"torch": torch.get_rng_state()}
        if all_libraries:
            states["numpy"] = np.random.get_state()  # noqa: NPY002 -- the global one is what users' code draws from
            states["python"] = random.getstate()
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def _write(self, states: dict[str, Any], *, all_libraries: bool) -> None:
        torch.set_rng_state(states["torch"])
        if all_libraries:
            np.random.set_state(states["numpy"])  # noqa: NPY002 -- likewise
            random.setstate(states["python"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states["cuda"], self._cuda)

    def state(self) -> State:
        """The stream as arrays and numbers."""
        _, keys, position, has_gauss, gauss = self._own["numpy"]
        version, words, pending = self._own["python"]
        saved: State = {
            "torch": self._own["torch"].numpy().copy(),
            "numpy": {
                "keys": keys.copy(),
                "position": int(position),
                "has_gauss": int(has_gauss),
                "gauss": float(gauss),
            },
            "python": {"version": version, "words": np.array(words, dtype=np.uint32), "pending": pending},
        }
        if self._cuda is not None:
            saved["cuda"] = self._own["cuda"].numpy().copy()
        return saved

    def restore(self, saved: State) -> None:
        """Continue from a state; one from another type of device leaves the CUDA generator as it is.

        Raises
        ------
        LookupError, RuntimeError, TypeError or ValueError
            If it is damaged; nothing has changed then.
        """
        numbers, python = saved["numpy"], saved["python"]
        keys = np.asarray(numbers["keys"], dtype=np.uint32)
        own: dict[str, Any] = {
            "torch": torch.from_numpy(np.array(saved["torch"], dtype=np.uint8)),
            "numpy": ("MT19937", keys, numbers["position"], numbers["has_gauss"], numbers["gauss"]),
            "python": (python["version"], tuple(int(word) for word in python["words"]), python["pending"]),
        }
        torch.Generator().set_state(own["torch"])  # a bad state is found here, and not in the global generators
        np.random.RandomState(0).set_state(own["numpy"])
        random.Random(0).setstate(own["python"])
        if self._cuda is not None and "cuda" in saved:
            own["cuda"] = torch.from_numpy(np.array(saved["cuda"], dtype=np.uint8))
            torch.Generator(device=self._cuda).set_state(own["cuda"])
        self._own.update(own)


def generators_in(*holders: Any, within: bool = True) -> Sequence[OwnGenerator]:
    """The random generators among the attributes of objects, except for the process's global ones.

    With `within` also those of a Dataset that an object refers to.
    """
    found: dict[int, OwnGenerator] = {}
    seen: set[int] = set()
    left = [(holder, 0) for holder in holders]
    while left:
        item, depth = left.pop()
        if item is None or id(item) in seen or isinstance(item, PLAIN) or depth > DEEPEST:
            continue
        seen.add(id(item))
        if isinstance(item, OwnGenerator):
            if item is not torch.default_generator and item is not np.random.mtrand._rand:  # noqa: SLF001 -- no public name
                found[id(item)] = item
        elif within or depth == 0 or not isinstance(item, Dataset):
            left += [(part, depth + 1) for part in _parts(item)]
    return tuple(found.values())


def seed_all(generators: Sequence[OwnGenerator], seed: int) -> None:
    """Give each generator a seed."""
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
