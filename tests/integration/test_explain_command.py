"""``lrtune explain``: what it reads, draws and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from layering import ROOT

from lrtune import cli
from lrtune.cli.chart import area

if TYPE_CHECKING:
    from pathlib import Path

SCHEDULERS = """\
import torch

def make():
    print("building")
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)

made = make()
rate = lambda step: 0.1 / (1 + step)

def broken():
    raise RuntimeError("no data here")
"""
DEEPSPEED = {
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}},
    "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 100, "warmup_num_steps": 10}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(SCHEDULERS)
    (tmp_path / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    (tmp_path / "args.json").write_text(json.dumps({"learning_rate": 0.1, "warmup_steps": 0.1}))
    (tmp_path / "list.json").write_text("[1]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(("explain", *arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_schedule_is_drawn_with_its_recipe_and_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--schedule", "cosine", "--warmup", "0.1", "--steps", "1000", "--lr", "3e-4")
    assert out.startswith("lrtune cosine, 1,000 updates\n")
    assert "highest  0.0003 at update 100\n" in out
    assert "recipe   lr 0.0003, cosine, warmup 0.1\n" in out
    assert "update 0 is at zero and changes no weight" in out
    assert out.count("█") > 200


@pytest.mark.parametrize("name", ["make", "made"])
@pytest.mark.usefixtures("folder")
def test_a_name_in_the_users_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, f"train.py:{name}", "--json"))
    assert (found["source"], found["steps"], len(found["rates"])) == ("torch CosineAnnealingLR", 50, 50)
    assert found["recipe"]["schedule"] == "cosine"


@pytest.mark.usefixtures("folder")
def test_a_function_of_the_step_is_not_called_as_one_that_makes_a_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(told(capsys, "train.py:rate", "--steps", "4", "--json"))["rates"] == [0.1, 0.05, 0.1 / 3, 0.025]


@pytest.mark.usefixtures("folder")
def test_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "deepspeed.json")
    assert "DeepSpeed WarmupCosineLR, 100 updates" in out
    assert "the first 2 updates are at zero" in out
    assert "the warmup is logarithmic" in out
    assert "transformers linear, 200 updates" in told(capsys, "args.json", "--steps", "200")


def test_the_best_trial_of_a_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bowl.py").write_text(
        "def train(recipe):\n    for _ in range(2):\n        yield {'valid_loss': recipe.lr}\n"
    )
    (folder / "study.toml").write_text(
        '[study]\nname = "s"\nepochs = 2\n[train]\ntrainer = "bowl.py:train"\n[space]\nlr = [1e-3, 0.1]\n'
        'schedule = "linear"\n[search]\ntrials = 2\n'
    )
    assert cli.run(("explain", "study.toml", "--steps", "10")) == 2
    assert "run lrtune optimize first" in capsys.readouterr().err
    assert cli.run(("optimize", "study.toml", "--quiet")) == 0
    capsys.readouterr()
    found = json.loads(told(capsys, "study.toml", "--steps", "10", "--json"))
    best = json.loads((folder / "lrtune-out" / "s" / "result.json").read_text())["best"]
    assert (found["recipe"]["lr"], found["recipe"]["schedule"]) == (best["lr"], "linear")
    again = json.loads(told(capsys, "lrtune-out/s/result.json", "--steps", "10", "--json"))
    assert again["rates"] == found["rates"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a file or a name, or a schedule"),
        (("args.json", "--schedule", "cosine"), "not both"),
        (("args.json", "--warmup", "0.1"), "belongs to --schedule"),
        (("args.json",), "how many updates does the run have?"),
        (("gone.json",), "cannot be read as JSON (No such file or directory)"),
        (("train.py",), "is a .json or .toml file, or like train.py:make_scheduler"),
        (("train.py:gone",), "has no 'gone'"),
        (("train.py:broken",), "no data here"),
        (("list.json",), "holds a list"),
        (("--schedule", "cosin", "--steps", "9"), "did you mean cosine?"),
        (("--schedule", "cosine", "--steps", "0"), "steps must be a whole number"),
        (("--schedule", "cosine", "--steps", "10", "--lr", "0"), "lr must be a positive"),
        (("--schedule", "cosine", "--steps", "10000000"), "steps must be at most 1,000,000"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_drawn_is_one_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(("explain", *arguments)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert captured.err.strip().splitlines()[-1].startswith("lrtune: error: ")


def test_its_help_is_light() -> None:
    code = (
        "import sys\nfrom lrtune.cli.app import run\nassert run(['explain', '--help']) == 0\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'optuna', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_shows_what_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "howto" / "explain.md").read_text()
    (folder / "deepspeed.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    monkey = pytest.MonkeyPatch()
    monkey.setenv("COLUMNS", "84")
    out = told(capsys, "deepspeed.json")
    monkey.undo()
    assert f"$ lrtune explain deepspeed.json\n{out}```" in page


def test_the_area_under_a_line_is_half() -> None:
    lines = area(range(10), [1 - t / 10 for t in range(10)], 10, width=10, height=4)
    eighths = sum(" ▁▂▃▄▅▆▇█".index(mark) for line in lines[:4] for mark in line.partition("│")[2])
    assert eighths / 8 / 4 == pytest.approx(5.5, abs=0.5)
    assert lines[0].startswith("        1 │█")
    assert lines[-1].endswith("0       10")


def test_a_chart_holds_no_more_than_it_is_given() -> None:
    plain = area([0, 5], [0.0, 2.0], 10, width=80, height=3, ascii_only=True)
    assert all(line.isascii() for line in plain)
    assert max(map(len, plain)) <= 9 + 2 + 10 + 1
    assert plain[0].endswith("|     #####")
    assert area([], [], 1)[0].strip() == "0 │"
