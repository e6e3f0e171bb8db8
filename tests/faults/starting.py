"""The process that starts the command; see :mod:`faults.forked`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faults.driver import COMMAND, HERE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from faults.driver import Lab

__all__ = ["Starter", "starting"]


@dataclass
class Starter:
    """The process, and how long each step of training is to take."""

    process: subprocess.Popen[str]
    sleep: float

    def run(
        self, lab: Lab, *words: str, kill: float | None = None, fault: Sequence[Any] | None = None
    ) -> tuple[int, float]:
        """The exit code, negative where it was killed, and how many seconds it took."""
        environment = {"OBJ_LOG": str(lab.folder / "books"), "OBJ_SLEEP": str(self.sleep), "OMP_NUM_THREADS": "1"}
        out, err = lab.folder / "stdout", lab.folder / "stderr"
        out.write_bytes(b"")
        err.write_bytes(b"")
        told = {"words": lab.words("--quiet", *words)[len(COMMAND) :], "cwd": str(lab.folder), "kill": kill}
        told |= {"environment": environment, "stdout": str(out), "stderr": str(err), "break": fault}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return code, seconds


@contextlib.contextmanager
def starting(*, sleep: float = 0.0, preload: Path | None = None) -> Iterator[Starter]:
    """Such a process for the block."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "forked.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Starter(process, sleep)
        assert process.stdin is not None
        process.stdin.close()
