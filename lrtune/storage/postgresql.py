"""A study in a PostgreSQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.storage.database import Database
from lrtune.storage.error_mapping import server_sentence

if TYPE_CHECKING:
    import psycopg

    from lrtune.storage.url import ServerAddress

__all__ = ["ServerDatabase"]


CONNECT_SECONDS = 4  # libpq's limit for one host; with the patience at the start an answer comes within 10 s


class ServerDatabase(Database):
    """A PostgreSQL database."""

    def __init__(self, address: ServerAddress) -> None:
        self.address: ServerAddress = address
        self._dialect = address.url.get_dialect()()

    def options(self) -> dict[str, Any]:
        """The options of its SQLAlchemy engine."""
        return {"creator": self.connect, "pool_pre_ping": True, "pool_size": 4, "max_overflow": 12, "pool_timeout": 20}

    def connect(self) -> psycopg.Connection[Any]:
        """A connection; a dead peer is noticed within about half a minute."""
        import psycopg

        _, given = self._dialect.create_connect_args(self.address.url)
        options: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "application_name": "lrtune",
        }
        options.update(given)
        if self.address.password is not None:
            options["password"] = self.address.password
        return psycopg.connect(**options)

    def sentence(self, error: BaseException, waited: float) -> str:
        """See :class:`Database`."""
        return server_sentence(error, self.shown, self.address.place, waited)
