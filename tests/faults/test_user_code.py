"""User code that misbehaves: every way of it has an outcome, and the study goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.checker import RECORD, check
from faults.driver import COMMAND, HERE, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna
    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

MODES = ["fast", "nan@0", "nan@1", "nan@4", "nan@8", "inf@3", "ninf@3", "str@2", "fast", "none@2", "list@2", "huge@2",
         "complex@2", "fast", "sysexit@2", "genexit@2", "oom@2", "raise@2", "fast", "osexit@2", "fork@2"]  # fmt: skip

ROWS = {41: ("nan",), 42: ("inf", "ninf"), 46: ("raise",), 47: ("str", "none", "list", "huge", "complex"),
        48: ("sysexit", "genexit", "osexit"), 49: ("oom",), 54: ("fork",)}  # fmt: skip


def outcomes(study: optuna.Study) -> list[str]:
    return [trial.user_attrs[RECORD]["outcome"] for trial in study.trials]


@pytest.mark.row(41, 42, 46, 47, 48, 49, 54)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_way_to_misbehave(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    lab.study(search={"trials": len(MODES), "failures": 6, "isolate": isolate})
    running = lab.run(obj=",".join(f"{number}:{mode}" for number, mode in enumerate(MODES)))
    study = check(lab, trials=len(MODES))
    ended = dict(zip(MODES, outcomes(study), strict=True))
    reasons = {mode: study.trials[number].user_attrs[RECORD]["why"] for number, mode in enumerate(MODES)}
    for mode, outcome in ended.items():
        name = mode.partition("@")[0]
        wanted = {"fast": "completed", "fork": "completed", "nan": "non_finite", "inf": "non_finite",
                  "ninf": "non_finite", "oom": "out_of_memory"}.get(name, "failed")  # fmt: skip
        assert outcome == wanted, f"{mode}: {outcome} ({reasons[mode]})"
    assert "got str" in reasons["str@2"]
    assert "sys.exit" in reasons["sysexit@2"]
    assert "exit code 9" in reasons["osexit@2"]
    assert "the user's own mistake" in reasons["raise@2"]
    trained = {mode: study.trials[number].user_attrs[RECORD]["trained"] for number, mode in enumerate(MODES)}
    assert trained["nan@0"] == 1
    assert trained["nan@4"] == 5
    children = [int(line[1]) for line in lab.books if line[0] == "child"]
    assert children
    until(lambda: not any(map(_lives, children)), "the children of user code to be gone")
    assert ("another one takes its place" in running.err) == (not isolate), "isolated, no worker dies"
    for row, names in ROWS.items():
        told = (f"{mode}: {outcome}" for mode, outcome in ended.items() if mode.partition("@")[0] in names)
        saw(f"{'--isolate: ' * isolate}{'; '.join(told)}; the study goes on", row)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.row(42)
def test_infinity_is_never_best_where_more_is_better(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(study={"direction": "maximize"}, search={"trials": 4})
    lab.run(obj="0:inf@3,1:ninf@3,2:inf@8")
    study = check(lab, trials=4)
    assert outcomes(study) == ["non_finite"] * 3 + ["completed"]
    saw(f"maximise: inf and -inf diverged, the best is {study.best_value:.3g}")


@pytest.mark.row(45)
def test_every_trial_diverges(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 20})
    running = lab.run(obj="nan@0", expect=3)
    assert "lower the range" in running.last
    study = check(lab)
    assert len(study.trials) == 10
    saw(f"ended after 10 of 20: exit 3, {running.last.partition('error: ')[2]!r}, report written")


@pytest.mark.row(46)
@pytest.mark.parametrize("isolate", [False, True])
def test_the_first_trial_raises(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    lab.study(search={"isolate": isolate})
    running = lab.run(obj="raise@0", expect=3)
    assert "RuntimeError: the user's own mistake" in running.err
    assert re.findall(r'File "(.*)", line \d+, in (\w+)', running.err) == [
        (str(lab.folder / "objective.py"), name) for name in ("train", "misbehave")
    ]
    assert "mend it" in running.last
    saw(f"{'--isolate: ' * isolate}first: exit 3 with the user's traceback and no other frames, "
        f"{running.last.partition('error: ')[2]!r}")  # fmt: skip


@pytest.mark.row(46)
def test_failures_in_a_row_end_the_search(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 20, "failures": 3})
    running = lab.run(obj="1:raise@2,3+:raise@2")
    study = check(lab)
    assert outcomes(study) == ["completed", "failed", "completed", "failed", "failed", "failed"]
    assert "3 trials in a row failed" in running.json["stopped_because"]
    saw("one failure is skipped; 3 in a row end the search: exit 0 with the best so far")


@pytest.mark.row(44)
def test_scikit_learn_diverges_without_nan(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(
        study={"metric": "r2", "direction": "maximize", "epochs": 3},
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDRegressor", "data": "diabetes"},
        space={"lr": [1.0, 1e12]},
        search={"trials": 12},
    )
    lab.run(expect=3)
    study = check(lab)
    found = outcomes(study)
    assert all(outcome in ("exploded", "non_finite", "stuck") for outcome in found), found
    saw(f"{len(found)} of {len(found)} diverged ({', '.join(sorted(set(found)))}), none COMPLETE, exit 3")


@pytest.mark.row(51, 52)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_hung_steps_are_ended_and_the_study_goes_on(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    lab.study(search={"trials": 4, "isolate": isolate})
    running = lab.run("--stall-timeout", "15", obj="0:hang@3,2:gil@3")
    study = check(lab, trials=4)
    assert outcomes(study) == ["stalled", "completed", "stalled", "completed"]
    assert [trial.user_attrs[RECORD]["why"] for trial in study.trials[::2]] == ["no progress for 15 s"] * 2
    assert running.err.count("another one takes its place") == (0 if isolate else 2)
    if isolate:
        saw("--isolate: both ended after 15 s, outcome stalled, and no worker had to be replaced")
        return
    saw("sleep and a C call that holds the interpreter: both ended after 15 s, outcome stalled, 2 others complete")


@pytest.mark.row(48, 49)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_that_the_kernel_kills_is_tried_once_more(lab: Lab, saw: Callable[..., None], isolate: bool) -> None:
    lab.study(search={"trials": 3, "isolate": isolate})
    lab.run(obj="1:kill@3,3:kill@3,4:kill@3")
    study = check(lab, trials=3)
    assert outcomes(study) == ["completed", "completed", "failed"]
    assert lab.count("begin") == 5
    saw(f"{'--isolate: ' * isolate}SIGKILL once: trained again; twice: failed; the study goes on", 49)


@pytest.mark.row(4, 54)
def test_a_signal_to_isolated_trials_ends_all_of_them(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 4, "isolate": True, "workers": 2})
    running = lab.start(obj="fork@1", sleep=0.2, slow=10)
    lab.trained(6)
    running.send(signal.SIGTERM)
    assert running.wait() == 143
    assert "stopped by SIGTERM" in running.last
    children = [int(line[1]) for line in lab.books if line[0] == "child"]
    assert children
    until(lambda: not any(map(_lives, [*children, *running.family()])), "everything to be gone")
    lab.run()
    check(lab, trials=4)
    saw("--isolate, 2 workers, SIGTERM: exit 143, the processes of the trials and what they had forked are gone")


@pytest.mark.row(4, 51)
def test_a_signal_ends_an_isolated_trial_that_hangs(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2, "isolate": True})
    running = lab.start(obj="0:gil@2")
    lab.hung()
    running.send(signal.SIGTERM)
    assert running.wait() == 143
    assert "in the middle of a step" in running.last
    until(lambda: not running.family(), "everything to be gone")
    lab.run()
    check(lab, trials=2)
    saw("--isolate, in a C call: exit 143; resumed")


@pytest.mark.row(54)
def test_what_isolated_trials_leave_behind_goes_with_a_killed_worker(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2, "isolate": True})
    running = lab.start(obj="0:fork@1", sleep=0.2, hold=5)
    lab.trained(3)
    (child,) = [int(line[1]) for line in lab.books if line[0] == "child"]
    (run,) = {int(line[2]) for line in lab.books if line[0] == "begin"}
    worker = int(Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[1])
    assert worker != running.process.pid
    os.kill(worker, signal.SIGKILL)
    until(lambda: not _lives(run) and not _lives(child), "the trial's process and what it had forked to be gone")
    lab.go()
    assert running.wait() == 0
    check(lab, trials=2)
    saw("--isolate, the worker killed: its trial's process and what that had forked are gone; trained again, exit 0")


@pytest.mark.row(49)
def test_out_of_memory_under_a_limit(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 3})
    words = ["sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *lab.words()]
    lab.run(words=words, obj="1:oom@3")
    assert outcomes(check(lab, trials=3)) == ["completed", "out_of_memory", "completed"]
    saw("MemoryError under ulimit -v: out_of_memory, the study goes on")


@pytest.mark.row(55)
@pytest.mark.parametrize("trials", [90, pytest.param(500, marks=pytest.mark.slow)])
def test_no_handle_leaks(lab: Lab, saw: Callable[..., None], trials: int) -> None:
    lab.study(study={"epochs": 1}, search={"trials": trials})
    lab.run(words=["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *lab.words()])
    check(lab, trials=trials)
    saw(f"{trials} trials with 64 handles: exit 0")


@pytest.mark.row(56)
def test_a_storm_of_reports(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(study={"epochs": 100_000}, train={"trainer": "objective.py:spam"}, search={"trials": 1})
    began = time.monotonic()
    lab.run()
    (trial,) = check(lab, trials=1).trials
    points = len(json.dumps(trial.user_attrs[RECORD]["curve"]))
    assert len(trial.intermediate_values) <= 200
    assert points < 200_000
    saw(f"10^5 reports: {time.monotonic() - began:.0f} s in all, {len(trial.intermediate_values)} values in Optuna")


@pytest.mark.row(39)
@pytest.mark.parametrize("jump", [3600, -3600])
@pytest.mark.parametrize("timeout", [6.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_the_clock_jumps(lab: Lab, saw: Callable[..., None], jump: int, timeout: float, shim: Path) -> None:
    lab.study(search={"trials": "", "budget": 400.0, "timeout": timeout})
    began, now = time.monotonic(), lab.folder / "now"
    env = {"LD_PRELOAD": str(shim), "JUMP_FILE": str(now), "JUMP_SECS": str(jump)}
    running = lab.start(obj="1:jump@3", slow=40, env=env)
    assert running.wait() == 0, running.err
    took = time.monotonic() - began
    assert f"time limit of {timeout:g} s" in running.json["stopped_because"]
    pieces = [piece for trial in check(lab).trials for piece in trial.user_attrs[RECORD]["pieces"]]
    assert all(piece[1] >= 0 for piece in pieces)
    moments = [piece[0] for piece in pieces]
    assert max(moments) - min(moments) > 3000, "the clock did not jump within the run"
    assert took > timeout
    saw(f"{jump:+d} s: ended by its time limit of {timeout:g} s, after {took:.0f} s with start and report; "
        "no negative duration")  # fmt: skip


MANNERS = """
import logging, os, signal, sys, threading, warnings
logging.basicConfig(stream=sys.stdout, level=0)
print("loaded")

def train(recipe):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.clear()
    warnings.simplefilter("error")
    threading.Thread(target=threading.Event().wait).start()
    sys.stdout = sys.stderr = None
    for epoch in range(recipe.epochs):
        os.write(1, b"{not json}" * 2000)
        yield {"valid_loss": (recipe.lr - 0.1) ** 2 + 1 / (epoch + 1), f"new_{epoch}": True}
"""


@pytest.mark.row(11, 12)
def test_code_with_bad_manners_leaves_stdout_alone(lab: Lab, saw: Callable[..., None]) -> None:
    (lab.folder / "manners.py").write_text(MANNERS)
    lab.study(train={"trainer": "manners.py:train"}, search={"trials": 2})
    running = lab.run()
    assert running.json == json.loads((lab.out / "result.json").read_text())
    check(lab, trials=2)
    saw("code that writes to descriptor 1, clears the environment, ignores SIGTERM, leaves threads and takes the "
        "streams away: exit 0, stdout exactly the JSON")  # fmt: skip


@pytest.mark.row(47)
@pytest.mark.parametrize(
    ("yields", "said"),
    [
        ("{}", "an empty mapping"),
        ("{'valid_loss': 'nan'}", "got str"),
        ("{'valid_loss': 1.0, 'n': 10**400}", "too large for a float"),
        ("{1: 1.0}", "got 1 for a name"),
    ],
)
def test_what_is_no_number_is_named(lab: Lab, yields: str, said: str) -> None:
    (lab.folder / "odd.py").write_text(f"def train(recipe):\n    while True:\n        yield {yields}\n")
    lab.study(train={"trainer": "odd.py:train"}, search={"trials": 2})
    lab.run(expect=3)
    for trial in check(lab, trials=2).trials:
        assert said in trial.user_attrs[RECORD]["why"]


ENDS_ITSELF = """
import os
os._exit(3)
"""

GOES_AWAY = """
import os
os.chdir("/")


def train(recipe):
    for epoch in range(recipe.epochs):
        yield {"valid_loss": recipe.lr / (1 + epoch)}
"""

WANDERS = """
import os
import network

THERE = os.path.join(os.path.dirname(__file__), "elsewhere")


def trainer():
    def loss(output, target):
        os.chdir(THERE)
        return network.loss(output, target)

    return network.lrtune.TorchTrainer(
        model=network.model,
        train_data=network.blobs(network.ROWS, 0),
        valid_data=network.blobs(256, 1),
        loss=loss,
        optimizer="sgd",
        batch_size=32,
        device="cpu",
    )
"""

SAYS_NOTHING = """
def train(recipe):
    yield {"valid_loss": "nothing"}
"""


@pytest.mark.row(48)
def test_code_that_ends_its_process_while_it_is_loaded_is_not_loaded_for_ever(
    lab: Lab, saw: Callable[..., None]
) -> None:
    (lab.folder / "code.py").write_text(ENDS_ITSELF)
    lab.study(train={"trainer": "code.py:train"})
    told = lab.run(expect=3)
    assert told.last.startswith("lrtune: error: 3 workers in a row died before they could begin")
    assert told.err.count("takes its place") == 2
    saw("os._exit while the code is loaded: three tries, exit 3")


@pytest.mark.row(85)
def test_code_that_changes_the_working_directory_changes_nothing(lab: Lab, saw: Callable[..., None]) -> None:
    (lab.folder / "code.py").write_text(GOES_AWAY)
    lab.study(train={"trainer": "code.py:train"})
    lab.run(expect=0)
    assert (lab.out / "result.json").exists()
    saw("the code goes to / while it is loaded: the answer is where it was asked for, exit 0")


@pytest.mark.row(85)
@pytest.mark.parametrize(
    "command",
    ["optimize", pytest.param("range-test", marks=pytest.mark.slow), pytest.param("compare", marks=pytest.mark.slow)],
)
def test_training_that_changes_the_working_directory_changes_nothing(
    lab: Lab, saw: Callable[..., None], command: str
) -> None:
    shutil.copy(HERE / "network.py", lab.folder / "network.py")
    (lab.folder / "code.py").write_text(WANDERS)
    (lab.folder / "elsewhere").mkdir()
    lab.study(
        study={"epochs": 2},
        train={"trainer": "code.py:trainer"},
        search={"strategy": "freeze-thaw", "trials": "", "budget": 2.0, "checkpoint_every": 0.05},
    )
    more = {
        "optimize": ["--storage", "s.db", "--json-log", "log.jsonl"],
        "range-test": ["--steps", "20", "--seeds", "1"],
        "compare": ["--storage", "c.db", "--strategies", "freeze-thaw", "--seeds", "1"],
    }[command]
    lab.run(words=[*COMMAND, command, "study.toml", "--out", "out", "--json", *more])
    assert not list((lab.folder / "elsewhere").iterdir())
    for name in {"optimize": ["result.json", "report.html"], "range-test": ["range-test.json", "range-test.html"],
                 "compare": ["compare.json", "compare.html"]}[command]:  # fmt: skip
        assert (lab.out / name).exists()
    if command == "optimize":
        check(lab)
        assert len(list(lab.folder.rglob("*.npz"))) == 1, "what was paused is tidied away, the winner's model stays"
    saw(f"{command}, all paths relative, and the code goes elsewhere at every step: all is where it was asked for")


@pytest.mark.row(47)
def test_where_every_trial_fails_the_last_reason_is_said(lab: Lab, saw: Callable[..., None]) -> None:
    (lab.folder / "code.py").write_text(SAYS_NOTHING)
    lab.study(train={"trainer": "code.py:train"}, search={"trials": 2})
    told = lab.run("--quiet", expect=3)
    assert told.last.count("must yield numbers, got str") == 1
    saw(f"every trial fails: exit 3, {told.last[:120]}")
