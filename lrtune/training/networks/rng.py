"""Random numbers of one's own: a stream that neither hears nor disturbs the process's global generators.

Models, dropout, augmentations and samplers draw from the global generators of torch, NumPy and Python.
A :class:`Stream` lends them its own state while it is active and takes it back afterwards, so that
several runs interleave, and whatever the user's program draws in between, without touching each other.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.training.base import State

__all__ = ["Stream", "derived"]


def derived(*numbers: int) -> int:
    """A seed made of numbers: equal for equal ones, unrelated for others; 63 bits."""
    words = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


class Stream:
    """One private state of the generators of torch (host and CUDA device), NumPy and Python.

    Parameters
    ----------
    seed
        Where it begins.
    device
        Also that device's generator, if it is a CUDA device.
    """

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

    @contextmanager
    def active(self, *, wide: bool = True, keep: bool = True) -> Iterator[None]:
        """Within this context the global generators are this stream; afterwards they are as before.

        Parameters
        ----------
        wide
            Whether NumPy's and Python's, too: to swap them takes as long as some steps of a small model.
        keep
            Whether the stream moves on; otherwise it will begin again where it began now.
        """
        before = self._read(wide=wide)
        self._write(self._own, wide=wide)
        try:
            yield
        finally:
            if keep:
                self._own |= self._read(wide=wide)
            self._write(before, wide=wide)

    def _read(self, *, wide: bool) -> dict[str, Any]:
        states: dict[str, Any] = {"torch": torch.get_rng_state()}
        if wide:
            states["numpy"] = np.random.get_state()  # noqa: NPY002 -- the global one is what users' code draws from
            states["python"] = random.getstate()
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def _write(self, states: dict[str, Any], *, wide: bool) -> None:
        torch.set_rng_state(states["torch"])
        if wide:
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
        """Go on from a state; one saved on another kind of device leaves that device's generator as it is.

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
