"""What an estimator has learned goes through a file and back; what does not fit is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from trainer_contract import same

from lrtune.errors import InputError
from lrtune.training import checkpoint
from lrtune.training.estimators import state

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]


class Bag(BaseEstimator):
    """An estimator that holds whatever it is given."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


def bag(**held: Any) -> Bag:
    made = Bag()
    for name, value in held.items():
        setattr(made, name, value)
    return made


def carried(source: Any, target: Any) -> Any:
    """The target, given through a file's bytes what the source had learned."""
    state.load_fitted(checkpoint.decode(checkpoint.encode(state.save_fitted(source))), target)
    return target


@pytest.mark.parametrize(
    "make", [lambda: SGDClassifier(average=True, learning_rate="constant", eta0=0.1), lambda: MLPClassifier((4,))]
)
def test_a_fitted_estimator_goes_through_a_file(make: Any) -> None:
    classes = np.unique(Y)
    source, target = make(), make()
    source.random_state, target.random_state = 1, 1
    for _ in range(5):
        source.partial_fit(X, Y, classes=classes)
    target.partial_fit(X[:4], Y[:4], classes=classes)
    carried(source, target)
    assert same(state.save_fitted(target), state.save_fitted(source))
    assert target.predict(X).tolist() == source.predict(X).tolist()
    source.partial_fit(X, Y)
    target.partial_fit(X, Y)
    assert same(state.save_fitted(target), state.save_fitted(source))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.5,
        "text",
        np.float32(0.5),
        np.int64(3),
        np.arange(3),
        np.asfortranarray(np.ones((2, 3))),
        np.array(["a", "bc"]),
        np.array(["a", "bc"], dtype=object),
        [1, [2, (3, None)]],
        (np.arange(2), "x"),
        {"a": np.arange(2), 3: [4]},
        {},
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    back = carried(bag(held_=value), bag(held_=None)).held_
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert back.flags.f_contiguous == value.flags.f_contiguous
        np.testing.assert_array_equal(back, value)
    else:
        assert repr(back) == repr(value)


def test_two_names_of_one_array_stay_one() -> None:
    array = np.arange(3.0)
    back = carried(bag(one_=array, two_=[array], three_=array.copy()), bag())
    assert back.two_[0] is back.one_
    assert back.three_ is not back.one_


def test_random_states_go_on_where_they_were() -> None:
    source = bag(new_=np.random.default_rng(1), old_=np.random.RandomState(1))
    source.new_.normal(size=3)
    source.old_.normal(size=3)  # an odd number: half a pair is held back
    back = carried(source, bag(new_=np.random.default_rng(9), old_=np.random.RandomState(9)))
    assert back.new_.normal() == source.new_.normal()
    assert back.old_.normal() == source.old_.normal()


def test_parameters_are_not_learned_and_what_was_not_there_goes() -> None:
    back = carried(bag(size=3, kept_=1), bag(size=5, other_=2))
    assert (back.size, back.kept_, hasattr(back, "other_")) == (5, 1, False)


@pytest.mark.parametrize("value", [iter([1]), np.array([object()]), {1, 2}, 1j, object()])
def test_what_cannot_be_written_is_said(value: Any) -> None:
    with pytest.raises(state.UnsavableError, match="held_"):
        state.save_fitted(bag(held_=value))


def test_an_object_that_refers_to_itself_is_said() -> None:
    loop = bag()
    loop.held_ = loop
    loop.held_ = bag(again_=loop)
    loop.held_.again_ = loop.held_
    with pytest.raises(state.UnsavableError, match="refers to itself"):
        state.save_fitted(loop)


@pytest.mark.parametrize(
    "item",
    [
        {"kind": "object", "class": "subprocess.Popen", "attributes": {}},
        {"kind": "kept", "class": "builtins.function"},
        {"kind": "random", "state": {}},
        {"kind": "generator", "state": {}},
        {"kind": "again", "index": 7},
        {"kind": "text", "dtype": "<f8", "items": ["1"], "shape": [1]},
        {"kind": "nonsense"},
        {"no": "kind"},
    ],
)
def test_what_does_not_fit_is_refused(item: Any) -> None:
    with pytest.raises(InputError, match="does not fit Bag"):
        state.load_fitted({"held_": item}, bag(held_=3))


def test_functions_are_kept_and_never_replaced() -> None:
    target = bag(held_=len)
    assert carried(bag(held_=print), target).held_ is len
