"""The hosts' programs of the book: their answer is TorchTrainer's to within noise, and survives SIGKILL."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import torch
from layering import ROOT
from sklearn.datasets import load_digits
from torch import nn

import lrtune

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hosts

PROGRAMS = {"keras_model": "keras", "skorch_net": "skorch", "lightning_module": "lightning"}
FOLDER = ROOT / "docs" / "hosts"


def started(name: str, folder: Path) -> subprocess.Popen[str]:
    if importlib.util.find_spec(PROGRAMS[name]) is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed; nox -s hosts installs it")
    folder.mkdir(exist_ok=True)
    environment = {"KERAS_BACKEND": "torch", **os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen[str]) -> tuple[float, float]:
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    lr, value = said.split()[-2:]
    return float(lr), float(value)


def reports(folder: Path) -> int:
    """Trials that have been stored so far."""
    try:
        with closing(sqlite3.connect(folder / "answer.db")) as database:
            return int(database.execute("select count(*) from trials where state != 'WAITING'").fetchone()[0])
    except sqlite3.Error:
        return 0


def torchs(lr: float) -> float:
    """The held-out loss of TorchTrainer at a learning rate: the same model, data and optimizer; mean of three seeds."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    trainer = lrtune.TorchTrainer(
        model=lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        train_data=(x[:1300], y[:1300]),
        valid_data=(x[1300:], y[1300:]),
        optimizer="adam",
    )
    run = trainer.start([lrtune.Recipe(lr=lr, epochs=4, seed=seed) for seed in range(3)])
    return sum(report.point.values["valid_loss"] for report in run.advance(10**6)) / 3


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_answers_as_torch_does_and_again_after_sigkill(name: str, tmp_path: Path) -> None:
    whole = answer(started(name, tmp_path / "whole"))
    # Seeds alone move the loss by up to a fifth around its mean: 0.30 to 0.44 at a learning rate of 0.0186.
    assert whole[1] == pytest.approx(torchs(whole[0]), rel=0.3)
    assert torchs(whole[0]) < 1.5 * min(torchs(lr) for lr in (0.003, 0.01, 0.03))

    folder = tmp_path / "killed"
    process = started(name, folder)
    while process.poll() is None and reports(folder) < 4:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was too quick to be killed"
    assert whole == answer(started(name, folder))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_user_writes_six_lines_at_most(name: str) -> None:
    """The lines of the program that are lrtune's and not the host's."""
    source = (FOLDER / f"{name}.py").read_text()
    main = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    lines = [node for node in main.body if "lrtune" in ast.unparse(node) or "result" in ast.unparse(node)]
    assert len(lines) + source.count("import lrtune") <= 6
