"""What lrtune costs besides the training itself: three ratios, each measured side by side in one run.

    python studies/benchmarks/overhead.py [--rounds 3] [--strategy NAME ...] [--trials 12]

1. *digits-mlp*: a search in an SQLite file, against the same trainings (same recipes, as far as each was
   trained, with as many evaluations) in a bare PyTorch loop that holds nothing but the training. Both in
   seconds of CPU of this process, which other programs on the machine do not lengthen, and by the clock.
2. *trials a second* of an objective of 1 ms in 100 steps, against plain ``study.optimize`` that reports and
   asks ``should_prune`` at each of them, on a file opened with the same settings: TPE on both sides, once with
   the pruner that each has by default and once with none. Every learning rate has the same curve, so that
   no pruner ends a trial and all of them go all their steps.
3. *a training of ten seconds*: what a search by freeze-thaw in an SQLite file decides and stores, in seconds of CPU for
   each full training that it spends, as a share of ten seconds. The training is a generator that takes no time.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import optuna
import torch
from torch import nn
from torch.nn import functional

import lrtune
from lrtune.config.study_file import read_study
from lrtune.config.user_code import load
from lrtune.schedules import for_recipe
from lrtune.storage import open_storage
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.config.study_file import StudyFile
    from lrtune.core.records import TrialRecord
    from lrtune.training.base import Trainer

STUDY = Path(__file__).parents[1] / "digits-mlp" / "study.toml"
STEPS = 100
STEP_SECONDS = 1e-3 / STEPS
TRIALS = 40
RANGE = (1e-5, 1.0)
TRAINING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of CPU, and by the clock."""

    cpu: float
    clock: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cpu + other.cpu, self.clock + other.clock)


class Stopwatch:
    """Reads both clocks."""

    def __init__(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    def read(self) -> Spent:
        """Since it was made."""
        return Spent(time.process_time() - self._cpu, time.perf_counter() - self._clock)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strategy", nargs="+", default=["random", "freeze-thaw"])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, help="the study's own unless given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for strategy in options.strategy:
        on_digits(options.rounds, strategy, options.trials, options.epochs)
    on_nothing(options.rounds)
    on_ten_seconds(options.rounds)


# -- a search against its trainings alone -------------------------------------------------------------


def on_digits(rounds: int, strategy: str, trials: int, epochs: int | None) -> None:
    study = read_study(STUDY, {"epochs": epochs} if epochs else None)
    trainer = study.make_trainer()
    data, model = (load(f"train.py:{name}", study.folder, where="benchmark") for name in ("tensors", "model"))
    searched(study, trainer, strategy, 3, 1)  # what is loaded once is not what a search costs
    ratios = []
    for number in range(rounds):
        total, records = searched(study, trainer, strategy, trials, number)
        bare = Spent(0.0, 0.0)
        for record in records:
            bare += trained(record, trainer, model(), data())
        ratios.append((total.cpu / bare.cpu, total.clock / bare.clock))
        reports = sum(len(record.curve) for record in records)
        print(
            f"digits-mlp, {strategy}, {len(records)} trials, {reports} reports: search {total.cpu:.2f} s CPU "
            f"({total.clock:.2f} s), bare loop {bare.cpu:.2f} s CPU ({bare.clock:.2f} s), ratio {ratios[-1][0]:.3f}"
        )
    cpu, clock = (median(column) for column in zip(*ratios, strict=True))
    print(
        f"digits-mlp, {strategy}: lrtune adds {cpu - 1:+.1%} of CPU, {clock - 1:+.1%} by the clock (median of {rounds})"
    )


def searched(
    study: StudyFile, trainer: Trainer, strategy: str, trials: int, seed: int
) -> tuple[Spent, list[TrialRecord]]:
    """What a search took, and what it trained."""
    with tempfile.TemporaryDirectory() as folder:
        settings = study.arguments() | {"strategy": strategy, "trials": trials, "seed": seed, "prune": False}
        settings.pop("budget", None)
        watch = Stopwatch()
        result = lrtune.tune(trainer, study.space, **settings, storage=Path(folder) / "study.db")
        return watch.read(), read(result.study).records


def trained(record: TrialRecord, trainer: Trainer, model: nn.Module, data: Sequence[torch.Tensor]) -> Spent:
    """The same training as anybody would write it: steps, the schedule, and as many evaluations."""
    x_train, x_valid, y_train, y_valid = data
    recipe = record.recipe
    per_epoch = trainer.steps_per_epoch(recipe)
    steps, reports = round(record.trained * per_epoch), {point.step for point in record.curve}
    schedule, size = for_recipe(recipe, recipe.epochs * per_epoch), recipe.batch_size
    watch = Stopwatch()
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9)
    order = torch.empty(0)
    for step in range(steps):
        at = step % per_epoch
        if at == 0:
            order, total = torch.randperm(len(x_train)), 0.0
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(step / (recipe.epochs * per_epoch))
        rows = order[at * size : (at + 1) * size]
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x_train[rows]), y_train[rows])
        loss.backward()
        optimizer.step()
        total += loss.item()
        if step + 1 in reports:
            model.eval()
            with torch.no_grad():
                logits = model(x_valid)
                functional.cross_entropy(logits, y_valid).item()
                (logits.argmax(1) == y_valid).float().mean().item()
            model.train()
    return watch.read()


# -- trials a second ----------------------------------------------------------------------------------


def on_nothing(rounds: int) -> None:
    for prune in (True, False):
        label = f"1 ms in {STEPS} steps, {'default pruners' if prune else 'no pruner'}"
        ratios = []
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                plain = TRIALS / plainly(Path(folder) / "plain.db", number, prune=prune).clock
                ours = TRIALS / with_lrtune(Path(folder) / "lrtune.db", number, prune=prune).clock
            ratios.append(ours / plain)
            print(f"{label}: lrtune {ours:.1f} trials/s, study.optimize {plain:.2f}: {ratios[-1]:.1f}x")
        print(f"{label}: {median(ratios):.1f} times as many trials a second (median of {rounds})")


def step(number: int) -> float:
    """A hundredth of the objective: what it would report, after 10 microseconds of work."""
    until = time.perf_counter() + STEP_SECONDS
    while time.perf_counter() < until:
        pass
    return 1.0 / (1 + number)


def with_lrtune(path: Path, seed: int, *, prune: bool) -> Spent:
    def train(_recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
        for number in range(STEPS):
            yield {"loss": step(number)}

    watch = Stopwatch()
    lrtune.tune(
        train,
        lrtune.Space(lr=RANGE),
        epochs=STEPS,
        metric="loss",
        strategy="tpe",
        prune=None if prune else False,
        trials=TRIALS,
        seed=seed,
        storage=path,
    )
    return watch.read()


def plainly(path: Path, seed: int, *, prune: bool) -> Spent:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", *RANGE, log=True)
        for number in range(STEPS):
            loss = step(number)
            trial.report(loss, number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    watch = Stopwatch()
    study = optuna.create_study(
        storage=open_storage(path),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=None if prune else optuna.pruners.NopPruner(),
    )
    study.optimize(objective, n_trials=TRIALS)
    return watch.read()


# -- the search's own cost ----------------------------------------------------------------------------


def on_ten_seconds(rounds: int) -> None:
    def train(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
        for epoch in range(recipe.epochs):
            yield {"valid_loss": 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)}

    space = lrtune.Space(lr=RANGE, schedule=["constant", "cosine"], warmup=[0.0, 0.1])
    shares = []
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            watch = Stopwatch()
            result = lrtune.tune(train, space, epochs=27, budget=6.0, seed=number, storage=Path(folder) / "study.db")
            own = watch.read().cpu
        if number:  # the first one imports
            shares.append(own / result.cost / TRAINING_SECONDS)
            print(f"freeze-thaw: {own:.2f} s CPU for {result.cost:.1f} full trainings without any work")
    print(f"a training of {TRAINING_SECONDS:g} s: the search itself costs {median(shares):.2%} (median of {rounds})")


if __name__ == "__main__":
    main()
