"""What the pages of the documentation and the messages give people to copy is there, and runs."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest
from layering import PACKAGE, ROOT

import lrtune
from lrtune import cli
from lrtune.integrations.trackers import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text()):
            if found["language"] in languages and "--8<--" not in found["body"]:
                yield page.name, found["body"]


PROGRAMS = list(blocks("python"))
LONG = re.compile(r"compare\(|Tracker|Notes")  # those take seconds
NEEDED = {"Notes": "optuna_dashboard", "MLflow": "mlflow", "TensorBoard": "tensorboard", "import keras": "keras"}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=f"{program[0]}-{number}", marks=pytest.mark.slow if LONG.search(program[1]) else ())
        for number, program in enumerate(PROGRAMS)
    ],
)
def test_the_programs_of_the_pages_run(
    program: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page speaks of a server there is a file here."""
    _, body = program
    for word, package in NEEDED.items():
        if word in body:
            pytest.importorskip(package)

    def train(recipe: lrtune.Recipe) -> Iterator[float]:
        for epoch in range(recipe.epochs):
            yield abs(recipe.lr - 0.01) / (1 + epoch)

    monkeypatch.chdir(tmp_path)
    names = {"lrtune": lrtune, "train": train, "space": lrtune.Space(lr=(1e-3, 0.1))}
    exec(body.replace("http://127.0.0.1:5000", "sqlite:///mlflow.db"), names)  # noqa: S102 -- what a person copies


def commands() -> list[list[str]]:
    lines = [line for _, body in blocks("sh", "text", "") for line in body.splitlines()]
    return [shlex.split(line.partition("#")[0]) for line in lines if line.startswith("lrtune ")]


def test_the_commands_of_the_pages_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its options, from its own help."""
    assert len(commands()) > 5
    for _, *words in commands():
        known = [word for word in words if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
        depth = 2 if known[0] in {"job", "storage"} else 1
        assert cli.run((*known[:depth], "--help")) == 0
        helped = capsys.readouterr().out
        assert all(word.partition("=")[0] in helped for word in words if word.startswith("--")), words


def test_the_extras_that_messages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [path.read_text() for path in (*PACKAGE.rglob("*.py"), *PAGES, ROOT / "README.md")]
    named = {extra for text in texts for extra in re.findall(r"lrtune\[([^\]]+)\]", text)}
    named = (named - {"{package}"}) | set(NAMES)
    assert len(named) > 4
    assert named <= set(extras)
