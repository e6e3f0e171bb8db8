"""From the table as the user gave it to two parts that an estimator can take: one to train on, one held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier

from lrtune.errors import DataError, InputError
from lrtune.training.estimators import arrays
from lrtune.training.estimators.adapter_factory import kind_of, many_outputs
from lrtune.training.estimators.adapters import EstimatorAdapter, cloned
from lrtune.training.out_of_memory import first_line

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from lrtune.training.estimators.arrays import Array, TrainingArrays

__all__ = ["Raw", "check_valid"]


def check_valid(valid: object) -> None:
    """Held-out rows come as two or three tables.

    Raises
    ------
    InputError
        If they do not.
    """
    if valid is not None and not (isinstance(valid, tuple) and len(valid) in {2, 3}):
        msg = f"valid must be (X, y) or (X, y, sample_weight) (got {type(valid).__name__})"
        raise InputError(msg)


class Raw:
    """The table as the user gave it, until it is split and prepared."""

    def __init__(self, X: Any, y: Any, weight: Any, valid: Any, *, fraction: float, seed: int) -> None:  # noqa: N803 -- scikit-learn's name
        self.X, self.y, self.weight = X, y, weight
        self.valid, self.fraction, self.seed = valid, fraction, seed
        self.notices: list[str] = []
        rows = _same_length(X, y, "X", "y")
        self.shape = rows, int(getattr(X, "shape", (rows, 0))[1]) if len(getattr(X, "shape", ())) > 1 else _width(X)

    def prepared(
        self, pipeline: Pipeline | None, last: Any, rate: str | None
    ) -> tuple[EstimatorAdapter, TrainingArrays, TrainingArrays]:
        """The kind of estimator, the training part and the held-out part, both as numbers."""
        classifier = is_classifier(last)
        outputs = many_outputs(last)
        y = arrays.targets(self.y, classifier=classifier, outputs=outputs)
        weight = arrays.weights(self.weight, len(y))
        X = self.X if pipeline is not None else arrays.features(self.X)  # noqa: N806 -- checked whole, for the rows' own numbers
        if self.valid is None:
            codes = np.unique(y, return_inverse=True)[1] if classifier else None
            first, second, stratified = arrays.held_out(codes, len(y), self.fraction, self.seed)
            if classifier and not stratified:
                self.notices.append("the held-out part is not stratified: some class has too few rows for it")
            parts = [(arrays.rows_of(X, r), y[r], None if weight is None else weight[r]) for r in (first, second)]
        else:
            parts = [(X, y, weight), self._given(classifier=classifier, outputs=outputs)]
        if parts[0][1].dtype.kind != parts[1][1].dtype.kind and classifier:
            msg = f"y holds {parts[0][1].dtype} and the held-out y {parts[1][1].dtype}; classes must be of one kind"
            raise DataError(msg)
        kind = kind_of(last, rate, np.concatenate([parts[0][1], parts[1][1]]))
        (train_x, train_y, train_w), (valid_x, valid_y, valid_w) = parts
        train_x, valid_x = _transformed(pipeline, train_x, train_y, valid_x)
        if train_x.shape[1] != valid_x.shape[1]:
            msg = f"X has {train_x.shape[1]} columns and the held-out X {valid_x.shape[1]}; they must be the same"
            raise DataError(msg)
        return kind, _table(kind, train_x, train_y, train_w), _table(kind, valid_x, valid_y, valid_w)

    def _given(self, *, classifier: bool, outputs: bool) -> tuple[Any, Array, Array | None]:
        X, y, *rest = self.valid  # noqa: N806 -- scikit-learn's name
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


def _transformed(pipeline: Pipeline | None, train: Any, y: Array, valid: Any) -> tuple[Any, Any]:
    """Both parts as numbers, by the pipeline's earlier steps where there are any."""
    if pipeline is None:
        return arrays.features(train), arrays.features(valid, what="the held-out X")
    steps = cloned(pipeline)
    try:
        train, valid = steps.fit_transform(train, y), steps.transform(valid)
    except Exception as error:
        msg = f"the earlier steps of the pipeline cannot take this table ({first_line(error)}); mend one of them"
        raise DataError(msg) from error
    what = "X after the pipeline's earlier steps"
    return arrays.features(train, what=what), arrays.features(valid, what=what)


def _table(kind: EstimatorAdapter, X: Any, y: Array, weight: Array | None) -> TrainingArrays:  # noqa: N803 -- scikit-learn's name
    if kind.classes is None:
        return arrays.TrainingArrays(X=X, y=y, target=y, weight=weight)
    return arrays.TrainingArrays(X=X, y=y, target=np.searchsorted(kind.classes, y), weight=weight)
