"""A paused run's state as a file: an .npz without pickles, moved into place, readable by its owner alone.

When it is written, and under which name, is decided in :mod:`lrtune.study.engine.run_cache`.

The file is a zip archive as ``numpy.savez`` writes it. The member ``skeleton`` is UTF-8 JSON in an array
of bytes: the state's dicts, lists, strings, numbers and None as they are; every array and every ``bytes``
is a reference ``{"$array": 3}`` to the member ``a3``. Nothing in it is ever executed:
``allow_pickle=False`` refuses arrays of objects, and no other kind of member is opened. Nothing in it is
compressed, so a file that would unpack to more than its own size is refused before a byte of it is unpacked.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrtune.core.files import replace
from lrtune.core.os_errors import cure, reason
from lrtune.errors import CheckpointError, StorageError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lrtune.training.base import State

__all__ = ["load", "save"]

FORMAT = "lrtune-state-1"
ARRAY, BYTES, MAPPING = "$array", "$bytes", "$dict"
MARKS = frozenset({ARRAY, BYTES, MAPPING})
KINDS = "biufc"  # bool, integers, floats, complex: arrays of numbers and nothing else

Array = npt.NDArray[Any]


def save(path: str | os.PathLike[str], state: State) -> int:
    """Write a state beside `path`, force it to the disk and move it into place: old or new, never half.

    Returns the size of the file in bytes, which is about what the state takes in memory. The file has mode 0600; its
    folder is made again where it has been cleared away.

    Raises
    ------
    TypeError
        If the state holds something else than a state may hold: a bug of the trainer.
    StorageError
        If the file cannot be written: no space, no permission, no folder.
    """
    target = Path(path)
    data = encode(state)
    try:
        with suppress(FileExistsError):
            target.parent.mkdir(mode=0o700)
        replace(target, data)
    except OSError as error:
        msg = f"checkpoint {target} cannot be written ({reason(error)}); {cure(error)}, or choose another folder"
        raise StorageError(msg) from error
    return len(data)


def load(path: str | os.PathLike[str]) -> State:
    """The state that :func:`save` wrote.

    CheckpointError if there is no such file, or it is damaged, not lrtune's, or malicious; nothing in it is
    executed.
    """
    target = Path(path)
    try:
        with suppress(OSError):  # a disk or a file server that fails once is asked once more
            return decode(target.read_bytes())
        return decode(target.read_bytes())
    except OSError as error:
        msg = f"checkpoint {target} cannot be read ({reason(error)})"
        raise CheckpointError(msg) from error
    except CheckpointError as error:
        msg = f"checkpoint {target}: {error}"
        raise CheckpointError(msg) from error


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
    """The state of those bytes; CheckpointError if they are not what :func:`encode` wrote."""
    try:
        state = _decoded(data)
    except CheckpointError:
        raise
    except Exception as error:  # what zipfile, numpy and json raise for damaged input is not one family
        msg = f"not a checkpoint of lrtune, or damaged ({type(error).__name__}: {str(error)[:80]})"
        raise CheckpointError(msg) from error
    if not isinstance(state, dict):
        msg = f"a state must be a mapping (got {type(state).__name__})"
        raise CheckpointError(msg)
    return state


def _decoded(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _check_sizes(archive, len(data))
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


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse what would take more memory than the file has bytes: it is read from what the archive declares."""
    members = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        msg = "not a checkpoint of lrtune: it is compressed, and lrtune compresses none"
        raise CheckpointError(msg)
    unpacked = sum(info.file_size for info in members)
    if unpacked > size:
        msg = f"not a checkpoint of lrtune: {size} bytes that would unpack to {unpacked}"
        raise CheckpointError(msg)


def _check_shape(file: IO[bytes], size: int) -> None:
    """Refuse an array that says it has more elements than the bytes hold: numpy makes room before it reads."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        msg = f"an array of the format {version} in a checkpoint; lrtune writes none"
        raise CheckpointError(msg)
    if math.prod(shape) * dtype.itemsize > size:
        msg = f"damaged: an array of shape {shape} in {size} bytes"
        raise CheckpointError(msg)


def _member(archive: zipfile.ZipFile, names: Mapping[str, zipfile.ZipInfo], name: str) -> Array:
    info = names[f"{name}.npy"]
    with archive.open(info) as file:
        _check_shape(file, info.file_size)
        file.seek(0)
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
        if value.dtype.kind not in KINDS:
            msg = f"a state holds arrays of numbers (got dtype {value.dtype})"
            raise TypeError(msg)
        arrays.append(value)
        return {ARRAY: len(arrays) - 1}
    if isinstance(value, list):
        return [_packed(item, arrays) for item in value]
    if isinstance(value, dict):
        odd = next((name for name in value if not isinstance(name, str)), None)
        if odd is not None:
            msg = f"a state's keys are strings (got {odd!r})"
            raise TypeError(msg)
        packed = {name: _packed(item, arrays) for name, item in value.items()}
        # A dict that looks like one of our references is wrapped, so that no content is mistaken for one.
        return {MAPPING: packed} if len(packed) == 1 and not MARKS.isdisjoint(packed) else packed
    msg = f"a state holds no {type(value).__name__}; turn it into numbers, strings, lists, dicts or arrays"
    raise TypeError(msg)


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
