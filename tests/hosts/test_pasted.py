"""Every line of the table of calls, in the real packages: the rate of every update against lrtune's own.

``nox -s hosts`` installs the packages, runs this, and writes ``docs/hosts.md`` from what was measured. A host that is
missing skips; PyTorch's and scikit-learn's lines are tried in tests/unit/reporting/test_snippets.py too.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hosts.driving import DRIVERS, PACKAGES, ready
from hosts.page import PAGE, Cell, page
from layering import ROOT

import lrtune
from lrtune.reporting.snippets.calls import CALLS, NEAR
from lrtune.schedules import for_recipe, multipliers

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the packages warn of themselves

LR = 0.3
EXACT = 2e-6  # of the peak; some compute in float32
SHORT, LONG = 97, 1000
PLAIN = (
    *("constant", "linear", "polynomial", "cosine", "cosine_restarts", "exponential", "inverse_sqrt"),
    *("step", "multistep", "wsd", "onecycle", "cyclical"),
)
OPTIONS = (
    "linear(floor=0.2)",
    "cosine(floor=0.1)",
    "polynomial(power=3, floor=0.05)",
    "wsd(decay=0.4, floor=0.1, shape=cosine)",
    "wsd(shape=sqrt)",
    "step(every=0.1, factor=0.7)",
    "multistep(at=[0.25, 0.5, 0.9], factor=0.3)",
    "onecycle(up=0.45, start=0.2, shape=linear)",
    "cosine_restarts(cycles=4, growth=2)",
    "sweep",
)
MEASURED: dict[tuple[str, str, int], float] = {}


@pytest.fixture(scope="module", autouse=True)
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Writes the page once every host has been measured, where LRTUNE_WRITE_HOSTS is set."""
    os.environ["LRTUNE_HOSTS_FOLDER"] = str(tmp_path_factory.mktemp("work"))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    if os.environ.get("LRTUNE_WRITE_HOSTS") and {host for host, *_ in MEASURED} == set(DRIVERS):
        cells = {
            (host, spec): Cell(call=_called(host, spec), off=(MEASURED[host, spec, SHORT], MEASURED[host, spec, LONG]))
            for host, spec, steps in MEASURED
            if steps == SHORT
        }
        versions = {host: f"{PACKAGES[host]} {version(PACKAGES[host])}" for host in DRIVERS}
        Path(ROOT / "docs" / PAGE).write_text(page(cells, versions, PLAIN))


def _called(host: str, spec: str) -> str:
    calls = CALLS.get(host, {}).get(spec, ())
    return "own" if any(call.warm for call in calls) else "own\\*" if calls else "fn"


def deviation(host: str, recipe: lrtune.Recipe, steps: int, *, total: int | None = None) -> float:
    """The largest, as a fraction of the peak."""
    code = lrtune.snippet(recipe, host, total_steps=total)  # type: ignore[arg-type]
    rates = np.array(DRIVERS[host](code, steps, recipe.lr))
    want = recipe.lr * multipliers(for_recipe(recipe, steps), steps)
    assert rates.shape == want.shape
    return float(np.max(np.abs(rates - want)) / recipe.lr)


@pytest.fixture(params=DRIVERS)
def host(request: pytest.FixtureRequest) -> str:
    try:
        ready(request.param)
    except ImportError as error:
        pytest.skip(f"{PACKAGES[request.param]} cannot be imported ({error})")
    return str(request.param)


def test_every_schedule_with_a_warmup_is_exact(host: str) -> None:
    """The warmup is of whole updates at both lengths; what is measured here is what the page says."""
    wrong = {}
    for steps, warmup in ((SHORT, 10), (LONG, 100)):
        for spec in PLAIN:
            recipe = lrtune.Recipe(lr=LR, schedule=spec, warmup=warmup, optimizer="sgd")
            off = MEASURED[host, spec, steps] = deviation(host, recipe, steps)
            if off > EXACT:
                wrong[spec, steps] = off
    assert not wrong


def test_every_schedule_without_a_warmup_and_with_options_is_exact(host: str) -> None:
    wrong = {}
    for spec in (*PLAIN, *OPTIONS):
        for warmup in (0, 0.1) if spec in OPTIONS else (0,):
            recipe = lrtune.Recipe(lr=LR, schedule=spec, warmup=warmup, optimizer="sgd")
            off = deviation(host, recipe, SHORT, total=SHORT)
            if off > EXACT:
                wrong[spec, warmup] = off
    assert not wrong


def test_where_a_warmup_is_rounded_it_is_off_by_what_the_lines_say(host: str) -> None:
    """A tenth of 97 updates, in lines that do not know the length: by 50 / 10 % of the peak at the most."""
    recipe = lrtune.Recipe(lr=LR, schedule="cosine", warmup=0.1, optimizer="sgd")
    code = lrtune.snippet(recipe, host)  # type: ignore[arg-type]
    off = deviation(host, recipe, SHORT)
    assert off <= (0.05 if "round(" in code.partition("json_scheduler")[0] else EXACT)


@pytest.mark.parametrize("spec", NEAR["deepspeed"])
def test_json_alone_is_off_by_what_is_said(spec: str) -> None:
    try:
        ready("deepspeed")
    except ImportError as error:
        pytest.skip(f"deepspeed cannot be imported ({error})")
    for steps, warmup, said in ((SHORT, 10, 0), (LONG, 100, 1)):
        recipe = lrtune.Recipe(lr=LR, schedule=spec, warmup=warmup, optimizer="sgd")
        code = lrtune.snippet(recipe, "deepspeed")
        rates = np.array(DRIVERS["deepspeed"](code, steps, LR, alone=True))
        off = np.max(np.abs(rates - LR * multipliers(for_recipe(recipe, steps), steps))) / LR
        assert off == pytest.approx(NEAR["deepspeed"][spec].off[said], rel=0.01)


def test_transformers_trainer_does_what_the_arguments_say(tmp_path: Path) -> None:
    """The scheduler that a Trainer makes of the arguments, where the warmup is of whole updates."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    for spec, warmup in (("cosine", 10), ("linear(floor=0.2)", 0.0), ("wsd", 10), ("inverse_sqrt", 10)):
        recipe = lrtune.Recipe(lr=LR, schedule=spec, warmup=warmup, optimizer="adamw")
        names = {"train_loader": range(SHORT), "optimizer": torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=LR)}
        exec(lrtune.snippet(recipe, "transformers"), names)  # noqa: S102 -- what a person pastes
        names["args"].output_dir = str(tmp_path)
        trainer = transformers.Trainer(torch.nn.Linear(1, 1), names["args"])
        trainer.create_optimizer_and_scheduler(SHORT)
        rates = []
        for _ in range(SHORT):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.lr_scheduler.step()
        np.testing.assert_allclose(rates, LR * multipliers(for_recipe(recipe, SHORT), SHORT), atol=EXACT * LR)
