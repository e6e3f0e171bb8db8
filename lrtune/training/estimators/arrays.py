"""The user's table as arrays: checks, each with an error of one sentence, the train-validation split, and the hash."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lrtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FEWEST_ROWS",
    "Array",
    "IndexedRows",
    "TrainingArrays",
    "digest",
    "features",
    "held_out",
    "length",
    "rows_of",
    "targets",
    "weights",
]

Array: TypeAlias = npt.NDArray[Any]

MOST_CLASSES = 0.5  # classes per row, above which numbers are values and not classes
FEWEST_ROWS = 4
COPIED_WHOLE = 2**26
"""Bytes of a table up to which its parts are copies; those of a larger one are numbers of its rows."""

PIECE = 2**24
"""Bytes of the pieces in which many rows are evaluated or hashed."""


class IndexedRows:
    """Rows of an array by their numbers: they are copied when they are taken, and only those.

    Parameters
    ----------
    table
        The array, of shape (m, d).
    rows
        Numbers of the rows, shape (n,).
    """

    __slots__ = ("_rows", "_table", "dtype", "shape")

    def __init__(self, table: Array, rows: npt.NDArray[np.int64]) -> None:
        self._table, self._rows = table, rows
        self.shape, self.dtype = (len(rows), *table.shape[1:]), table.dtype

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that a copy of them would take."""
        return int(self.dtype.itemsize * math.prod(self.shape))

    def __getitem__(self, rows: Any) -> Array:
        taken: Array = self._table[self._rows[rows]]
        return taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 -- NumPy's protocol
        del copy
        return np.asarray(self._table[self._rows], dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingArrays:
    """Rows to train or evaluate on.

    Attributes
    ----------
    X
        Features, shape (n, d): a C-contiguous float array, a CSR matrix, or :class:`IndexedRows` of a large array.
    y
        Targets as the estimator is given them, shape (n,) or (n, outputs).
    target
        Targets as losses take them: class numbers, or `y` itself.
    weight
        Sample weights, shape (n,), or None.
    """

    X: Any
    y: Array
    target: Array
    weight: Array | None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Any) -> TrainingArrays:
        """Some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return TrainingArrays(X=self.X[rows], y=self.y[rows], target=self.target[rows], weight=weight)

    def pieces(self) -> Iterator[TrainingArrays]:
        """All of the rows, a few at a time where they are many."""
        count = len(self)
        few = count if _is_sparse(self.X) else PIECE // max(1, self.X.dtype.itemsize * math.prod(self.X.shape[1:])) or 1
        if few >= count and not isinstance(self.X, IndexedRows):
            yield self
            return
        for begin in range(0, count, few):
            yield self.take(slice(begin, begin + few))


def _is_sparse(X: Any) -> bool:  # noqa: N803 -- scikit-learn's name
    return bool(sparse.issparse(X))  # a type guard of an abstract class, which has no tocsr


def _is_frame(X: Any) -> bool:  # noqa: N803 -- scikit-learn's name
    """Whether it is a pandas frame, without importing pandas."""
    return hasattr(X, "iloc") and hasattr(X, "columns")


def length(data: Any, what: str) -> int:
    """Number of rows; DataError where there are none to count."""
    try:
        return int(data.shape[0]) if getattr(data, "shape", None) is not None else len(data)
    except (TypeError, IndexError):
        msg = f"{what} must be a table with rows (got {type(data).__name__})"
        raise DataError(msg) from None


def rows_of(data: Any, rows: npt.NDArray[np.int64], *, copied: bool) -> Any:
    """Those rows of a frame, a matrix or an array; of a large array only their numbers, unless it must be `copied`."""
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    if _is_sparse(data):
        return data.tocsr()[rows]
    plain = _array(data, "X")
    return plain[rows] if copied or plain.nbytes <= COPIED_WHOLE else IndexedRows(plain, rows)


def features(X: Any, *, what: str = "X") -> Any:  # noqa: N803 -- scikit-learn's name
    """Features as a C-contiguous array of float64 (or float32, where they are that), or CSR.

    DataError, with column and row of the first fault, where they are no table of finite numbers.
    """
    if isinstance(X, IndexedRows):  # of an array that has been checked
        return X
    if _is_sparse(X):
        return _sparse(X, what)
    if _is_frame(X):
        dense = np.column_stack([_column(X.iloc[:, i], f"{what}: column {X.columns[i]!r}") for i in range(X.shape[1])])
    else:
        dense = _column(X, what)
    if dense.ndim != 2 or dense.shape[1] == 0:  # noqa: PLR2004 -- rows and columns
        msg = f"{what} must have rows and columns (got the shape {dense.shape}); use X.reshape(-1, 1) for one column"
        raise DataError(msg)
    _finite(dense, what, getattr(X, "columns", None))
    return np.ascontiguousarray(dense)


def _sparse(X: Any, what: str) -> Any:  # noqa: N803 -- scikit-learn's name
    matrix = X.tocsr()
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    faulty = np.flatnonzero(~np.isfinite(matrix.data))
    if len(faulty):
        row = int(np.searchsorted(matrix.indptr, faulty[0], side="right")) - 1
        msg = f"{what}: {_count(faulty)}, first in row {row}; fill or leave out such rows"
        raise DataError(msg)
    matrix.sort_indices()
    return matrix


def _column(data: Any, what: str) -> Array:
    """Numbers of one column of a frame, or of a whole array."""
    plain: Array
    if getattr(data, "dtype", None) is not None and hasattr(data, "to_numpy") and hasattr(data, "isna"):
        plain = data.to_numpy()
        if plain.dtype.kind == "O" and data.isna().any() and not _texts(plain):
            plain = data.to_numpy(dtype=np.float64, na_value=math.nan)  # pandas' own missing values
    else:
        plain = _array(data, what)
    if plain.dtype.kind == "f":
        if plain.dtype != np.float32:
            plain = plain.astype(np.float64, copy=False)
        return plain
    if plain.dtype.kind in "biu":
        plain = plain.astype(np.float64)
        return plain
    return _numbers(plain, what)


def _array(data: Any, what: str) -> Array:
    try:
        return np.asarray(data)
    except ValueError as error:
        msg = f"{what} must be a table whose rows are equally long ({error})"
        raise DataError(msg) from error


def _numbers(plain: Array, what: str) -> Array:
    texts = _texts(plain)
    if texts:
        row, value = texts[0]
        msg = (
            f"{what} holds text, first {str(value)[:40]!r} in row {row}; "
            "turn it into numbers, e.g. by a Pipeline with an encoder"
        )
        raise DataError(msg)
    try:
        if plain.dtype.kind != "O":
            raise TypeError  # noqa: TRY301 -- dates and complex numbers convert, and mean nothing then
        return plain.astype(np.float64)
    except (TypeError, ValueError):
        msg = f"{what} holds no plain numbers (dtype {plain.dtype}); turn it into floats"
        raise DataError(msg) from None


def _texts(plain: Array) -> list[tuple[int, Any]]:
    """The first text and its row, as a list of at most one."""
    if plain.dtype.kind not in "OUS":
        return []
    flat = plain.reshape(len(plain), -1) if plain.ndim else plain.reshape(1, 1)
    return next(
        ([(row, value)] for row, line in enumerate(flat) for value in line if isinstance(value, str | bytes)), []
    )


def _finite(dense: Array, what: str, columns: Any = None) -> None:
    # A sum is finite where all its terms are, except for overflow, which the slow check decides.
    with np.errstate(all="ignore"):
        if np.isfinite(dense.sum()):
            return
    row, column = (np.array(found) for found in np.nonzero(~np.isfinite(dense.reshape(len(dense), -1))))
    if len(row) == 0:
        return
    where = f" in column {columns[column[0]]!r}" if columns is not None else ""
    msg = f"{what}: {_count(row)}, first in row {row[0]}{where}; fill or leave out such rows"
    raise DataError(msg)


def _count(faulty: Any) -> str:
    return f"{len(faulty)} missing or infinite value{'s' if len(faulty) > 1 else ''}"


def targets(y: Any, *, classifier: bool, outputs: bool, fewest: int = 2, what: str = "y") -> Array:
    """Targets of shape (n,), or (n, outputs) where `outputs` allows several: classes, or finite numbers.

    DataError where they are neither, or where there are fewer than `fewest` classes; `what` is their name in it.
    """
    plain = _array(y.to_numpy() if hasattr(y, "to_numpy") else y, what)
    if plain.ndim == 2 and plain.shape[1] == 1:  # noqa: PLR2004 -- a column
        plain = plain[:, 0]
    if plain.ndim != 1 and not (outputs and plain.ndim == 2):  # noqa: PLR2004 -- said by the expression itself
        msg = f"{what} must be one column (got the shape {plain.shape})"
        raise DataError(msg)
    missing = _missing(plain)
    if len(missing):
        msg = f"{what}: {_count(missing)}, first in row {missing[0]}; leave out such rows"
        raise DataError(msg)
    return _classes(plain, fewest, what) if classifier else _column(plain, what)


def _missing(plain: Array) -> npt.NDArray[np.int64]:
    """Rows whose target is missing or infinite."""
    flat = plain.reshape(len(plain), -1)
    if plain.dtype.kind == "f":
        faulty = ~np.isfinite(flat)
    elif plain.dtype.kind == "O":
        faulty = np.array([[_is_missing(value) for value in line] for line in flat], dtype=bool).reshape(flat.shape)
    else:
        return np.array([], dtype=np.int64)
    return np.flatnonzero(faulty.any(axis=1))


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return False
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or not math.isfinite(value)


def _classes(plain: Array, fewest: int, what: str) -> Array:
    if plain.dtype.kind == "O":  # a frame's column of text, or whatever a list held
        kinds = {type(value).__name__ for value in plain}
        if len(kinds) > 1:
            msg = f"{what} mixes {' and '.join(sorted(kinds))} as classes; turn all of them into one kind"
            raise DataError(msg)
        plain = np.array(plain.tolist())
    names = np.unique(plain)
    if len(names) < fewest:
        only = f"only the class {names[0]!s:.40}" if len(names) else "no class"
        msg = f"{what} holds {only}; a classifier needs at least two"
        raise DataError(msg)
    if plain.dtype.kind == "f" and (names != np.floor(names)).any() and len(names) > MOST_CLASSES * len(plain):
        msg = (
            f"{what} holds {len(names)} different fractions in {len(plain)} rows, which are no classes; use a regressor"
        )
        raise DataError(msg)
    return plain


def weights(weight: Any, rows: int, *, what: str = "sample_weight") -> Array | None:
    """Sample weights of shape (rows,); DataError unless they are finite, none negative, and not all zero."""
    if weight is None:
        return None
    plain = _column(weight, what)
    if plain.shape != (rows,):
        msg = f"{what} must have one number for each of the {rows} rows (got the shape {plain.shape})"
        raise DataError(msg)
    _finite(plain, what)
    if plain.min() < 0 or plain.max() <= 0:
        msg = f"{what} must be zero or more, and not all zero (smallest {plain.min():g}, largest {plain.max():g})"
        raise DataError(msg)
    return plain.astype(np.float64, copy=False)


def held_out(codes: Array | None, rows: int, fraction: float, seed: int) -> tuple[Array, Array, bool]:
    """Row numbers of the training part and of the held-out part, each ascending; whether it is stratified.

    Stratified where each class has at least two rows and both parts have room for each class: then each class of the
    held-out part is in the training part as well. DataError where there are too few rows.
    """
    count = round(fraction * rows)
    if rows < FEWEST_ROWS or count < 1 or count >= rows:
        msg = (
            f"the table has {rows} row{'s' if rows != 1 else ''}, too few to hold out {fraction:.0%} of them; "
            f"give at least {max(FEWEST_ROWS, math.ceil(1 / fraction))} rows, or held-out rows of your own"
        )
        raise DataError(msg)
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    sizes = None if codes is None else np.bincount(codes)
    fits = sizes is not None and sizes.min() > 1 and count >= len(sizes) and rows - count >= len(sizes)
    if codes is not None and fits:
        # Systematic sampling through the shuffled rows sorted by class: each class within one row of its share.
        order = order[np.argsort(codes[order], kind="stable")]
        picked = np.floor((np.arange(count) + rng.random()) * rows / count).astype(np.int64)
        chosen = order[np.minimum(picked, rows - 1)]
        chosen = _every_class(chosen, codes, rng)
    else:
        chosen = order[:count]
    mask = np.zeros(rows, dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask), bool(fits)


def _every_class(chosen: Array, codes: Array, rng: np.random.Generator) -> Array:
    """The chosen rows without one of each class that has all its rows among them."""
    taken, all_of = np.bincount(codes[chosen], minlength=codes.max() + 1), np.bincount(codes)
    whole = np.flatnonzero(taken == all_of)
    back = [rng.choice(chosen[codes[chosen] == code]) for code in whole]
    return np.setdiff1d(chosen, np.array(back, dtype=np.int64))


def digest(*parts: Any) -> str:
    """SHA-256 of arrays, matrices, frames and None, as 64 hexadecimal digits."""
    digester = hashlib.sha256()
    for part in parts:
        for chunk in _chunks(part):
            digester.update(len(chunk).to_bytes(8, "big"))
            digester.update(chunk)
    return digester.hexdigest()


def _chunks(part: Any) -> list[Any]:
    if part is None:
        return [b"none"]
    if _is_sparse(part):
        matrix = part.tocsr()
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        return [
            str(matrix.shape).encode(),
            *(
                c
                for a in (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
                for c in _chunks(a)
            ),
        ]
    if _is_frame(part):
        names = [str(name).encode() for name in part.columns]
        return [*names, *(c for i in range(part.shape[1]) for c in _chunks(part.iloc[:, i]))]
    plain = part.to_numpy() if hasattr(part, "to_numpy") else np.asarray(part)
    head = f"{plain.shape} {plain.dtype}".encode()
    if plain.dtype.kind == "O":
        return [head, "\x1f".join(repr(value) for value in plain.flat).encode("utf-8", "surrogatepass")]
    return [head, np.ascontiguousarray(plain).reshape(-1).view(np.uint8)]
