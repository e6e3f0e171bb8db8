"""Kills in a row over a freeze-thaw study on a real PyTorch trainer: the answer is the undisturbed one."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from faults.checker import RECORD, check
from faults.driver import HERE, Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import optuna

pytestmark = [pytest.mark.faults]

STEPS_PER_EPOCH = 16


def laboratory(folder: Path, budget: float, epochs: int) -> Lab:
    lab = Lab(folder)
    shutil.copy(HERE / "network.py", folder / "network.py")
    lab.study(
        study={"epochs": epochs},
        train={"trainer": "network.py:trainer"},
        space={"lr": [1e-4, 10.0], "schedule": ["constant", "cosine"]},
        search={"strategy": "freeze-thaw", "trials": "", "budget": budget, "checkpoint_every": 0.05},
    )
    return lab


def steps(lab: Lab) -> int:
    """Training steps that were really taken."""
    file = lab.folder / "books"
    return file.stat().st_size if file.exists() else 0


def seen(study: optuna.Study) -> list[tuple[Any, ...]]:
    """All that a study knows but for times and cuts: recipes, curves, outcomes, values, what was paid."""
    found = []
    for trial in study.trials:
        record = trial.user_attrs[RECORD]
        found.append((trial.params, record["curve"], record["outcome"], record["value"], round(record["trained"], 9)))
    return found


def kill_on(lab: Lab, kills: int, *, patience: float, sleep: float) -> int:
    """So many kills at random; how many of them came after training had begun."""
    dice, within = random.Random(4), 0
    for _ in range(kills):
        before = steps(lab)
        running = lab.start(sleep=sleep, hold=before + math.ceil(2 * patience / sleep))
        end = time.monotonic() + 300
        early = dice.random() < 0.1  # some die before they have begun
        while not early and steps(lab) == before and running.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, patience))
        assert running.process.poll() is None, f"it ended before it was killed: {running.err[-2000:]}"
        running.kill()
        within += steps(lab) > before
    return within


@pytest.mark.row(1)
@pytest.mark.parametrize(
    ("kills", "budget", "epochs", "patience", "sleep", "most"),
    [
        pytest.param(5, 4.0, 27, 0.4, 0.006, 0.1, marks=pytest.mark.timeout(900)),
        pytest.param(100, 6.0, 81, 1.4, 0.02, 0.05, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
    ],
    ids=["5", "100"],
)
def test_answer_and_curves_are_the_undisturbed_ones(  # noqa: PLR0917 -- a row of a table
    tmp_path: Path,
    saw: Callable[..., None],
    kills: int,
    budget: float,
    epochs: int,
    patience: float,
    sleep: float,
    most: float,
) -> None:
    calm, lab = laboratory(tmp_path / "calm", budget, epochs), laboratory(tmp_path / "killed", budget, epochs)
    try:
        undisturbed = calm.run().json
        within = kill_on(lab, kills, patience=patience, sleep=sleep)
        answer = lab.run().json
        assert seen(check(lab)) == seen(check(calm))
        assert json.dumps(answer) == json.dumps(undisturbed)
        twice = steps(lab) / steps(calm) - 1
        assert 0 <= twice <= most, f"{twice:.1%} of all steps were taken twice"
    finally:
        calm.close()
        lab.close()
    saw(
        f"{kills} kills, {within} of them while it trained: result.json and all curves equal to the undisturbed "
        f"run's; {twice:.1%} of {steps(calm)} steps were taken twice"
    )
