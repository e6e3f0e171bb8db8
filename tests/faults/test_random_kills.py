"""Random kills of one and two workers, of fresh studies as often as of old ones.

Their number is ``LRTUNE_KILLS``, 40 unless it is set. Each study is killed once before it has ended for the first
time and once more when it is resumed, at any moment between its start and its end; then it is left alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from faults.checker import RECORD, check
from faults.driver import HERE, Lab
from faults.starting import starting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import optuna
    from faults.starting import Starter

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("LRTUNE_KILLS", "40"))
SLEEP = 0.002
MOST_TWICE = 0.02
SEARCHES: dict[int, dict[str, Any]] = {
    1: {"strategy": "freeze-thaw", "trials": "", "budget": 3.0},
    2: {"strategy": "random", "trials": 4, "workers": 2},  # what is tried must not hang on who is faster
}


def laboratory(folder: Path, workers: int) -> Lab:
    lab = Lab(folder)
    shutil.copy(HERE / "saving.py", folder / "saving.py")
    lab.study(train={"trainer": "saving.py:trainer"}, search={"checkpoint_every": 0.015, **SEARCHES[workers]})
    return lab


def seen(study: optuna.Study) -> list[str]:
    """All that a study knows but for times, cuts, and the order in which two workers began."""
    records = [trial.user_attrs[RECORD] for trial in study.trials]
    return sorted(
        json.dumps([r["recipe"], r["curve"], r["outcome"], r["value"], round(r["trained"], 6)]) for r in records
    )


def paid(lab: Lab) -> Counter[str]:
    """How often each step was taken."""
    return Counter(" ".join(words[1:]) for words in lab.books)


@pytest.mark.row(1, 2, 3)
@pytest.mark.parametrize("workers", [1, 2])
def test_random_kills_brick_nothing_and_change_nothing(tmp_path: Path, workers: int, saw: Callable[..., None]) -> None:
    with starting(sleep=SLEEP) as starter:
        found, share = killed(tmp_path, starter, workers)
    saw(found)
    assert share <= MOST_TWICE, found


def killed(tmp_path: Path, starter: Starter, workers: int) -> tuple[str, float]:
    """Kill, look, and say what came of it; the share of steps that were taken twice."""
    dice = random.Random(workers)
    calm = laboratory(tmp_path / "calm", workers)
    code, whole = starter.run(calm)
    assert code == 0, (calm.folder / "stderr").read_text()
    undisturbed = check(calm)
    answer = json.loads((calm.out / "result.json").read_text())
    done = {"fresh": 0, "old": 0}
    steps = twice = studies = 0
    while sum(done.values()) < KILLS // 2:
        lab = laboratory(tmp_path / f"killed-{studies}", workers)
        studies += 1
        for which in ("fresh", "old"):
            code, _ = starter.run(lab, kill=dice.uniform(0, whole))
            assert code in (0, -9), f"study {studies}: {(lab.folder / 'stderr').read_text()}"
            done[which] += code == -9
        code, _ = starter.run(lab)
        assert code == 0, f"study {studies}: {(lab.folder / 'stderr').read_text()}"
        assert seen(check(lab, killed=False)) == seen(undisturbed), f"study {studies}"
        found = json.loads((lab.out / "result.json").read_text())
        same = answer if workers == 1 else {**answer, "best": found["best"]}  # of equals, the one that was first
        assert found == same, f"study {studies}"
        assert found["best"]["value"] == answer["best"]["value"]
        left = sorted(path.name for path in lab.out.rglob("*"))
        assert left == ["report.html", "result.json"], left
        steps += len(paid(lab))
        twice += sum(paid(lab).values()) - len(paid(lab))
        shutil.rmtree(lab.folder)
        print(workers, done, f"{twice} of {steps} steps twice", flush=True)  # noqa: T201 -- how far it is
    share = twice / steps
    kills = f"{done['fresh']} kills of fresh studies and {done['old']} of old ones, {workers} worker(s)"
    return f"{kills}: every answer is the undisturbed one, {share:.2%} of {steps} steps were taken twice", share
