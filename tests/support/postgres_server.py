"""A real PostgreSQL server of our own: in a temporary folder, on loopback, gone after the session.

Use the `postgres` fixture (one server a session) or `postgres_url` (a fresh, empty database a test);
both skip with the reason where the server's programs are missing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PostgresServer", "find_programs", "postgres", "postgres_url"]

USER = "tuner"
PASSWORD = "swordfish-4711"  # noqa: S105 -- of a server that lives for a test session on loopback
MAIN = "studies"


def find_programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, the newest version first."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    candidates = [*folders, *([Path(on_path).resolve().parent] if on_path else [])]
    return next(
        (folder for folder in candidates if (folder / "pg_ctl").exists() and (folder / "initdb").exists()), None
    )


class PostgresServer:
    """One server; `stop`, `start` and `restart` are what outages are made of."""

    def __init__(self, programs: Path, *, options: str = "") -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="lrtune-pg-"))
        self._options = options
        self.port = free_port()
        self._account = _unprivileged() if os.geteuid() == 0 else None
        if self._account is not None:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        # Without fsync a server starts in a second, and pg_ctl's immediate stop still loses nothing.
        self._run("initdb", "--no-sync", "-A", "scram-sha-256", "-U", USER, "--pwfile", str(secret), "-E", "UTF8",
                  "--locale=C", "-D", str(self.data))  # fmt: skip
        self.start()
        self.new_database(MAIN)

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def url(self, database: str = MAIN, *, password: str = PASSWORD, port: int | None = None) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -F {self._options}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "250", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "250", "-m", mode, "stop")

    def restart(self, mode: str = "fast", *, away: float = 0.0) -> None:
        self.stop(mode)
        time.sleep(away)
        self.start()

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=100) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, name: str | None = None) -> str:
        name = name or f"t{uuid.uuid4().hex[:12]}"
        self.sql(f'create database "{name}"')
        return self.url(name)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is down already
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            env=environment | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be inherited by the server and never end
            stderr=subprocess.DEVNULL,
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
            start_new_session=True,
            timeout=280,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
            msg = f"{program} {arguments} ended with {done.returncode}: {tail}"
            raise RuntimeError(msg)


def _unprivileged() -> pwd.struct_passwd:
    """An account to run the server under: PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL refuses to run as root, and there is no account postgres or nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = PostgresServer(programs)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    return postgres.new_database()
