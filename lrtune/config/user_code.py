"""Loading the user's own code: a file by its path, once, under a private name, so that it shadows no other module.

A training file may be called ``html.py``, ``types.py`` or ``random.py``. Its folder goes to the end of the import path:
it can import what lies beside it, and nothing there is imported instead of a module of the same name elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from typing import TYPE_CHECKING, Any

from lrtune.config.toml import suggestion
from lrtune.core.names import USER_MODULE
from lrtune.core.tracebacks import users_own
from lrtune.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

__all__ = ["load", "load_made", "load_trainer"]


def load_trainer(reference: str, folder: Path, *, where: str = "trainer") -> Any:
    """What ``"train.py:trainer"`` names: a trainer, a generator function, or what a function without arguments returns.

    Parameters
    ----------
    reference, folder
        File and name, the file relative to the folder; or an importable module and name.
    where
        What to call it in a message, e.g. ``"study.toml:9: [train] trainer"``.

    Raises
    ------
    StudyFileError
        If there is no such file or name, if it is no trainer, or if the user's file cannot be loaded; the user's
        traceback is then a note of the error.
    """
    found = load(reference, folder, where=where)
    if _trains(found):
        return found
    if not callable(found):
        msg = f"{where}: {reference!r} is a {type(found).__name__}; name a trainer, or a function that makes one"
        raise StudyFileError(msg)
    made = _called(found, reference, where)
    if _trains(made):
        return made
    msg = f"{where}: {reference!r} made a {type(made).__name__}; let it return a trainer or a generator function"
    raise StudyFileError(msg)


def load(reference: str, folder: Path, *, where: str) -> Any:
    """What ``"file.py:name"`` or ``"package.module:name"`` names.

    Raises
    ------
    StudyFileError
        If there is no such thing, or the user's file cannot be loaded.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in name.split(".")):
        msg = f'{where} must look like "train.py:trainer" or "package.module:name" (got {reference!r})'
        raise StudyFileError(msg)
    module = _file(folder / place, where) if place.endswith(".py") else _module(place, where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")]
            msg = f"{where}: {place} has no {part!r}; {suggestion(part, public) if public else 'it is empty'}"
            raise StudyFileError(msg)
        found = getattr(found, part)
    return found


def load_made(reference: str, folder: Path, *, where: str) -> Any:
    """What :func:`load` finds; of a function without arguments what it returns.

    Raises
    ------
    StudyFileError
        If there is no such thing, or the user's code cannot be loaded or fails.
    """
    found = load(reference, folder, where=where)
    if not (inspect.isfunction(found) or inspect.isclass(found)) or _required(found):
        return found
    with _users_code(f"{where}: {reference!r} failed"):
        return found()


def _file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        msg = f"{where}: there is no file {path}; the path counts from the study file's folder"
        raise StudyFileError(msg)
    path = path.resolve()
    name = f"{USER_MODULE}{path.stem}_{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{where}: {path} cannot be loaded as Python"
        raise StudyFileError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _users_code(f"{where}: {path.name} cannot be loaded"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _module(place: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- likewise
        msg = f"{where}: the module {place!r} cannot be imported ({error}); install it, or name a file ending in .py"
        raise StudyFileError(msg) from None


def _trains(found: Any) -> bool:
    """Whether it is a trainer, or a function of a recipe."""
    if inspect.isclass(found):
        return False
    if hasattr(found, "start") and hasattr(found, "steps_per_epoch"):
        return True
    call = getattr(found, "func", found)  # a partial
    if inspect.isgeneratorfunction(call) or inspect.isgeneratorfunction(getattr(call, "__call__", None)):  # noqa: B004 -- its call may be the generator
        return True
    return callable(found) and len(_required(found)) == 1


def _required(call: Any) -> list[str]:
    """Names of the arguments without a default."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _called(maker: Any, reference: str, where: str) -> Any:
    needed = _required(maker)
    if needed:
        msg = f"{where}: {reference!r} needs {', '.join(needed)}; a function that makes a trainer needs no argument"
        raise StudyFileError(msg)
    with _users_code(f"{where}: {reference!r} failed to make a trainer"):
        return maker()


@contextlib.contextmanager
def _users_code(what: str) -> Iterator[None]:
    """Raise what ends the block as an error with the user's traceback, without lrtune's frames and the import's."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything
        message = " ".join(str(error).split())
        refused = StudyFileError(f"{what}: {type(error).__name__}{': ' if message else ''}{message}")
        refused.add_note(users_own(error).rstrip())
        raise refused from None
