"""PyTorch training that breaks: gradients, memory, the processes of a DataLoader."""

from __future__ import annotations

import os
import shutil
import signal
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import pytest
from faults.checker import RECORD, check
from faults.driver import HERE, until
from faults.test_user_code import _lives, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def on_torch(lab: Lab, trainer: str = "trainer", epochs: int = 3, **search: object) -> None:
    for name in ("network.py", "torched.py"):
        shutil.copy(HERE / name, lab.folder / name)
    lab.study(
        study={"epochs": epochs}, train={"trainer": f"torched.py:{trainer}"}, space={"lr": [1e-3, 1e-1]}, search=search
    )


@pytest.mark.row(43)
def test_gradients_that_are_not_finite_while_the_loss_is(lab: Lab, saw: Callable[..., None]) -> None:
    on_torch(lab, trials=4)
    lab.run(obj="1:infgrad@20,2:nangrad@20")
    study = check(lab, trials=4)
    assert outcomes(study) == ["completed", "non_finite", "non_finite", "completed"]
    said = []
    for trial in study.trials[1:3]:
        record = trial.user_attrs[RECORD]
        assert "a gradient was NaN or infinite" in record["why"]
        assert record["trained"] == 2, "it is seen at the end of the epoch in which it happens"
        said.append(record["why"])
    saw(f"from step 20 on (16 steps an epoch): {'; '.join(said)}; the study goes on")


@pytest.mark.row(50)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_memory_of_the_device_runs_out(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    on_torch(lab, epochs=1, trials=24, failures=30, isolate=isolate)
    lab.run(obj="0:fast,1:small@3,23:fast,2+:oom@3")
    study = check(lab, trials=24)
    assert outcomes(study) == ["completed", "completed", *["out_of_memory"] * 21, "completed"]
    assert {line[1] for line in lab.books if line[0] == "oom"} >= {"32", "16", "2"}, (
        "a batch is halved down to two: BatchNorm needs them"
    )
    resident = [int(line[2]) for line in lab.books if line[0] == "begin"][2:]
    grown = [after / before for before, after in pairwise(resident)]
    late = [growth for growth in grown if growth > 1.01]  # what draws the dashboard's note is loaded late, once
    assert median(grown) <= 1.01, f"what a failed run held is free again: {grown}"
    saw(f"{'--isolate: ' * isolate}CUDA's error, emulated: a batch that does not fit is halved, the trial completes; "
        f"where not even one sample fits: out_of_memory; memory after 21 such trials {resident[-1] / resident[0]:.2f} "
        f"times that after the first, {len(late)} of 21 steps above 1 %")  # fmt: skip


@pytest.mark.row(53)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_of_the_data_loader_is_killed(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    on_torch(lab, "loading", trials=3, isolate=isolate)
    running = lab.start(obj="1:waits@5")
    until(lambda: any(line[0] == "waits" for line in lab.books), "the second run to wait")
    loaders = [int(line[1]) for line in lab.books if line[0] == "loader"]
    os.kill(loaders[-1], signal.SIGKILL)
    (lab.folder / "killed").touch()
    assert running.wait() == 0, running.err
    study = check(lab, trials=3)
    assert outcomes(study) == ["completed", "failed", "completed"]
    why = study.trials[1].user_attrs[RECORD]["why"].strip().splitlines()[-1]
    assert "worker" in why
    loaders = [int(line[1]) for line in lab.books if line[0] == "loader"]
    assert len(loaders) >= 6
    until(lambda: not any(map(_lives, [*loaders, *running.family()])), "every process to be gone")
    saw(f"{'--isolate: ' * isolate}kill -9 of one of two: the trial failed ({why}), the study went on, "
        f"none of {len(loaders)} loader processes is left")  # fmt: skip


@pytest.mark.slow
@pytest.mark.row(53)
def test_the_loaders_of_a_killed_worker_go_with_it(lab: Lab, saw: Callable[..., None]) -> None:
    on_torch(lab, "loading", trials=2)
    running = lab.start(obj="0:waits@5")
    until(lambda: any(line[0] == "waits" for line in lab.books), "the first run to wait")
    (worker,) = {int(line[1]) for line in lab.books if line[0] == "begin"}
    loaders = [int(line[1]) for line in lab.books if line[0] == "loader"]
    os.kill(worker, signal.SIGKILL)
    assert running.wait() == 0, running.err
    until(lambda: not any(map(_lives, loaders)), "its loader's processes to be gone")
    check(lab, trials=2)
    saw("the worker killed: its loader's processes are gone, trained again, exit 0")
