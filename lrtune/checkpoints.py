"""A paused run's state as a file: an .npz without pickles, moved into place, for its owner's eyes only.

The file is a zip archive as ``numpy.savez`` writes it. The member ``skeleton`` is UTF-8 JSON in an array
of bytes: the state's dicts, lists, strings, numbers and None as they are; every array and every ``bytes``
is a reference ``{"$array": 3}`` to the member ``a3``. Nothing in it is ever executed:
``allow_pickle=False`` refuses arrays of objects, and no other kind of member is opened.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrtune.errors import CheckpointError, StorageError
from lrtune.oserrors import cure, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrtune.training.base import State

__all__ = ["load", "save"]

FORMAT = "lrtune-state-1"
ARRAY, BYTES, MAPPING = "$array", "$bytes", "$dict"
MARKS = frozenset({ARRAY, BYTES, MAPPING})
KINDS = "biufc"  # bool, integers, floats, complex: arrays of numbers and nothing else

Array = npt.NDArray[Any]


def save(path: str | os.PathLike[str], state: State) -> int:
    """Write a state beside `path`, force it to the disk and move it into place: old or new, never half.

    Returns the size of the file in bytes, which is about what the state takes in memory.

    Parameters
    ----------
    path
        The file, with mode 0600 afterwards; its folder is made again where it has been cleared away.
    state
        See :data:`lrtune.training.base.State`.

    Raises
    ------
    TypeError
        If the state holds something else than a state may hold: a bug of the trainer.
    StorageError
        If the file cannot be written: no space, no permission, no folder.
    """
    target = Path(path)
    data = encode(state)
    temporary: str | None = None
    try:
        with suppress(FileExistsError):
            target.parent.mkdir(mode=0o700)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:  # mkstemp made it with mode 0600
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
        temporary = None
    except OSError as error:
        msg = f"checkpoint {target} cannot be written ({reason(error)}); {cure(error)}, or choose another folder"
        raise StorageError(msg) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
    return len(data)


def load(path: str | os.PathLike[str]) -> State:
    """The state that :func:`save` wrote.

    Raises
    ------
    CheckpointError
        If there is no such file, or it is damaged, foreign or malicious; nothing of it has been executed.
    """
    target = Path(path)
    try:
        data = _read(target)
    except OSError as error:
        msg = f"checkpoint {target} cannot be read ({reason(error)}); the run starts again without it"
        raise CheckpointError(msg) from error
    try:
        return decode(data)
    except CheckpointError as error:
        msg = f"checkpoint {target}: {error}"
        raise CheckpointError(msg) from error


def _read(target: Path) -> bytes:
    """The bytes of a file; a disk or a file server that fails once is asked once more."""
    with suppress(OSError):
        return target.read_bytes()
    return target.read_bytes()


def encode(state: State) -> bytes:
    """The state as the bytes of its file."""
    arrays: list[Array] = []
    skeleton = {"format": FORMAT, "state": _packed(state, arrays)}
    text = json.dumps(skeleton).encode()
    buffer = io.BytesIO()
    members = {f"a{index}": array for index, array in enumerate(arrays)}
    np.savez(buffer, allow_pickle=False, skeleton=np.frombuffer(text, dtype=np.uint8), **members)
    return buffer.getvalue()


def decode(data: bytes) -> State:
    """The state of those bytes.

    Raises
    ------
    CheckpointError
        If they are not what :func:`encode` wrote.
    """
    try:
        state = _decoded(data)
    except CheckpointError:
        raise
    # What zipfile, numpy and json raise for damaged input is not one family.
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RecursionError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        msg = f"not a checkpoint of lrtune, or damaged ({type(error).__name__}: {str(error)[:80]})"
        raise CheckpointError(msg) from error
    if not isinstance(state, dict):
        msg = f"a state must be a mapping (got {type(state).__name__})"
        raise CheckpointError(msg)
    return state


def _decoded(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            msg = f"damaged: the checksum of {damaged[:40]!r} is wrong"
            raise CheckpointError(msg)
        names = {info.filename: info for info in archive.infolist()}
        skeleton = json.loads(_member(archive, names, "skeleton").tobytes())
        if not isinstance(skeleton, dict) or skeleton.get("format") != FORMAT:
            msg = "not a checkpoint of lrtune, or of another version"
            raise CheckpointError(msg)
        return _unpacked(skeleton["state"], lambda index: _member(archive, names, f"a{index:d}"))


def _member(archive: zipfile.ZipFile, names: Mapping[str, zipfile.ZipInfo], name: str) -> Array:
    with archive.open(names[f"{name}.npy"]) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind not in KINDS:
        msg = f"an array of {array.dtype} in a checkpoint; only numbers are allowed"
        raise CheckpointError(msg)
    return array


def _packed(value: Any, arrays: list[Array]) -> Any:
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, bytes):
        arrays.append(np.frombuffer(value, dtype=np.uint8))
        return {BYTES: len(arrays) - 1}
    if isinstance(value, np.ndarray):
        return {ARRAY: _kept(value, arrays)}
    if isinstance(value, list):
        return [_packed(item, arrays) for item in value]
    if isinstance(value, dict):
        packed = dict(_packed_items(value, arrays))
        # A dict that looks like one of our references is wrapped, so that no content is mistaken for one.
        return {MAPPING: packed} if len(packed) == 1 and not MARKS.isdisjoint(packed) else packed
    msg = f"a state holds no {type(value).__name__}; turn it into numbers, strings, lists, dicts or arrays"
    raise TypeError(msg)


def _packed_items(value: Mapping[Any, Any], arrays: list[Array]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if not isinstance(name, str):
            msg = f"a state's keys are strings (got {name!r})"
            raise TypeError(msg)
        yield name, _packed(item, arrays)


def _kept(array: Array, arrays: list[Array]) -> int:
    if array.dtype.kind not in KINDS:
        msg = f"a state holds arrays of numbers (got dtype {array.dtype})"
        raise TypeError(msg)
    arrays.append(array)
    return len(arrays) - 1


def _unpacked(value: Any, member: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, member) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, item),) = value.items()
        if name == ARRAY:
            return member(item)
        if name == BYTES:
            return member(item).tobytes()
        if name == MAPPING:
            value = item
    return {name: _unpacked(item, member) for name, item in value.items()}
