"""The layering table: the one source for the test that holds it and for the page that draws it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
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
        name="words",
        holds="what everyone talks about",
        modules=(
            *("errors", "outcome", "curve", "directions", "schedules", "recipe"),
            *("names", "numerics", "redaction", "environment", "files", "oserrors", "signals", "shapes", "tracebacks"),
        ),
        others=("numpy",),
        guests={},
    ),
    Layer(
        name="rules",
        holds="decisions as pure functions",
        modules=("axes", "space", "divergence", "effect", "diagnosis", "readers"),
        others=("numpy", "scipy", "optuna.distributions"),
        guests={},
    ),
    Layer(
        name="engines",
        holds="what trains, and what keeps it",
        modules=("training", "checkpoints", "garage", "storage", "leases", "processes", "workers"),
        others=("numpy", "scipy"),
        guests={"training": ("torch", "sklearn", "pandas"), "storage": ("optuna", "sqlalchemy", "psycopg")},
    ),
    Layer(
        name="search",
        holds="what decides",
        modules=("search", "rangetest"),
        others=("numpy", "scipy", "optuna", "sklearn.gaussian_process", "threadpoolctl"),
        guests={},
    ),
    Layer(
        name="study",
        holds="the one loop: ask, advance, judge, tell",
        modules=(
            *("settings", "records", "progress", "entries", "telling", "recovery", "ledger", "attendance", "reading"),
            *(
                "piece",
                "watching",
                "standing",
                "deciding",
                "performing",
                "loop",
                "concluding",
                "result",
                "transfer",
                "study",
            ),
        ),
        others=("numpy", "optuna"),
        guests={"result": ("pandas",)},
    ),
    Layer(
        name="reading",
        holds="study to tables, tables to figures, figures to a page",
        modules=("analysis", "snippets", "figures", "report", "dashboard", "trackers"),
        others=("numpy", "scipy", "pandas"),
        guests={
            "analysis": ("optuna",),
            "figures": ("plotly",),
            "report": ("plotly", "jinja2"),
            "dashboard": ("plotly", "optuna"),
            "trackers": ("torch.utils.tensorboard", "mlflow"),
        },
    ),
    Layer(
        name="doors",
        holds="where people come in",
        modules=(
            "tomlfile",
            "loading",
            "ahead",
            "config",
            "tuningfree",
            "comparison",
            "jobs",
            "cli",
            "commands",
            "__main__",
        ),
        others=("numpy",),
        guests={
            "comparison": ("pandas",),
            "jobs": ("optuna", "apscheduler"),
            "cli": ("typer", "rich"),
            "commands": ("typer", "rich", "pandas", "optuna", "optuna_dashboard"),
        },
    ),
)


LATE = {"result": ("analysis", "report")}
"""What a module may import from a row below, when it is asked to: a result opens its own report."""


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
