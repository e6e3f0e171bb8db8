"""The tree of errors is the one that is drawn, and each carries the exit code that stands beside it."""

from __future__ import annotations

import inspect
import re

import pytest

from lrtune import errors

DRAWN = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>\w+Error)\s+(?P<code>\d+)", re.MULTILINE)


def drawn() -> dict[str, tuple[str, int]]:
    """Name to (parent, exit code), as the module's docstring has it."""
    found: dict[str, tuple[str, int]] = {}
    line: list[tuple[int, str]] = []
    for match in DRAWN.finditer(errors.__doc__ or ""):
        indent = len(match["indent"])
        line = [(at, name) for at, name in line if at < indent]
        found[match["name"]] = (line[-1][1] if line else "Exception", int(match["code"]))
        line.append((indent, match["name"]))
    return found


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_stands_in_the_tree_where_it_is_drawn(name: str) -> None:
    kind = getattr(errors, name)
    parent, _ = drawn()[name]
    assert parent in [base.__name__ for base in kind.__bases__]


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "InterruptedSearchError"])
def test_an_error_carries_the_exit_code_that_is_drawn(name: str) -> None:
    assert getattr(errors, name).exit_code == drawn()[name][1]


def test_every_error_is_drawn_and_public() -> None:
    defined = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert defined == set(errors.__all__) == set(drawn())


def test_an_interruption_carries_the_code_of_its_signal() -> None:
    assert errors.InterruptedSearchError("stopped").exit_code == 130
    assert errors.InterruptedSearchError("stopped", exit_code=143).exit_code == 143


def test_bad_input_is_a_value_error_too() -> None:
    assert issubclass(errors.SpaceError, ValueError)


def test_an_error_of_the_users_code_carries_its_traceback() -> None:
    error = errors.UserCodeError("it failed", user_traceback="Traceback ...")
    assert (str(error), error.user_traceback, error.result) == ("it failed", "Traceback ...", None)
