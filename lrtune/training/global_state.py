"""The process's global random generators and modes, set and put back around the code of each run.

Training code draws from the global generators of Python, NumPy and PyTorch. Where runs are trained in turn, or paused
and continued, each must find them as it left them: a :class:`GlobalState` is one run's state of them. Only libraries
that are imported already are covered, since importing torch takes seconds.

Not covered: generators that the training code itself shares between its runs (a module's own
``numpy.random.default_rng``), those of other libraries, and those of Apple's GPUs.
"""

from __future__ import annotations

import contextvars
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

__all__ = ["GlobalState"]

T = TypeVar("T")
States = dict[str, Any]
SEEDS = 2**32  # NumPy takes 32 bits
DEVICES = frozenset({"cuda", "xpu"})


class GlobalState:
    """One run's state of the global generators of Python, NumPy and PyTorch (host, CUDA and XPU devices).

    It includes whether torch records gradients, and the context variables (of ``numpy.errstate`` and ``decimal``, for
    example): a loop may be paused within a ``with``.

    Parameters
    ----------
    seed
        Seed of each generator, once its library has been imported.
    """

    __slots__ = ("_active", "_context", "_seed", "_states")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: States = {}
        self._context = contextvars.copy_context()
        self._active = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the global generators have the run's state; afterwards they are as before."""
        if self._active:
            yield
            return
        before = _read()
        self._active = True
        try:
            new = before.keys() - self._states.keys()
            _write((_begun(self._seed, new) | self._states) if new else self._states)
            yield
        finally:
            self._active = False
            self._states = _read()
            _write(before)

    def call(self, function: Callable[..., T], *given: Any) -> T:
        """Call a function with the run's context variables."""
        return self._context.run(function, *given)


def _read() -> States:
    """The states of all libraries imported by now."""
    states: States = {"random": random.getstate()}
    numpy, torch = sys.modules.get("numpy.random"), _torch()
    if numpy is not None:
        states["numpy"] = numpy.get_state(legacy=False)
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        states["gradients"] = torch.is_grad_enabled()
        for name in DEVICES:
            device = getattr(torch, name)
            if device.is_initialized():
                states[name] = device.get_rng_state_all()
    return states


def _write(states: States) -> None:
    random.setstate(states["random"])
    if "numpy" in states:
        _set_numpy(sys.modules["numpy.random"], states["numpy"])
    torch = _torch()
    if torch is None or "torch" not in states:
        return
    torch.set_rng_state(states["torch"])
    torch.set_grad_enabled(states["gradients"])
    for name in DEVICES:
        if name in states:
            getattr(torch, name).set_rng_state_all(states[name])
    if torch.version.cuda is not None and not torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(torch.initial_seed())  # applied by torch when the device is initialized


def _begun(seed: int, names: AbstractSet[str]) -> States:
    """The seeded states of the generators of these names."""
    states: States = {}
    if "random" in names:
        states["random"] = random.Random(seed).getstate()
    if "numpy" in names:
        numpy = sys.modules["numpy.random"]
        kind = type(numpy.get_bit_generator())  # as it is, unless somebody has chosen another one, MT19937
        states["numpy"] = numpy.RandomState(kind(seed % SEEDS)).get_state(legacy=False)
    if "torch" in names:
        torch = _torch()
        states["torch"] = torch.Generator().manual_seed(seed).get_state()
        states["gradients"] = True
    for name in names & DEVICES:
        torch = _torch()
        count = getattr(torch, name).device_count()
        states[name] = [torch.Generator(f"{name}:{index}").manual_seed(seed).get_state() for index in range(count)]
    return states


def _set_numpy(numpy: Any, state: Any) -> None:
    kind = state["bit_generator"]
    if type(numpy.get_bit_generator()).__name__ != kind:  # a run has chosen another one
        numpy.set_bit_generator(getattr(numpy, kind)())
    if kind == "MT19937":  # as a tuple, which takes a fifth of the time
        state = (kind, state["state"]["key"], state["state"]["pos"], state["has_gauss"], state["gauss"])
    numpy.set_state(state)


def _torch() -> Any:
    """PyTorch, once it is imported completely."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_rng_state") and hasattr(torch, "xpu") else None
