"""Features, target and weights from a CSV or Parquet file or one of scikit-learn's data sets, and their preprocessing.

Columns of numbers are scaled to unit variance; columns of text with at most 100 different values are one-hot encoded;
one with more is refused, and so is any missing value. A user's own pipeline gets the columns as they were read,
missing values included.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.errors import DataError
from lrtune.training.estimators.csv_reader import MOST_COLUMNS, line_of, read_csv

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

__all__ = ["BUNDLED", "FileData", "Kind", "is_pipeline", "kind_of", "load_table", "prepared"]

Kind: TypeAlias = Literal["classification", "regression"]

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
MOST_LEVELS = 100
FEWEST_ROWS = 10
FEWEST_OF_A_CLASS = 2
SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FileData:
    """Features, target and weights.

    Attributes
    ----------
    X
        Features: float64 of shape (n, d), or a pandas frame where some columns are text or the user has a pipeline.
    y
        Target, shape (n,): class labels, or float64.
    weight
        Sample weights, float64 of shape (n,), zero or more; None where there are none.
    text
        Names of the columns that are one-hot encoded.
    """

    X: Any
    y: npt.NDArray[Any]
    weight: npt.NDArray[np.float64] | None = None
    text: tuple[str, ...] = ()


def kind_of(estimator: Any) -> Kind:
    """What the estimator learns; DataError where it is neither a classifier nor a regressor."""
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(estimator):
        return "classification"
    if is_regressor(estimator):
        return "regression"
    msg = f"{type(estimator).__name__} is neither a classifier nor a regressor; name one, e.g. SGDClassifier"
    raise DataError(msg)


def is_pipeline(estimator: Any) -> bool:
    """Whether it is a Pipeline, which prepares its columns by itself."""
    from sklearn.pipeline import Pipeline

    return isinstance(estimator, Pipeline)


def load_table(
    data: str,
    *,
    folder: Path,
    kind: Kind,
    target: str | None = None,
    weight: str | None = None,
    drop: Sequence[str] = (),
    raw: bool = False,
) -> FileData:
    """The table of a file, or of a bundled data set.

    Parameters
    ----------
    data
        Path of a CSV or Parquet file, relative to `folder`; or one of :data:`BUNDLED`.
    kind
        Whether the target must be classes or numbers.
    target, weight, drop
        Columns: what is predicted, the sample weights, and what is left out.
    raw
        Whether the features stay as they were read, for the user's pipeline.

    Raises
    ------
    DataError
        If it cannot be read or learned from; names every column that cannot, and the line of a CSV file.
    """
    path = folder / data
    if data in BUNDLED and not path.exists():
        return _bundled(data, kind, given=[name for name in (target, weight, *drop) if name])
    _check_there(path, data)
    if target is None:
        msg = f"{path.name}: target is missing; name the column that is to be predicted"
        raise DataError(msg)
    frame = _frame(path)
    return _Reading(path, frame).table(kind, target, weight, drop, raw=raw)


def prepared(estimator: Any, table: FileData) -> Any:
    """The estimator as the last step of a pipeline that scales and encodes; a pipeline stays as it is."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if isinstance(estimator, Pipeline):
        return estimator
    if not table.text:
        return make_pipeline(StandardScaler(), estimator)
    numbers = [name for name in table.X.columns if name not in table.text]
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", StandardScaler(), numbers), ("text", encoder, list(table.text))])
    return make_pipeline(columns, estimator)


def _bundled(name: str, kind: Kind, given: Sequence[str]) -> FileData:
    import sklearn.datasets

    if given:
        msg = f"the data set {name!r} has its own target and no named columns; leave {given[0]!r} out"
        raise DataError(msg)
    features, target = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    y = _target(np.asarray(target), kind, f"data set {name}")
    return FileData(X=np.asarray(features, dtype=np.float64), y=y)


def _check_there(path: Path, data: str) -> None:
    if not path.exists():
        close = difflib.get_close_matches(data, BUNDLED, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"give a CSV or Parquet file, or one of {', '.join(BUNDLED)}"
        msg = f"data: there is no file {path}; {hint}"
        raise DataError(msg)
    if not path.is_file():
        msg = f"data: {path} is not a regular file; give a CSV or Parquet file"
        raise DataError(msg)


def _frame(path: Path) -> pd.DataFrame:
    try:
        return _parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else read_csv(path)
    except OSError as error:
        msg = f"data: {path} cannot be read ({error})"
        raise DataError(msg) from None


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError:
        msg = f"{path.name}: reading Parquet needs pyarrow; install it with: pip install 'lrtune[parquet]'"
        raise DataError(msg) from None
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        msg = f"{path.name}: not a Parquet file ({' '.join(str(error).split())[:200]})"
        raise DataError(msg) from None
    frame.columns = frame.columns.map(str)
    if len(frame.columns) > MOST_COLUMNS or not frame.columns.is_unique:
        msg = f"{path.name}: the columns need different names, and there may be at most {MOST_COLUMNS}"
        raise DataError(msg)
    return frame


class _Reading:
    """A frame that was read, and its file, for errors with the place."""

    def __init__(self, path: Path, frame: pd.DataFrame) -> None:
        self.path = path
        self.frame = frame.reset_index(drop=True)

    def table(self, kind: Kind, target: str, weight: str | None, drop: Sequence[str], *, raw: bool) -> FileData:
        for role, name in (("target", target), ("weight", weight), *(("drop", name) for name in drop)):
            if name is not None and name not in self.frame.columns:
                raise self._unknown(role, name)
        if weight == target:
            raise _bad(self.path, f"column {target} is the target, so it cannot hold the weights; name another one")
        for role, name in (("target", target), ("weights", weight)):
            if name in drop:
                raise _bad(self.path, f"column {name} holds the {role}, so it cannot be dropped; leave it out of drop")
        if len(self.frame) < FEWEST_ROWS:
            rows = {0: "no rows", 1: "1 row"}.get(len(self.frame), f"{len(self.frame)} rows")
            raise _bad(self.path, f"{rows}, at least {FEWEST_ROWS} are needed; add data")
        used = self.frame.drop(columns=list(dict.fromkeys(drop)))
        features = used.drop(columns=[name for name in (target, weight) if name is not None])
        if not len(features.columns):
            raise _bad(self.path, "no column is left to learn from; add features")
        checked = [name for name in used.columns if name not in features.columns] if raw else used.columns
        faults = (said for name in checked if (said := self._fault(name, feature=name in features.columns)))
        if refused := list(itertools.islice(faults, SHOWN + 1)):
            more = "; and more columns" if len(refused) > SHOWN else ""
            raise _bad(self.path, "; ".join(refused[:SHOWN]) + more)
        y = _target(used[target].to_numpy(), kind, f"{self.path.name}: column {target}")
        weights = None if weight is None else self._weights(weight)
        if raw:
            return FileData(X=features, y=y, weight=weights)
        text = tuple(name for name in features.columns if self._is_text(name))
        learned = features if text else features.to_numpy(dtype=np.float64)
        return FileData(X=learned, y=y, weight=weights, text=text)

    def _is_text(self, name: str) -> bool:
        return self.frame[name].dtype.kind not in "iufb"

    def _fault(self, name: str, *, feature: bool) -> str:
        """What is wrong with a column, as a sentence; empty where nothing is."""
        column = self.frame[name]
        bad = column.isna().to_numpy()
        if bad.any():
            many = f"{bad.sum()} missing value{'' if bad.sum() == 1 else 's'}"
            place = self._place(int(bad.argmax()))
            return f"column {name}: {many}, first {place}; fill them in, or leave these rows or the column out"
        if not self._is_text(name):
            infinite = ~np.isfinite(column.to_numpy(dtype=np.float64))
            where = self._place(int(infinite.argmax())) if infinite.any() else None
            return "" if where is None else f"column {name}: an infinite value {where}; replace it"
        return self._text_fault(name) if feature else ""

    def _weights(self, name: str) -> npt.NDArray[np.float64]:
        column = self.frame[name]
        if column.dtype.kind not in "iufb":
            raise _bad(self.path, f"column {name}: weights must be numbers; correct them, or leave weight out")
        weights = column.to_numpy(dtype=np.float64)
        if (weights < 0).any():
            place = self._place(int((weights < 0).argmax()))
            raise _bad(self.path, f"column {name}: a negative weight {place}; weights are zero or more")
        if not weights.any():
            raise _bad(self.path, f"column {name}: all weights are zero; give some rows weight")
        return weights

    def _text_fault(self, name: str) -> str:
        """Why a column of text cannot be one-hot encoded."""
        import pandas as pd

        values = self.frame[name].astype(str)
        parsed = pd.to_numeric(values, errors="coerce").notna().to_numpy()
        if parsed.mean() > 1 / 2:  # numbers with something among them
            if parsed.all():
                return f"column {name}: numbers that are stored as text; store them as numbers"
            row = int((~parsed).argmax())
            return f"column {name}: {values[row][:40]!r} among numbers {self._place(row)}; correct it"
        levels = values.nunique()
        if levels > MOST_LEVELS:
            why = f"{levels} different texts, at most {MOST_LEVELS} are one-hot encoded"
            return f"column {name}: {why}; encode it, or name it in drop"
        return ""

    def _place(self, row: int) -> str:
        if self.path.suffix.lower() in {".parquet", ".pq"}:
            return f"in row {row + 1}"
        return f"at line {line_of(self.path, row)}"

    def _unknown(self, role: str, name: str) -> DataError:
        known = [str(column) for column in self.frame.columns]
        close = difflib.get_close_matches(name, known, n=1)
        several = ", ".join(known[:SHOWN]) + ", ..." * (len(known) > SHOWN)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {several}"
        return _bad(self.path, f"there is no column {name!r} ({role}); {hint}")


def _bad(path: Path, why: str) -> DataError:
    return DataError(f"{path.name}: {why}")


def _target(values: npt.NDArray[Any], kind: Kind, where: str) -> npt.NDArray[Any]:
    return _labels(values, where) if kind == "classification" else _numbers(values, where)


def _numbers(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.float64]:
    if values.dtype.kind not in "iufb":
        msg = f"{where}: a regressor needs numbers (got {str(values[0])[:40]!r}); name a classifier, or another target"
        raise DataError(msg)
    numbers = values.astype(np.float64)
    if (numbers == numbers[0]).all():
        msg = f"{where}: every value is {numbers[0]:g}; there is nothing to learn"
        raise DataError(msg)
    return numbers


def _labels(values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if values.dtype.kind == "f":
        if (values != np.floor(values)).any():
            distinct = len(np.unique(values))
            msg = f"{where}: {distinct} different fractions, a classifier needs classes; name a regressor"
            raise DataError(msg)
        values = values.astype(np.int64)
    elif values.dtype.kind == "O":
        values = values.astype(str)
    classes, counts = np.unique(values, return_counts=True)
    if len(classes) == 1:
        msg = f"{where}: only one class ({str(classes[0])[:40]}); a classifier needs two"
        raise DataError(msg)
    if counts.min() < FEWEST_OF_A_CLASS:
        rare = str(classes[counts.argmin()])[:40]
        msg = (
            f"{where}: class {rare} has {counts.min()} row, at least {FEWEST_OF_A_CLASS} are needed to hold one out; "
            "add rows or leave the class out"
        )
        raise DataError(msg)
    return values
