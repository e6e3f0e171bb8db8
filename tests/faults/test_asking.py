"""Study files, options and tables that cannot be meant: exit 2, one sentence, nothing trained and nothing written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.checker import check
from faults.driver import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

WHOLE = '[train]\ntrainer = "objective.py:train"\n[space]\nlr = [1e-4, 10.0]\n'

FILES: dict[int, dict[bytes, str]] = {
    67: {
        b'[study\nname = "x"\n': ":1: ",
        b"[study]\nepochs = 1\nepochs = 2\n": ":3: ",
        b'[study]\nname = "\xe9"\n': ":2: ",
        WHOLE.encode("utf-16"): "UTF-16",
        b"[study]\nname = \x00\n": ":2: ",
        b"x = " + b"[" * 2000 + b"]" * 2000: ":1: nested too deeply",
    },
    68: {
        WHOLE.replace("[1e-4, 10.0]", "nan").encode(): "lr",
        WHOLE.replace("10.0", "inf").encode(): "lr",
        WHOLE.replace("1e-4", "true").encode(): "lr",
        f"{WHOLE}[search]\ntrials = {10**26}\n".encode(): "trials",
        f"{WHOLE}[search]\nbudget = 1979-05-27\n".encode(): "budget",
        f"{WHOLE}lerning_rate = 1\n[study]\nmetrik = 'x'\n".encode(): "metrik",
    },
    69: {
        WHOLE.replace("[1e-4, 10.0]", text).encode(): "lr"
        for text in ("[1.0, 0.1]", "[0.1, 0.1]", "[0.0, 1.0]", "[-1.0, 1.0]", "[1e-320, 1.0]", "[0.1]", "0.1")
    },
}

OPTIONS = ["--trials 0", "--trials -1", "--trials 1000000000000", "--trials 1.5", "--timeout 0", "--timeout nan",
           "--budget 0.01", "--workers 0", "--workers 1000000", "--lr 1,0.1", "--lr x",
           "--strategy cma-es"]  # fmt: skip


@pytest.mark.row(67, 68, 69)
def test_study_files(lab: Lab, saw: Callable[..., None]) -> None:
    for row, files in FILES.items():
        said = []
        for data, named in files.items():
            (lab.folder / "study.toml").write_bytes(data)
            refused = lab.run(expect=2)
            assert refused.out == ""
            assert refused.err.count("\n") == 1, refused.err
            assert "study.toml" in refused.last
            assert named in refused.last
            said.append(refused.last.partition("study.toml")[2].lstrip(":")[:70])
        saw(f"{len(said)} files: exit 2, nothing written: {'; '.join(said)}", row)
    assert not lab.out.exists()
    assert not lab.database.exists()


@pytest.mark.row(70, 83)
def test_options(lab: Lab, saw: Callable[..., None]) -> None:
    for text in OPTIONS:
        refused = lab.run(*text.split(), expect=2)
        assert refused.err.count("\n") == 1, refused.err
        assert text.partition(" ")[0].strip("-") in refused.last
    assert not lab.database.exists()
    saw(f"{len(OPTIONS)} options: exit 2, the option named, nothing written", 70)
    saw("CMA-ES, which reads pickles from the storage, is not offered: exit 2", 83)


GOOD = "".join(f"{(7 * row) % 11},{(5 * row) % 13},{row % 2}\n" for row in range(40))
TABLES: dict[int, dict[str, tuple[bytes, str]]] = {
    71: {
        "missing": (f"a,b,label\n{GOOD}1,2,\n".encode(), "label"),
        "infinite": (f"a,b,label\n1,inf,0\n{GOOD}".encode(), "b"),
    },
    72: {
        "one class": (b"a,label\n" + b"1,0\n" * 20, "only one class"),
        "one row": (b"a,label\n1,0\n", "1 row"),
        "header": (b"a,label\n", "no rows"),
        "empty": (b"", "is empty"),
    },
    73: {
        "ragged": (f"a,b,label\n{GOOD}1,2\n".encode(), ":42: "),
        "twice": (f"a,a,label\n{GOOD}".encode(), ":1: "),
        "unclosed": (f'a,b,label\n1,"2,0\n{GOOD}'.encode(), ":2: "),
        "nul": (b"a,b,label\n1,\0,0\n" + GOOD.encode(), ":2: "),
        "long field": (b"a,b,label\n1," + b"9" * 200_000 + b",0\n" + GOOD.encode(), ":2: "),
        "latin-1": (b"a,b,label\n1,\xe9,0\n" + GOOD.encode(), ":2: "),
    },
}  # fmt: skip


def on_a_table(lab: Lab) -> None:
    lab.study(
        study={"metric": "accuracy", "direction": "maximize", "epochs": 3},
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "t.csv", "target": "label"},
        search={"trials": 1},
    )


@pytest.mark.slow
@pytest.mark.row(71, 72, 73)
def test_tables(lab: Lab, saw: Callable[..., None]) -> None:
    on_a_table(lab)
    for row, tables in TABLES.items():
        said = []
        for name, (data, named) in tables.items():
            (lab.folder / "t.csv").write_bytes(data)
            refused = lab.run(expect=2)
            assert "t.csv" in refused.last
            assert named in refused.last, name
            said.append(refused.last.partition("t.csv")[2].lstrip(":")[:70])
        saw(f"exit 2: {'; '.join(said)}", row)
    assert not lab.database.exists()


@pytest.mark.row(74)
def test_a_table_of_a_million_columns(lab: Lab, saw: Callable[..., None]) -> None:
    on_a_table(lab)
    many = 10**6
    with (lab.folder / "t.csv").open("w") as file:
        file.write(",".join(f"c{column}" for column in range(many)) + ",label\n")
        for row in range(3):
            file.write("1.5," * many + f"{row % 2}\n")
    refused = lab.run(words=["sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *lab.words()], expect=2)
    assert "1000001 columns" in refused.last
    saw(f"exit 2, {refused.last.partition('error: ')[2]!r}")


@pytest.mark.row(84)
def test_training_code_that_cannot_be_loaded(lab: Lab, saw: Callable[..., None]) -> None:
    sources = {
        "def (:\n": "SyntaxError",
        "import nowhere_to_be_found\n": "ModuleNotFoundError",
        "import sys\nsys.exit(3)\n": "SystemExit: 3",
        "class Mine(BaseException):\n    pass\nraise Mine('own')\n": "Mine: own",
        "def f():\n    f()\nf()\n": "RecursionError",
        "x = 1\n": "has no 'train'",
    }
    for source, named in sources.items():
        (lab.folder / "objective.py").write_text(source)
        refused = lab.start()
        assert refused.wait() == 2, refused.err
        assert named in refused.last
        assert "lrtune/" not in refused.err.replace(str(lab.folder), ""), "only the user's own frames are shown"
    assert not lab.database.exists()
    saw(f"{len(sources)} files that raise while they are loaded: exit 2, their own traceback")


@pytest.mark.parametrize("command", [["range-test", "study.toml"], ["optimize", "ranged.toml", "--range-test"]])
def test_a_range_test_of_a_function(lab: Lab, command: list[str]) -> None:
    (lab.folder / "ranged.toml").write_text('[train]\ntrainer = "objective.py:train"\n')
    refused = lab.run(words=[*COMMAND, *command, "--out", "out"], expect=2)
    assert "range test" in refused.last
    assert lab.count("end") == 0


def test_a_range_test_that_cannot_be_written(lab: Lab) -> None:
    lab.study(train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "iris"})
    refused = lab.run(words=[*COMMAND, "range-test", "study.toml", "--out", "study.toml/x"], expect=4)
    assert "not writable: study.toml/x" in refused.last


def test_a_folder_that_is_gone(lab: Lab) -> None:
    for words in (["optimize", "s.toml"], ["job", "run", "j.toml"], ["report", "s.toml"], ["storage", "check"]):
        (lab.folder / "gone").mkdir()
        line = ["sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", *COMMAND, *words]
        assert lab.run(words=line, expect=2).last.startswith("lrtune: error: ")


@pytest.mark.slow
def test_quiet_says_nothing_but_the_answer(lab: Lab) -> None:
    lab.study(study={"epochs": 1}, search={"strategy": "gp", "trials": 11})
    assert lab.run("--quiet").err == ""
    check(lab, trials=11)
