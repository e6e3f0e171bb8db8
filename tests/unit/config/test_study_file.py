"""A study file is read whole or refused with one sentence that names the file, the line and the key."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrtune.config.study_file import StudyFile, read_study
from lrtune.config.toml import read_unchecked
from lrtune.config.user_code import load_trainer
from lrtune.errors import InputError, LrtuneError, SpaceError, StudyFileError
from lrtune.study.tuning import tune

GOOD = """\
[study]
name = "digits"
epochs = 9

[train]
trainer = "train.py:train"

[space]
lr = [1e-5, 10.0]
batch_size = [16, 64]

[search]
strategy = "tpe"
budget = 4.0
"""

TRAIN = """\
def train(recipe):
    for _ in range(recipe.epochs):
        yield {"valid_loss": recipe.lr}
"""


def write(folder: Path, text: str | bytes, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def study(folder: Path, text: str = GOOD, **given: Any) -> StudyFile:
    return read_study(write(folder, text), given)


def refusal(folder: Path, text: str | bytes, **given: Any) -> str:
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        read_study(path, given)
    said = str(caught.value)
    assert "\n" not in said
    return said.replace(str(path), "study.toml")


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert read_study(str(path)) == read_study(path)


def test_a_study_file_becomes_frozen_data(tmp_path: Path) -> None:
    got = study(tmp_path)
    assert got.settings.name == "digits"
    assert (got.settings.metric, got.settings.direction, got.settings.epochs) == ("valid_loss", "minimize", 9)
    assert got.space.lr_range == (1e-5, 10.0)
    assert got.settings.strategy == "tpe"
    assert got.arguments() == {
        "name": "digits",
        "metric": "valid_loss",
        "direction": "minimize",
        "epochs": 9,
        "value": "last",
        "strategy": "tpe",
        "budget": 4.0,
    }


def test_every_argument_is_one_that_tune_takes(tmp_path: Path) -> None:
    every = GOOD + (
        "trials = 3\ntimeout = 9\nseed = 1\nwiden = false\nprune = false\npoints = 5\nfailures = 3\n"
        "checkpoint_every = 3\nstall_timeout = 3\ntrial_timeout = 3\nmemory_limit = 1\n"
        "isolate = true\n"
    )
    arguments = study(tmp_path, every.replace("epochs = 9", "epochs = 9\npatience = 3")).arguments()
    assert arguments["widen"] == 0.0
    assert arguments["isolate"] is True
    known = {*inspect.signature(tune).parameters, *inspect.signature(_settings()).parameters}
    assert set(arguments) <= known


def _settings() -> type:
    from lrtune.study.settings import Settings

    return Settings


def test_the_command_line_stands_over_the_file(tmp_path: Path) -> None:
    got = study(tmp_path, budget=2.0, strategy="random", lr="1e-3,1e-1", name="other", seed=None)
    assert got.settings.limits.budget == 2.0
    assert got.settings.strategy == "random"
    assert got.space.lr_range == (1e-3, 1e-1)
    assert got.settings.name == "other"


ISOLATE = [("true", None, True), ("true", False, False), ("false", True, True)]


@pytest.mark.parametrize(("said", "given", "expected"), ISOLATE)
def test_whether_to_isolate_is_the_command_lines_word(tmp_path: Path, said: str, given: Any, expected: Any) -> None:
    (tmp_path / "study.toml").write_text(GOOD + f"isolate = {said}\n")
    got = read_study(tmp_path / "study.toml", {"isolate": given})
    assert got.arguments()["isolate"] is expected


def test_a_study_without_a_file_has_a_name_and_a_range() -> None:
    got = read_study(None, {"estimator": "sklearn.linear_model:SGDClassifier", "data": "some/table.csv", "target": "y"})
    assert got.settings.name == "table-SGDClassifier"
    assert got.space.lr_range == (1e-5, 10.0)
    assert got.folder == Path()


def test_the_default_name_is_that_of_the_file_or_its_folder(tmp_path: Path) -> None:
    unnamed = replaced('name = "digits"\n', "")
    assert read_study(write(tmp_path, unnamed, "mine.toml")).settings.name == "mine"
    assert read_study(write(tmp_path, unnamed)).settings.name == tmp_path.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[study\nname = 1", "study.toml:1: "),
        ('[study]\nname = "a', "study.toml:2: "),
        ("[study]\nepochs = [1,", "study.toml:2: "),
        ("[study]\nepochs = 1\nepochs = 2", "study.toml:3: cannot overwrite a value"),
        ("[study]\n[study]\n", "study.toml:2: cannot declare ('study',) twice"),
        (GOOD.encode("utf-16"), "study.toml:1: the file is UTF-16"),
        (b"SQLite format 3\0\xfb", "study.toml: an SQLite database, not a TOML file"),
        (replaced("digits", "d\xefgits").encode("latin-1"), "study.toml:2: not UTF-8 (byte 0xef)"),
        (replaced("digits", "dig\0its"), "study.toml:2: a NUL character"),
        ("a = 1\n" + ".".join("a" * 20_000) + " = 1", "study.toml:2: a dotted key of more than 16 parts"),
        ("[" + " . ".join("a" * 20_000) + "]", "study.toml:1: a dotted key of more than 16 parts"),
        ("[[" + "'a'." * 17 + "b]]", "study.toml:1: a dotted key of more than 16 parts"),
        ("a = { " + '"a\\".b".' * 17 + "b = 1 }", "study.toml:1: a dotted key of more than 16 parts"),
        ("a = " + "{ b = " * 2000 + "1" + " }" * 2000, "study.toml:1: nested too deeply"),
        ("a" * 999_000 + " = 1", "is not known"),
        ("a.a = " + "1" * 5000, "study.toml:1: Exceeds the limit"),
        ("a = 1\nb = " + "[" * 2000 + "]" * 2000, "study.toml:2: nested too deeply"),
        ("a = " + "1" * 5000, "study.toml:1: "),
        ("x" * 1_000_001, "larger than 1000000 bytes"),
    ],
)
def test_malformed_toml_names_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert study(tmp_path, "\ufeff" + GOOD).settings.name == "digits"


@given(junk=st.binary(max_size=60), at=st.integers(0, len(GOOD)))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_junk_anywhere_is_read_or_refused_and_nothing_else(tmp_path: Path, junk: bytes, at: int) -> None:
    path = write(tmp_path, GOOD[:at].encode() + junk + GOOD[at:].encode())
    refused = None
    try:
        read_study(path)
    except LrtuneError as error:
        refused = error
    assert refused is None or (refused.exit_code == 2 and "study.toml" in str(refused))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("budget = 4.0", "budget = nan", "study.toml:14: [search] budget must be a number"),
        ("budget = 4.0", "budget = inf", "study.toml:14: [search] budget must be a number"),
        ("budget = 4.0", "budget = true", "study.toml:14: [search] budget must be a number"),
        ("budget = 4.0", f"budget = {10**26}", "[search] budget must be a number"),
        ("budget = 4.0", "budget = 2026-11-22", "[search] budget must be a number"),
        ("budget = 4.0", 'budget = "4"', "[search] budget must be a number"),
        ("budget = 4.0", "trials = 1.5", "[search] trials must be a whole number"),
        ("budget = 4.0", "trials = true", "[search] trials must be a whole number"),
        ("budget = 4.0", "workers = 1000000", "[search] workers must be a whole number from 1 to 256"),
        ("budget = 4.0", "timeout = 0", "[search] timeout must be a number above 0"),
        ("budget = 4.0", "prune = 1", "[search] prune must be true or false"),
        ("budget = 4.0", "widen = nan", "[search] widen must be a number"),
        ("budget = 4.0", "budgte = 4.0", "study.toml:14: [search] budgte is not known; did you mean 'budget'?"),
        ('"tpe"', '"tpee"', "did you mean 'tpe'?"),
        ('"tpe"', "3", "[search] strategy must be"),
        ("epochs = 9", "epochs = 0", "study.toml:3: [study] epochs must be a whole number from 1"),
        ("epochs = 9", "epoch = 9", "[study] epoch is not known; did you mean 'epochs'?"),
        ("epochs = 9", 'direction = "min"', '[study] direction must be "minimize" or "maximize"'),
        ("epochs = 9", 'metric = "reward"', "[study] direction is missing"),
        ("epochs = 9", 'value = "tail:0"', "[study] value: value must be"),
        ("epochs = 9", 'value = ""', "[study] value must be a text"),
        ('name = "digits"', "name = 7", "study.toml:2: [study] name must be a text"),
        ('name = "digits"', 'name = ""', "study.toml:2: [study] name must be a text"),
        ('name = "digits"', r'name = "a\u001bb"', "study.toml:2: [study] name: study name: it holds the control"),
        ("[search]", "[serach]", "study.toml:12: serach is not known; did you mean 'search'?"),
        ("lr = [1e-5, 10.0]", "lerning_rate = [1e-5, 10.0]", "did you mean"),
        ("lr = [1e-5, 10.0]", "lr = nan", "lr"),
        ("lr = [1e-5, 10.0]", "lr = { low = 1e-5, high = inf }", "lr"),
        ("lr = [1e-5, 10.0]", "lr = { low = true, high = 1 }", "lr"),
        ("lr = [1e-5, 10.0]", "lr = [1, 0.1]", "low must be < high (got 1 and 0.1)"),
        ('trainer = "train.py:train"', "", "neither is given"),
        ('trainer = "train.py:train"', 'estimator = "a:B"', "[train] data is missing"),
        ('trainer = "train.py:train"', 'trainer = "a.py:b"\nestimator = "a:B"', "both are given"),
        ('trainer = "train.py:train"', 'trainer = "a.py:b"\ntarget = "y"', "[train] target goes with an estimator"),
        ('trainer = "train.py:train"', 'estimator = "a:B"\ndata = "d"\ndrop = "y"', "[train] drop must be an array"),
        ('trainer = "train.py:train"', "trainer = 3", "[train] trainer must be a text such as"),
    ],
)
def test_nonsense_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    got = refusal(tmp_path, replaced(old, new))
    assert said in got
    assert "study.toml" in got


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "--trials must be a whole number from 1"),
        ({"trials": -1}, "--trials must be a whole number from 1"),
        ({"trials": 10**12}, "--trials must be a whole number from 1"),
        ({"timeout": 0.0}, "--timeout must be a number above 0"),
        ({"timeout": float("nan")}, "--timeout must be a number above 0"),
        ({"workers": 0}, "--workers must be a whole number from 1 to 256"),
        ({"lr": "1,0.1"}, "low must be < high (got 1 and 0.1)"),
        ({"lr": "0,1"}, "lr"),
        ({"lr": "-1,1"}, "lr"),
        ({"lr": "1e-320,1"}, "lr"),
        ({"lr": "1e-3"}, "--lr must be two numbers"),
        ({"lr": "a,b"}, "--lr must be two numbers"),
        ({"name": "a\0b"}, "--study: study name: it holds the control character"),
    ],
)
def test_nonsense_on_the_command_line_names_the_option(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, GOOD, **given)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="there is no such file"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(StudyFileError, match="not a regular file"):
        read_study(tmp_path)


# -- the trainer --------------------------------------------------------------------------------------


def test_a_generator_function_is_a_trainer(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, "train.py")
    trainer = study(tmp_path).make_trainer()
    assert inspect.isgeneratorfunction(trainer)


@pytest.mark.parametrize(
    "body",
    [
        "def make():\n    return train\n",
        "class Made:\n    def start(self, recipes): ...\n    def steps_per_epoch(self, recipe): ...\nmake = Made\n",
        "import functools\nmake = functools.partial(train)\n",
        "def make(recipe):\n    return train(recipe)\n",
        "class Own:\n    def __call__(self, recipe):\n        yield 1\nmake = Own()\n",
    ],
)
def test_what_makes_a_trainer_is_called_and_what_is_one_is_not(tmp_path: Path, body: str) -> None:
    write(tmp_path, TRAIN + body, "train.py")
    assert callable(load_trainer("train.py:make", tmp_path)) or hasattr(
        load_trainer("train.py:make", tmp_path), "start"
    )


@pytest.mark.parametrize(
    ("text", "reference", "said"),
    [
        (TRAIN, "train.py", "must look like"),
        (TRAIN, "train.py:", "must look like"),
        (TRAIN, "none.py:train", "there is no file"),
        (TRAIN, "train.py:trian", "has no 'trian'; did you mean 'train'?"),
        ("train = 3", "train.py:train", "is a int; name a trainer"),
        ("def train(a, b): ...", "train.py:train", "needs a, b"),
        ("def train(): return 3", "train.py:train", "made a int"),
        (TRAIN, "no_such_module:train", "cannot be imported"),
    ],
)
def test_what_is_no_trainer_is_refused(tmp_path: Path, text: str, reference: str, said: str) -> None:
    write(tmp_path, text, "train.py")
    with pytest.raises(StudyFileError, match="trainer") as caught:
        load_trainer(reference, tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import numpy\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def train(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("def train():\n    raise OSError('a\\nb')\n", "failed to make a trainer: OSError: a b"),
    ],
)
def test_a_broken_file_shows_its_own_traceback_alone(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text, "broken.py")
    with pytest.raises(StudyFileError) as caught:
        load_trainer("broken.py:train", tmp_path)
    assert said in str(caught.value)
    (shown,) = caught.value.__notes__
    assert str(path) in shown or "SyntaxError" in shown
    assert "lrtune/loading.py" not in shown
    assert "importlib" not in shown


def test_a_file_named_like_a_module_shadows_nothing_and_is_imported_once(tmp_path: Path) -> None:
    for name in ("html.py", "types.py", "random.py"):
        write(tmp_path, f"print('loaded {name}')\n{TRAIN}", name)
    write(tmp_path, "import beside\n" + TRAIN, "train.py")
    write(tmp_path, "print('loaded beside')\n", "beside.py")
    code = (
        "import pathlib, sys\n"
        "from lrtune.config.user_code import load_trainer\n"
        "here = pathlib.Path('.')\n"
        "for name in ('html', 'types', 'random', 'html', 'train', 'train'):\n"
        "    load_trainer(f'{name}.py:train', here)\n"
        "import html, types, random\n"
        "assert not hasattr(html, 'train') and not hasattr(types, 'train') and not hasattr(random, 'train')\n"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert out.split("\n") == ["loaded html.py", "loaded types.py", "loaded random.py", "loaded beside", ""]


# -- the estimator ------------------------------------------------------------------------------------

ESTIMATOR = """\
[study]
epochs = 3
[train]
estimator = "sklearn.linear_model:SGDClassifier"
data = "iris"
[train.options]
loss = "log_loss"
[space]
lr = [1e-3, 1.0]
"""


def test_an_estimator_trains_without_a_line_of_code(tmp_path: Path) -> None:
    trainer = study(tmp_path, ESTIMATOR).make_trainer()
    assert trainer.steps_per_epoch(study(tmp_path, ESTIMATOR).space.recipe({"lr": 0.1}, epochs=3)) > 1


def test_a_metric_of_scikit_learn_is_measured(tmp_path: Path) -> None:
    text = ESTIMATOR.replace("epochs = 3", 'epochs = 3\nmetric = "accuracy"\ndirection = "maximize"')
    told = study(tmp_path, text)
    run = told.make_trainer().start([told.space.recipe({"lr": 0.1}, epochs=3)])
    (report,) = run.advance(2)
    assert 0 <= report.point.values["accuracy"] <= 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("loss =", "los =", "has no option 'los'; did you mean 'loss'?"),
        ("SGDClassifier", "SGDClasifier", "did you mean 'SGDClassifier'?"),
        ("linear_model", "linear_modell", "cannot be imported"),
        ('"iris"', '"irs"', "there is no file"),
        ("SGDClassifier", "LogisticRegressionCV", "has no option 'loss'"),
        ('loss = "log_loss"', "", ""),
    ],
)
def test_an_estimator_that_cannot_be_made_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = study(tmp_path, ESTIMATOR.replace(old, new))
    if not said:
        told.make_trainer()
        return
    with pytest.raises(InputError) as caught:
        told.make_trainer()
    assert said in str(caught.value)


def test_errors_are_of_their_kind(tmp_path: Path) -> None:
    with pytest.raises(SpaceError):
        study(tmp_path, replaced("lr = [1e-5, 10.0]", "lr = [1, 0.1]"))


def test_a_first_glance_is_as_careful_as_a_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for a writer
    assert read_unchecked(tmp_path / "pipe", "search") == {}
    assert read_unchecked(Path("/dev/zero"), "search") == {}
    assert read_unchecked(write(tmp_path, "[search]\nseed = 1\n" + "#" * 1_000_000), "search") == {}
    assert read_unchecked(write(tmp_path, ".".join("a" * 20_000) + " = 1"), "search") == {}
    assert read_unchecked(write(tmp_path, GOOD), "search")["strategy"] == "tpe"
