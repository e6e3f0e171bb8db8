"""Fixtures of the faults, and the table of what each run of them saw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faults import clock
from faults.driver import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = "LRTUNE_FAULTS_LOG"
"""Names a file to which a line of JSON is appended for each row that was tried; see table.py."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(*numbers): rows of the catalogue of faults that a test holds")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A library to preload that makes the clock jump; see :mod:`faults.clock`."""
    return clock.built(tmp_path)


@pytest.fixture
def saw(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tell the table what happened, in a few words; of all rows of the test, or of those that are named."""
    return lambda what, *rows: record_property("saw", [list(rows), what])


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Append what became of a row to the log, where one is asked for."""
    path = os.environ.get(LOG)
    mark = item.get_closest_marker("row")
    failed = call.excinfo is not None
    if path is None or mark is None or (call.when != "call" and not failed):
        return
    skipped = failed and call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    line = {
        "rows": list(mark.args),
        "test": item.nodeid.rpartition("/")[2],
        "outcome": "not tried" if skipped else "not held" if failed else "held",
        "saw": [value for key, value in item.user_properties if key == "saw"]
        + ([[[], " ".join(str(call.excinfo.value).split())[:200]]] if call.excinfo is not None else []),
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
