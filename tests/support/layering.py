"""The layering table: the one source for the test that holds it and for the page that draws it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lrtune"
FRONT_DOOR = "lrtune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One row: who lives there, and what of others' they may import.

    Attributes
    ----------
    modules
        Modules and families (packages) under ``lrtune``; a family is named once for all its members.
    others
        Third-party modules that anyone in the row may import; a dotted name allows only what is below it.
    guests
        What single modules or families may import beyond that.
    """

    name: str
    holds: str
    modules: tuple[str, ...]
    others: tuple[str, ...]
    guests: dict[str, tuple[str, ...]]


LAYERS = (
    Layer(
        name="core",
        holds="what every package talks about, and files, locks and errors",
        modules=("errors", "schedules", "core"),
        others=("numpy",),
        guests={"core": ("optuna",)},
    ),
    Layer(
        name="processes",
        holds="worker processes, their leases and signals",
        modules=("workers",),
        others=(),
        guests={},
    ),
    Layer(
        name="storage and training",
        holds="what keeps a study, and what trains a recipe; neither has heard of the other",
        modules=("storage", "training"),
        others=("numpy",),
        guests={
            "training": ("torch", "sklearn", "pandas", "scipy"),
            "storage": ("optuna", "sqlalchemy", "psycopg", "tenacity"),
        },
    ),
    Layer(
        name="search",
        holds="strategies: which recipe to start or to continue next",
        modules=("search",),
        others=("numpy", "scipy", "optuna", "sklearn.gaussian_process", "threadpoolctl"),
        guests={},
    ),
    Layer(
        name="reporting",
        holds="stored trials to tables, verdicts, figures, pages and code",
        modules=("reporting",),
        others=("numpy", "scipy", "pandas", "plotly", "jinja2", "optuna"),
        guests={},
    ),
    Layer(
        name="study",
        holds="a study made or resumed, searched by the engine, and answered",
        modules=("study",),
        others=("numpy", "optuna", "pandas"),
        guests={},
    ),
    Layer(
        name="entrances",
        holds="study files, other tools that show a search, scheduled jobs",
        modules=("config", "integrations", "jobs"),
        others=("numpy",),
        guests={
            "integrations": (
                *("plotly", "optuna", "mlflow", "IPython", "sklearn", "scipy"),
                *("torch", "transformers", "keras", "ml_dtypes", "lightning"),
            ),
            "jobs": ("optuna", "apscheduler"),
        },
    ),
    Layer(
        name="command line",
        holds="the command ``lrtune``",
        modules=("cli", "__main__"),
        others=("typer", "rich", "pandas", "optuna", "optuna_dashboard"),
        guests={},
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, and where it is imported."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported} (line {self.line})"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {_dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, path: Path, known: frozenset[str]) -> Iterator[Import]:
    """All that a module imports, at its top, in its functions and for type checkers alike."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer=name, imported=alias.name, line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, name, path)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                inside = whole in known or not source.startswith("lrtune")
                yield Import(importer=name, imported=whole if inside else source, line=node.lineno)


def _source(node: ast.ImportFrom, name: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def family(name: str) -> str:
    """The module or family under ``lrtune`` that a dotted name belongs to; empty for the front door."""
    return name.split(".")[1] if "." in name else ""


def row(name: str) -> int | None:
    """The number of the row that a module of lrtune lives in, None if it has none."""
    return next((i for i, layer in enumerate(LAYERS) if family(name) in layer.modules), None)
