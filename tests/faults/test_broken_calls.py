"""An error at the n-th write, fsync, rename, unlink, open and read, of a short search and of one that is resumed.

Whatever fails, the command says so in a sentence or goes on without, and the next start reaches the answer. Every
``LRTUNE_BREAKS``-th call is broken, every one where that is 1; 20 unless it is set.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from faults import breaking
from faults.checker import check
from faults.driver import HERE, Lab
from faults.starting import Starter, starting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

EVERY = int(os.environ.get("LRTUNE_BREAKS", "20"))
CODES = {"write": (errno.ENOSPC, errno.EIO), "read": (errno.EIO,), "open": (errno.EACCES, errno.EMFILE)}
USUAL = (errno.EIO, errno.ENOSPC)


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    with starting(preload=breaking.built(tmp_path)) as made:
        yield made


def laboratory(folder: Path) -> Lab:
    lab = Lab(folder)
    shutil.copy(HERE / "saving.py", folder / "saving.py")
    lab.study(
        study={"epochs": 2},
        train={"trainer": "saving.py:trainer"},
        search={"strategy": "freeze-thaw", "trials": 3, "checkpoint_every": 0.01},
    )
    return lab


def told(lab: Lab) -> str:
    return (lab.folder / "stderr").read_text()


@pytest.mark.row(13, 16, 18)
@pytest.mark.parametrize("which", ["search", "resume"])
@pytest.mark.parametrize("call", breaking.CALLS)
def test_a_broken_call_is_a_sentence_and_the_next_start_reaches_the_answer(
    tmp_path: Path, starter: Starter, call: str, which: str, saw: Callable[..., None]
) -> None:
    calm = laboratory(tmp_path / "calm")
    code, whole = starter.run(calm)
    assert code == 0, told(calm)
    check(calm)
    answer = json.loads((calm.out / "result.json").read_text())
    begun = laboratory(tmp_path / "begun")
    while which == "resume" and not list(begun.out.glob("checkpoints/*.npz")):  # killed too early, or after its end
        again(laboratory(tmp_path / "empty"), begun)
        starter.run(begun, kill=random.uniform(0.2, 0.8) * whole)
    lab = laboratory(tmp_path / "counted")
    again(begun, lab)
    assert starter.run(lab, fault=[call, 0, 0, str(lab.folder)])[0] == 0, told(lab)
    calls = int((lab.folder / "counted").read_text())
    ends: dict[int, int] = {}
    wrong: list[str] = []
    for nth in range(1, calls + 1, EVERY):
        codes = CODES.get(call, USUAL)
        code = codes[nth // EVERY % len(codes)]
        again(begun, lab)
        ended, _ = starter.run(lab, fault=[call, nth, code, str(lab.folder)])
        ends[ended] = ends.get(ended, 0) + 1
        what = f"{call} {nth} of {calls} of a {which}, {errno.errorcode[code]}: exit {ended}: {told(lab)[-1500:]}"
        try:
            held(starter, lab, ended, answer)
        except AssertionError as error:
            wrong.append(f"{what}\n{str(error)[:1500]}")
            print(wrong[-1], flush=True)  # noqa: T201 -- one that fails is to be seen before all have been tried
    said = ", ".join(f"exit {code} {count} times" for code, count in sorted(ends.items()))
    found = f"{call}: {sum(ends.values())} of {calls} calls of a {which} broken: {said}"
    print(found, flush=True)  # noqa: T201 -- a run by hand is to say so
    assert not wrong, "\n".join(wrong)
    saw(f"{found}; the next start reached the answer each time")


def held(starter: Starter, lab: Lab, ended: int, answer: dict[str, Any]) -> None:
    """Check how it ended, and what the next start makes of it."""
    assert ended in (0, 2, 3, 4)
    assert "Traceback" not in told(lab)
    assert "bug of lrtune" not in told(lab)
    assert ended == 0 or re.search(r"^lrtune: error: .+$", told(lab).rstrip().rpartition("\n")[2])
    after, _ = starter.run(lab)
    assert after == 0, f"the next start: exit {after}: {told(lab)[-1500:]}"
    check(lab, kills=1)
    assert bare(json.loads((lab.out / "result.json").read_text())) == bare(answer)
    assert not [path.name for path in lab.folder.rglob("*.part")]


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without what it cost: a checkpoint that could not be read is paid for twice, and said to be."""
    return {name: value for name, value in answer.items() if name not in ("cost", "epochs_trained", "warnings")}


def again(begun: Lab, lab: Lab) -> None:
    """The folder as it was before the search, or before it was resumed."""
    shutil.rmtree(lab.folder)
    shutil.copytree(begun.folder, lab.folder)
