"""Runs the command again and again in children of one process that has loaded everything: a start takes a moment.

Reads one request a line (JSON: `words`, `cwd`, `environment`, `stdout`, `stderr`, `kill`: seconds after which the
command is killed, or null; and `break`: what :func:`faults.breaking.arm` takes, or null) and answers with one line:
the exit code, negative where it was killed, and the seconds. With `break`, the number of such calls is written into
the file ``counted``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    load()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(served(request)), flush=True)  # noqa: T201 -- the answer


def load() -> None:
    """Import whatever a first search, in a child, has imported."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(__file__).with_name("saving.py"), folder)
        told = '[study]\nname = "s"\nepochs = 1\n[train]\ntrainer = "saving.py:trainer"\n[space]\nlr = [0.1, 1.0]\n'
        Path(folder, "s.toml").write_text(told + "[search]\ntrials = 2\n", encoding="utf-8")
        if os.fork() == 0:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ["OBJ_LOG"] = "books"
            from lrtune.cli import run

            code = run(["optimize", "s.toml", "--debug", "--quiet", "--json", "--storage", "s.db", "--out", "out"])
            Path("modules").write_text("\n".join(sys.modules), encoding="utf-8")
            os._exit(code)
        os.wait()
        for name in Path(folder, "modules").read_text(encoding="utf-8").split():
            if name not in ("__main__", "__mp_main__") and not name.startswith(("saving", "lrtune_")):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
    from lrtune.storage.schema import known_schema

    known_schema()  # made once in a process
    # To draw figures takes longer than all else; here a page only has to be a file that is written whole.
    sys.modules["lrtune.reporting.html.page"].page = lambda record: (
        f"<!doctype html><title>{record.name}</title></html>"
    )  # type: ignore[attr-defined]  # it has it
    sys.modules["lrtune.integrations.optuna_dashboard"]._figures = lambda *_, **__: ()  # type: ignore[attr-defined]  # likewise


def served(request: dict[str, Any]) -> tuple[int, float]:
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(request)
    kill = request["kill"]
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if kill is not None and time.monotonic() - began > kill:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.0005)
    seconds = time.monotonic() - began
    while family(pid):
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(status), seconds


def child(request: dict[str, Any]) -> None:
    """The whole life of the command; does not return."""
    code = 70
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.update(request["environment"])
        for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
            os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        from lrtune.cli import run

        if request["break"]:
            import breaking

            breaking.arm(*request["break"])
        code = run(request["words"])
        if request["break"]:
            counted = breaking.count()
            Path("counted").write_text(str(counted), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def family(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(words[3]) == session and words[0] not in "ZX":
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
