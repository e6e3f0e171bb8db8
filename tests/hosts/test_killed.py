"""A search over a host's trainer that is killed in the middle, and started again."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from layering import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hosts

STUDY = """\
[study]
name = "killed"
metric = "valid_loss"
direction = "minimize"
epochs = 4

[train]
trainer = "train.py:trainer"

[space]
lr = [1e-4, 1.0]

[search]
budget = 2.0
seed = 0
"""
TRAIN = """\
import sys
sys.path.insert(0, {support!r})
import tiny_bert
import lrtune

def trainer():
    options = {{"per_device_train_batch_size": 4, "disable_tqdm": True}}
    return lrtune.HuggingFaceTrainer(lambda: tiny_bert.trainer({output!r}, options=options))
"""


def command(folder: Path, out: str) -> list[str]:
    return [sys.executable, "-m", "lrtune", "optimize", str(folder / "study.toml"), "--out", str(folder / out)]


def answer(folder: Path, out: str) -> dict[str, Any]:
    done = subprocess.run(command(folder, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / out / "result.json").read_text())
    return {name: found[name] for name in ("best", "cost", "trials")}


def test_killed_and_started_again_gives_the_same_answer(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(
        TRAIN.format(support=str(ROOT / "tests" / "support"), output=str(tmp_path / "output"))
    )
    undisturbed = answer(tmp_path, "whole")
    with subprocess.Popen(command(tmp_path, "killed"), stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        looks = 0
        while looks < 6:
            looks += "valid_loss" in (running.stderr.readline() or pytest.fail("it ended before it was killed"))
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert answer(tmp_path, "killed") == undisturbed
    assert list((tmp_path / "output").iterdir()) == []
