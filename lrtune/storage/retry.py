"""An Optuna storage that waits for its database: every public call is tried again while a fault may pass."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.errors import LockLostError, StorageError
from lrtune.storage.error_mapping import damaged, is_damaged, is_fatal, is_storage_fault, is_transient, raised_in

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    import sqlalchemy
    from optuna.study import StudyDirection

    from lrtune.core.locks import ThreadLock
    from lrtune.storage.database import Database

__all__ = ["RetryingStorage", "close_all"]

PAUSE = tenacity.wait_exponential(multiplier=0.05, max=1.0)  # seconds between two tries, doubling
T = TypeVar("T")
_storages: weakref.WeakSet[RetryingStorage] = weakref.WeakSet()


def _forwarded(name: str) -> Any:
    """The method of that name: the backend's, tried again while a fault may pass."""

    @functools.wraps(getattr(BaseStorage, name), updated=())  # not that it is abstract
    def method(self: RetryingStorage, *args: Any, **options: Any) -> Any:
        attempt = self._write if name.startswith(("create_", "delete_", "set_")) else self.retry
        return attempt(lambda: getattr(self.backend, name)(*args, **options))

    return method


class RetryingStorage(BaseStorage):
    """Optuna's own storage behind retries; everything that Optuna does with a storage works on it.

    A call whose answer was lost may have been carried out. Those that must not happen twice (a new
    study, a new trial, a changed state) first look whether the lost one did its work.

    Parameters
    ----------
    backend
        Optuna's storage.
    database
        The database that it uses.
    retry_seconds
        How long a fault is waited for, on the monotonic clock (twice as long for a locked file). The attribute may be
        lowered at any time, e.g. when a signal has asked for an end.
    warn
        Called once for each outage that ended.
    reopen
        A function of a module that opens it from the address and `retry_seconds`, for a pickle.
    """

    # Optuna's abstract methods, and two that its storages answer faster than its base class does.
    vars().update(
        {
            name: _forwarded(name)
            for name in BaseStorage.__abstractmethods__ | {"get_best_trial", "get_trial_id_from_study_id_trial_number"}
        }
    )

    def __init__(
        self,
        backend: BaseStorage,
        database: Database,
        *,
        retry_seconds: float,
        warn: Callable[[str], None],
        reopen: Callable[[str, float], RetryingStorage],
    ) -> None:
        self.backend = backend
        self.database = database
        self.retry_seconds = retry_seconds
        self._warn = warn
        self._reopen = reopen
        self.engine: sqlalchemy.Engine | None = None
        self._newest: dict[int, int] = {}  # by study: the highest trial id that this process knows of
        self._fence = threading.local()  # by thread: the lock without which it may not write

    def set_backend(self, backend: BaseStorage, engine: sqlalchemy.Engine) -> None:
        """Use this backend from now on; its connections are closed when the storage is no longer used."""
        self.backend, self.engine = backend, engine
        weakref.finalize(self, engine.dispose)
        _storages.add(self)

    def __repr__(self) -> str:
        return f"<lrtune storage {self.database.shown}>"

    def __reduce__(self) -> tuple[object, ...]:
        return self._reopen, (self.database.address_text, self.retry_seconds)

    def retry(
        self,
        call: Callable[[], T],
        after_fault: Callable[[], T] | None = None,
        *,
        before: Callable[[], None] | None = None,
    ) -> T:
        """Call until it succeeds, or until the fault has lasted for too long.

        Parameters
        ----------
        call
            What to call.
        after_fault
            What to call once a call has failed, since that one may have been carried out; `call` by default.
        before
            Called before every attempt; what it raises ends them.

        Raises
        ------
        StorageError
            If the database cannot be used, or is still away when the time is over.
        """
        began, number = time.monotonic(), 1
        attempts = tenacity.Retrying(retry=_may_pass, stop=lambda state: self._left(state) <= 0, wait=self._pause)
        try:
            for attempt in attempts:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    self.database.check()
                    if before is not None:
                        before()
                    result = call() if number == 1 or after_fault is None else after_fault()
        except tenacity.RetryError as stopped:
            error = stopped.last_attempt.exception() or stopped
            self.database.check()
            raise StorageError(self.database.sentence(error, time.monotonic() - began)) from error
        except Exception as error:
            if is_damaged(error):
                raise StorageError(damaged(self.database.shown, self._damage() or error)) from error
            if is_fatal(error):
                self.database.check()
                raise StorageError(self.database.sentence(error, time.monotonic() - began)) from error
            raise
        waited = time.monotonic() - began
        if number > 1 and waited >= self.database.quiet_seconds:
            self._warn(f"storage back after {waited:.1f} s: {self.database.shown}")
        return result

    def _left(self, state: tenacity.RetryCallState) -> float:
        """Seconds for which the fault is still waited for."""
        return self.database.patience * self.retry_seconds - (state.seconds_since_start or 0.0)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        return max(0.0, min(PAUSE(state), self._left(state)))

    def _damage(self) -> str:
        """Which value it is that Optuna tripped over; empty where that cannot be told."""
        from lrtune.storage.check import damage_in

        with contextlib.suppress(Exception):  # the first error is the one to tell
            return "" if self.engine is None else damage_in(self.engine)
        return ""

    @contextlib.contextmanager
    def fenced(self, lock: ThreadLock) -> Iterator[None]:
        """Within the block this thread writes only while it holds this lock.

        Raises
        ------
        LockLostError
            At the first write after the lock was lost. One whose answer was lost may have been stored.
        """
        before, self._fence.lock = getattr(self._fence, "lock", None), lock
        try:
            yield
        finally:
            self._fence.lock = before

    def _write(self, call: Callable[[], T], after_fault: Callable[[], T] | None = None) -> T:
        """Retry what writes: behind the fence, in a transaction that takes the write lock at once."""
        with self.database.writing():
            return self.retry(call, after_fault, before=self._check_fence)

    def _check_fence(self) -> None:
        lock: ThreadLock | None = getattr(self._fence, "lock", None)
        if lock is not None and lock.lost():
            msg = f"the decision lock was lost, because {self.database.shown} restarted; run the same command again"
            raise LockLostError(msg)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`; a study whose creation was not answered is found again."""

        def create() -> int:
            return self.backend.create_new_study(directions, study_name)

        def after_fault() -> int:
            try:
                return create()
            except DuplicatedStudyError:
                if study_name is None:
                    raise
                found = self.backend.get_study_id_from_name(study_name)
                fresh = not self.backend.get_study_user_attrs(found) and not self.backend.get_all_trials(found)
                if fresh and self.backend.get_study_directions(found) == list(directions):
                    return found
                raise

        return self._write(create, after_fault)

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`; one whose deletion was not answered may be gone already."""

        def after_fault() -> None:
            if any(study._study_id == study_id for study in self.backend.get_all_studies()):  # noqa: SLF001 -- no public way
                self.backend.delete_study(study_id)

        self._write(lambda: self.backend.delete_study(study_id), after_fault)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`; a trial whose creation was not answered is found again."""
        # Without a template, what Optuna would create, but with a start that we know it by.
        template = template_trial or create_trial(state=TrialState.RUNNING)
        known = self._newest.get(study_id, -1)

        def create() -> int:
            return self.backend.create_new_trial(study_id, template)

        def after_fault() -> int:
            for trial in self.backend.get_all_trials(study_id, deepcopy=False):
                if trial._trial_id > known and _same(trial, template):  # noqa: SLF001 -- no public way
                    return trial._trial_id  # noqa: SLF001 -- no public way
            return create()

        trial_id = self._write(create, after_fault)
        self._newest[study_id] = max(trial_id, known)
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See :class:`optuna.storages.BaseStorage`; an end that was stored but not answered counts once."""

        def change() -> bool:
            return self.backend.set_trial_state_values(trial_id, state, values)

        def after_fault() -> bool:
            try:
                return change()
            except UpdateFinishedTrialError:
                found = self.backend.get_trial(trial_id)
                if found.state == state and (values is None or list(found.values or ()) == list(values)):
                    return True
                raise

        return self._write(change, after_fault)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: FBT001, FBT002 -- Optuna's signature
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See :class:`optuna.storages.BaseStorage`."""
        trials = self.retry(lambda: self.backend.get_all_trials(study_id, deepcopy, states))
        if trials:
            self._newest[study_id] = max(trials[-1]._trial_id, self._newest.get(study_id, -1))  # noqa: SLF001 -- no public way
        return trials

    def close(self) -> None:
        """Close every connection of this process; a file is complete by itself then, without its write-ahead log.

        The storage can be used again afterwards.
        """
        try:
            self.backend.remove_session()
        except Exception as error:  # what was stored is stored; a database that is away has closed it already
            if not is_storage_fault(error):
                raise
        if self.engine is not None:
            self.engine.dispose()
        self.database.checkpoint()

    def remove_session(self) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self.backend.remove_session()


def close_all() -> None:
    """Close every storage that this process has open; for the end of a process that leaves without Python's own end."""
    for storage in list(_storages):
        storage.close()


def _may_pass(state: tenacity.RetryCallState) -> bool:
    """Whether an attempt failed in a way that waiting may cure."""
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception) or is_damaged(error):
        return False
    # In an outage Optuna's own code may trip: UnboundLocalError, or `assert False`.
    tripped = isinstance(error, UnboundLocalError | AssertionError) and raised_in(error, "optuna")
    return is_transient(error) or (tripped and state.attempt_number > 1)


def _same(trial: FrozenTrial, template: FrozenTrial) -> bool:
    fields = ("state", "datetime_start", "params", "values", "user_attrs", "system_attrs")
    return all(getattr(trial, name) == getattr(template, name) for name in fields)
