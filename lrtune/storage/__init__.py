"""Where a study outlives its process: SQLite by default, PostgreSQL by URL, memory by choice.

The family's contract: whatever :func:`open_storage` returns is a storage of Optuna's, passes Optuna's
own public suite, and raises :class:`~lrtune.errors.StorageError` with one sentence when it gives up.
"""

from __future__ import annotations

from lrtune.storage.address import resolve_storage
from lrtune.storage.exclusion import exclusive, file_of, spans_machines
from lrtune.storage.faults import is_missing
from lrtune.storage.filerows import rows_of
from lrtune.storage.locks import Held
from lrtune.storage.opening import open_storage
from lrtune.storage.retrying import RetryingStorage
from lrtune.storage.rows import Change, Row, Rows
from lrtune.storage.silence import quiet

__all__ = [
    "Change",
    "Held",
    "RetryingStorage",
    "Row",
    "Rows",
    "exclusive",
    "file_of",
    "is_missing",
    "open_storage",
    "quiet",
    "resolve_storage",
    "rows_of",
    "spans_machines",
]
