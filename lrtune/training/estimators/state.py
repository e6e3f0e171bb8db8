"""What a fitted estimator has learned, as a State and back, without pickle.

Nothing is ever constructed from a name that a file gives. Restoring starts from an estimator of the same
kind that has itself seen one minibatch: its objects (an optimizer, a label binarizer, a loss) are there
already, and only numbers are poured into them. Two attributes that were one array are one array again.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.training.base import State

__all__ = ["UnsavableError", "pour", "taken"]

KIND = "kind"
STATELESS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)

CYTHON_LOSSES = ("sklearn._loss.", "sklearn.linear_model._sgd_fast.")  # functions of the parameters, no more


class UnsavableError(TypeError):
    """The estimator holds something whose state cannot be told apart from its identity."""


def taken(estimator: Any) -> State:
    """A snapshot of what an estimator has learned: all attributes that are not its parameters.

    Raises
    ------
    UnsavableError
        If it holds an object that cannot be written as numbers.
    """
    parameters = set(estimator.get_params(deep=False))
    seen: dict[int, int] = {}
    return {
        name: _taken(value, seen, name) for name, value in sorted(vars(estimator).items()) if name not in parameters
    }


def pour(saved: Mapping[str, Any], estimator: Any) -> None:
    """Give an estimator that has seen one minibatch what another had learned.

    Raises
    ------
    InputError
        If the state does not fit the estimator.
    """
    parameters = set(estimator.get_params(deep=False))
    seen: list[Any] = []
    try:
        values = {name: _poured(item, vars(estimator).get(name), seen) for name, item in sorted(saved.items())}
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


def _taken(value: Any, seen: dict[int, int], name: str) -> Any:  # noqa: PLR0911 -- a table of kinds
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, np.ndarray):
        return _array(value, seen, name)
    if isinstance(value, np.generic):
        return {KIND: "scalar", "value": np.array(value)}
    if isinstance(value, list | tuple | dict):
        return _collection(value, seen, name)
    if isinstance(value, np.random.RandomState):  # its own memory of arrays: these are made on the spot
        return {KIND: "random", "state": _taken(value.get_state(legacy=False), {}, name)}
    if isinstance(value, np.random.Generator):
        return {KIND: "generator", "state": _taken(value.bit_generator.state, {}, name)}
    return _object(value, seen, name)


def _collection(value: Any, seen: dict[int, int], name: str) -> Any:
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {KIND: kind, "items": [_taken(item, seen, name) for item in value]}
    items = [[_taken(key, seen, name), _taken(item, seen, name)] for key, item in value.items()]
    return {KIND: "dict", "items": items}


def _array(value: Any, seen: dict[int, int], name: str) -> Any:
    if id(value) in seen:
        return {KIND: "again", "index": seen[id(value)]}
    seen[id(value)] = len(seen)
    if value.dtype.kind in "biufc":
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {KIND: "array", "value": value.copy(order="C"), "order": order}
    if value.dtype.kind == "U" or all(isinstance(item, str) for item in value.flat):
        return {
            KIND: "text",
            "items": [str(item) for item in value.flat],
            "shape": list(value.shape),
            "dtype": "object" if value.dtype.kind == "O" else value.dtype.str,
        }
    msg = f"{name} is an array of {value.dtype}"
    raise UnsavableError(msg)


def _object(value: Any, seen: dict[int, int], name: str) -> Any:
    kind = _kind(value)
    if isinstance(value, STATELESS) or kind.startswith(CYTHON_LOSSES):
        return {KIND: "kept", "class": kind}
    if not hasattr(value, "__dict__"):
        msg = f"{name} is a {kind}"
        raise UnsavableError(msg)
    if id(value) in seen:
        msg = f"{name} refers to itself"
        raise UnsavableError(msg)
    seen[id(value)] = len(seen)
    attributes = {key: _taken(item, seen, f"{name}.{key}") for key, item in sorted(vars(value).items())}
    return {KIND: "object", "class": kind, "attributes": attributes}


def _poured(item: Any, existing: Any, seen: list[Any]) -> Any:
    if not isinstance(item, dict):
        return item
    return POURERS[item[KIND]](item, existing, seen)


def _pour_array(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    seen.append(np.array(item["value"], order=item["order"]))
    return seen[-1]


def _pour_again(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    return seen[item["index"]]


def _pour_scalar(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    return item["value"][()]


def _pour_text(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    dtype = np.dtype(item["dtype"])
    if dtype.kind not in "UO":
        msg = f"a text array of dtype {dtype}"
        raise TypeError(msg)
    seen.append(np.array([str(text) for text in item["items"]], dtype=dtype).reshape(item["shape"]))
    return seen[-1]


def _pour_items(item: Any, existing: Any, seen: list[Any]) -> Any:
    old = list(existing) if isinstance(existing, list | tuple) else []
    old += [None] * (len(item["items"]) - len(old))
    values = [_poured(new, was, seen) for new, was in zip(item["items"], old, strict=False)]
    return tuple(values) if item[KIND] == "tuple" else values


def _pour_dict(item: Any, existing: Any, seen: list[Any]) -> Any:
    old = existing if isinstance(existing, dict) else {}
    values = {}
    for name, value in item["items"]:
        key = _poured(name, None, seen)
        values[key] = _poured(value, old.get(key), seen)
    return values


def _pour_random(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    if not isinstance(existing, np.random.RandomState):
        msg = f"expected a RandomState, found {_kind(existing)}"
        raise TypeError(msg)
    existing.set_state(_poured(item["state"], None, []))
    return existing


def _pour_generator(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    if not isinstance(existing, np.random.Generator):
        msg = f"expected a Generator, found {_kind(existing)}"
        raise TypeError(msg)
    existing.bit_generator.state = _poured(item["state"], None, [])
    return existing


def _pour_object(item: Any, existing: Any, seen: list[Any]) -> Any:
    if _kind(existing) != item["class"]:
        msg = f"expected a {item['class']}, found a {_kind(existing)}"
        raise TypeError(msg)
    seen.append(existing)
    for name, value in sorted(item["attributes"].items()):
        setattr(existing, name, _poured(value, vars(existing).get(name), seen))
    return existing


def _pour_kept(item: Any, existing: Any, seen: list[Any]) -> Any:  # noqa: ARG001 -- one signature for all
    if _kind(existing) != item["class"]:
        msg = f"expected a {item['class']}, found a {_kind(existing)}"
        raise TypeError(msg)
    return existing


POURERS = {
    "array": _pour_array,
    "again": _pour_again,
    "scalar": _pour_scalar,
    "text": _pour_text,
    "list": _pour_items,
    "tuple": _pour_items,
    "dict": _pour_dict,
    "random": _pour_random,
    "generator": _pour_generator,
    "object": _pour_object,
    "kept": _pour_kept,
}


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
