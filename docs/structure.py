"""Measures how the package is built: ``python docs/structure.py [REVISION ...]``, a column for each revision of git.

Without a revision the working tree is measured. Entries are the files and folders at the top of ``lrtune/``; an arrow
runs from an entry to one that it imports, type checking included, the front door ``lrtune/__init__.py`` left out; the
floors are the longest chain of arrows, entries that import each other in a circle counted as one. A shape of a trial
is a class that holds one trial's number together with more of it, or its curve, or another shape of a trial.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lrtune"
TESTS = "tests"
ELSEWHERE = ("lrtune/jobs/", "lrtune/cli/", "lrtune/config")
"""Where a number and a record are a run's of a job, not a trial's."""
NUMBER, MORE = {"number", "trial_id"}, {"recipe", "record", "state", "values"}


def sources(revision: str | None) -> dict[str, str]:
    """Every Python file of the package and its tests, by path."""
    if revision is None:
        paths = [path for folder in (PACKAGE, TESTS) for path in sorted((ROOT / folder).rglob("*.py"))]
        return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    command = ["git", "archive", revision, PACKAGE, TESTS]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 -- the developer's own revision
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        files = [member for member in tar.getmembers() if member.name.endswith(".py")]
        return {member.name: _content(tar, member) for member in files}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return "" if file is None else file.read().decode()


def entry(module: str) -> str:
    """The file or folder at the top of the package that a dotted name lies in; empty for the front door."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def dotted(path: str) -> str:
    """The dotted name of a module."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(package: dict[str, str]) -> set[tuple[str, str]]:
    """Which entry imports which."""
    known = {dotted(path) for path in package}
    found = set()
    for path, text in package.items():
        mine = entry(dotted(path))
        for name in _imported(ast.parse(text)):
            while name and name not in known:
                name = name.rpartition(".")[0]  # noqa: PLW2901 -- `from a.b import c` names a.b.c
            if mine and entry(name) not in {"", mine}:
                found.add((mine, entry(name)))
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(graph: set[tuple[str, str]]) -> list[frozenset[str]]:
    """The groups of entries that import each other, each entry in one of them."""
    names = {name for arrow in graph for name in arrow}
    reach = {name: _reach(name, graph) for name in names}
    return list({frozenset({n, *(m for m in reach[n] if n in reach[m])}) for n in names})


def _reach(start: str, graph: set[tuple[str, str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        here = ahead.pop()
        nearby = {b for a, b in graph if a == here} - seen
        seen |= nearby
        ahead += nearby
    return seen


def floors(graph: set[tuple[str, str]]) -> int:
    """The length of the longest chain of imports, in entries."""
    home = {name: group for group in circles(graph) for name in group}
    above = {(home[a], home[b]) for a, b in graph if home[a] != home[b]}
    height: dict[frozenset[str], int] = {}

    def climb(group: frozenset[str]) -> int:
        if group not in height:
            height[group] = 1 + max((climb(b) for a, b in above if a == group), default=0)
        return height[group]

    return max(map(climb, set(home.values())), default=0)


def functions(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The length in lines and the name of every function."""
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def classes(texts: Iterable[str]) -> Counter[str]:
    """How often each class name is defined."""
    return Counter(node.name for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))


def shapes_of_a_trial(package: dict[str, str]) -> list[str]:
    """The classes in which one trial travels between its trainer, the database, the strategy and the report."""
    classes = [
        (node.name, _fields(node))
        for path, text in package.items()
        if not path.startswith(ELSEWHERE)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    found = {name for name, own in classes if own.get("curve") == "Curve"}
    found |= {name for name, own in classes if NUMBER & own.keys() and MORE & own.keys()}
    while more := {name for name, own in classes if _types(own) & found} - found:
        found |= more
    return sorted(found)


def _fields(node: ast.ClassDef) -> dict[str, str]:
    named = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return {ast.unparse(part.target): ast.unparse(part.annotation) for part in named}


def _types(own: dict[str, str]) -> set[str]:
    return {annotation.removesuffix(" | None") for annotation in own.values()}


def measure(files: dict[str, str]) -> dict[str, str]:
    """Each measure by name."""
    package = {path: text for path, text in files.items() if path.startswith(f"{PACKAGE}/")}
    tests = {path: text for path, text in files.items() if path.startswith(f"{TESTS}/")}
    graph = arrows(package)
    largest = max(package, key=lambda path: package[path].count("\n"))
    longest = max(functions(package.values()))
    shapes = shapes_of_a_trial(package)
    twice = sorted(name for name, count in classes(package.values()).items() if count > 1)
    return {
        "entries at the top": str(len({path.split("/")[1] for path in package})),
        "modules": str(len(package)),
        "floors of imports": str(floors(graph)),
        "arrows between entries": str(len(graph)),
        "entries in a circle": str(sum(len(group) for group in circles(graph) if len(group) > 1)),
        "largest file": f"{largest} ({package[largest].count(chr(10))})",
        "longest function": f"{longest[1]} ({longest[0]})",
        "class names used twice": f"{len(twice)}" + (f" ({', '.join(twice)})" if twice else ""),
        "shapes of a trial": f"{len(shapes)} ({', '.join(shapes)})",
        "lines of the package": f"{sum(text.count(chr(10)) for text in package.values()):,}",
        "lines of the tests": f"{sum(text.count(chr(10)) for text in tests.values()):,}",
    }


if __name__ == "__main__":
    columns = {name or "working tree": measure(sources(name)) for name in (sys.argv[1:] or [None])}
    print("| measure |", " | ".join(columns), "|")
    print("|---|" + "---|" * len(columns))
    for measured in next(iter(columns.values())):
        print(f"| {measured} |", " | ".join(column[measured] for column in columns.values()), "|")
