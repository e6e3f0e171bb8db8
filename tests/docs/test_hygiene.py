"""What is easily forgotten: leftovers, dead links, public names, and versions that must agree."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from layering import ROOT, modules

import lrtune

if TYPE_CHECKING:
    from pathlib import Path

MODULES = modules()
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# spelled so that this file does not find itself
LEFTOVERS = re.compile(r"(?<!\w)/wor[k]/|\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b")


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], capture_output=True, text=True, cwd=ROOT, check=False)
    names = [name for name in listed.stdout.split("\0") if name]
    if not names:  # an unpacked archive has no git
        return [path for pattern in patterns for path in ROOT.rglob(pattern) if ".venv" not in path.parts]
    return [path for name in names if (path := ROOT / name).is_file()]


def test_no_leftovers() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _tracked("*.py", "*.md", "*.toml", "*.txt", "*.yml", ".ci/*")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if LEFTOVERS.search(line)
    ]
    assert not found


def test_every_document_that_is_cited_is_shipped() -> None:
    """No docstring, comment or page speaks of a page that a reader does not have."""
    shipped = {path.name for path in _tracked("*.md")}
    cited = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in _tracked("*.py", "*.md", "*.sh")
        for name in re.findall(r"\b([A-Z]{3,}\.md)\b", path.read_text())
        if name not in shipped
    }
    assert not cited


def test_nothing_in_the_package_is_a_stub() -> None:
    stubs = [name for name, path in MODULES.items() if "raise NotImplementedError" in path.read_text()]
    assert not stubs


@pytest.mark.parametrize("line", ["# TO" + "DO: later", "cd /wor" + "k/main"])
def test_leftovers_are_found(line: str) -> None:
    assert LEFTOVERS.search(line)


def _public(path: Path) -> set[str]:
    """Names that a module defines at its top level and that do not start with an underscore."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def _declared(path: Path) -> list[str] | None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("name", [name for name in MODULES if name not in {"lrtune", "lrtune.__main__"}])
def test_all_names_what_others_use(name: str) -> None:
    """What another module imports from this one stands in its ``__all__``; the rest is its own."""
    path = MODULES[name]
    declared = _declared(path)
    if path.name == "__init__.py" and declared is None and not _public(path):
        return
    assert declared is not None, f"{name} has no __all__"
    assert len(declared) == len(set(declared))
    used = {word for importer, other in MODULES.items() if importer != name for word in _taken(other, name)}
    private = {word for word in used if word.startswith("_")}
    assert used - private <= set(declared), f"{name}: imported elsewhere and not in __all__"


def _taken(path: Path, name: str) -> set[str]:
    """What a file imports from that module."""
    taken = {alias for module, alias in _imported(path) if module == name}
    return {alias for alias in taken if f"{name}.{alias}" not in MODULES}


@functools.cache
def _imported(path: Path) -> frozenset[tuple[str | None, str]]:
    """Module and name of everything that a file imports by ``from ... import``; read once for all tests."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return frozenset((node.module, alias.name) for node in nodes if not node.level for alias in node.names)


def test_the_front_door_offers_what_it_names() -> None:
    missing = [name for name in lrtune.__all__ if not hasattr(lrtune, name)]
    assert not missing
    assert set(dir(lrtune)) == set(lrtune.__all__)


def test_the_front_door_tells_type_checkers_the_same() -> None:
    tree = ast.parse((ROOT / "lrtune" / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrtune")
        for alias in node.names
    }
    assert set(typed) | {"__version__"} == set(lrtune.__all__)
    for name, module in typed.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(lrtune, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        lrtune.nonesuch  # noqa: B018 -- the access is the test


def _links(page: Path) -> list[str]:
    text = FENCED.sub("", page.read_text())
    targets = [match["target"].partition("#")[0] for match in MARKDOWN_LINK.finditer(text)]
    return [target for target in targets if target and not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", _tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    dead = [target for target in _links(page) if not (page.parent / target).exists()]
    assert not dead


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md#part) [b](https://example.org) [c](#here)\n```\n[d](shown.md)\n```\n")
    assert _links(page) == ["gone.md"]


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project["version"] == newest[1] == lrtune.__version__


def test_direct_dependencies_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in wanted}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned


def test_the_architecture_page_is_current() -> None:
    script = ROOT / "docs" / "architecture.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
