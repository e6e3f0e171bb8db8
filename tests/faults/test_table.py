"""Every row of the table has a test, and every test's row stands in the table."""

from __future__ import annotations

import re
from pathlib import Path

from faults.table import FAULTS

MARKED = re.compile(r"mark\.row\(([\d, ]+)\)")


def test_every_row_has_a_test() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    rows = {int(number) for source in sources for found in MARKED.findall(source) for number in found.split(",")}
    assert rows == set(FAULTS)
