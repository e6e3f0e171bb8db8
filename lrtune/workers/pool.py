"""Worker processes, and the light parent that outlives whatever happens to them.

The command forks before it has loaded anything heavy: the parent only watches. A worker that user code
ends (``os._exit``), that the kernel kills (out of memory), or that makes no progress for too long is
replaced, and the replacement gets the exit status of all before it, so that their trials get an outcome. Each worker
leads a process group: what it leaves behind is killed with it, and a worker never outlives its parent.

The first worker starts alone: it creates the study, archives an old one, downloads what the user's code
downloads. The others exist by then and have loaded the libraries that they need. Each is blocked on a pipe until the
first one is ready, before it does anything that could be seen from outside.
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
"""From a signal until workers that have not ended are killed."""

POLL_SECONDS = 0.1
MOST_DEATHS = 1000
MOST_UNREADY = 3
"""Workers in a row that die before they are ready: loading the training code is what ends them."""

NOTHING_TRAINED = 3
"""The exit code then."""

READY, WORKING, PROGRESS, IDLE, DONE = b"r", b"w", b"p", b"i", b"d"
"""What a worker writes to its parent."""

START = b"g"
"""What the parent writes to a worker that waits."""

GROUP = re.compile(rb"([+-])(\d+);")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """Which worker this process is, and how it tells its parent what it does."""

    index: int = 0  # from 0 to count - 1
    count: int = 1
    deaths: tuple[Death, ...] = ()  # how workers of this command have died so far
    _pipe: int = -1

    @property
    def forked(self) -> bool:
        """Whether it is a process of its own, under a parent that watches it."""
        return self._pipe >= 0

    def ready(self) -> None:
        """The storage is open: other workers may start."""
        self._say(READY)

    def working(self) -> None:
        """A segment of training begins."""
        self._say(WORKING)

    def progressed(self) -> None:
        """Training has moved on."""
        self._say(PROGRESS)

    def idle(self) -> None:
        """Nothing is being trained."""
        self._say(IDLE)

    def add_group(self, group: int) -> None:
        """A child of the worker leads a process group of its own, to be killed with the worker."""
        self._say(b"+%d;" % group)

    def remove_group(self, group: int) -> None:
        """That group is gone."""
        self._say(b"-%d;" % group)

    def _say(self, message: bytes) -> None:
        if self._pipe >= 0:
            with contextlib.suppress(OSError):  # a full pipe, or a parent that is gone: nothing to do about either
                os.write(self._pipe, message)


@dataclass(slots=True, kw_only=True)
class _Worker:
    """A running worker, as its parent sees it."""

    index: int
    pid: int
    pipe: int
    started: str
    start_pipe: int = -1  # where it is told to start; negative once it was, and for one that need not wait
    working: bool = False
    ready: bool = False
    done: bool = False
    stalled: bool = False
    groups: set[int] = field(default_factory=set)
    last: float = field(default_factory=time.monotonic)

    def read(self) -> None:
        """Read what it has written since the last time."""
        with contextlib.suppress(BlockingIOError):
            messages = os.read(self.pipe, 65536)
            if messages:
                self.last = time.monotonic()
            self.ready = self.ready or READY in messages
            self.done = self.done or DONE in messages
            last = max(messages.rfind(WORKING), messages.rfind(IDLE))
            if last >= 0:
                self.working = messages[last : last + 1] == WORKING
            for sign, number in GROUP.findall(messages):
                (self.groups.add if sign == b"+" else self.groups.discard)(int(number))

    def start(self) -> None:
        """Let it start."""
        with contextlib.suppress(BrokenPipeError):  # it is dead, and about to be reaped
            os.write(self.start_pipe, START)
        self.close_start_pipe()

    def close_start_pipe(self) -> None:
        """Close the pipe; a worker that still waits there ends."""
        if self.start_pipe >= 0:
            os.close(self.start_pipe)
            self.start_pipe = -1

    def kill(self) -> None:
        """Kill the worker and all that it started."""
        self.read()
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
    preload: Callable[[], object] | None = None,
    note: Callable[[str], object],
) -> int:
    """Run a body in `count` processes until all have ended; the exit code of the first.

    Parameters
    ----------
    body
        What a worker does; returns its exit code.
    count
        Workers. The first one starts alone, the others once it is ready.
    stall_timeout
        Seconds without progress within a segment after which a worker is killed and replaced.
    preload
        What the others do until then, as many as there are cores for: it may only import. Its errors are ignored,
        since the body meets them again.
    note
        Called with one line when a worker was killed or replaced.
    """
    pool = WorkerPool(body=body, count=count, stall_timeout=stall_timeout, preload=preload, note=note)
    with stopping(pool.forward, at_once=pool.kill) as flag:
        try:
            return pool.run(flag)
        finally:
            pool.kill()


@dataclass(slots=True, kw_only=True)
class WorkerPool:
    """The workers; `waiting` are the numbers of those that may not start yet, whether they were forked or not."""

    body: Callable[[WorkerContext], int]
    count: int
    stall_timeout: float | None
    preload: Callable[[], object] | None
    note: Callable[[str], object]
    workers: dict[int, _Worker] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    unready: int = 0

    def run(self, flag: StopFlag) -> int:
        self.waiting = list(range(1, self.count))
        self._fork(0)
        if self.preload is not None:
            for index in range(1, min(self.count, _cores())):
                self._fork(index, preload=self.preload)
        deadline: float | None = None
        while self.workers:
            if flag.requested and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
                self._dismiss_waiting()
            self._read()
            self._reap(stopping=flag.requested)
            if not flag.requested:
                self._start_waiting()
                self._kill_stalled()
            elif deadline is not None and time.monotonic() > deadline:
                self.kill()
                self.note(
                    f"lrtune: error: stopped by {flag.name} in the middle of a step; run the same command to resume"
                )
                return flag.exit_code
        return self.codes.get(0, flag.exit_code)

    def forward(self, number: int) -> None:
        """Send a signal to every worker; within a signal handler."""
        for worker in list(self.workers.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def kill(self) -> None:
        """Kill every worker and all that they started."""
        for worker in list(self.workers.values()):
            worker.kill()

    def _read(self) -> None:
        """Wait shortly for what workers write, and read it."""
        pipes = {worker.pipe: worker for worker in self.workers.values()}
        readable, _, _ = select.select(list(pipes), [], [], POLL_SECONDS)
        for pipe in readable:
            pipes[pipe].read()
        if readable and select.select(readable, [], [], 0)[0] == readable:
            time.sleep(POLL_SECONDS / 10)  # the far ends are closed: those workers are about to be reaped

    def _reap(self, *, stopping: bool) -> None:
        for index, worker in list(self.workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            worker.kill()  # what it left behind
            del self.workers[index]
            os.close(worker.pipe)
            if worker.start_pipe >= 0:  # it held nothing, and is forked again when the others may start
                worker.close_start_pipe()
            elif worker.done or stopping:
                if worker.done:
                    self.codes[index] = os.waitstatus_to_exitcode(status)
                if index == 0:
                    self._dismiss_waiting()
            elif len(self.deaths) < MOST_DEATHS:
                self._replace(worker, os.waitstatus_to_exitcode(status))

    def _replace(self, worker: _Worker, code: int) -> None:
        death = died(worker.pid, code, started=worker.started, stalled=self.stall_timeout if worker.stalled else None)
        self.deaths.append(death)
        self.unready = 0 if worker.ready else self.unready + 1
        if self.unready >= MOST_UNREADY:
            self._dismiss_waiting()
            self.codes[worker.index] = NOTHING_TRAINED
            grave = "warning" if worker.index else "error"  # the first one's exit code is the command's
            self.note(
                f"lrtune: {grave}: {self.unready} workers in a row died before they could begin ({death.why}); look at "
                "what the training code does while it is loaded"
            )
            return
        self.note(f"lrtune: warning: a worker died ({death.why}); another one takes its place")
        self._fork(worker.index)

    def _start_waiting(self) -> None:
        first = self.workers.get(0)
        if first is None or not first.ready:
            return
        for index in self.waiting:
            if index in self.workers:
                self.workers[index].start()
            else:
                self._fork(index)
        self.waiting.clear()

    def _dismiss_waiting(self) -> None:
        """Start no more workers, and kill those that wait."""
        self.waiting.clear()
        for worker in self.workers.values():
            if worker.start_pipe >= 0:
                worker.kill()

    def _kill_stalled(self) -> None:
        if self.stall_timeout is None:
            return
        for worker in self.workers.values():
            if worker.working and time.monotonic() - worker.last > self.stall_timeout:
                worker.stalled = True
                worker.kill()

    def _fork(self, index: int, *, preload: Callable[[], object] | None = None) -> None:
        """Fork a worker; with something to preload it does that, then waits until it may start."""
        reader, writer = os.pipe()
        wait_pipe, start_pipe = (-1, -1) if preload is None else os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.set_blocking(writer, False)
            for other in self.workers.values():
                os.close(other.pipe)
                other.close_start_pipe()
            self.workers.clear()
            die_with_parent(parent)
            _share(index, self.count)
            if preload is not None:
                os.close(start_pipe)
                _wait_to_start(preload, wait_pipe)
            self._work(WorkerContext(index=index, count=self.count, deaths=tuple(self.deaths), _pipe=writer))
        os.close(writer)
        os.set_blocking(reader, False)
        if preload is not None:
            os.close(wait_pipe)
        set_process_group(pid)
        started = process_start(pid) or ""
        self.workers[index] = _Worker(index=index, pid=pid, pipe=reader, started=started, start_pipe=start_pipe)

    def _work(self, context: WorkerContext) -> None:
        """The whole life of a worker process; does not return."""
        code = 1
        try:
            code = self.body(context)
            context._say(DONE)  # noqa: SLF001 -- the one message that is not the body's to send
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        finally:
            os._exit(code)


def _wait_to_start(preload: Callable[[], object], pipe: int) -> None:
    """Preload, and wait until the parent lets this worker start; one whose parent is gone ends here."""
    try:
        with contextlib.suppress(Exception):
            preload()
        if os.read(pipe, 1) != START:
            os._exit(1)
        os.close(pipe)
    except BaseException:  # noqa: BLE001 -- a library may raise SystemExit; the parent forks another worker
        os._exit(1)


def _share(index: int, count: int) -> None:
    """Give this worker a GPU of its own where there are several, and its share of the cores."""
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
