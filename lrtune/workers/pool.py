"""Worker processes, and the light one above them that outlives whatever happens to them.

The command forks before it has loaded anything heavy: the parent only watches. A worker that user code
ends (``os._exit``), that the kernel kills (out of memory), or that makes no progress for too long is
replaced, and its successor is told how it died, so that the trial gets its outcome. Workers stand in a
process group of their own: what they leave behind goes with them, and a worker never outlives its parent.

The first worker begins alone: it makes the study, sets an old one aside, downloads what the user's code
downloads. The others are there by then and have loaded the libraries that they need; each waits for its turn,
which the parent gives once the first one is ready, before it does anything that could be seen from outside.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.workers.lease import process_start
from lrtune.workers.process import die_with_parent, died, end_group, set_process_group
from lrtune.workers.signals import StopFlag, stopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.workers.process import Death

__all__ = ["WorkerContext", "can_supervise", "supervise"]

GRACE_SECONDS = 4.5
"""Between a signal and the end of a worker that does not hear it."""

POLL_SECONDS = 0.1
MOST_DEATHS = 1000
MOST_UNREADY = 3
"""Workers in a row that die before they are ready: what ends them is the loading of the training code."""

NOTHING_TRAINED = 3
"""The exit code then (FAULTS.md)."""


READY, WORKING, PROGRESS, IDLE, DONE = b"r", b"w", b"p", b"i", b"d"
GO = b"g"
GROUP = re.compile(rb"([+-])(\d+);")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What a worker knows of where it stands.

    Attributes
    ----------
    index, count
        Its number from 0, and how many there are.
    deaths
        How its predecessors died, all of them.
    """

    index: int = 0
    count: int = 1
    deaths: tuple[Death, ...] = ()
    _pipe: int = -1

    def ready(self) -> None:
        """The storage is open: other workers may begin."""
        self._say(READY)

    def working(self) -> None:
        """A piece of training begins."""
        self._say(WORKING)

    def progressed(self) -> None:
        """Training has moved on."""
        self._say(PROGRESS)

    def idle(self) -> None:
        """Nothing is being trained."""
        self._say(IDLE)

    def holds(self, group: int) -> None:
        """A process of the worker's leads a group of its own, which has to go with the worker."""
        self._say(b"+%d;" % group)

    def released(self, group: int) -> None:
        """That group is gone."""
        self._say(b"-%d;" % group)

    def _say(self, word: bytes) -> None:
        if self._pipe >= 0:
            with contextlib.suppress(OSError):  # a full pipe, or a parent that is gone: nothing to do about either
                os.write(self._pipe, word)


@dataclass(slots=True, kw_only=True)
class _Worker:
    """A running worker, as its parent sees it.

    Attributes
    ----------
    turn
        Where it hears that its turn has come; negative once it has, and for one that need not wait.
    """

    index: int
    pid: int
    pipe: int
    started: str
    turn: int = -1
    working: bool = False
    ready: bool = False
    done: bool = False
    stalled: bool = False
    groups: set[int] = field(default_factory=set)
    last: float = field(default_factory=time.monotonic)

    def hear(self) -> None:
        """Read what it said since the last time."""
        with contextlib.suppress(BlockingIOError):
            words = os.read(self.pipe, 65536)
            if words:
                self.last = time.monotonic()
            self.ready = self.ready or READY in words
            self.done = self.done or DONE in words
            for word in (words[i : i + 1] for i in range(len(words))):
                if word in (WORKING, IDLE):
                    self.working = word == WORKING
            for sign, number in GROUP.findall(words):
                (self.groups.add if sign == b"+" else self.groups.discard)(int(number))

    def begin(self) -> None:
        """Give it its turn."""
        with contextlib.suppress(BrokenPipeError):  # it is dead, and about to be reaped
            os.write(self.turn, GO)
        self.forget()

    def forget(self) -> None:
        """Close the pipe of its turn."""
        if self.turn >= 0:
            os.close(self.turn)
            self.turn = -1

    def kill(self) -> None:
        """End the worker and all that it started."""
        self.hear()
        for group in (self.pid, *self.groups):
            end_group(group)


def can_supervise() -> bool:
    """Whether this process may fork: it is the command's own, light, with one thread."""
    light = not {"torch", "optuna", "sklearn"} & set(sys.modules)
    alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
    return hasattr(os, "fork") and light and alone


def supervise(
    body: Callable[[WorkerContext], int],
    *,
    count: int = 1,
    stall_timeout: float | None = None,
    ahead: Callable[[], object] | None = None,
    note: Callable[[str], object],
) -> int:
    """Run a body in `count` processes until all have ended; the exit code of the first.

    Parameters
    ----------
    body
        What a worker does; returns its exit code.
    count
        Workers. The first one begins alone, the others once it is ready.
    stall_timeout
        Seconds without progress within a piece after which a worker is ended and replaced.
    ahead
        What the others do until then, as many as there are cores for: it may only load. Whatever goes wrong in it
        is left to the body to say.
    note
        Called with one line when something had to be done about a worker.
    """
    crew = WorkerPool(body=body, count=count, stall_timeout=stall_timeout, ahead=ahead, note=note)
    with stopping(crew.signalled, at_once=crew.kill) as flag:
        try:
            return crew.run(flag)
        finally:
            crew.kill()


@dataclass(slots=True, kw_only=True)
class WorkerPool:
    """The workers; `waiting` are those whose turn has not come, whether they are there already or not."""

    body: Callable[[WorkerContext], int]
    count: int
    stall_timeout: float | None
    ahead: Callable[[], object] | None
    note: Callable[[str], object]
    workers: dict[int, _Worker] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    unready: int = 0

    def run(self, flag: StopFlag) -> int:
        self.waiting = list(range(1, self.count))
        self._spawn(0)
        if self.ahead is not None:
            for index in range(1, min(self.count, _cores())):
                self._spawn(index, ahead=self.ahead)
        deadline: float | None = None
        while self.workers:
            if flag.requested and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
                self._dismiss()
            self._listen()
            self._reap(stopping=flag.requested)
            if not flag.requested:
                self._begin_waiting()
                self._end_stalled()
            elif deadline is not None and time.monotonic() > deadline:
                self.kill()
                self.note(
                    f"lrtune: error: stopped by {flag.name} in the middle of a step; run the same command to resume"
                )
                return flag.exit_code
        return self.codes.get(0, flag.exit_code)

    def signalled(self, number: int) -> None:
        """Hand a signal on; within a signal handler."""
        for worker in list(self.workers.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def kill(self) -> None:
        """End every worker and all that they started."""
        for worker in list(self.workers.values()):
            worker.kill()

    def _listen(self) -> None:
        pipes = {worker.pipe: worker for worker in self.workers.values()}
        heard, _, _ = select.select(list(pipes), [], [], POLL_SECONDS)
        for pipe in heard:
            pipes[pipe].hear()
        if heard and all(self._silent(pipe) for pipe in heard):
            time.sleep(POLL_SECONDS / 10)  # the far end is closed: it is about to be reaped

    @staticmethod
    def _silent(pipe: int) -> bool:
        return bool(select.select([pipe], [], [], 0)[0])

    def _reap(self, *, stopping: bool) -> None:
        for index, worker in list(self.workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            worker.hear()
            worker.kill()  # what it left behind
            del self.workers[index]
            os.close(worker.pipe)
            if worker.turn >= 0:  # it held nothing, and there will be another one when its turn comes
                worker.forget()
            elif worker.done or stopping:
                if worker.done:
                    self.codes[index] = os.waitstatus_to_exitcode(status)
                if index == 0:
                    self._dismiss()
            elif len(self.deaths) < MOST_DEATHS:
                self._replace(worker, status)

    def _replace(self, worker: _Worker, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        death = died(worker.pid, code, started=worker.started, stalled=self.stall_timeout if worker.stalled else None)
        self.deaths.append(death)
        self.unready = 0 if worker.ready else self.unready + 1
        if self.unready >= MOST_UNREADY:
            self._dismiss()
            self.codes[worker.index] = NOTHING_TRAINED
            grave = "warning" if worker.index else "error"  # the first one's exit code is the command's
            self.note(
                f"lrtune: {grave}: {self.unready} workers in a row died before they could begin ({death.why}); look at "
                "what the training code does while it is loaded"
            )
            return
        self.note(f"lrtune: warning: a worker died ({death.why}); another one takes its place")
        self._spawn(worker.index)

    def _begin_waiting(self) -> None:
        first = self.workers.get(0)
        if first is None or not first.ready:
            return
        for index in self.waiting:
            if index in self.workers:
                self.workers[index].begin()
            else:
                self._spawn(index)
        self.waiting.clear()

    def _dismiss(self) -> None:
        """There is nothing left to begin: end those that wait for their turn, and start no more."""
        self.waiting.clear()
        for worker in self.workers.values():
            if worker.turn >= 0:
                worker.kill()

    def _end_stalled(self) -> None:
        if self.stall_timeout is None:
            return
        for worker in self.workers.values():
            if worker.working and time.monotonic() - worker.last > self.stall_timeout:
                worker.stalled = True
                worker.kill()

    def _spawn(self, index: int, *, ahead: Callable[[], object] | None = None) -> None:
        """Start a worker; one that is told what to do ahead then waits for its turn."""
        reader, writer = os.pipe()
        turn, giver = (-1, -1) if ahead is None else os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.set_blocking(writer, False)
            for other in self.workers.values():
                os.close(other.pipe)
                other.forget()
            self.workers.clear()
            die_with_parent(parent)
            _share(index, self.count)
            place = WorkerContext(index=index, count=self.count, deaths=tuple(self.deaths), _pipe=writer)
            if ahead is not None:
                os.close(giver)
                _prepare(ahead, turn)
            self._live(place)
        os.close(writer)
        os.set_blocking(reader, False)
        if ahead is not None:
            os.close(turn)
        set_process_group(pid)
        started = process_start(pid) or ""
        self.workers[index] = _Worker(index=index, pid=pid, pipe=reader, started=started, turn=giver)

    def _live(self, place: WorkerContext) -> None:
        """The whole life of a worker process; does not return."""
        code = 1
        try:
            code = self.body(place)
            place._say(DONE)  # noqa: SLF001 -- the one word that is not the body's to say
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        finally:
            os._exit(code)


def _prepare(ahead: Callable[[], object], turn: int) -> None:
    """Do what can be done ahead, and wait for one's turn; a worker whose parent is gone ends here."""
    try:
        with contextlib.suppress(Exception):
            ahead()
        if os.read(turn, 1) != GO:
            os._exit(1)
        os.close(turn)
    except BaseException:  # noqa: BLE001 -- a library may leave by any door; the parent starts another worker
        os._exit(1)


def _share(index: int, count: int) -> None:
    """A GPU of one's own where there are several, and one's part of the cores."""
    if count == 1:
        return
    gpus = Path("/proc/driver/nvidia/gpus")
    found = len(list(gpus.iterdir())) if gpus.is_dir() else 0
    if found > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(index % found)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, _cores() // count))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
