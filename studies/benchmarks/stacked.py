"""Runs stacked into one against the same runs one by one: member-epochs a second, both sides in one process.

The multilayer perceptron of studies/digits-mlp (64-64) under SGD with momentum and AdamW at batches of 32 and 512, and
the transformer of studies/python-lm. Rounds alternate between the sides; the ratio is that of the fastest round of
each, since other programs only ever slow a round down. With one thread it is CPU time, else time by the clock. A round
has the evaluation of the held-out part that an epoch ends with, and each member has a learning rate of its own.
``auto`` is what stack="auto" measures of itself.

On a GPU also: the peak of memory over K times that of one run (weights, optimizer, activations).

    python studies/benchmarks/stacked.py [--rounds 7] [--threads 2] [--device cpu]
"""

from __future__ import annotations

import argparse
import runpy
import time
from pathlib import Path
from typing import Any

import torch

from lrtune.core.recipe import Recipe
from lrtune.training.networks.trainer import TorchTrainer

STUDIES = Path(__file__).parents[1]
ONES = 2
"""Runs that are trained one by one, and stand for all K of them: they cost the same each."""


def arguments(task: str) -> dict[str, Any]:
    if task == "python-lm":
        lm = runpy.run_path(str(STUDIES / task / "train.py"))
        train, valid = lm["text"](lm["MODULES"]), lm["text"](lm["HELD_OUT"])
        return {
            "model": lm["Model"],
            "train_data": (train[:, :-1], train[:, 1:]),
            "valid_data": (valid[:, :-1], valid[:, 1:]),
        }
    mlp = runpy.run_path(str(STUDIES / task / "train.py"))
    x_train, x_valid, y_train, y_valid = mlp["tensors"]()
    return {
        "model": mlp["model"],
        "train_data": (x_train, y_train),
        "valid_data": (x_valid, y_valid),
        "metrics": ["accuracy"],
    }


def trainer(task: str, *, stack: bool | str, **options: Any) -> TorchTrainer:
    return TorchTrainer(**arguments(task), loss="cross_entropy", stack=stack, **options)


def recipes(count: int, **options: Any) -> list[Recipe]:
    return [Recipe(lr=0.01 * (1 + number / count), epochs=10**4, seed=0, **options) for number in range(count)]


class Side:
    """Epochs of so many runs."""

    def __init__(self, task: str, count: int, steps: int | None, *, stack: bool, device: str, **options: Any) -> None:
        self.count, self._device = count, device
        own = trainer(task, stack=stack, device=device, **options)
        self.run = own.start(recipes(count))
        self.steps = steps or own.steps_per_epoch(self.run.recipes[0])
        self.run.advance(2)
        for notice in own.notices:
            print(notice)

    def seconds(self) -> float:
        """Of one round, for each member."""
        clock = time.process_time if self._device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        begin = clock()
        self.run.advance(self.steps)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return (clock() - begin) / self.count


def peak(task: str, count: int, *, stack: bool, **options: Any) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side = Side(task, count, None, stack=stack, device="cuda", **options)
    side.seconds()
    found = torch.cuda.max_memory_allocated() - before
    side.run.close()
    return found


def compared(task: str, count: int, *, rounds: int, device: str, steps: int | None = None, **options: Any) -> None:
    sides = [Side(task, ONES, steps, stack=False, device=device, **options)]
    sides.append(Side(task, count, steps, stack=True, device=device, **options))
    found = [[side.seconds() for side in sides] for _ in range(rounds)]
    alone, stacked = (min(times) for times in zip(*found, strict=True))
    told = trainer(task, stack="auto", device=device, **options).stack_speedup(recipes(1)[0], count)
    label = f"{task}, {options['optimizer']}, batch {options['batch_size']}, K = {count}"
    print(
        f"{label:48} one by one {1e6 * alone / sides[0].steps:8.1f} us/step  "
        f"stacked {1e6 * stacked / sides[0].steps:8.1f}  ratio {alone / stacked:5.2f}  auto {told:5.2f}",
        flush=True,
    )
    for side in sides:
        side.run.close()
    if device == "cuda":
        share = peak(task, count, stack=True, **options) / (count * peak(task, 1, stack=False, **options))
        print(f"{'':48} memory over K times that of one run: {share:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    common = {"rounds": options.rounds, "device": options.device}
    print(f"torch {torch.__version__}, {options.threads} threads, {options.device}; fastest of {options.rounds} rounds")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        return
    for optimizer, more in (("sgd", {"optimizer_options": {"momentum": 0.9}}), ("adamw", {})):
        for count in (16, 64):
            compared("digits-mlp", count, optimizer=optimizer, batch_size=32, **more, **common)
    compared("digits-mlp", 16, optimizer="adamw", batch_size=512, **common)
    compared("python-lm", 8, optimizer="adamw", batch_size=32, steps=12, **common)
    if options.device == "cpu" and not torch.cuda.is_available():
        print("GPU: skipped, there is none here")


if __name__ == "__main__":
    main()
