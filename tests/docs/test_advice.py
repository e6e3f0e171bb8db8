"""What messages, help and pages tell a reader to type exists: options, commands and calls."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from typing import TYPE_CHECKING, Any

import pytest
import typer
from layering import ROOT, modules

import lrtune
from lrtune.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
CALL = re.compile(r"(?<![\w./@-])lrtune((?:\.\w+)+)\b(?!/)")
COMMAND = re.compile(r"(?:`|\brun:? |\bor |^|\$ |-m )lrtune ([a-z][a-z-]+)(?: ([a-z]+))?", re.MULTILINE)
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHERS = {
    *("--upgrade", "--extra-index-url", "--index-url"),  # pip
    *(
        "--now",
        "--hypothesis-profile",
        "--check",
        "--strict",
        "--dist",
    ),  # a hook's own; pytest's and pytest-xdist's; the generators of pages; mkdocs
}
"""Options of other programs that are named."""


def options(command: Any) -> set[str]:
    """All options of a command and of those below it."""
    found = {word for spec in command.params for word in (*spec.opts, *spec.secondary_opts)}
    return found.union(*(options(below) for below in getattr(command, "commands", {}).values()))


TREE: Any = typer.main.get_command(app)
KNOWN = options(TREE) | OTHERS | {"--help", "--version"}


@functools.cache
def strings() -> tuple[tuple[str, str], ...]:
    """Every text of the package, with its place; a value that is formatted into one is a blank."""
    found = []
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values]
                found.append((f"{name}:{node.lineno}", "".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                found.append((f"{name}:{node.lineno}", node.value))
    return tuple(found)


def pages() -> Iterator[tuple[str, str]]:
    """The texts of README and pages that are written for users."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield path.name, path.read_text()


def resolves(dotted: str) -> bool:
    """Whether ``.a.b`` leads somewhere from ``lrtune``."""
    value: Any = lrtune
    for name in dotted.strip(".").split("."):
        if hasattr(value, name):
            value = getattr(value, name)
            continue
        try:
            value = importlib.import_module(f"{value.__name__}.{name}")
        except (AttributeError, ModuleNotFoundError):
            return bool(getattr(value, "__annotations__", {}).get(name)) or name in getattr(value, "__slots__", ())
    return True


def unknown(text: str, *, code: bool) -> list[str]:
    """What a text tells to type that does not exist."""
    found = [word for word in OPTION.findall(text) if word not in KNOWN]
    # in the package's own texts a dotted name may be a file or a name of a log; a call has its bracket
    for match in CALL.finditer(text):
        told = not code or text[match.end() : match.end() + 1] == "(" or "with " in text[: match.start()][-6:]
        if told and match[1] not in FILES and not resolves(match[1]):
            found.append(match[0])
    shown = text if code else "\n".join([*FENCED.findall(text), *re.findall(r"`lrtune [^`\n]+`", text)])
    for match in COMMAND.finditer(shown):
        below = TREE.commands.get(match[1])
        if below is None:
            found += [match[0]] if not code or match[0][0] in "`$" else []
        elif match[2] and match[2] not in getattr(below, "commands", {match[2]: None}):
            found.append(match[0])
    return found


FILES = {".db", ".toml", ".py", ".json"}


def test_every_message_names_what_exists() -> None:
    wrong = {place: bad for place, text in strings() if (bad := unknown(text, code=True))}
    assert not wrong


def test_every_page_names_what_exists() -> None:
    wrong = {name: bad for name, text in pages() if (bad := unknown(text, code=False))}
    assert not wrong


@pytest.mark.parametrize(
    "text", ["run it with --extend-space", "open it with lrtune.load(path)", "run: lrtune job start x", "`lrtune tune`"]
)
def test_what_does_not_exist_is_found(text: str) -> None:
    assert unknown(text, code=True)


def test_only_the_commands_speak_of_their_options() -> None:
    """What may be raised to a caller of the Python API names no option of the command line."""
    doors = (
        "lrtune.cli",
        "lrtune.jobs",
        "lrtune.config.study_file",
        "lrtune.config.toml",
        "lrtune.config.user_code",
        "lrtune.core.files",  # its folders are the commands' and the jobs' own
    )
    own = options(TREE)
    wrong = {
        place: word
        for place, text in strings()
        if not place.startswith(doors) and "\n" not in text and not text.startswith("--")  # where one is declared
        for word in OPTION.findall(text)
        if word in own and "lrtune optimize --" not in text and "optuna storage" not in text and "``" not in text
    }
    assert not wrong
