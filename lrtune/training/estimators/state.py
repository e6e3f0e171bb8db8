"""What a fitted estimator has learned, to a checkpoint's plain values and back, without pickle.

No class or function is looked up by a name from a file. Restoring starts from an estimator of the same class that has
been fitted on one minibatch: its objects (an optimizer, a label binarizer, a loss) are there already, and numbers are
put into them. Two attributes that were one array are one array again.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.training.base import State

__all__ = ["UnsavableError", "load_fitted", "save_fitted"]

KIND = "kind"
STATELESS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
CYTHON_LOSSES = ("sklearn._loss.", "sklearn.linear_model._sgd_fast.")  # functions of the parameters, no more
RANDOM: dict[str, Any] = {"random": np.random.RandomState, "generator": np.random.Generator}


class UnsavableError(TypeError):
    """The estimator holds an object that cannot be written as numbers."""


def save_fitted(estimator: Any) -> State:
    """A snapshot of all attributes that are not the estimator's parameters.

    UnsavableError if one of them cannot be written as numbers.
    """
    parameters = set(estimator.get_params(deep=False))
    seen: dict[int, int] = {}
    return {
        name: _saved(value, seen, name) for name, value in sorted(vars(estimator).items()) if name not in parameters
    }


def load_fitted(saved: Mapping[str, Any], estimator: Any) -> None:
    """Give an estimator that has been fitted on one minibatch what another had learned.

    InputError if the state does not fit the estimator.
    """
    parameters = set(estimator.get_params(deep=False))
    arrays: list[Any] = []
    try:
        values = {name: _loaded(item, vars(estimator).get(name), arrays) for name, item in sorted(saved.items())}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        msg = (
            f"the state does not fit {type(estimator).__name__} ({type(error).__name__}: {error}); start the run again"
        )
        raise InputError(msg) from error
    for name in set(vars(estimator)) - parameters - set(values):
        delattr(estimator, name)
    for name, value in values.items():
        if name not in parameters:
            setattr(estimator, name, value)


def _saved(value: Any, seen: dict[int, int], name: str) -> Any:  # noqa: PLR0911 -- a table of kinds
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, np.ndarray):
        return _array(value, seen, name)
    if isinstance(value, np.generic):
        return {KIND: "scalar", "value": np.array(value)}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {KIND: kind, "items": [_saved(item, seen, name) for item in value]}
    if isinstance(value, dict):
        items = [[_saved(key, seen, name), _saved(item, seen, name)] for key, item in value.items()]
        return {KIND: "dict", "items": items}
    if isinstance(value, np.random.RandomState):  # its state is a copy: none of its arrays is another attribute
        return {KIND: "random", "state": _saved(value.get_state(legacy=False), {}, name)}
    if isinstance(value, np.random.Generator):
        return {KIND: "generator", "state": _saved(value.bit_generator.state, {}, name)}
    return _object(value, seen, name)


def _array(value: Any, seen: dict[int, int], name: str) -> Any:
    if id(value) in seen:
        return {KIND: "again", "index": seen[id(value)]}
    seen[id(value)] = len(seen)
    if value.dtype.kind in "biufc":
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {KIND: "array", "value": value.copy(order="C"), "order": order}
    if value.dtype.kind == "U" or all(isinstance(item, str) for item in value.flat):
        dtype = "object" if value.dtype.kind == "O" else value.dtype.str
        items = [str(item) for item in value.flat]
        return {KIND: "text", "items": items, "shape": list(value.shape), "dtype": dtype}
    msg = f"{name} is an array of {value.dtype}"
    raise UnsavableError(msg)


def _object(value: Any, seen: dict[int, int], name: str) -> Any:
    kind = _class_of(value)
    if isinstance(value, STATELESS) or kind.startswith(CYTHON_LOSSES):
        return {KIND: "kept", "class": kind}
    if not hasattr(value, "__dict__"):
        msg = f"{name} is a {kind}"
        raise UnsavableError(msg)
    if id(value) in seen:
        msg = f"{name} refers to itself"
        raise UnsavableError(msg)
    seen[id(value)] = len(seen)
    attributes = {key: _saved(item, seen, f"{name}.{key}") for key, item in sorted(vars(value).items())}
    return {KIND: "object", "class": kind, "attributes": attributes}


def _loaded(item: Any, existing: Any, arrays: list[Any]) -> Any:  # noqa: C901, PLR0911, PLR0912 -- a table of kinds
    """The value of a saved item; `existing` is what the estimator has there, `arrays` those that were read before."""
    if not isinstance(item, dict):
        return item
    kind = item[KIND]
    if kind == "array":
        arrays.append(np.array(item["value"], order=item["order"]))
        return arrays[-1]
    if kind == "text":
        arrays.append(_text(item))
        return arrays[-1]
    if kind == "again":
        return arrays[item["index"]]
    if kind == "scalar":
        return item["value"][()]
    if kind in {"list", "tuple"}:
        old = list(existing) if isinstance(existing, list | tuple) else []
        old += [None] * (len(item["items"]) - len(old))
        values = [_loaded(new, was, arrays) for new, was in zip(item["items"], old, strict=False)]
        return tuple(values) if kind == "tuple" else values
    if kind == "dict":
        return _dict(item, existing if isinstance(existing, dict) else {}, arrays)
    if kind in RANDOM:
        if not isinstance(existing, RANDOM[kind]):
            msg = f"expected a {RANDOM[kind].__name__}, found {_class_of(existing)}"
            raise TypeError(msg)
        numbers = _loaded(item["state"], None, [])
        if kind == "random":
            existing.set_state(numbers)
        else:
            existing.bit_generator.state = numbers
        return existing
    if _class_of(existing) != item["class"]:
        msg = f"expected a {item['class']}, found a {_class_of(existing)}"
        raise TypeError(msg)
    if kind == "object":
        arrays.append(existing)
        for name, value in sorted(item["attributes"].items()):
            setattr(existing, name, _loaded(value, vars(existing).get(name), arrays))
        return existing
    if kind != "kept":
        raise KeyError(kind)
    return existing


def _text(item: Any) -> Any:
    dtype = np.dtype(item["dtype"])
    if dtype.kind not in "UO":
        msg = f"a text array of dtype {dtype}"
        raise TypeError(msg)
    return np.array([str(text) for text in item["items"]], dtype=dtype).reshape(item["shape"])


def _dict(item: Any, old: dict[Any, Any], arrays: list[Any]) -> dict[Any, Any]:
    values = {}
    for name, value in item["items"]:
        key = _loaded(name, None, arrays)
        values[key] = _loaded(value, old.get(key), arrays)
    return values


def _class_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
