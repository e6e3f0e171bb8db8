"""The command line: ``lrtune``. It registers the commands, runs one, and turns every error into its exit code."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lrtune.commands import COMMANDS
from lrtune.commands.output import complain, note
from lrtune.errors import InputError, LrtuneError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main", "run"]

USAGE = 2
BUG = 1
SIGINT = 130

app = typer.Typer(
    name="lrtune",
    help="Find the learning rate: for scikit-learn, PyTorch and training loops of your own.",
    epilog="A study file says what is asked: the folder studies/ of the sources holds examples that run as they stand.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:  # noqa: FBT001 -- the callback of a flag
    if asked:
        typer.echo(f"lrtune {importlib.metadata.version('lrtune')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and nothing else.")
    ] = False,
) -> None:
    """Find the learning rate: for scikit-learn, PyTorch and training loops of your own."""


for _name in COMMANDS:
    importlib.import_module(f"lrtune.commands.{_name}").register(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code (FAULTS.md): 0, 2 input, 3 nothing completed, 4 storage, 5 mismatch, 6 locked.

    Parameters
    ----------
    arguments
        What stands behind ``lrtune``; None takes the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    try:
        code = command.main(given or ["--help"], prog_name="lrtune", standalone_mode=False)
    except LrtuneError as error:
        complain(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        note("lrtune: error: interrupted; run the same command to resume")
        return SIGINT
    except Exception as error:  # noqa: BLE001 -- the last line of defence
        return _refused(error)
    return code if isinstance(code, int) else 0


def _refused(error: Exception) -> int:
    """What typer refuses is usage; all else is a bug of ours."""
    if not isinstance(error, _usage_errors()):
        complain(error)
        return BUG
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    complain(InputError(f"{error.format_message().rstrip('.')}{hint}"))  # type: ignore[attr-defined]
    return USAGE


def _usage_errors() -> tuple[type[BaseException], ...]:
    """Click's ClickException, wherever this version of typer has it."""
    return tuple(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(run())
