"""Signals: the first stops cleanly, the second at once, and what was installed before returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from lrtune.workers.signals import SIGNALS, StopFlag, stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import sys, time
import lrtune.workers.signals
from lrtune.workers.signals import stopping
if sys.argv[1] == "echoed":
    lrtune.workers.signals.ECHO_SECONDS = 600  # however late the echo is heard on a busy machine
with stopping(at_once=lambda: print("children ended", flush=True)) as flag:
    print("ready", flush=True)
    while not flag.wait(30):
        pass
    print("asked by", flag.name, flush=True)
    if sys.argv[1] in ("stubborn", "echoed"):
        time.sleep(300)
sys.exit(flag.exit_code)
"""


class Command:
    def __init__(self, *, how: str = "obedient", prefix: str = "") -> None:
        shell = ["/bin/sh", "-c", f'{prefix} exec "$0" "$@"']
        self.process = subprocess.Popen(
            [*shell, sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=280)
        return self.process.returncode, out, err


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.process.kill()
        command.process.communicate()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_first_signal_stops_cleanly(commands: list[Command], name: str) -> None:
    commands.append(command := Command())
    command.process.send_signal(signal.Signals[name])
    code, out, err = command.end()
    assert code == 128 + signal.Signals[name]
    assert out == f"asked by {name}\n"
    assert err == ""


def test_the_second_signal_ends_at_once(commands: list[Command]) -> None:
    commands.append(command := Command(how="stubborn"))
    command.process.send_signal(signal.SIGTERM)
    assert command.line() == "asked by SIGTERM"
    threading.Event().wait(0.5)
    command.process.send_signal(signal.SIGTERM)
    code, out, err = command.end()
    assert code == 143
    assert out == "children ended\n"
    assert "second SIGTERM" in err


def test_sigint_is_taken_where_it_was_ignored(commands: list[Command]) -> None:
    commands.append(command := Command(prefix="trap '' INT;"))
    command.process.send_signal(signal.SIGINT)
    assert command.end()[0] == 130


def test_sighup_that_is_ignored_stays_so(commands: list[Command]) -> None:
    commands.append(command := Command(prefix="trap '' HUP;"))
    command.process.send_signal(signal.SIGHUP)
    threading.Event().wait(0.3)
    assert command.process.poll() is None
    command.process.send_signal(signal.SIGTERM)
    assert command.end()[0] == 143


def test_an_echo_of_the_first_is_not_a_second(commands: list[Command]) -> None:
    commands.append(command := Command(how="echoed"))
    command.process.send_signal(signal.SIGTERM)
    assert command.line() == "asked by SIGTERM"
    command.process.send_signal(signal.SIGTERM)
    threading.Event().wait(0.5)
    assert command.process.poll() is None


def test_what_was_installed_returns() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    calls: list[int] = []
    with stopping(calls.append) as flag:
        assert not flag.requested
        assert flag.exit_code == 0
        signal.raise_signal(signal.SIGTERM)
        assert flag.requested
        assert flag.wait(60)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert calls == [signal.SIGTERM]
    assert (flag.name, flag.exit_code) == ("SIGTERM", 143)
    assert flag.wait(60)


def test_it_returns_after_an_error_in_the_block_and_in_the_callable() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def interrupt(number: int) -> None:
        raise InterruptedError(number)

    with pytest.raises(InterruptedError), stopping(interrupt):
        signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_thread_leaves_the_signals_alone() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    seen: list[object] = []

    def work() -> None:
        with stopping() as flag:
            seen.append({number: signal.getsignal(number) for number in SIGNALS})
            flag.request(signal.SIGINT)
            seen.append(flag.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, 130]


def test_a_waiting_thread_wakes_up() -> None:
    flag = StopFlag()
    thread = threading.Thread(target=flag.wait, args=(60.0,))
    thread.start()
    flag.request()
    thread.join(timeout=280)
    assert not thread.is_alive()
    assert not StopFlag().wait(0.0)
    flag.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_dies_of_its_signal() -> None:
    program = (
        "import os, signal, time\nfrom lrtune.workers.signals import stopping\n"
        "reader, writer = os.pipe()\n"
        "with stopping() as flag:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.write(writer, b'.')\n"
        "        time.sleep(600)\n"
        "        os._exit(0)\n"
        "    os.read(reader, 1)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flag.requested)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=280)
    assert done.stdout == "-15 False\n"
