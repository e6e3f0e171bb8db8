"""Storages of studies: SQLite by default, PostgreSQL by URL, memory by choice.

Whatever :func:`open_storage` returns is an Optuna storage, passes Optuna's public test suite for storages, and raises
:class:`~lrtune.errors.StorageError` with one sentence when it gives up.
"""

from __future__ import annotations

from lrtune.storage.error_mapping import is_missing
from lrtune.storage.factory import open_storage
from lrtune.storage.locks import file_of, spans_machines, study_lock
from lrtune.storage.retry import RetryingStorage
from lrtune.storage.sqlite_rows import rows_of
from lrtune.storage.trial_rows import Rows, TrialChange, TrialRow
from lrtune.storage.url import resolve_storage

__all__ = [
    "RetryingStorage",
    "Rows",
    "TrialChange",
    "TrialRow",
    "file_of",
    "is_missing",
    "open_storage",
    "resolve_storage",
    "rows_of",
    "spans_machines",
    "study_lock",
]
