"""The command line ``lrtune``: registers the commands, runs one, and turns an error into its exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from lrtune.cli.console import complain, guarded, say
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "app", "main", "run"]

USAGE = 2

COMMANDS = ("optimize", "compare", "range_test", "explain", "report", "dashboard", "job", "storage")
"""The modules of the commands. Each has a function ``register(app)``, and imports nothing heavy at its top."""

app = typer.Typer(
    name="lrtune",
    help="Find the learning rate: for scikit-learn, PyTorch and training loops of your own.",
    epilog="lrtune --version prints the version. A study file says what is asked: the folder studies/ of the sources "
    "holds examples that run as they stand.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


for _name in COMMANDS:
    importlib.import_module(f"lrtune.cli.{_name}").register(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, see :func:`lrtune.cli.console.guarded`.

    Parameters
    ----------
    arguments
        Those behind ``lrtune``; None takes the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:  # no option of typer's: coercing even one would load pydantic for every --help
        from importlib.metadata import version

        say(f"lrtune {version('lrtune')}")
        return 0
    command, words = _command(given)
    rest = given[len(words) :] or (["--help"] if hasattr(command, "commands") else [])  # a group shows its help
    name = " ".join(["lrtune", *words])
    return guarded(lambda: command.main(rest, prog_name=name, standalone_mode=False), refused=_refused)


def _command(given: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and those words.

    A group would coerce its own options, for which typer imports pydantic: half of the time of a ``--help``.
    """
    command: Any = typer.main.get_command(app)
    words: list[str] = []
    for word in given:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        words.append(word)
    return command, words


def _refused(error: Exception) -> int:
    """The exit code of an error that is not lrtune's: typer's is wrong usage, any other a bug."""
    usage = tuple(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    if not isinstance(error, usage):
        return complain(error)
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    complain(InputError(f"{error.format_message().rstrip('.')}{hint}"))  # type: ignore[attr-defined]  # typer's own error has it
    return USAGE


def main() -> None:
    """The entry point of the installed command."""
    _open_streams()
    sys.exit(run())


def _open_streams() -> None:
    """Open closed standard streams on the null device; else a database would get the descriptor of stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 -- for the life of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 -- likewise
