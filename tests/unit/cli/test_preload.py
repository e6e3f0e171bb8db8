"""What a worker loads while it waits: installed libraries in the file's own order, nothing of the user's own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lrtune.cli.preload import imports_ahead

if TYPE_CHECKING:
    from pathlib import Path

STUDY = """\
[study]
name = "s"
metric = "valid_loss"
epochs = 3
[train]
{train}
[space]
lr = [1e-3, 1.0]
[search]
trials = 6
strategy = "random"
"""
LOADED = """\
import pathlib, sys
from lrtune.cli.preload import load_ahead
load_ahead(pathlib.Path(sys.argv[1]) if sys.argv[1] else None, {"estimator": sys.argv[2] or None})
print(*sorted({"optuna", "torch", "torch._dynamo", "sklearn", "sklearn.linear_model", "numpy"} & set(sys.modules)))
"""


def loaded(study: Path | None, estimator: str = "") -> set[str]:
    """Which of some libraries a worker has loaded ahead."""
    command = [sys.executable, "-c", LOADED, str(study or ""), estimator]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""Words."""\nfrom __future__ import annotations\nimport numpy as np, optuna\n', 3),
        ("import lrtune\nfrom sklearn.datasets import load_digits\nfrom torch import nn\n", 3),
        ("import numpy\nX = numpy.zeros(3)\nimport torch\n", 1),
        ("import numpy\nif True:\n    import torch\n", 1),
        ("import beside_this_file\nimport torch\n", 0),
        ("import numpy\nfrom . import beside\nimport torch\n", 1),
        ("import os\nimport numpy\nos.environ['OMP_NUM_THREADS'] = '1'\n", 0),
        ("import numpy\ndef (:\n", 0),
        ("import numpy\0\n", 0),
        ("", 0),
    ],
)
def test_of_the_training_file_the_imports_that_it_begins_with(tmp_path: Path, text: str, found: int) -> None:
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "beside_this_file.py").write_text("raise RuntimeError\n")
    modules = [name for line in text.splitlines() for name in line.replace(",", " ").split()]
    names = imports_ahead(tmp_path / "train.py")
    assert len(names) == found
    assert all(name in modules for name in names)


def test_a_file_that_is_not_there_has_no_imports(tmp_path: Path) -> None:
    assert imports_ahead(tmp_path / "train.py") == []
    assert imports_ahead(tmp_path) == []


def test_nothing_of_the_users_own_is_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch\nraise RuntimeError('run')\n")
    (tmp_path / "study.toml").write_text(STUDY.format(train='trainer = "train.py:train"'))
    assert loaded(tmp_path / "study.toml") == {"optuna", "torch", "torch._dynamo", "numpy"}


def test_what_an_estimator_comes_from_is_loaded(tmp_path: Path) -> None:
    told = 'estimator = "sklearn.linear_model:SGDClassifier"\ndata = "iris"'
    (tmp_path / "study.toml").write_text(STUDY.format(train=told))
    assert loaded(tmp_path / "study.toml") >= {"sklearn.linear_model"}
    assert loaded(None, "sklearn.linear_model:SGDClassifier") >= {"sklearn.linear_model"}


@pytest.mark.parametrize("text", ["[train]\ntrainer = 3\n", "nonsense", "[train]\ntrainer = 'nowhere.py:x'\n"])
def test_a_study_file_that_is_not_in_order_is_left_to_whoever_reads_it_in_full(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert "torch" not in loaded(tmp_path / "study.toml")


def test_what_the_training_file_makes_once_is_not_made_by_two_workers_at_once(tmp_path: Path) -> None:
    """A download, say: the second worker finds it there."""
    (tmp_path / "train.py").write_text(
        "import pathlib, time\n"
        "DATA = pathlib.Path(__file__).with_name('data')\n"
        "if not DATA.exists():\n"
        "    DATA.with_name('part').touch(exist_ok=False)\n"
        "    time.sleep(0.5)\n"
        "    DATA.with_name('part').rename(DATA)\n"
        "def train(recipe):\n"
        "    for epoch in range(recipe.epochs):\n"
        "        time.sleep(0.1)\n"
        "        yield {'valid_loss': recipe.lr + 1 / (epoch + 1)}\n"
    )
    (tmp_path / "study.toml").write_text(STUDY.format(train='trainer = "train.py:train"'))
    command = [sys.executable, "-m", "lrtune", "optimize", "study.toml", "--workers", "2", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
