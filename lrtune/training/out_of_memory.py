"""Which exceptions mean that memory ran out, on host or device, without importing any framework."""

from __future__ import annotations

__all__ = ["first_line", "is_out_of_memory"]

NAMES = frozenset({"OutOfMemoryError", "MemoryError"})  # torch.OutOfMemoryError, cupy's, Python's own
TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device.

    Known by the name of the class, without importing torch; by the text only for a RuntimeError or an OSError, as
    PyTorch raises for its host allocator.
    """
    if not NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in TEXTS)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, cut to `most` characters; its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__
