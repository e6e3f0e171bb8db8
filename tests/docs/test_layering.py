"""Which way imports run: a module imports only from rows above its own, its own row and its own family."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import pytest
from layering import FRONT_DOOR, LAYERS, ROOT, Import, family, imports, modules, row

if TYPE_CHECKING:
    from pathlib import Path

MODULES = modules()
KNOWN = frozenset(MODULES)
IMPORTS = [found for name, path in MODULES.items() for found in imports(name, path, KNOWN)]
HEAVY = ("torch", "sklearn", "pandas", "plotly", "optuna", "jinja2")
LIGHT = "import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"


def _ours(found: Import) -> bool:
    return found.imported == FRONT_DOOR or found.imported.startswith(f"{FRONT_DOOR}.")


def _third_party(found: Import) -> bool:
    return not _ours(found) and found.imported.partition(".")[0] not in sys.stdlib_module_names


def _may_import(found: Import) -> bool:
    layer = LAYERS[row(found.importer) or 0]
    allowed = layer.others + layer.guests.get(family(found.importer), ())
    return any(found.imported == name or found.imported.startswith(f"{name}.") for name in allowed)


def test_every_module_has_a_row() -> None:
    homeless = [name for name in MODULES if name != FRONT_DOOR and row(name) is None]
    assert not homeless, f"give these a row in tests/support/layering.py: {homeless}"


def test_no_module_or_family_is_in_two_rows() -> None:
    named = [module for layer in LAYERS for module in layer.modules]
    assert len(named) == len(set(named))


def test_imports_run_from_the_rows_above() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if _ours(found)
        and FRONT_DOOR not in (found.importer, found.imported)
        and (row(found.imported) or 0) > (row(found.importer) or 0)
    ]
    assert not wrong


def test_no_module_imports_the_front_door() -> None:
    # `from lrtune import errors` imports the leaf module lrtune.errors, which is meant
    assert not [str(found) for found in IMPORTS if found.imported == FRONT_DOOR]


def test_others_are_imported_where_the_table_allows_it() -> None:
    wrong = [str(f) for f in IMPORTS if _third_party(f) and f.importer != FRONT_DOOR and not _may_import(f)]
    assert not wrong


def test_no_packages_import_each_other() -> None:
    graph: dict[str, set[str]] = {family(name): set() for name in MODULES}
    for found in IMPORTS:
        if _ours(found) and FRONT_DOOR not in (found.importer, found.imported):
            graph[family(found.importer)] |= {family(found.imported)} - {family(found.importer)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
    assert len(graph) <= 16, "a new package has a place in one of those that there are"


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        if _ours(found) and found.importer not in (FRONT_DOOR, found.imported):
            graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", MODULES)
def test_the_docstring_comes_first(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text())), f"{name} has no docstring before its imports"


def _loaded(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def test_the_front_door_is_light() -> None:
    assert _loaded(LIGHT.format(module=FRONT_DOOR, heavy=set(HEAVY))) == ""


def test_a_report_loads_of_scipy_what_it_draws_with() -> None:
    heavy = {"scipy.stats", "scipy.interpolate", "scipy.optimize", "scipy.ndimage", "sklearn", "torch"}
    assert _loaded(LIGHT.format(module="lrtune.study.tuning, lrtune.reporting.html", heavy=heavy)) == ""


def test_the_help_is_light() -> None:
    code = (
        "import sys\nfrom lrtune.cli import main\nsys.argv = ['lrtune', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print('loaded', *sorted({set(HEAVY)} & set(sys.modules)))"
    )
    assert _loaded(code) == "loaded"


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    source = tmp_path / "subject.py"
    source.write_text(
        "import torch.nn as nn\nfrom lrtune import errors\nfrom . import base\nfrom .base import Run\n"
        "def f():\n    from optuna import distributions\n"
    )
    known = frozenset({"lrtune", "lrtune.errors", "lrtune.training", "lrtune.training.base"})
    seen = {found.imported for found in imports("lrtune.training.subject", source, known)}
    assert seen == {"torch.nn", "lrtune.errors", "lrtune.training.base", "optuna.distributions"}
