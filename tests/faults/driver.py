"""Drives the real command from outside: a folder with a study, and processes in sessions of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["COMMAND", "HERE", "Lab", "Running", "until"]

HERE = Path(__file__).parent
SCRIPT = Path(sys.executable).with_name("lrtune")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-P", "-m", "lrtune"]
PATIENCE = 300.0
"""Seconds after which a test gives up waiting: a guard against hanging, not a measurement."""

STUDY: dict[str, dict[str, Any]] = {
    "study": {"name": "bowl", "epochs": 9, "direction": "minimize"},
    "train": {"trainer": "objective.py:train"},
    "space": {"lr": [1e-4, 10.0]},
    "search": {"strategy": "random", "trials": 6},
}


def until(holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.02)
    msg = f"waited {patience:g} s for {what}"
    raise AssertionError(msg)


@dataclass
class Running:
    """One call of the command."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def out(self) -> str:
        return self.stdout.read_text(errors="replace") if self.stdout.exists() else ""

    @property
    def err(self) -> str:
        return self.stderr.read_text(errors="replace")

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip().rpartition("\n")[2]

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> int:
        """SIGKILL to the command alone, as `timeout -s KILL` does; what is left of its session must die too."""
        self.send(signal.SIGKILL)
        code = self.process.wait(PATIENCE)
        until(lambda: not self.family(), "the workers of a killed command to be gone")
        return code

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code, as a shell shows it."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.end()
            msg = f"the command did not end within {patience:g} s; it said: {self.err[-2000:]}"
            raise AssertionError(msg) from None
        return code if code >= 0 else 128 - code

    def family(self) -> list[int]:
        """Living processes of its session other than itself."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with contextlib.suppress(OSError, IndexError, ValueError):
                    words = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(words[3]) == self.process.pid and words[0] not in "ZX":
                        found.append(int(entry.name))
        return sorted(found)

    def end(self) -> None:
        """End whatever is left of it."""
        for pid in [*self.family(), *([] if self.process.poll() is not None else [self.process.pid])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


@dataclass
class Lab:
    """A folder with a study file and its trainer."""

    folder: Path
    calls: list[Running] = field(default_factory=list)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    storage: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "objective.py", self.folder / "objective.py")
        self.study()

    def study(self, *, file: str = "study.toml", **changes: Mapping[str, Any]) -> None:
        """Write the study file; a value of None takes a key out."""
        tables = {name: dict(table) for name, table in STUDY.items()}
        for name, table in changes.items():
            tables[name].update(table)
        self.closed = {
            name: {k: v for k, v in table.items() if v is not None and v != ""} for name, table in tables.items()
        }
        text = ""
        for name, table in self.closed.items():
            text += f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
        (self.folder / file).write_text(text)

    @property
    def database(self) -> Path:
        return self.folder / "s.db"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def books(self) -> list[list[str]]:
        """What the trainer wrote down."""
        file = self.folder / "books"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, word: str) -> int:
        return sum(line[0] == word for line in self.books)

    def words(self, *more: str, file: str = "study.toml") -> list[str]:
        """The command and its arguments."""
        storage = self.storage or str(self.database)
        return [*COMMAND, "optimize", file, "--storage", storage, "--out", str(self.out),
                "--json", "--json-log", str(self.log), *more]  # fmt: skip

    def go(self) -> None:
        """Let a run go on that is held; see `hold` of :meth:`start`."""
        (self.folder / "go").touch()

    def environment(self, obj: str = "", sleep: float = 0.0, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LRTUNE_", "PG", "OBJ", "PYTEST", "COV_"))}
        given = {"OBJ": obj, "OBJ_SLEEP": str(sleep), "OBJ_LOG": str(self.folder / "books"), "OMP_NUM_THREADS": "1"}
        return kept | {"MKL_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)} | given | more

    def start(
        self,
        *more: str,
        obj: str = "",
        sleep: float = 0.0,
        hold: int | None = None,
        slow: int | None = None,
        env: Mapping[str, str] | None = None,
        words: list[str] | None = None,
        **options: Any,
    ) -> Running:
        """Start the command (or `words`), in its own session.

        `hold` is how many epochs of all that the books hold are trained before :meth:`go`; each one beyond `slow`
        takes a second. Without one of them, a busy machine may let the run end before a test meets it.
        """
        number = len(self.calls)
        if hold is not None:
            (self.folder / "go").unlink(missing_ok=True)
        told = {name: str(most) for name, most in (("OBJ_HOLD", hold), ("OBJ_SLOW", slow)) if most is not None}
        stdout, stderr = self.folder / f"stdout-{number}", self.folder / f"stderr-{number}"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                words or self.words(*more),
                cwd=self.folder,
                env=self.environment(obj, sleep, **told, **(env or {})),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **({"stdout": out, "stderr": err} | options),
            )
        running = Running(process, stdout, stderr)
        self.calls.append(running)
        return running

    def run(self, *more: str, expect: int | tuple[int, ...] = 0, patience: float = PATIENCE, **given: Any) -> Running:
        """Run the command to its end, which has to be this one (I9), with nothing left behind."""
        running = self.start(*more, **given)
        code = running.wait(patience)
        wanted = expect if isinstance(expect, tuple) else (expect,)
        assert code in wanted, f"exit code {code}, not {expect}: {running.err[-3000:]}"
        assert "Traceback" not in running.err or code == 3 or "user's own" in running.err, running.err[-3000:]
        until(lambda: not running.family(), "the command's processes to be gone")
        return running

    def began(self, runs: int = 1) -> None:
        """Wait until the trainer has begun so many runs."""
        until(lambda: self.count("begin") >= runs or self._died(), f"{runs} runs to begin")

    def trained(self, epochs: int) -> None:
        """Wait until the trainer has trained so many epochs."""
        until(lambda: self.count("epoch") >= epochs or self._died(), f"{epochs} epochs to be trained")

    def hung(self) -> None:
        """Wait until the trainer does not come back any more."""
        until(lambda: self.count("hang") or self._died(), "a step that hangs")

    def stuck(self) -> None:
        """Wait until nothing more is trained: all workers wait, for the storage, say."""
        seen, since = -1, time.monotonic()

        def still() -> bool:
            nonlocal seen, since
            if (now := len(self.books)) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 1.5

        until(still, "all workers to wait")

    def _died(self) -> bool:
        last = self.calls[-1]
        code = last.process.poll()
        if code not in (None, 0):
            msg = f"the command ended with {code}: {last.err[-2000:]}"
            raise AssertionError(msg)
        return False

    def close(self) -> None:
        for running in self.calls:
            running.end()


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
