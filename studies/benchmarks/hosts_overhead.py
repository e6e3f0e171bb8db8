"""What it costs to be driven by lrtune: a host's trainer at looks of 1 % against the host's own uninterrupted training.

- *training*: lrtune advances by 1 % at a time and evaluates nothing; the host trains in one call, without evaluations;
- *looks*: both evaluate the held-out part at each 1 %.

Both sides train the same model on the same data with the same settings, and take turns in this process; a figure is
the median over the rounds of the CPU time, a ratio the median of the rounds' own ratios.

    python studies/benchmarks/hosts_overhead.py [--rounds 5] [HOST ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lrtune.config.user_code import load
from lrtune.core.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

STUDIES = Path(__file__).parents[1]
LOOKS = 100


def hugging_face() -> tuple[Any, Recipe, Callable[[bool], object]]:
    """The study hf-bert: its trainer, a recipe, and ``Trainer.train()`` with the same settings."""
    make = load("train.py:make", STUDIES / "hf-bert", where="hosts_overhead")
    trainer = load("train.py:trainer", STUDIES / "hf-bert", where="hosts_overhead")()
    recipe = Recipe(lr=2e-4, epochs=4, schedule="linear")

    def host(evaluate: bool) -> object:  # noqa: FBT001 -- called with one argument
        plain = make()
        args = plain.args
        args.learning_rate, args.num_train_epochs = recipe.lr, recipe.epochs
        args.save_strategy = args.logging_strategy = "no"
        args.dataloader_pin_memory = False
        args.eval_strategy, args.eval_steps = ("steps", 1 / LOOKS) if evaluate else ("no", None)
        for kind in {type(one) for one in plain.callback_handler.callbacks if type(one).__name__ == "PrinterCallback"}:
            plain.remove_callback(kind)
        return plain.train()

    return trainer, recipe, host


HOSTS = {"transformers": hugging_face}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("hosts", nargs="*", default=list(HOSTS), metavar="HOST", help=", ".join(HOSTS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'host':14} {'':9} {'lrtune, s':>10} {'host, s':>10} {'ratio':>7}")
    for name in options.hosts:
        if importlib.util.find_spec(name) is None:
            print(f"{name:14} is not installed")
            continue
        trainer, recipe, host = HOSTS[name]()
        for what, evaluate in (("training", False), ("looks", True)):
            pairs = [
                (seconds(driven, trainer, recipe, evaluate), seconds(host, evaluate)) for _ in range(options.rounds + 1)
            ][1:]  # the first one warms up
            ours, theirs = (median(column) for column in zip(*pairs, strict=True))
            ratio = median(mine / other for mine, other in pairs)
            print(f"{name:14} {what:9} {ours:10.3f} {theirs:10.3f} {ratio:7.3f}", flush=True)


def driven(trainer: Any, recipe: Recipe, evaluate: bool) -> None:  # noqa: FBT001 -- called with one argument
    run = trainer.start([recipe])
    steps = max(1, recipe.epochs * trainer.steps_per_epoch(recipe) // LOOKS)
    while run.alive:
        run.advance(steps, evaluate=evaluate)
    run.close()


def seconds(function: Callable[..., object], *given: Any) -> float:
    begin = time.process_time()
    function(*given)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
