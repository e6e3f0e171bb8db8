"""A strict CSV reader: a malformed file is refused with line and column.

Separators are commas, semicolons, tabs and bars; a byte-order mark is skipped; with semicolons a decimal comma is
read. The first pass checks the lines with :mod:`csv`, the second reads them with pandas.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from lrtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    import pandas as pd

__all__ = ["MOST_COLUMNS", "line_of", "read_csv"]

MOST_COLUMNS = 100_000
LONGEST_FIELD = 131_072  # characters; the csv module's own default, and more than any label
SEPARATORS = ",;\t|"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(path: Path) -> pd.DataFrame:
    """The table; columns of numbers are numbers, the others text; missing values are NaN.

    DataError if the file is empty, is not UTF-8 text, is malformed, or has more than 100,000 columns.
    """
    import pandas as pd

    _check_bytes(path)
    separator, decimal = _dialect(path)
    names = _check_rows(path, separator)
    try:
        return pd.read_csv(
            path,
            sep=separator,
            decimal=decimal,
            names=names,
            header=0,
            index_col=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
        )
    except (ValueError, OSError) as error:  # pandas' ParserError is a ValueError
        msg = f"{path.name}: cannot be read as CSV ({' '.join(str(error).split())})"
        raise DataError(msg) from None


def line_of(path: Path, row: int) -> int:
    """Line of the file, from 1, on which a row of the table (from 0) begins."""
    separator, _ = _dialect(path)
    with _open(path) as file:
        lines = (begin for begin, _ in _rows(path, file, separator))
        next(lines)  # the header
        return next(begin for number, begin in enumerate(lines) if number == row)


def _check_bytes(path: Path) -> None:
    line = 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if line == 1 and raw.startswith(UTF16):
                raise _bad(path, 1, "the file is UTF-16; save it as UTF-8")
            if b"\0" in raw:
                raise _bad(path, line, f"a NUL byte in column {raw.index(0) + 1}; is it a text file?")
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                why = f"not UTF-8 (byte 0x{raw[error.start]:02x} in column {error.start + 1}); save it as UTF-8"
                raise _bad(path, line, why) from None
    if not line:
        msg = f"{path.name}: the file is empty; it needs a header line and rows"
        raise DataError(msg)


def _dialect(path: Path) -> tuple[str, str]:
    """Separator and decimal mark, by the first lines."""
    with _open(path) as file:
        head = file.readline(10_000_000)
        sample = head + "".join(file.readline(100_000) for _ in range(20))
    bare = re.sub(r'"[^"]*"', "", head)
    separator = max(SEPARATORS, key=bare.count)  # the first of equals
    comma = (
        separator == ";" and re.search(r"(^|;)\s*-?\d+,\d+", sample, re.MULTILINE) and not re.search(r"\d\.\d", sample)
    )
    return separator, "," if comma else "."


def _check_rows(path: Path, separator: str) -> list[str]:
    """Names of the columns, once every row has as many fields."""
    with _open(path) as file:
        rows = _rows(path, file, separator)
        first = next(rows, None)
        if first is None:
            msg = f"{path.name}: the file holds only empty lines; it needs a header line and rows"
            raise DataError(msg)
        names = _header(path, *first)
        for begin, row in rows:
            if len(row) != len(names):
                raise _bad(path, begin, f"{len(row)} fields where the header has {len(names)}; correct the row")
    return names


def _header(path: Path, line: int, row: Sequence[str]) -> list[str]:
    names = [name.strip() for name in row]
    if len(names) > MOST_COLUMNS:
        msg = f"{path.name}: {len(names)} columns, at most {MOST_COLUMNS} are read; leave some out"
        raise DataError(msg)
    if all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", name) for name in names):
        raise _bad(path, line, "only numbers where the column names should be; add a header line")
    seen: dict[str, int] = {}
    for column, name in enumerate(names, 1):
        if not name:
            raise _bad(path, line, f"column {column} has no name; give it one")
        if name in seen:
            raise _bad(path, line, f"columns {seen[name]} and {column} are both called {name!r}; rename one")
        seen[name] = column
    return names


def _rows(path: Path, file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of every row that is not empty, the header first."""
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _bad(path, begin, _said(str(error))) from None
        if row is None:
            return
        if row:
            yield begin, row


def _said(error: str) -> str:
    if "field larger" in error:
        return f"a field of more than {LONGEST_FIELD} characters; is a quote left open?"
    if "end of data" in error:
        return "a quote that is opened in this row is never closed; close it"
    return f"not CSV ({error}); correct the quotes"


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _bad(path: Path, line: int, why: str) -> DataError:
    return DataError(f"{path.name}:{line}: {why}")
