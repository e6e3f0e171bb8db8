"""The command line, from outside: what it prints where, what it writes, and its exit codes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from ports import free_port

from lrtune import cli
from lrtune.cli import console
from lrtune.cli.app import COMMANDS
from lrtune.cli.options import default_out

if TYPE_CHECKING:
    from pathlib import Path

STUDY = """\
[study]
name = "bowl"
epochs = 4

[train]
trainer = "train.py:train"

[space]
lr = [1e-3, 10.0]

[search]
strategy = "random"
trials = 3
"""

TRAIN = """\
import time

def train(recipe):
    print("printed by the user")
    x = 3.0
    for _ in range(recipe.epochs):
        x -= min(recipe.lr, 0.5) * x
        yield {"valid_loss": x * x + 0.1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LRTUNE_STORAGE", raising=False)
    monkeypatch.setitem(console._state, "debug", False)  # noqa: FBT003 -- a dictionary's item
    return tmp_path


class Ran:
    """One call in this process: exit code, stdout, stderr, and its last line."""

    def __init__(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
        capsys.readouterr()
        self.code = cli.run(arguments)
        self.out, self.err = capsys.readouterr()
        self.last = self.err.rstrip().rpartition("\n")[2]


@pytest.fixture
def lrtune(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    del folder
    return lambda *arguments: Ran(capsys, arguments)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """One call in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lrtune", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        **options,
    )


def in_the_file_alone(file: Path) -> int:
    """Trials in a copy of the storage's file without its write-ahead log, in which a clean end leaves nothing."""
    log = file.with_name(f"{file.name}-wal")
    assert not log.exists() or log.stat().st_size == 0
    copied = shutil.copy(file, file.with_name("copied.db"))
    return sum(len(study.trials) for study in _studies(f"sqlite:///{copied}"))


def _studies(url: str) -> list[optuna.Study]:
    return [optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)]


# -- help ---------------------------------------------------------------------------------------------

HEAVY = ("torch", "sklearn", "pandas", "plotly", "optuna", "numpy", "scipy", "pydantic", "rich", "sqlalchemy")


@pytest.mark.parametrize("words", [[], *([name.replace("_", "-")] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from lrtune.cli import run\n"
        f"code = run({[*words, '--help']!r})\n"
        f"print(code, sorted({{*{HEAVY!r}}} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("Usage: lrtune")
    assert ran.stdout.rstrip().endswith("0 []")


def test_nothing_said_is_help_and_the_version_is_known(lrtune: Any) -> None:
    assert "Commands:" in lrtune().out
    assert lrtune("--version").out.startswith("lrtune 0.")


# -- a search -----------------------------------------------------------------------------------------


def test_optimize_answers_and_writes(lrtune: Any, folder: Path) -> None:
    ran = lrtune("optimize", "study.toml", "--json-log", "log.jsonl")
    assert ran.code == 0, ran.err
    assert "learning rate" in ran.out
    assert "printed by the user" not in ran.out
    assert "trial 0: lr " in ran.err
    out = folder / "lrtune-out" / "bowl"
    assert f"report   {out.relative_to(folder)}/report.html" in ran.out
    result = json.loads((out / "result.json").read_text())
    assert result["trials"]["completed"] == 3
    assert "<html" in (out / "report.html").read_text()
    study = optuna.load_study(study_name="bowl", storage=f"sqlite:///{out}/study.db")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(row["trial"], row["value"]) for row in rows] == [(t.number, t.value) for t in study.trials]
    assert {row["outcome"] for row in rows} == {"completed"}


def test_json_is_all_there_is_on_stdout(lrtune: Any, folder: Path) -> None:
    ran = lrtune("optimize", "study.toml", "--json", "--quiet")
    told = json.loads(ran.out)
    assert told == json.loads((folder / "lrtune-out/bowl/result.json").read_text())
    assert {"study", "metric", "direction", "best", "band", "edge", "cost", "epochs_trained"} <= set(told)
    assert "trial 0" not in ran.err


def test_the_same_command_again_goes_on_and_fresh_starts_anew(lrtune: Any, folder: Path) -> None:
    assert lrtune("optimize", "study.toml", "--trials", "2", "--json-log", "log.jsonl").code == 0
    again = lrtune("optimize", "study.toml", "--json", "--json-log", "log.jsonl")
    assert [json.loads(line)["trial"] for line in (folder / "log.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert json.loads(again.out)["trials"]["completed"] == 3
    assert "trial 0" not in again.err
    assert "trial 2" in again.err
    fresh = lrtune("optimize", "study.toml", "--fresh", "--trials", "1", "--json")
    assert json.loads(fresh.out)["trials"]["completed"] == 1
    assert "is called 'bowl until 2" in fresh.err
    storage = f"sqlite:///{folder}/lrtune-out/bowl/study.db"
    kept = [name for name in optuna.get_all_study_names(storage) if name != "bowl"]
    assert [len(optuna.load_study(study_name=name, storage=storage).trials) for name in kept] == [3]


def test_another_direction_is_another_study(lrtune: Any) -> None:
    lrtune("optimize", "study.toml")
    ran = lrtune("optimize", "study.toml", "--direction", "maximize")
    assert ran.code == 5
    assert "minimize -> maximize" in ran.last


def test_options_alone_are_enough(lrtune: Any) -> None:
    ran = lrtune(
        *("optimize", "--estimator", "sklearn.linear_model:SGDClassifier", "--data", "iris"),
        *("--epochs", "2", "--trials", "2", "--strategy", "random", "--json"),
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["study"] == "iris-SGDClassifier"


def test_report_is_written_again_from_the_storage(lrtune: Any, folder: Path) -> None:
    assert lrtune("report", "study.toml").code == 2  # nothing there yet
    lrtune("optimize", "study.toml")
    page = folder / "lrtune-out/bowl/report.html"
    page.unlink()
    ran = lrtune("report", "study.toml")
    assert ran.code == 0, ran.err
    assert lrtune("report", "--study", "bowl").out == ran.out
    assert "holds 'bowl'" in lrtune("report", "study.toml", "--study", "other", "--out", "lrtune-out/bowl").last
    assert "learning rate" in ran.out
    assert page.exists()
    assert in_the_file_alone(folder / "lrtune-out/bowl/study.db") == 3


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimize"], "nothing to tune"),
        (["optimise"], "No such command 'optimise'"),
        (["optimize", "--trails", "3"], "No such option: --trails"),
        (["optimize", "none.toml"], "there is no such file"),
        (["optimize", "study.toml", "--trials", "0"], "--trials must be a whole number"),
        (["optimize", "study.toml", "--trials", "1.5"], "'--trials'"),
        (["optimize", "study.toml", "--trials", str(10**12)], "--trials must be"),
        (["optimize", "study.toml", "--timeout", "nan"], "--timeout must be"),
        (["optimize", "study.toml", "--workers", "1000000"], "--workers must be"),
        (["optimize", "study.toml", "--storage-retry", "nan"], "--storage-retry must be"),
        (["optimize", "study.toml", "--lr", "1,0.1"], "got 1 and 0.1"),
        (["optimize", "study.toml", "--strategy", "tpee"], "did you mean 'tpe'"),
        (["optimize", "study.toml", "--study", ""], "--study must be"),
        (["optimize", "study.toml", "--study", "a\nb"], "control character"),
        (["optimize", "study.toml", "--study", "a\u202eb"], "direction of the text"),
        (["optimize", "study.toml", "--study", "a\udc80b"], "surrogate"),
        (["optimize", "study.toml", "--study", "a" * 300], "300 characters"),
        (["optimize", "--estimator", "sklearn.linear_model:SGDClassifier", "--data", "irs"], "did you mean 'iris'"),
        (["report"], "which study?"),
        (["dashboard", "study.toml", "--port", "0"], "--port must be"),
        (["dashboard", "study.toml"], "there is no study yet"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(lrtune: Any, folder: Path, arguments: list[str], said: str) -> None:
    ran = lrtune(*arguments)
    assert ran.code == 2
    assert ran.last.startswith("lrtune: error: ")
    assert said in ran.last
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not (folder / "lrtune-out").exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "CON", ".", "Ω 🎉"])
def test_no_name_leaves_the_output_folder(lrtune: Any, folder: Path, name: str) -> None:
    before = set(folder.parent.iterdir())
    assert lrtune("optimize", "study.toml", "--study", name, "--trials", "1").code == 0
    assert set(folder.parent.iterdir()) == before
    made = [path for path in folder.iterdir() if path.name not in {"study.toml", "train.py", "__pycache__"}]
    assert [path.name for path in made] == ["lrtune-out"]
    (out,) = made[0].iterdir()
    assert (out / "result.json").exists()


def test_plain_names_stay_and_others_become_safe() -> None:
    assert default_out("digits-mlp").name == "digits-mlp"
    assert len({default_out(name).name.lower() for name in ("bowl", "Bowl", "BOWL", "bowl/", "con")}) == 5


def test_a_broken_file_shows_the_users_traceback(lrtune: Any, folder: Path) -> None:
    (folder / "train.py").write_text("1 / 0\n")
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 2
    assert "ZeroDivisionError" in ran.last
    assert "line 1, in <module>" in ran.err
    assert "lrtune/loading.py" not in ran.err


def test_code_that_fails_at_once_shows_its_traceback_and_exit_3(lrtune: Any, folder: Path) -> None:
    (folder / "train.py").write_text("def train(recipe):\n    yield {'valid_loss': 1 / 0}\n")
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 3
    assert "ZeroDivisionError" in ran.err
    assert ran.last.startswith("lrtune: error: ")


def test_a_search_where_all_diverges_ends_with_3_and_a_report(lrtune: Any, folder: Path) -> None:
    (folder / "train.py").write_text("def train(recipe):\n    yield {'valid_loss': float('nan')}\n")
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 3
    assert (folder / "lrtune-out/bowl/report.html").exists()
    assert json.loads((folder / "lrtune-out/bowl/result.json").read_text())["best"] is None
    assert in_the_file_alone(folder / "lrtune-out/bowl/study.db") == 3


def test_a_folder_that_is_a_file_is_exit_4(lrtune: Any, folder: Path) -> None:
    (folder / "taken").write_text("")
    ran = lrtune("optimize", "study.toml", "--out", "taken")
    assert ran.code == 4
    assert "not writable: taken" in ran.last


def test_debug_shows_our_own_traceback(lrtune: Any) -> None:
    assert "Traceback" in lrtune("optimize", "none.toml", "--debug").err


def test_a_password_is_never_shown(lrtune: Any) -> None:
    ran = lrtune("optimize", "study.toml", "--storage", "mysql://tuner:hunter22@db/x", "--debug")
    assert ran.code == 4
    assert "hunter22" not in ran.out + ran.err
    assert "***" in ran.last


def test_an_unforeseen_error_is_called_a_bug(lrtune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrtune.cli.optimize.here", divmod)  # raises without a frame of its own
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 1
    assert "this is a bug of lrtune's (TypeError" in ran.last


def test_an_unforeseen_error_of_a_library_is_the_librarys(lrtune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    broken = functools.partial(optuna.distributions.FloatDistribution, 1, {})
    monkeypatch.setattr("lrtune.cli.optimize.here", broken)
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 1
    assert ran.last.startswith("lrtune: error: optuna, which lrtune uses, failed (TypeError")


def test_an_unforeseen_error_of_the_users_code_is_the_users(lrtune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrtune.cli.optimize.here", lambda: {}["mine"])  # this file stands for theirs
    ran = lrtune("optimize", "study.toml")
    assert ran.code == 3
    assert "the training code failed outside of any trial (KeyError: 'mine')" in ran.last
    assert "test_cli.py" in ran.err


# -- in a process of its own --------------------------------------------------------------------------

FAILS_LATER = """\
import os, time

try:
    os.mkdir("first")
except FileExistsError:
    raise SystemError("only the first one may") from None

def train(recipe):
    for _ in range(recipe.epochs):
        time.sleep(0.2)  # the others begin meanwhile
        yield {"valid_loss": recipe.lr}
"""


def test_what_ends_another_worker_is_no_error_of_a_command_that_ends_well(folder: Path) -> None:
    (folder / "train.py").write_text(FAILS_LATER)
    ran = command("optimize", "study.toml", "--workers", "2", "--trials", "4", "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert "lrtune: error:" not in ran.stderr
    assert "lrtune: warning: a worker ended: " in ran.stderr


def test_a_closed_pipe_ends_nothing(folder: Path) -> None:
    line = f"{sys.executable} -m lrtune optimize study.toml 2>err | head -c 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=folder)
    assert ran.stdout.endswith("0\n")
    assert "Traceback" not in (folder / "err").read_text()
    assert (folder / "lrtune-out/bowl/result.json").exists()


@pytest.mark.parametrize(("where", "codes"), [(">&- 2>&-", {"0"}), (">/dev/full", {"4"})])
def test_no_stdout_loses_nothing(folder: Path, where: str, codes: set[str]) -> None:
    line = f"({sys.executable} -m lrtune optimize study.toml {where}); echo $? >code"
    subprocess.run(["bash", "-c", line], capture_output=True, check=True, cwd=folder)
    assert (folder / "code").read_text().strip() in codes
    assert (folder / "lrtune-out/bowl/result.json").exists()


def test_json_stays_clean_of_what_children_print(folder: Path) -> None:
    (folder / "train.py").write_text(TRAIN.replace("import time", "import os\nos.system('echo child')"))
    ran = command("optimize", "study.toml", "--json", "--isolate", cwd=folder)
    assert json.loads(ran.stdout)["study"] == "bowl"
    assert "child" in ran.stderr
    assert in_the_file_alone(folder / "lrtune-out/bowl/study.db") == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_cleanly_and_says_how_to_resume(folder: Path, number: int, code: int) -> None:
    going = "        time.sleep(0.1)\n        open(f'going-{os.getpid()}', 'w').close()\n        x -="
    text = TRAIN.replace("        x -=", going).replace("import time", "import os, time")
    (folder / "train.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "lrtune", "optimize", "study.toml", "--trials", "1000", "--workers", "2"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(folder.glob("going-*"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=280)
    assert process.returncode == code
    assert err.count("lrtune: error: ") == 1  # of two workers one speaks
    last = err.rstrip().rpartition("\n")[2]
    assert last.startswith(f"lrtune: error: stopped by {signal.Signals(number).name}: ")
    assert last.endswith("run the same command to resume")
    assert in_the_file_alone(folder / "lrtune-out/bowl/study.db") >= 2


def test_a_step_that_does_not_come_back_is_left_behind(folder: Path) -> None:
    (folder / "train.py").write_text(
        TRAIN.replace("        x -=", "        open('going', 'w').close()\n        time.sleep(300)\n        x -=")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lrtune", "optimize", "study.toml"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (folder / "going").exists() and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=280)
    assert process.returncode == 143
    assert "in the middle of a step; run the same command to resume" in err


def test_the_dashboard_is_on_loopback_and_shows_the_study(folder: Path) -> None:
    import urllib.request

    pytest.importorskip("optuna_dashboard")
    assert command("optimize", "study.toml", cwd=folder).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lrtune", "dashboard", "study.toml", "--port", str(free_port())],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url.replace("/dashboard/", "/api/studies")) as answer:  # noqa: S310 -- our own
            assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["bowl"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=280)
    assert process.returncode == 0
    assert in_the_file_alone(folder / "lrtune-out/bowl/study.db") == 3
