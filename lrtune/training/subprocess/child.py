"""A child process that holds one run: it is called over a pipe, and killed with all that it left behind.

What goes over the pipe is pickled by :mod:`multiprocessing`. That is safe here: the child is forked from the
process that reads its answers, and nobody else can write into the pipe. It is recipes, reports, states as checkpoints
hold them, and texts; see :mod:`lrtune.training.subprocess.messages`.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from multiprocessing import util
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from lrtune.training.setups import setup_of
from lrtune.training.subprocess.fork import check_forks, end_openmp_threads, preload_torch, renew_torch_threads
from lrtune.training.subprocess.messages import Raised, Reply
from lrtune.workers.process import DiedError, die_with_parent, died, end_group, set_process_group

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

    from lrtune.training.base import Run, Trainer
    from lrtune.workers.pool import WorkerContext

__all__ = ["Child"]

LOOK_SECONDS = 0.2
"""How often a silent child is checked to be alive: what it has forked may hold its end of the pipe open."""

DEATH_SECONDS = 5.0
"""From a child's end of the pipe being closed until it is killed."""

RUNS = frozenset({"advance", "drop", "state", "restore", "suspend", "close"})


class Child:
    """The parent's side of a process that holds a trainer and, once started, a run.

    Parameters
    ----------
    trainer
        The trainer to hold.
    context
        This worker: its parent is told of the child, so that it can kill both.
    stall_timeout
        Seconds without an answer after which the child is killed; None for none.

    Raises
    ------
    InputError
        If this process cannot be forked.
    """

    def __init__(self, trainer: Trainer, *, context: WorkerContext, stall_timeout: float | None = None) -> None:
        check_forks()
        preload_torch()
        end_openmp_threads()
        self._context = context
        self._stall = stall_timeout
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        _open.add(self)
        given = (trainer, theirs, os.getpid(), [child._pipe for child in _open])  # noqa: SLF001 -- its siblings
        self._process = fork.Process(target=_live, args=given, name="lrtune-run", daemon=False)
        try:
            with warnings.catch_warnings():  # from Python 3.12 on: what it warns of has been put in order above
                warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*multi-threaded.*fork")
                self._process.start()
        except OSError:  # no memory, or too many processes
            self._pipe.close()
            raise
        finally:
            theirs.close()
        pid = self._process.pid or 0
        set_process_group(pid)
        context.add_group(pid)
        self._end = util.Finalize(self, _ended, args=(self._process, self._pipe, context), exitpriority=100)

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return bool(self._end.still_active())

    def call(self, what: str, *given: Any, **named: Any) -> Reply:
        """Call a method of the trainer or of its run there.

        Raises
        ------
        DiedError
            If the process is gone, or was ended because it gave no answer in time.
        """
        try:
            self._pipe.send((what, given, named))
            return self._receive()
        except (EOFError, OSError):
            raise self._lost() from None
        except BaseException:  # e.g. Ctrl-C: how far the run has got is unknown now
            self.end()
            raise

    def _receive(self) -> Reply:
        began = time.monotonic()
        while not self._pipe.poll(LOOK_SECONDS):
            if self._process.exitcode is not None and not self._pipe.poll():
                raise EOFError
            if self._stall is not None:
                self._context.progressed()  # here, not in the parent, the time is kept now
                if time.monotonic() - began > self._stall:
                    raise self._lost(self._stall)
        answer: Reply = self._pipe.recv()
        return answer

    def _lost(self, stalled: float | None = None) -> DiedError:
        """End what is left of it; how it died."""
        if stalled is None:
            self._process.join(DEATH_SECONDS)
        code, pid = self._process.exitcode, self._process.pid or 0
        self.end()
        return DiedError(died(pid, -9 if code is None else code, stalled=stalled))

    def end(self) -> None:
        """End it and all that it left behind; may be called twice."""
        self._end()


_open: WeakSet[Child] = WeakSet()


def _ended(process: ForkProcess, pipe: Connection[Any, Any], context: WorkerContext) -> None:
    pid = process.pid or 0
    end_group(pid)
    process.kill()  # where it has left its group
    process.join()
    context.remove_group(pid)
    pipe.close()
    process.close()


# -- within the child ---------------------------------------------------------------------------------------


def _live(trainer: Trainer, pipe: Connection[Any, Any], parent: int, inherited: list[Connection[Any, Any]]) -> NoReturn:
    """The whole life of the process: it answers until it is ended."""
    try:
        die_with_parent(parent)
        for other in inherited:
            other.close()
        renew_torch_threads()
        gc.freeze()  # the parent's objects are not collected here, and their memory stays shared
        _answer_calls(trainer, pipe)
    except (EOFError, OSError):  # the parent is gone
        os._exit(0)
    except BaseException:  # noqa: BLE001 -- ours, not the user's
        traceback.print_exc()
    os._exit(1)


def _answer_calls(trainer: Trainer, pipe: Connection[Any, Any]) -> NoReturn:
    run: Run | None = None
    while True:
        what, given, named = pipe.recv()
        value, raised = None, None
        try:
            if what == "start":
                run = trainer.start(*given)
                value = setup_of(run)
            else:
                value = getattr(run if what in RUNS else trainer, what)(*given, **named)
        except BaseException as error:  # noqa: BLE001 -- user code may raise anything
            raised = Raised.of(error)
        try:
            alive = () if run is None else tuple(run.alive)
            answer = Reply(value=value, alive=alive, notices=tuple(trainer.notices), raised=raised)
        except BaseException as error:  # noqa: BLE001 -- likewise
            answer = Reply(raised=raised or Raised.of(error))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        try:
            pipe.send(answer)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 -- a trainer of the user's that reports what cannot be sent
            pipe.send(Reply(raised=Raised.of(error)))
