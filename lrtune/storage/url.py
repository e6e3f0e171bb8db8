"""Addresses of storages: read from an argument, the environment or a file, parsed, and shown without secrets."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lrtune.core.redaction import redact, register_secret
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy

__all__ = ["Address", "FileAddress", "ServerAddress", "parse", "resolve_storage"]

ALLOWED = "allowed are a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
MAX_SECRET_FILE = 65_536
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+_.\-]*):/")
_SERVERS = ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+psycopg_async")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAddress:
    """An SQLite file; `path` is absolute and free of symbolic links where it exists."""

    path: Path
    given: str

    def __str__(self) -> str:
        return self.given


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """A PostgreSQL database; the password is kept out of the URL and of every representation."""

    url: sqlalchemy.URL
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """The host and the port, e.g. ``"db.example:5432"``."""
        host = self.url.host or _first(self.url.query.get("host")) or "localhost"
        port = self.url.port or _first(self.url.query.get("port")) or os.environ.get("PGPORT") or 5432
        return f"{host}:{port}"

    def __str__(self) -> str:
        shown = self.url if self.password is None else self.url.set(password="hidden")  # noqa: S106 -- shown as ***
        return redact(shown.render_as_string(hide_password=True).replace("+psycopg:", ":", 1))


Address: TypeAlias = FileAddress | ServerAddress


def resolve_storage(
    where: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None
) -> str | None:
    """What to open: the argument, else ``LRTUNE_STORAGE``, else the file named by ``LRTUNE_STORAGE_FILE``.

    ``@path`` (as an argument or in ``LRTUNE_STORAGE``) stands for the first line of that file, so that a
    password is neither in the process list nor in the environment. None where nothing was given.

    Raises
    ------
    StorageError
        If the file cannot be read or is empty.
    """
    environ = os.environ if environ is None else environ
    text = os.fspath(where) if where is not None else environ.get("LRTUNE_STORAGE", "").strip()
    if text.startswith("@"):
        return _first_line(text[1:])
    if not text and where is None and environ.get("LRTUNE_STORAGE_FILE"):
        return _first_line(environ["LRTUNE_STORAGE_FILE"])
    return text or None


def _first_line(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        msg = f"{path}: there is no such file to read the storage's URL from; write the URL into its first line"
        raise StorageError(msg)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            line = stream.readline(MAX_SECRET_FILE).strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: the storage's URL cannot be read from it ({error}); write the URL into its first line"
        raise StorageError(msg) from None
    if not line:
        msg = f"{path}: its first line is empty; write the storage's URL there"
        raise StorageError(msg)
    return line


def parse(where: str | os.PathLike[str]) -> Address | None:
    """The address of a path or URL; None where it asks for memory (``sqlite://``, ``:memory:``).

    Raises
    ------
    StorageError
        If it is a URL of something else, or not a URL that can be read.
    """
    text = os.fspath(where)
    if "\0" in text or not text.strip():
        msg = f"storage {text!r} is neither a path nor a URL; {ALLOWED}"
        raise StorageError(msg)
    scheme = _SCHEME.match(text)
    if text in (":memory:", "sqlite:///:memory:", "sqlite://", "sqlite:///"):
        return None
    if scheme is None:
        return _file(text, text)
    name = scheme.group(1).lower()
    if name in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(text)
    if name in _SERVERS:
        return _server(text)
    msg = f"storage {redact(text)}: {name} is not supported; {ALLOWED}"
    raise StorageError(msg)


def _sqlite(text: str) -> FileAddress:
    head, _, path = text.partition(":///")
    if "://" in head or not path or path.startswith("file:"):
        msg = f"storage {redact(text)}: an SQLite URL has three slashes and a path; write sqlite:///relative.db"
        raise StorageError(msg)
    path, _, query = path.partition("?")
    if query:
        msg = f"storage {redact(text)}: options after ? are not taken in an SQLite URL; leave ?{redact(query)} out"
        raise StorageError(msg)
    return _file(path, path)


def _file(path: str, given: str) -> FileAddress:
    absolute = Path(path).expanduser().absolute()
    with contextlib.suppress(OSError, RuntimeError):  # a loop of links; the check of the file says so
        absolute = absolute.resolve() if absolute.exists() else absolute.parent.resolve() / absolute.name
    return FileAddress(path=absolute, given=given)


def _server(text: str) -> ServerAddress:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        msg = f"storage {redact(text)} is not a URL that can be read; write postgresql://USER@HOST:PORT/DATABASE"
        raise StorageError(msg) from None
    password = url.password or _first(url.query.get("password"))
    register_secret(password)
    register_secret(_first(url.query.get("sslpassword")))
    bare = sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query={key: value for key, value in url.query.items() if key != "password"},
    )
    return ServerAddress(url=bare, password=password)


def _first(value: str | tuple[str, ...] | None) -> str | None:
    return value[0] if isinstance(value, tuple) else value
