"""Reading a TOML file: every error is one sentence that names the file, the line and the key.

:func:`read` parses a file into a :class:`TomlTable`. :meth:`TomlTable.option` reads one key by its declaration, and
:meth:`TomlTable.done` refuses the keys that nothing has read.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from lrtune.core.options import Option
from lrtune.errors import InputError, StudyFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import NoReturn

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["TomlTable", "read", "read_unchecked", "suggestion"]

MOST_BYTES = 1_000_000
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
    text = _text(path)
    return TomlTable(_parsed(path, text), path, _lines(text))


def read_unchecked(path: Path, table: str) -> dict[str, Any]:
    """One table of a file, unchecked; empty where the file cannot be read."""
    try:
        found = _parsed(path, _text(path)).get(table)
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


def _text(path: Path) -> str:
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
    message = message[: match.start()]
    message = message[:1].lower() + message[1:]
    if match[1] is None:
        return text.count("\n") + (
            not text.endswith("\n")
        ), f"{message} at the end of the file; is something not closed?"
    return int(match[1]), f"{message} (column {match[2]}); correct the TOML there"


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


@dataclass(frozen=True, slots=True, eq=False)
class TomlTable:
    """One table of a file, whose keys are taken one by one.

    Attributes
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
        Keys that the command line gave, and their names there.
    """

    data: Mapping[str, Any]
    path: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    section: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    _read: dict[str, None] = field(default_factory=dict, init=False, repr=False)

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def where(self, key: str = "") -> str:
        """``"study.toml:7: [search] budget"`` as far as it is known, or ``"--budget"``."""
        if key in self.options:
            return self.options[key]
        line = self.lines.get((*self.section, key) if key else self.section)
        place = "" if self.path is None else f"{self.path}:{line}: " if line else f"{self.path}: "
        section = f"[{'.'.join(self.section)}]" if self.section else ""
        return place + " ".join(part for part in (section, key) if part)

    def refused(self, key: str, allowed: str) -> StudyFileError:
        """What to raise for the value of a key."""
        msg = f"{self.where(key)} must be {allowed} (got {reprlib.repr(self.data.get(key))})"
        return StudyFileError(msg)

    def raw(self, key: str) -> Any:
        """The value as parsed, None where the key is missing."""
        self._read[key] = None
        return self.data.get(key)

    def table(self, key: str) -> TomlTable:
        """The table of that name, empty where it is missing."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.refused(key, f"a table; write [{'.'.join((*self.section, key))}] and its keys below")
        return TomlTable(value or {}, self.path, self.lines, (*self.section, key))

    def overlaid(self, given: Mapping[Option, Any]) -> TomlTable:
        """The same table with what the command line gave in place of what the file says."""
        data = {**self.data, **{option.name: value for option, value in given.items()}}
        return replace(self, data=data, options={option.name: option.shown for option in given})

    def plain(self) -> dict[str, Any]:
        """All of it, as parsed; every key counts as read."""
        self._read.update(dict.fromkeys(self.data))
        return dict(self.data)

    def option(self, option: Option) -> Any:
        """The value of an option, None where it is missing; refused where :meth:`Option.accepts` says no."""
        value = self.raw(option.name)
        if option.switch and isinstance(value, bool):
            return None if value else option.low
        if value is None or option.accepts(value):
            return float(value) if option.kind is float and value is not None else value
        hint = suggestion(value, option.choices) if option.choices and isinstance(value, str) else ""
        raise self.refused(option.name, option.sentence() + (f"; {hint}" if hint.startswith("did") else ""))

    def text(self, key: str, allowed: str = "a text in quotes") -> str | None:
        """A text that is not empty."""
        found: str | None = self.option(Option(kind=str, name=key, allowed=allowed))
        return found

    def converted(self, key: str, convert: Callable[[T], R], value: T) -> R:
        """What `convert` makes of a value of that key; the place goes in front of its error."""
        try:
            return convert(value)
        except InputError as error:
            msg = f"{self.where(key)}: {error}"
            raise StudyFileError(msg) from None

    def done(self) -> None:
        """Refuse the keys that nothing has read.

        Raises
        ------
        StudyFileError
            Names the first unknown key, and the known one that it resembles.
        """
        for key in self.data:
            if key not in self._read:
                shown = key if re.fullmatch(r"[\w-]{1,60}", key) else reprlib.repr(key)
                msg = f"{self.where(shown)} is not known; {suggestion(key, self._read)}"
                raise StudyFileError(msg)
