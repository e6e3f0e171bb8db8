"""A trainer that misbehaves as it is told, and keeps its own books of what it was made to train.

``OBJ`` holds modes, separated by commas: ``nan@3`` for every run, ``2:nan@3`` for the run that is begun
third, ``5+:nan@3`` for that and all later ones. ``@n`` is the epoch (from 0) in which it happens.
``OBJ_LOG`` is a file to which every event is appended in one write: ``begin``, ``epoch`` and ``end`` lines
with the learning rate. ``OBJ_SLEEP`` is the length of an epoch in seconds. With ``OBJ_HOLD``, nothing is trained
beyond so many epochs, of all runs together, before a file ``go`` lies beside the books; with ``OBJ_SLOW``, each
epoch beyond so many takes a second. A test that meets a run in its middle is never too late for it so.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WRONG: dict[str, Any] = {"str": "1.5", "none": None, "list": [1.0, 2.0], "huge": 10**400, "complex": 1 + 2j}
SPAM = 10**5


def log(*words: object) -> None:
    """One line into the books, whole or not at all."""
    descriptor = os.open(os.environ["OBJ_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def count(word: str) -> int:
    """How many such lines there are so far."""
    try:
        with open(os.environ["OBJ_LOG"], encoding="utf-8") as file:  # noqa: PTH123 -- as plain as it gets
            return sum(line.startswith(word) for line in file)
    except FileNotFoundError:
        return 0


def begin(lr: float) -> int:
    """Write down that a run begins; its number, which no other worker's run has."""
    with open(os.environ["OBJ_LOG"], "a", encoding="utf-8") as books:  # noqa: PTH123 -- as plain as it gets
        fcntl.flock(books, fcntl.LOCK_EX)
        index = count("begin")
        log("begin", repr(lr), os.getpid())
    return index


def wait() -> None:
    """What ``OBJ_HOLD`` and ``OBJ_SLOW`` ask for."""
    hold, slow = os.environ.get("OBJ_HOLD"), os.environ.get("OBJ_SLOW")
    go = os.path.join(os.path.dirname(os.environ["OBJ_LOG"]), "go")  # noqa: PTH118, PTH120 -- as plain as it gets
    while hold and count("epoch") >= int(hold) and not os.path.exists(go):  # noqa: PTH110 -- likewise
        time.sleep(0.01)
    time.sleep(float(os.environ.get("OBJ_SLEEP", "0")))
    if slow and count("epoch") >= int(slow):
        time.sleep(1)


def told(index: int) -> tuple[str, int]:
    """The mode of the run that is begun as number `index`, and its epoch."""
    for word in filter(None, os.environ.get("OBJ", "").split(",")):
        which, _, mode = word.rpartition(":")
        later = which.endswith("+")
        if not which or index == int(which.rstrip("+")) or (later and index >= int(which.rstrip("+"))):
            name, _, epoch = mode.partition("@")
            return name, int(epoch or 0)
    return "fast", 0


def curve(lr: float, epoch: int) -> float:
    """What a healthy run measures: a bowl around 0.1."""
    return 0.3 * (math.log10(lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)


def train(recipe: Any) -> Iterator[Any]:
    """The trainer of the study file."""
    mode, at = told(begin(recipe.lr))
    for epoch in range(recipe.epochs):
        value: Any = curve(recipe.lr, epoch)
        if epoch == at:
            value = misbehave(mode, value)
        wait()
        log("epoch", repr(recipe.lr), epoch)
        yield value if mode in WRONG and epoch == at else {os.environ.get("OBJ_METRIC", "valid_loss"): value}
    log("end", repr(recipe.lr))


def spam(recipe: Any) -> Iterator[Any]:
    """100 000 reports."""
    for step in range(recipe.epochs):
        yield {"valid_loss": curve(recipe.lr, min(step, 100))}


def misbehave(mode: str, value: float) -> Any:  # noqa: C901, PLR0912 -- a catalogue
    """Do what the mode says; the value to report where one comes back."""
    if mode == "nan":
        return math.nan
    if mode == "inf":
        return math.inf
    if mode == "ninf":
        return -math.inf
    if mode in WRONG:
        return WRONG[mode]
    if mode in ("hang", "gil"):
        log("hang")
    if mode == "hang":
        time.sleep(3600)
    elif mode == "gil":
        sum(range(10**15))  # one C call: it holds the interpreter, and no signal cuts it short
    elif mode == "raise":
        msg = f"the user's own mistake {os.environ.get('OBJ_TEXT', '')}"
        raise RuntimeError(msg)
    elif mode == "sysexit":
        sys.exit(7)
    elif mode == "genexit":
        raise GeneratorExit
    elif mode == "osexit":
        os._exit(9)
    elif mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "oom":
        return bytearray(1 << 46)  # more than any address space here
    elif mode == "jump":  # see clock.py
        open(os.environ["JUMP_FILE"], "w").close()  # noqa: PTH123 -- as plain as it gets
    elif mode == "fork":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        log("child", child.pid)
    return value
