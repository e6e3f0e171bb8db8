"""What a worker imports ahead: installed libraries, and none of the user's code.

Of the training file only the imports at its top count, up to the first statement of another kind, which may set an
environment variable or download data, or the first import of a file beside it. They are what the file itself would
import first.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.cli.console import own_stdout
from lrtune.config.toml import read_unchecked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["imports_ahead", "load_ahead"]

INSTALLED = frozenset({"site-packages", "dist-packages"})
OURS = ("lrtune.config.study_file", "lrtune.config.user_code", "lrtune.study.tuning")
FOR_TORCH = ("lrtune.training.networks.trainer", "torch._dynamo")
"""Imported once PyTorch is; its first optimizer imports the latter."""
FOR_ESTIMATORS = ("lrtune.training.estimators.trainer", "lrtune.training.estimators.data_file")
ENVIRONMENT = ("environ", "putenv")


@own_stdout()  # some libraries print when they are imported
def load_ahead(study: Path | None, given: Mapping[str, Any]) -> None:
    """Import what a worker needs for a study file, which need not be valid, with the command line's options over it.

    Without the garbage collector, which would search for a tenth of that time and find nothing, nor afterwards in what
    has been imported.
    """
    gc.disable()
    try:
        _load_all(study, given)
    finally:
        gc.freeze()
        gc.enable()


def _load_all(study: Path | None, given: Mapping[str, Any]) -> None:
    train = {} if study is None else read_unchecked(study, "train")
    trainer, estimator = train.get("trainer"), given.get("estimator") or train.get("estimator")
    _load(OURS)
    if isinstance(estimator, str):
        _load([name for name in [estimator.rpartition(":")[0]] if _installed(name)])
        _load(FOR_ESTIMATORS)
    elif study is not None and isinstance(trainer, str):
        _load(imports_ahead(study.parent / trainer.rpartition(":")[0]))
    if "torch" in sys.modules:
        _load(FOR_TORCH)
    from lrtune.storage.schema import known_schema

    known_schema()


def imports_ahead(file: Path) -> list[str]:
    """The installed modules whose imports a Python file begins with; none of one that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        body = ast.parse(text).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    return [] if any(word in text for word in ENVIRONMENT) else list(_first_imports(body))


def _first_imports(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # the docstring
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None and not statement.level:
            names = [statement.module]
        else:
            return
        for name in names:
            if not _known(name):
                return
            yield name


def _known(name: str) -> bool:
    """Whether it is of the standard library, lrtune or an installed package."""
    root = name.partition(".")[0]
    return root in sys.stdlib_module_names or root == "lrtune" or _installed(name)


def _installed(name: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name.partition(".")[0])
        return found is not None and not INSTALLED.isdisjoint(Path(found.origin or "").parts)
    return False


def _load(names: Iterable[str]) -> None:
    for name in names:
        importlib.import_module(name)
