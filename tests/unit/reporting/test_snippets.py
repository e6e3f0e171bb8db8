"""The code that a person pastes does what lrtune trained with, at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layering import ROOT
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPRegressor

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.snippets import KINDS, TITLES, snippet
from lrtune.reporting.snippets.calls import CALLS
from lrtune.reporting.snippets.optimizer import TORCH_OPTIMIZERS
from lrtune.reporting.snippets.schedule import FORMULAS, imports, multiplier, steps
from lrtune.schedules import SCHEDULES, for_recipe, parse
from lrtune.schedules.decays import Cosine
from lrtune.training.networks.optimizers import build, layer_groups

EPOCHS, BATCHES = 10, 8
TOTAL = EPOCHS * BATCHES
SPECS = [
    "constant",
    "step",
    "step(every=0.05, factor=0.7)",
    "multistep(at=[0.25, 0.5, 0.9], factor=0.3)",
    "exponential(end=0.2)",
    "polynomial(power=3, floor=0.05)",
    "linear",
    "linear(floor=0.3)",
    "cosine",
    "cosine(floor=0.1)",
    "cosine_restarts(cycles=6, floor=0.1)",
    "cosine_restarts(cycles=4, growth=2)",
    "cosine_restarts(cycles=3, growth=1.5)",
    "cyclical",
    "cyclical(mode=triangular2, cycles=3, up=0.3)",
    "cyclical(mode=exp_range, cycles=5, end=0.02, floor=0)",
    "onecycle",
    "onecycle(up=0.45, start=0.2, shape=linear)",
    "inverse_sqrt",
    "wsd",
    "wsd(decay=0.4, floor=0.1, shape=cosine)",
    "wsd(decay=1, shape=sqrt)",
    "sweep",
    "sweep(ratio=1000, over=0.8)",
]
WARMUPS = [0.0, 0.25, 7]


def recipe(**settings: Any) -> Recipe:
    return Recipe(**{"lr": 0.3, "epochs": EPOCHS, **settings})


def run(code: str, **names: Any) -> dict[str, Any]:
    compile(code, "snippet", "exec")
    exec(code, names)  # noqa: S102 -- what a person pastes
    return names


def torch_names(**more: Any) -> dict[str, Any]:
    model = torch.nn.Linear(2, 1)
    return {"model": model, "train_loader": range(BATCHES), **more}


def expected(what: Recipe) -> np.ndarray:
    schedule = for_recipe(what, TOTAL)
    return what.lr * schedule(np.arange(TOTAL) / TOTAL)


def test_every_schedule_is_written() -> None:
    assert {parse(spec).family for spec in SPECS} | {"plateau"} == set(SCHEDULES)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_torch_lines_follow_the_schedule_at_every_step(spec: str, warmup: float) -> None:
    what = recipe(schedule=spec, warmup=warmup, optimizer="sgd")
    names = run(snippet(what), **torch_names())
    optimizer, scheduler, lrs = names["optimizer"], names.get("scheduler"), []
    for _ in range(TOTAL):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    np.testing.assert_allclose(lrs, expected(what), rtol=1e-9, atol=1e-15)
    assert (scheduler is None) == (spec == "constant" and not warmup)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_sklearn_lines_follow_the_schedule_at_every_step(spec: str, warmup: float) -> None:
    what = recipe(schedule=spec, warmup=warmup)
    model = SGDClassifier()
    names = run(snippet(what, "sklearn"), model=model, batches=range(BATCHES))
    assert model.learning_rate == "constant"
    if "learn" not in names:
        assert (spec, warmup, model.eta0) == ("constant", 0.0, what.lr)
        return
    features, labels, lrs = np.array([[0.0], [1.0]]), np.array([0, 1]), []
    for step in range(TOTAL):
        names["learn"](step, features, labels, classes=[0, 1])
        lrs.append(model.eta0)
    np.testing.assert_allclose(lrs, expected(what), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("warmup", WARMUPS)
def test_a_schedule_without_a_formula_is_called(monkeypatch: pytest.MonkeyPatch, warmup: float) -> None:
    what = recipe(schedule="cosine(floor=0.1)", warmup=warmup)
    monkeypatch.delitem(FORMULAS, Cosine)
    for kind in ("torch", "sklearn"):
        code = snippet(what, kind, total_steps=TOTAL)
        assert "from lrtune.schedules import parse" in code
    schedule = parse(what.schedule)
    names = run("\n".join([*imports(schedule), *steps(what, TOTAL, "", {}), *multiplier(what, schedule)]))
    rates = [what.lr * names["multiplier"](step) for step in range(TOTAL)]
    np.testing.assert_allclose(rates, expected(what), rtol=1e-12, atol=0)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("kind", ["torch", "sklearn"])
def test_plateau_listens_in_pasted_code_as_well(kind: Any, warmup: float) -> None:
    what = recipe(schedule="plateau(patience=1, factor=0.5, floor=0.2)", warmup=warmup, optimizer="sgd")
    ours, warm = for_recipe(what, TOTAL), warmup if warmup >= 1 else warmup * TOTAL
    model: Any = SGDRegressor() if kind == "sklearn" else torch.nn.Linear(2, 1)
    names = run(snippet(what, kind), model=model, batches=range(BATCHES), train_loader=range(BATCHES))
    got, want = [], []
    for epoch in range(EPOCHS):
        for step in range(epoch * BATCHES, (epoch + 1) * BATCHES):
            if kind == "sklearn":
                names["learn"](step, np.zeros((1, 1)), np.zeros(1))
                got.append(model.eta0)
            else:
                if warmup:
                    names["warm_up"](step)
                got.append(names["optimizer"].param_groups[0]["lr"])
            want.append(what.lr * ours(step / TOTAL))
        done = (epoch + 1) * BATCHES
        ours.update(1.0, progress=done / TOTAL)
        if done >= warm:
            (names["plateau"].update if kind == "sklearn" else names["scheduler"].step)(1.0)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-15)
    assert min(want[-BATCHES:]) < what.lr / 2


@pytest.mark.parametrize(
    ("settings", "kind", "options"),
    [
        ({"optimizer": "sgd"}, torch.optim.SGD, {"momentum": 0}),
        ({"optimizer": "momentum"}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"optimizer": "nesterov", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        (
            {"optimizer": "SGD(momentum=0.7)", "weight_decay": 0.1},
            torch.optim.SGD,
            {"momentum": 0.7, "weight_decay": 0.1},
        ),
        ({"optimizer": "adamw", "momentum": 0.8}, torch.optim.AdamW, {"betas": (0.8, 0.999)}),
        ({"optimizer": "adam(betas=(0.5, 0.9))", "momentum": 0.8}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
        ({"optimizer": "rmsprop", "momentum": 0.5}, torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_the_optimizer_is_built_as_the_recipe_says(
    settings: dict[str, Any], kind: type, options: dict[str, Any]
) -> None:
    optimizer = run(snippet(recipe(**settings)), **torch_names())["optimizer"]
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in options} == options
    assert optimizer.defaults["lr"] == 0.3


def test_the_names_of_the_optimizers_are_pytorchs() -> None:
    theirs = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert set(TORCH_OPTIMIZERS) == theirs - {"Optimizer", "LBFGS"}


@pytest.mark.parametrize("optimizer", [None, "my_own", "sgd(0.9", "sgd(0.9)"])
def test_an_optimizer_of_the_users_own_is_left_to_them(optimizer: str | None) -> None:
    mine = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    code = snippet(recipe(optimizer=optimizer, schedule="cosine"))
    assert "lr=0.3" in code
    assert run(code, **torch_names(optimizer=mine))["optimizer"] is mine


def test_a_warmup_within_the_schedule_is_the_recipes() -> None:
    within = snippet(recipe(schedule="warmup(0.25) + cosine", optimizer="sgd"))
    assert within == snippet(recipe(schedule="cosine", warmup=0.25, optimizer="sgd"))


def test_layers_have_groups_without_a_setup_too() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    names = run(snippet(recipe(optimizer="sgd", layer_decay=0.5)), **torch_names(model=model))
    assert [group["lr"] for group in names["optimizer"].param_groups] == [0.15, 0.3]


def test_estimators_have_their_rate_without_a_setup_too() -> None:
    for model, rate in ((SGDRegressor(), "eta0"), (MLPRegressor(hidden_layer_sizes=[2]), "learning_rate_init")):
        names = run(snippet(recipe(schedule="cosine", warmup=0.25), "sklearn"), model=model, batches=range(BATCHES))
        for step in (10, 40):
            names["learn"](step, np.zeros((2, 1)), np.zeros(2))
            want = pytest.approx(0.3 * names["multiplier"](step))
            assert getattr(model, rate) == want
            if rate == "learning_rate_init":
                assert model._optimizer.learning_rate_init == want


def test_nesterov_without_momentum_is_plain_descent() -> None:
    for optimizer in ("nesterov", "sgd(momentum=0.9, nesterov=True)"):
        made = run(snippet(recipe(optimizer=optimizer, momentum=0.0)), **torch_names())["optimizer"]
        assert (made.defaults["momentum"], made.defaults["nesterov"]) == (0.0, False)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_negative_metrics_that_stand_still_reduce_the_rate(mode: str) -> None:
    names = run(snippet(recipe(schedule=f"plateau(patience=2, mode={mode})", optimizer="sgd")), **torch_names())
    for _ in range(4):
        names["scheduler"].step(-1.0)
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.03)


def test_groups_keep_their_ratios() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.3, 0.03)]
    names = run(snippet(recipe(schedule="linear")), **torch_names(optimizer=torch.optim.SGD(groups)))
    for _ in range(TOTAL // 2):
        names["optimizer"].step()
        names["scheduler"].step()
    assert [group["lr"] for group in names["optimizer"].param_groups] == pytest.approx([0.15, 0.015])


def test_the_number_of_steps_can_be_given() -> None:
    assert "total_steps = 5000\n" in snippet(recipe(schedule="linear"), total_steps=5000)


def test_the_head_says_it_in_words() -> None:
    what = recipe(schedule="cosine", batch_size=64, layer_decay=0.8)
    head = snippet(what).splitlines()[:2]
    assert head == [
        "# The learning rate falls along half a cosine to zero. Found by lrtune for 10 epochs, batches of 64.",
        "# Each block of layers learns 0.8 times as fast as the one above it.",
    ]


def test_bad_ones_are_refused() -> None:
    with pytest.raises(InputError, match="host must be one of torch, transformers"):
        snippet(recipe(), "jax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean cosine"):
        snippet(recipe(schedule="cosin"))


MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim has Muon since 2.9")


@MUON
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_muon_with_others_of_a_recipe_alone(layer_decay: float | None) -> None:
    """Nobody has said how it was set up: then the code splits the parameters as the trainer does."""
    what = recipe(
        optimizer='muon(others="sgd(nesterov=True)", others_lr_ratio=0.25)',
        schedule="cosine",
        momentum=0.8,
        weight_decay=0.1,
        layer_decay=layer_decay,
    )
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    trainer_groups = layer_groups(model, layer_decay)
    built: Any = build(str(what.optimizer), {}, trainer_groups, what)
    names = run(snippet(what), **torch_names(model=model))
    assert [type(one) for one in names["optimizers"]] == [torch.optim.Muon, torch.optim.SGD]
    theirs = [group for one in names["optimizers"] for group in one.param_groups]
    for group, other in zip(built.param_groups, theirs, strict=True):
        assert all(one is two for one, two in zip(group["params"], other["params"], strict=True))
        assert [group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")] == pytest.approx(
            [other[name] for name in ("initial_lr", "momentum", "weight_decay", "nesterov")]
        )
    assert len(names["schedulers"]) == 2


def test_an_optimizer_that_reads_its_learning_rate_once_follows_the_schedule_of_a_recipe_alone() -> None:
    assert "scale_updates(optimizer)\n" in snippet(recipe(optimizer="rprop", schedule="cosine"))
    assert "scale_updates(optimizer)\n" in snippet(recipe(optimizer="rprop", warmup=0.1, layer_decay=0.5))
    assert "scale_updates(optimizers[1])\n" in snippet(recipe(optimizer='muon(others="rprop")', warmup=0.1))
    assert "scale_updates" not in snippet(recipe(optimizer="rprop"))
    assert "# optimizer: muon(others=3)" in snippet(recipe(optimizer="muon(others=3)"))


def test_a_schedule_that_follows_a_metric_is_refused_where_none_is_heard() -> None:
    with pytest.raises(InputError, match="follows a metric"):
        snippet(recipe(schedule="plateau"), "keras")


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("spec", SPECS)
def test_every_host_has_lines_that_compile(spec: str, warmup: float) -> None:
    """What they do is tried in the real packages: tests/hosts."""
    for host in KINDS:
        for optimizer in ("sgd(momentum=0.9, nesterov=True)", 'muon(others="adamw")'):
            what = recipe(schedule=spec, warmup=warmup, optimizer=optimizer, weight_decay=0.1)
            code = snippet(what, host, total_steps=TOTAL)  # type: ignore[arg-type]
            compile(code, host, "exec")
            assert repr(what.lr) in code
            assert host == "generator" or all(len(line) <= 160 for line in code.splitlines())


def test_every_call_is_of_a_schedule_and_a_host_that_there_are() -> None:
    assert set(CALLS) <= set(KINDS)
    assert all(set(calls) <= set(SCHEDULES) for calls in CALLS.values())


def test_the_page_of_hosts_has_every_call() -> None:
    """It is written by ``nox -s hosts``; a call that it does not know has not been measured."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "hosts.md").read_text().splitlines()]
    head = next(row for row in rows if row[0] == "host")
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)}
    for host, title in TITLES.items():
        for spec in head[2:]:
            calls = CALLS.get(host, {}).get(spec, ())
            kind = "own" if any(call.warm for call in calls) else "own\\*" if calls else "fn"
            assert host == "generator" or table[title][spec].split()[0] == kind, (host, spec)
