"""A TOML file, read with suspicion: every refusal is one sentence that names the file, the line and the key.

:func:`read` gives a :class:`TomlTable`; its readers (:meth:`TomlTable.number`, :meth:`TomlTable.text`, ...) take one
key each, and :meth:`TomlTable.done` refuses what nobody has asked for.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import tomllib
from typing import TYPE_CHECKING, Any

from lrtune.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import NoReturn

__all__ = ["TomlTable", "glance", "read", "suggestion"]

MOST_BYTES = 1_000_000
OPTION = {"name": "study"}  # where the command line has another word for a key
MOST_PARTS = 16  # no file of lrtune's goes deeper than four
# Possessive, and begun only where a word or a short quoted part begins: its own time grows with the length alone.
LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.){0,40}+"|'[^'\n]{0,40}+')[ \t]*+\.[ \t]*+)"""
    rf"{{{MOST_PARTS}}}"
)
SQLITE = b"SQLite format 3\0"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read(path: Path) -> TomlTable:
    """The file's top table.

    Raises
    ------
    StudyFileError
        If it cannot be read, is not UTF-8, or is not TOML; names the line.
    """
    text = _decoded(path, _bytes(path))
    return TomlTable(_parsed(path, text), path=path, lines=_lines(text))


def glance(path: Path, table: str) -> dict[str, Any]:
    """One table of a file, unchecked; empty where the file cannot be read: whoever reads it in full says why."""
    try:
        found = _parsed(path, _decoded(path, _bytes(path))).get(table)
    except StudyFileError:
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(path: Path, text: str) -> dict[str, Any]:
    # tomllib's time grows with the square of the parts of one dotted key, so they are counted before it begins.
    long = LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.start()) + 1
        _refuse(path, line, f"a dotted key of more than {MOST_PARTS} parts; write it shorter, below a [table]")
    try:
        return tomllib.loads(text)
    except RecursionError:
        deepest = max(enumerate(text.splitlines(), 1), key=lambda row: row[1].count("[") + row[1].count("{"))[0]
        _refuse(path, deepest, "nested too deeply; write it flatter")
    except ValueError as error:  # TOMLDecodeError, and int() on a number of more than 4300 digits
        _refuse(path, *_located(error, text))


def _bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        msg = f"{path}: not a regular file; give the path of a TOML file"
        raise StudyFileError(msg)
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        msg = f"{path}: there is no such file; give the path of a TOML file"
        raise StudyFileError(msg) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        msg = f"{str(path)!r}: cannot be read ({error})"
        raise StudyFileError(msg) from None
    if raw.startswith(SQLITE):
        msg = f"{path}: an SQLite database, not a TOML file; give a study file, and the database as --storage"
        raise StudyFileError(msg)
    if len(raw) > MOST_BYTES:
        msg = f"{path}: larger than {MOST_BYTES} bytes, which no study file is; is it the right file?"
        raise StudyFileError(msg)
    return raw


def _decoded(path: Path, raw: bytes) -> str:
    if raw.startswith(UTF16):
        _refuse(path, 1, "the file is UTF-16; save it as UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        _refuse(path, line, f"not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8")
    if "\0" in text:
        _refuse(path, text.count("\n", 0, text.index("\0")) + 1, "a NUL character; is it a text file?")
    return text


def _located(error: ValueError, text: str) -> tuple[int, str]:
    """Line and sentence of what the parser found."""
    message = str(error)
    match = re.search(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if match is None:
        return 1, f"{message}; is a number too long?"
    said = message[: match.start()]
    said = said[:1].lower() + said[1:]
    if match[1] is None:
        return text.count("\n") + (not text.endswith("\n")), f"{said} at the end of the file; is something not closed?"
    return int(match[1]), f"{said} (column {match[2]}); correct the TOML there"


def _refuse(path: Path, line: int, why: str) -> NoReturn:
    msg = f"{path}:{line}: {why}"
    raise StudyFileError(msg) from None


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Line of each key, as far as a plain reading finds it; good enough to point at."""
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[([^\[\]]+)\]", line):
            section = tuple(part.strip().strip("\"'") for part in match[1].split("."))
            found.setdefault(section, number)
        elif match := re.match(r"""\s*("[^"]*"|'[^']*'|[\w-]+)\s*[.=]""", line):
            found.setdefault((*section, match[1].strip("\"'")), number)
    return found


def suggestion(name: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` or the list of what is known, to end a sentence with."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


class TomlTable:
    """One table of a file, whose keys are taken one by one.

    Parameters
    ----------
    data
        The parsed table.
    path
        The file, for messages; None for the command line.
    lines
        Line of each key.
    section
        Names of the tables around it.
    options
        Keys that the command line gave, and its name for each.
    """

    __slots__ = ("_asked", "_data", "_lines", "_options", "path", "section")

    def __init__(
        self,
        data: Mapping[str, Any],
        *,
        path: Path | None = None,
        lines: Mapping[tuple[str, ...], int] | None = None,
        section: tuple[str, ...] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._data = dict(data)
        self._asked: dict[str, None] = {}
        self._lines = lines or {}
        self._options = options or {}
        self.path = path
        self.section = section

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def where(self, key: str = "") -> str:
        """``"study.toml:7: [search] budget"`` as far as it is known, or ``"--budget"``."""
        if key in self._options:
            return self._options[key]
        line = self._lines.get((*self.section, key) if key else self.section)
        place = "" if self.path is None else f"{self.path}:{line}: " if line else f"{self.path}: "
        section = f"[{'.'.join(self.section)}]" if self.section else ""
        return place + " ".join(part for part in (section, key) if part)

    def refused(self, key: str, allowed: str) -> StudyFileError:
        """What to raise for the value of a key."""
        msg = f"{self.where(key)} must be {allowed} (got {reprlib.repr(self._data.get(key))})"
        return StudyFileError(msg)

    def raw(self, key: str) -> Any:
        """The value as it stands, None where the key is missing."""
        self._asked[key] = None
        return self._data.get(key)

    def table(self, key: str) -> TomlTable:
        """The table of that name, empty where it is missing."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.refused(key, f"a table; write [{'.'.join((*self.section, key))}] and its keys below")
        return TomlTable(value or {}, path=self.path, lines=self._lines, section=(*self.section, key))

    def overlaid(self, given: Mapping[str, Any]) -> TomlTable:
        """The same under what the command line gave: a mapping from keys to values, None where not given."""
        given = {key: value for key, value in given.items() if value is not None}
        options = {key: f"--{OPTION.get(key, key).replace('_', '-')}" for key in given}
        data = {**self._data, **given}
        return TomlTable(data, path=self.path, lines=self._lines, section=self.section, options=options)

    def plain(self) -> dict[str, Any]:
        """All of it, as it stands; every key counts as asked for."""
        self._asked |= dict.fromkeys(self._data)
        return dict(self._data)

    def text(self, key: str, allowed: str = "a text in quotes") -> str | None:
        """A text that is not empty."""
        value = self.raw(key)
        if value is None or (isinstance(value, str) and value):
            return value
        raise self.refused(key, allowed)

    def choice(self, key: str, choices: Iterable[str]) -> str | None:
        """One of a few words."""
        value, choices = self.raw(key), list(choices)
        if value is None or (isinstance(value, str) and value in choices):
            return value
        hint = suggestion(value, choices) if isinstance(value, str) else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        quoted = " or ".join(f'"{choice}"' for choice in choices)
        raise self.refused(key, f"{quoted}{hint}")

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.raw(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.refused(key, "true or false")

    def number(
        self, key: str, *, low: float = 0.0, high: float, above: bool = False, below: bool = False
    ) -> float | None:
        """A number in [low, high]; without its low end if `above`, without its high end if `below`."""
        value = self.raw(key)
        if value is None:
            return None
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if good and (low < value < high or (not above and value == low) or (not below and value == high)):  # not NaN
            return float(value)
        bounds = f"{'above' if above else 'of at least'} {low:g} and {'below' if below else 'at most'} {high:g}"
        raise self.refused(key, f"a number {bounds}")

    def whole(self, key: str, *, least: int, most: int) -> int | None:
        """A whole number in [least, most]."""
        value = self.raw(key)
        if value is None:
            return None
        good = isinstance(value, int) and not isinstance(value, bool)
        if good and least <= value <= most:
            return int(value)
        raise self.refused(key, f"a whole number from {least} to {most}")

    def done(self) -> None:
        """Refuse what nobody has asked for.

        Raises
        ------
        StudyFileError
            Names the first unknown key, and the known one that it resembles.
        """
        for key in self._data:
            if key not in self._asked:
                shown = key if re.fullmatch(r"[\w-]{1,60}", key) else reprlib.repr(key)
                msg = f"{self.where(shown)} is not known; {suggestion(key, self._asked)}"
                raise StudyFileError(msg)
