"""The studies of PyTorch's on a CUDA device, in single and in half precision, through the whole search."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from layering import ROOT

import lrtune
from lrtune.config.study_file import read_study
from lrtune.config.user_code import load

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

LEARNED = 0.7  # of the untrained model's loss


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["digits-mlp", "python-lm"])
def test_a_study_finds_its_learning_rate_on_the_device(name: str, precision: str) -> None:
    study = read_study(ROOT / "studies" / name / "study.toml")
    trainer = load("train.py:trainer", study.folder, where="test")(precision)
    assert trainer._settings.device.type == "cuda"
    untrained = trainer.baseline(study.space.recipe({"lr": 0.01, **_others(study)}), "valid_loss").untrained
    told = study.arguments() | {"budget": 1.5}
    result = lrtune.tune(trainer, study.space, **told)
    assert result.best_value is not None
    assert math.isfinite(result.best_value)
    assert result.best_value < LEARNED * untrained
    assert result.cost <= 1.5 + 1e-9
    assert torch.cuda.memory_allocated() < 2**28  # what is paused is on the host, what has ended is nowhere


def _others(study: object) -> dict[str, object]:
    """Some value of each other setting of the study's space."""
    space = study.space  # type: ignore[attr-defined]  # it has it, untyped
    return {n: d.choices[0] for n, d in space.distributions().items() if n != "lr"}


def isolated(folder: Path, before: str) -> subprocess.CompletedProcess[str]:
    """A search with `isolate` in a process of its own, in which CUDA was used before or not."""
    script = folder / "script.py"
    script.write_text(ISOLATED)
    call = [sys.executable, str(script), str(ROOT / "studies" / "digits-mlp" / "study.toml"), before]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=240, cwd=folder)


def test_each_trial_in_a_process_of_its_own_trains_on_the_device(tmp_path: Path) -> None:
    done = isolated(tmp_path, "fresh")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["outcomes"].get("failed", 0) == 0, done.stderr[-3000:]
    assert found["value"] < LEARNED * 2.3
    assert found["device"] == "cuda"


def test_a_process_that_uses_cuda_already_is_told_so(tmp_path: Path) -> None:
    done = isolated(tmp_path, "in use")
    assert done.returncode != 0
    assert "already uses CUDA" in done.stderr.splitlines()[-1]


ISOLATED = """
import json, sys
import torch
import lrtune
from lrtune.config.study_file import read_study
from lrtune.config.user_code import load
from pathlib import Path

if __name__ == "__main__":
    study = read_study(Path(sys.argv[1]))
    if sys.argv[2] == "in use":
        torch.ones(1, device="cuda")
    trainer = load("train.py:trainer", study.folder, where="test")("float32")
    told = study.arguments() | {"budget": 1.2, "isolate": True}
    result = lrtune.tune(trainer, study.space, **told)
    device = trainer._settings.device.type
    print(json.dumps({"value": result.best_value, "outcomes": result.trials_by_outcome, "device": device}))
"""
