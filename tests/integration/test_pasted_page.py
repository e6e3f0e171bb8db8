"""The page shows the code of the trainer that was used, from what is stored alone, and that code runs."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from sklearn.linear_model import SGDRegressor
from torch import nn

import lrtune
from lrtune import cli
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.answer_text import answer
from lrtune.reporting.html.answer_section import answer_section
from lrtune.reporting.html.rendering import render
from lrtune.reporting.snippets import TITLES, snippet
from lrtune.reporting.snippets.optimizer import portable
from lrtune.study.trials.study_reader import read
from lrtune.training.setups import plain, reference, setup_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.core.records import StudyRecord

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ [1.0, -1.0, 0.5]


def bowl(recipe: Recipe) -> Iterator[float]:
    x = 1.0
    while True:
        x -= recipe.lr * x
        yield x * x


def decayed(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, weight_decay=0.25)


def network(**options: Any) -> lrtune.TorchTrainer:
    x, y = torch.from_numpy(X).float(), torch.from_numpy(Y).float()[:, None]
    known: dict[str, Any] = {"model": partial(nn.Linear, 3, 1), "loss": "mse", "device": "cpu"}
    return lrtune.TorchTrainer(**(known | {"train_data": (x, y), "valid_data": (x, y)} | options))


TRAINERS: dict[str, Any] = {
    "torch": partial(network, optimizer=decayed, clip_norm=1.0),
    "sklearn": partial(lrtune.SklearnTrainer, SGDRegressor(), X, Y),
    "generator": lambda: bowl,
}


def searched(trainer: Any, path: Path, *, space: dict[str, Any] | None = None, **changes: Any) -> StudyRecord:
    """A search, and what a later process reads of it."""
    ranges = lrtune.Space(lr=(1e-3, 0.5), schedule="cosine", **(space or {}))
    lrtune.tune(trainer, ranges, epochs=2, storage=str(path), **({"trials": 2} | changes))
    return stored(path)


def stored(path: Path) -> StudyRecord:
    return read(optuna.load_study(study_name="lrtune", storage=f"sqlite:///{path}"))


def tabs(record: StudyRecord) -> tuple[str, dict[str, str]]:
    """The library whose tab is open, and the code of each."""
    shown = render("answer.html.jinja", record=record, **answer_section(record, answer(record)))
    found = re.findall(r'<pre id="paste-(\w+)" role="tabpanel"( hidden)?>(.*?)</pre>', shown, re.DOTALL)
    (opened,) = [name for name, hidden, _ in found if not hidden]
    (pressed,) = re.findall(r'aria-selected="true" aria-controls="paste-(\w+)"', shown)
    assert pressed == opened
    return opened, {name: html.unescape(code) for name, _, code in found}


def pasted(code: str, **names: Any) -> dict[str, Any]:
    exec(code, names)  # noqa: S102 -- what a person pastes
    return names


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("library", TRAINERS)
def test_the_page_opens_at_the_code_of_the_trainer_that_was_used(
    library: str, *, isolate: bool, tmp_path: Path
) -> None:
    record = searched(TRAINERS[library](), tmp_path / "study.db", isolate=isolate)
    opened, codes = tabs(record)
    assert opened == library
    assert next(iter(codes)) == library
    assert set(codes) == {*TITLES} - {"generator"} | {library}
    assert record.best is not None
    lr = record.best.recipe.lr
    if library == "torch":
        optimizer = pasted(codes["torch"], model=nn.Linear(3, 1), train_loader=[0] * 2)["optimizer"]
        assert (type(optimizer), optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (
            torch.optim.SGD,
            lr,
            0.25,
        )
        assert len(optimizer._optimizer_step_pre_hooks) == 1
    elif library == "sklearn":
        model = pasted(codes["sklearn"], model=SGDRegressor(), batches=[0])["model"]
        assert (model.learning_rate, model.eta0, model.shuffle) == ("constant", lr, False)


@pytest.mark.parametrize("optimizer", ['muon(others="adamw", others_lr_ratio=0.1)', "rprop"])
def test_an_optimizer_that_lrtune_composed_is_plain_pytorch_on_the_page(optimizer: str, tmp_path: Path) -> None:
    """From the storage alone; without what its trials say of their setup, from the recipe that names it."""
    if optimizer.startswith("muon") and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim has Muon since 2.9")
    record = searched(network(), tmp_path / "study.db", space={"optimizer": optimizer, "warmup": 0.25})
    silent = dataclasses.replace(record, records=tuple(dataclasses.replace(r, setup={}) for r in record.records))
    for told in (record, silent):
        opened, codes = tabs(told)
        assert opened == "torch"
        assert "lrtune." not in codes["torch"]
        model = nn.Linear(3, 1)
        names = pasted(codes["torch"], model=model, train_loader=[0] * 10)
        optimizers = names.get("optimizers") or [names["optimizer"]]
        assert {id(p) for one in optimizers for g in one.param_groups for p in g["params"]} == set(
            map(id, model.parameters())
        )
        assert [type(one).__name__ for one in optimizers] == (["Rprop"] if optimizer == "rprop" else ["Muon", "AdamW"])
        pasted(codes["sklearn"], model=SGDRegressor(), batches=[0])


def test_a_generators_code_trains_as_the_run_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = searched(bowl, tmp_path / "study.db")
    assert record.best is not None
    code = tabs(record)[1]["generator"]
    assert f"from {bowl.__module__} import bowl" in code
    assert pasted(code)["recipe"] == record.best.recipe
    printed = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert printed == pytest.approx(record.best.curve.of("valid_loss")[1], rel=1e-6)


def test_a_generator_of_a_study_file_is_imported_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_train.py").write_text(
        "def train(recipe):\n    for _ in range(2):\n        yield {'valid_loss': abs(recipe.lr - 0.01)}\n"
    )
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "s"\nepochs = 2\n[train]\ntrainer = "my_train.py:train"\n[space]\nlr = [1e-3, 0.1]\n'
        "[search]\ntrials = 2\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.run(("optimize", "study.toml", "--quiet")) == 0
    assert cli.run(("report", "study.toml")) == 0
    page = (tmp_path / "lrtune-out" / "s" / "report.html").read_text()
    code = html.unescape(re.findall(r'<pre id="paste-generator" role="tabpanel">(.*?)</pre>', page, re.DOTALL)[0])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2"]


def test_each_trial_keeps_the_settings_that_it_was_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    searched(network(optimizer="sgd", optimizer_options={"momentum": 0.5}), path)
    record = searched(network(optimizer="sgd", optimizer_options={"momentum": 0.7}), path, trials=4)
    assert [trial.setup["optimizers"][0]["options"]["momentum"] for trial in record.records] == [0.5, 0.5, 0.7, 0.7]


def test_a_study_without_stored_settings_has_the_code_of_its_recipe(tmp_path: Path) -> None:
    record = searched(network(optimizer="sgd"), tmp_path / "study.db")
    old = dataclasses.replace(record, records=tuple(dataclasses.replace(r, setup={}) for r in record.records))
    opened, codes = tabs(old)
    assert (opened, set(codes)) == ("torch", {*TITLES} - {"generator"})
    assert "# optimizer: your own" in codes["torch"]


def test_a_trainer_that_says_nothing_is_trained_all_the_same() -> None:
    assert setup_of(object()) == {}  # type: ignore[arg-type]  # a run of a trainer of the user's own


# What cannot be written, and what must not be.


def recorded(trainer: lrtune.TorchTrainer) -> dict[str, Any]:
    return dict(setup_of(trainer.start([Recipe(lr=0.1)])))


def test_an_optimizer_over_foreign_parameters_is_left_to_the_user() -> None:
    foreign = nn.Parameter(torch.zeros(1))
    trainer = network(param_groups=lambda model: [{"params": [*model.parameters(), foreign]}])
    mine = torch.optim.SGD([foreign], lr=0.1)
    code = snippet(Recipe(lr=0.1, schedule="cosine"), setup=recorded(trainer))
    assert "lr=0.1" in code
    assert pasted(code, model=nn.Linear(3, 1), train_loader=[0], optimizer=mine)["optimizer"] is mine


def test_what_an_optimizer_does_not_tell_is_said() -> None:
    class Secret(torch.optim.SGD):
        def __init__(self, params: Any, lr: float, *, hidden: float = 1.0) -> None:
            super().__init__(params, lr=lr)
            self._kept = hidden

    code = snippet(Recipe(lr=0.1), setup=recorded(network(optimizer=Secret)))
    assert "# what it does not tell, and is as you made it: hidden\n" in code
    assert "# Secret: your own optimizer\n" in code
    assert isinstance(pasted(code, model=nn.Linear(3, 1), Secret=Secret)["optimizer"], Secret)


def test_mixed_precision_and_micro_batches_are_said() -> None:
    code = snippet(Recipe(lr=0.1), setup=recorded(network(precision="bf16", accumulate=4)))
    with pasted(code, model=nn.Linear(3, 1))["autocast"]:
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    assert "4 micro-batches" in code


def test_sparse_gradients_have_their_optimizer() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(4, 2, sparse=True), nn.Flatten(), nn.Linear(2, 1))

    trainer = network(
        model=model,
        train_data=(torch.zeros(8, 1, dtype=torch.long), torch.zeros(8, 1)),
        valid_data=None,
        optimizer=torch.optim.SparseAdam,
        param_groups=lambda model: [{"params": model[0].parameters()}],
    )
    code = snippet(Recipe(lr=0.1), setup=recorded(trainer))
    names = pasted(code, model=model())
    assert type(names["optimizer"]) is torch.optim.SparseAdam
    assert names["optimizer"].param_groups[0]["params"][0] is names["model"][0].weight


@pytest.mark.parametrize(
    "damage",
    [
        {"optimizer": {"name": "SGD)\nprint(", "module": "torch.optim"}},
        {"optimizer": {"name": "SGD", "module": "os; import os"}},
        {"options": {"lr=print": 1}},
        {"options": {"momentum": {"a": 1}}},
        {"options": None},
        {"groups": [{"ratio": "print()", "parameters": ["a"], "options": {}}]},
        {"groups": None},
        None,
    ],
)
def test_no_code_is_made_of_a_damaged_record(damage: dict[str, Any] | None) -> None:
    setup = recorded(network())
    made = None if damage is None else [{**setup["optimizers"][0], **damage}]
    with pytest.raises(InputError, match="damaged"):
        snippet(Recipe(lr=0.1), setup={**setup, "optimizers": made})


def test_texts_in_a_record_stay_within_their_line() -> None:
    setup = {**recorded(network()), "hears": "x\u2028print(2)"}
    setup["optimizers"][0]["unread"] = ["a\nprint(1)"]
    code = snippet(Recipe(lr=0.1, schedule="plateau", warmup=0.5), setup=setup)
    pasted(code, model=nn.Linear(3, 1), train_loader=[0], print=None)
    assert all(line.lstrip().startswith("#") for line in code.splitlines() if "print(" in line)


def test_a_setup_of_another_library_is_refused() -> None:
    with pytest.raises(InputError, match="set up with 'torch', not with 'sklearn'"):
        snippet(Recipe(lr=0.1), "sklearn", setup=recorded(network()))


def test_references_name_what_can_be_imported() -> None:
    assert reference(torch.optim.AdamW) == {"name": "AdamW", "module": "torch.optim"}
    assert reference(SGDRegressor) == {"name": "SGDRegressor", "module": "sklearn.linear_model"}
    assert reference(bowl) == {"name": "bowl", "module": __name__}
    assert reference(lambda: None) == reference(partial(bowl)) == {"name": "", "module": ""}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {"a": object()}, [object()], torch.zeros(2)])
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        plain(value)
    assert plain((np.float64(0.5), torch.tensor(2), {1: "a"})) == [0.5, 2, {"pairs": [[1, "a"]]}]


def test_the_lines_for_other_hosts_have_the_optimizer_of_the_run(tmp_path: Path) -> None:
    """The recipe names none: the run says which it was."""
    record = searched(network(optimizer="adamw", optimizer_options={"weight_decay": 0.25}), tmp_path / "study.db")
    codes = tabs(record)[1]
    assert "keras.optimizers.AdamW(learning_rate, weight_decay=0.25, beta_1=0.9" in codes["keras"]
    assert '"type": "AdamW", "params": {"lr": ' in codes["deepspeed"]
    assert record.best is not None
    damaged = dataclasses.replace(record.best, setup={"library": "torch", "optimizers": [{}], "steps": 1})
    assert portable(damaged.recipe, damaged.setup) == damaged.recipe


def test_a_result_is_pasted_for_the_host_that_trained_and_for_others(tmp_path: Path) -> None:
    space = lrtune.Space(lr=(1e-3, 0.5), schedule="cosine")
    result = lrtune.tune(network(optimizer="adamw"), space, epochs=2, trials=2, storage=str(tmp_path / "study.db"))
    assert "torch.optim.AdamW(model.parameters()" in lrtune.snippet(result)
    assert "keras.optimizers.AdamW(" in lrtune.snippet(result, "keras")
    silent = lrtune.Result.from_json(result.to_json())
    assert "optimizer: your own" in lrtune.snippet(silent)
    none = dataclasses.replace(silent, best_recipe=None)
    with pytest.raises(InputError, match="no trial completed"):
        lrtune.snippet(none)
