"""An Optuna storage that waits for its database: every public call is tried again while a fault may pass."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.errors import LockLostError, StorageError
from lrtune.storage.error_mapping import damaged, is_damaged, is_fatal, is_storage_fault, is_transient, raised_in

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    import sqlalchemy
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy

    from lrtune.core.locks import Held
    from lrtune.storage.database import Database

__all__ = ["RetryingStorage", "close_all"]

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries
T = TypeVar("T")
_every: weakref.WeakSet[RetryingStorage] = weakref.WeakSet()


class RetryingStorage(BaseStorage):
    """Optuna's own storage behind retries; everything that Optuna does with a storage works on it.

    A call whose answer was lost may have been carried out. Those that must not happen twice (a new
    study, a new trial, a changed state) first look whether the lost one did its work.

    Parameters
    ----------
    backend
        Optuna's storage.
    database
        What lies under it.
    retry_seconds
        How long a fault is waited for, on the monotonic clock (twice as long for a locked file).
    warn
        Told once for each outage that ended.
    reopen
        A function of a module that makes it again from the address and the patience, for a pickle.

    Attributes
    ----------
    retry_seconds
        May be lowered at any time, e.g. when a signal has asked for an end.
    """

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
        self._highest: dict[int, int] = {}  # by study: the newest trial that this process knows of
        self._fence = threading.local()  # by thread: the lock without which it may not write

    def serve(self, backend: BaseStorage, engine: sqlalchemy.Engine) -> None:
        """Use this backend from now on; its connections are closed when the storage is no longer used."""
        self.backend, self.engine = backend, engine
        weakref.finalize(self, engine.dispose)
        _every.add(self)

    def __repr__(self) -> str:
        return f"<lrtune storage {self.database.shown}>"

    def __reduce__(self) -> tuple[object, ...]:
        return self._reopen, (self.database.address_text, self.retry_seconds)

    def retry(self, call: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """Call until it succeeds or the patience ends; after a fault, `again` is called instead where given.

        Raises
        ------
        StorageError
            If the database cannot be used, or is still away when the patience ends.
        """
        began, pause, last = time.monotonic(), FIRST_PAUSE, None
        while True:
            try:
                self.database.check()
                result = call() if last is None or again is None else again()
            except Exception as error:
                waited = time.monotonic() - began
                passing = is_transient(error) or (last is not None and _confused(error))
                if is_damaged(error):
                    raise StorageError(damaged(self.database.shown, self._damage() or error)) from error
                if not passing and not is_fatal(error):
                    raise
                left = self.database.patience(self.retry_seconds) - waited
                if not passing or left <= 0:
                    self.database.check()
                    raise StorageError(self.database.sentence(error, waited)) from error
                last = error
            else:
                if last is not None:
                    self._tell(time.monotonic() - began)
                return result
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _damage(self) -> str:
        """Which value it is that Optuna tripped over; empty where that cannot be told."""
        from lrtune.storage.check import damage_in

        with contextlib.suppress(Exception):  # the first error is the one to tell
            return "" if self.engine is None else damage_in(self.engine)
        return ""

    def _tell(self, waited: float) -> None:
        if waited >= self.database.quiet():
            self._warn(f"storage back after {waited:.1f} s: {self.database.shown}")

    @contextlib.contextmanager
    def fenced(self, held: Held) -> Iterator[None]:
        """Within the block this thread writes only while it holds this lock.

        Raises
        ------
        LockLostError
            At the first write after the lock was lost. One whose answer was lost may have been stored.
        """
        before, self._fence.held = getattr(self._fence, "held", None), held
        try:
            yield
        finally:
            self._fence.held = before

    def _behind_fence(self, call: Callable[[], T]) -> Callable[[], T]:
        held: Held | None = getattr(self._fence, "held", None)
        if held is None:
            return call

        def checked() -> T:
            if held.lost():
                msg = f"the decision lock was lost, because {self.database.shown} restarted; run the same command again"
                raise LockLostError(msg)
            return call()

        return checked

    def _write(self, call: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        with self.database.writing():
            return self.retry(self._behind_fence(call), again)

    # What concerns whole studies.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`."""

        def create() -> int:
            return self.backend.create_new_study(directions, study_name)

        def again() -> int:
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

        return self._write(create, again)

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""

        def again() -> None:
            if any(study._study_id == study_id for study in self.backend.get_all_studies()):  # noqa: SLF001 -- no public way
                self.backend.delete_study(study_id)

        self._write(lambda: self.backend.delete_study(study_id), again)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(self.backend.get_all_studies)

    # What is written of trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`; a trial whose creation was not answered is found again."""
        # Without a template, what Optuna would create, but with a start that we know it by.
        template = template_trial or create_trial(state=TrialState.RUNNING)
        known = self._highest.get(study_id, -1)

        create = self._behind_fence(lambda: self.backend.create_new_trial(study_id, template))

        def again() -> int:
            lost = [trial for trial in self.backend.get_all_trials(study_id, deepcopy=False) if _same(trial, template)]
            mine = [trial._trial_id for trial in lost if trial._trial_id > known]  # noqa: SLF001 -- no public way
            return mine[0] if mine else create()

        with self.database.writing():
            number = self.retry(create, again)
        self._highest[study_id] = max(number, known)
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See :class:`optuna.storages.BaseStorage`; an end that was stored but not answered counts once."""
        change = self._behind_fence(lambda: self.backend.set_trial_state_values(trial_id, state, values))

        def again() -> bool:
            try:
                return change()
            except UpdateFinishedTrialError:
                found = self.backend.get_trial(trial_id)
                if found.state == state and (values is None or list(found.values or ()) == list(values)):
                    return True
                raise

        with self.database.writing():
            return self.retry(change, again)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._write(lambda: self.backend.set_trial_system_attr(trial_id, key, value))

    # What is read of trials.

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: FBT001, FBT002 -- Optuna's signature
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See :class:`optuna.storages.BaseStorage`."""
        trials = self.retry(lambda: self.backend.get_all_trials(study_id, deepcopy, states))
        if trials:
            self._highest[study_id] = max(trials[-1]._trial_id, self._highest.get(study_id, -1))  # noqa: SLF001 -- no public way
        return trials

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        return self.retry(lambda: self.backend.get_best_trial(study_id))

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
        self.database.settle()

    def remove_session(self) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self.backend.remove_session()


def close_all() -> None:
    """Close every storage that this process has open; for the end of a process that leaves without Python's own end."""
    for storage in list(_every):
        storage.close()


def _same(trial: FrozenTrial, template: FrozenTrial) -> bool:
    fields = ("state", "datetime_start", "params", "values", "user_attrs", "system_attrs")
    return all(getattr(trial, name) == getattr(template, name) for name in fields)


def _confused(error: BaseException) -> bool:
    """Whether Optuna tripped over an outage: ``UnboundLocalError`` or ``assert False`` in its own code."""
    return isinstance(error, UnboundLocalError | AssertionError) and raised_in(error, "optuna")
