"""``lrtune dashboard``: Optuna's own dashboard on the study's storage, on this machine alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from lrtune.cli.console import note, say, warn
from lrtune.cli.options import AnyStudy, Name, Out, Storage, add_command
from lrtune.errors import InputError, LrtuneError, StorageError

if TYPE_CHECKING:
    from typing import Any

    from optuna.storages import BaseStorage


__all__ = ["register"]

HOST = "127.0.0.1"  # optuna-dashboard has no password
LOWEST_PORT, HIGHEST_PORT = 1, 65535


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "dashboard", dashboard)


def dashboard(
    study: AnyStudy = None,
    *,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8080,
    name: Name = None,
    storage: Storage = None,
    out: Out = None,
) -> None:
    """Show a study in optuna-dashboard on 127.0.0.1, until interrupted; it may be running meanwhile."""
    if not LOWEST_PORT <= port <= HIGHEST_PORT:
        msg = f"--port must be from {LOWEST_PORT} to {HIGHEST_PORT} (got {port})"
        raise InputError(msg)
    from lrtune.cli.study_lookup import located, opened

    place = located(study, name=name, storage=storage, out=out)
    try:
        import optuna_dashboard  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        msg = "the dashboard is not installed; install it with: pip install 'lrtune[dashboard]'"
        raise InputError(msg) from None
    opened_storage = opened(place.storage)
    _annotate(opened_storage, place.name)
    _serve(optuna_dashboard.wsgi(opened_storage), port)


def _annotate(storage: BaseStorage, name: str) -> None:
    """Write the study's note where its search has written none, as one started from Python may not have."""
    from lrtune.integrations.optuna_dashboard import Notes

    if name not in {study.study_name for study in storage.get_all_studies()}:
        return
    notes = Notes(storage)
    try:
        if not notes.there(name):
            notes.write(name)
    except (LrtuneError, OSError) as error:
        warn(f"the study's note could not be written ({error})")


def _serve(app: Any, port: int) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from lrtune.workers.signals import stopping

    class Quiet(WSGIRequestHandler):
        """A handler that does not print every request."""

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    try:
        server = make_server(HOST, port, app, handler_class=Quiet)
    except OSError as error:
        msg = f"port {port} cannot be listened on ({error.strerror}); give another one with --port"
        raise StorageError(msg) from None

    def end(_: int) -> None:
        # a KeyboardInterrupt would be swallowed where a request is being answered
        threading.Thread(target=server.shutdown, daemon=True).start()

    with server, stopping(end):  # from before the URL is printed, after which it may be stopped
        say(f"http://{HOST}:{server.server_port}/dashboard/")
        note("Ctrl-C ends it.")
        server.serve_forever()
    note("the dashboard has ended")
