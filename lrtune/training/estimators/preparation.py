"""From the user's table to arrays: checked, split into a training and a held-out part, transformed by a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier

from lrtune.errors import DataError, InputError
from lrtune.training.estimators import arrays
from lrtune.training.estimators.adapter_factory import adapter_for, many_outputs
from lrtune.training.estimators.adapters import EstimatorAdapter, cloned
from lrtune.training.out_of_memory import first_line

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from lrtune.training.estimators.arrays import Array, TrainingArrays

__all__ = ["prepared"]


class PreparedData(NamedTuple):
    """How the estimator is trained, both parts, the table's rows and columns, notices, and the fitted earlier steps."""

    adapter: EstimatorAdapter
    train: TrainingArrays
    valid: TrainingArrays
    shape: tuple[int, int]
    notices: list[str]
    steps: Pipeline | None


def prepared(
    X: Any,  # noqa: N803 -- scikit-learn's name
    y: Any,
    weight: Any,
    valid: Any,
    *,
    fraction: float,
    seed: int,
    pipeline: Pipeline | None,
    estimator: Any,
    rate: str | None,
) -> PreparedData:
    """Check the table, split off the held-out part where `valid` is None, and fit the pipeline on the training part."""
    if valid is not None and not (isinstance(valid, tuple) and len(valid) in {2, 3}):
        msg = f"valid must be (X, y) or (X, y, sample_weight) (got {type(valid).__name__})"
        raise InputError(msg)
    rows = _same_length(X, y, "X", "y")
    shape = rows, int(getattr(X, "shape", (rows, 0))[1]) if len(getattr(X, "shape", ())) > 1 else _width(X)
    classifier, outputs = is_classifier(estimator), many_outputs(estimator)
    y = arrays.targets(y, classifier=classifier, outputs=outputs)
    weight = arrays.weights(weight, len(y))
    X = X if pipeline is not None else arrays.features(X)  # noqa: N806 -- checked whole, for the rows' own numbers
    notices = []
    if valid is None:
        codes = np.unique(y, return_inverse=True)[1] if classifier else None
        first, second, stratified = arrays.held_out(codes, len(y), fraction, seed)
        if classifier and not stratified:
            notices.append("the held-out part is not stratified: some class has too few rows for it")
        copied = pipeline is not None  # its steps may ask anything of an array
        parts = [
            (arrays.rows_of(X, rows_, copied=copied), y[rows_], None if weight is None else weight[rows_])
            for rows_ in (first, second)
        ]
    else:
        parts = [(X, y, weight), _given(valid, classifier=classifier, outputs=outputs)]
    (train_x, train_y, train_w), (valid_x, valid_y, valid_w) = parts
    if train_y.dtype.kind != valid_y.dtype.kind and classifier:
        msg = f"y holds {train_y.dtype} and the held-out y {valid_y.dtype}; classes must be of one kind"
        raise DataError(msg)
    adapter = adapter_for(estimator, rate, np.concatenate([train_y, valid_y]))
    train_x, valid_x, steps = _transformed(pipeline, train_x, train_y, valid_x)
    if train_x.shape[1] != valid_x.shape[1]:
        msg = f"X has {train_x.shape[1]} columns and the held-out X {valid_x.shape[1]}; they must be the same"
        raise DataError(msg)
    train, held_out = _table(adapter, train_x, train_y, train_w), _table(adapter, valid_x, valid_y, valid_w)
    return PreparedData(adapter, train, held_out, shape, notices, steps)


def _given(valid: Any, *, classifier: bool, outputs: bool) -> tuple[Any, Array, Array | None]:
    X, y, *rest = valid  # noqa: N806 -- scikit-learn's name
    _same_length(X, y, "the held-out X", "the held-out y")
    plain = arrays.targets(y, classifier=classifier, outputs=outputs, fewest=1, what="the held-out y")
    weight = arrays.weights(rest[0] if rest else None, len(plain), what="the held-out sample_weight")
    return X, plain, weight


def _same_length(X: Any, y: Any, first: str, second: str) -> int:  # noqa: N803 -- scikit-learn's name
    rows, others = arrays.length(X, first), arrays.length(y, second)
    if rows != others:
        msg = f"{first} has {rows} rows and {second} has {others}; they must be equally many"
        raise DataError(msg)
    if rows == 0:
        msg = f"{first} has no rows"
        raise DataError(msg)
    return rows


def _width(X: Any) -> int:  # noqa: N803 -- scikit-learn's name
    try:
        return len(X[0])
    except (TypeError, IndexError, KeyError):
        return 1


def _transformed(pipeline: Pipeline | None, train: Any, y: Array, valid: Any) -> tuple[Any, Any, Any]:
    """Both parts as numbers, by the pipeline's earlier steps where there are any, and those fitted."""
    if pipeline is None:
        return arrays.features(train), arrays.features(valid, what="the held-out X"), None
    steps = cloned(pipeline)
    try:
        train, valid = steps.fit_transform(train, y), steps.transform(valid)
    except Exception as error:
        msg = f"the earlier steps of the pipeline cannot take this table ({first_line(error)}); mend one of them"
        raise DataError(msg) from error
    what = "X after the pipeline's earlier steps"
    return arrays.features(train, what=what), arrays.features(valid, what=what), steps


def _table(adapter: EstimatorAdapter, X: Any, y: Array, weight: Array | None) -> TrainingArrays:  # noqa: N803 -- scikit-learn's name
    target = y if adapter.classes is None else np.searchsorted(adapter.classes, y)
    return arrays.TrainingArrays(X=X, y=y, target=target, weight=weight)
