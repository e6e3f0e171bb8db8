"""Tables: whatever splits is a split, and whatever differs has another hash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from lrtune.errors import DataError
from lrtune.training.estimators import arrays

classes = hnp.arrays(np.int64, st.integers(4, 80), elements=st.integers(0, 4)).map(
    lambda codes: np.unique(codes, return_inverse=True)[1]
)
fractions = st.floats(0.05, 0.95)


@given(codes=classes, fraction=fractions, seed=st.integers(0, 2**32))
def test_a_split_is_a_partition_and_keeps_every_class_in_training(codes: Any, fraction: float, seed: int) -> None:
    rows = len(codes)
    count = round(fraction * rows)
    if not 1 <= count < rows:
        with pytest.raises(DataError, match="too few"):
            arrays.held_out(codes, rows, fraction, seed)
        return
    first, second, stratified = arrays.held_out(codes, rows, fraction, seed)
    assert sorted([*first, *second]) == list(range(rows))
    assert len(first) > 0 < len(second)
    if stratified:
        assert set(codes[first]) == set(codes)
        held, whole = np.bincount(codes[second], minlength=codes.max() + 1), np.bincount(codes)
        assert (np.abs(held - whole * count / rows) <= 2).all()
    else:
        assert len(second) == count


def test_a_split_is_stratified_wherever_it_fits() -> None:
    assert arrays.held_out(np.repeat([0, 1, 2], 4), 12, 0.25, 0)[2]
    assert not arrays.held_out(np.repeat([0, 1], [11, 1]), 12, 0.25, 0)[2]
    assert not arrays.held_out(np.repeat(range(6), 2), 12, 0.25, 0)[2]
    assert not arrays.held_out(None, 12, 0.25, 0)[2]


def test_features_stay_what_they_are() -> None:
    single = np.ones((3, 2), dtype=np.float32)
    assert arrays.features(single).dtype == np.float32
    assert arrays.features(sparse.csr_matrix(single)).dtype == np.float32
    for other in (single.astype(np.int8), single.astype(bool), single.astype(np.float16), single.tolist()):
        assert arrays.features(other).dtype == np.float64
    assert arrays.features(np.asfortranarray(np.ones((3, 2)))).flags.c_contiguous
    assert sparse.issparse(arrays.features(sparse.eye(3)))


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    assert arrays.features(np.full((2, 2), 1e308)).shape == (2, 2)


def test_a_frame_of_one_kind_and_of_many_give_the_same_numbers() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    np.testing.assert_array_equal(arrays.features(frame), [[1, 0.5, 1], [2, 1.5, 0]])


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=st.floats(-5, 5)), st.data()
)
def test_a_hash_sees_every_number(table: Any, data: Any) -> None:
    assert arrays.digest(table) == arrays.digest(table.copy())
    where = data.draw(st.tuples(*(st.integers(0, side - 1) for side in table.shape)))
    changed = table.copy()
    changed[where] += 1.0
    for wrap in (np.asarray, sparse.csr_matrix, pd.DataFrame):
        assert arrays.digest(wrap(table)) != arrays.digest(wrap(changed))


def test_a_hash_sees_shape_kind_names_and_place() -> None:
    table = np.arange(6.0)
    frame = pd.DataFrame({"a": ["x", "y"]})
    parts: list[tuple[Any, ...]] = [
        (table,),
        (table.reshape(2, 3),),
        (table.reshape(3, 2),),
        (table.astype(np.float32),),
        (table, None),
        (None, table),
        (frame,),
        (frame.rename(columns={"a": "b"}),),
        (frame.assign(a=["x", "z"]),),
        (table[:3], table[3:]),
        (["x", "y"],),
        (np.array(["x", "y"], dtype=object),),
    ]
    assert len({arrays.digest(*part) for part in parts}) == len(parts)


def test_a_sparse_matrix_is_its_entries_and_not_how_they_are_kept() -> None:
    rows, columns, entries = np.array([1, 0, 0]), np.array([1, 2, 0]), np.array([3.0, 2.0, 1.0])
    matrix = sparse.coo_matrix((entries, (rows, columns)), shape=(2, 3))
    assert arrays.digest(matrix) == arrays.digest(sparse.csc_matrix(matrix)) == arrays.digest(matrix.tocsr())


def test_classes_keep_their_names() -> None:
    found = arrays.targets(pd.Series(["b", "a"]), classifier=True, outputs=False)
    assert found.tolist() == ["b", "a"]
    assert found.dtype.kind == "U"
    assert arrays.targets([True, False], classifier=True, outputs=False).dtype == bool
