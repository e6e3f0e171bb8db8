"""How long an epoch takes: a TorchTrainer against the loops that one writes by hand, on the same model and data.

Three loops, each with zero_grad, forward, loss, backward, step and the sum of ``loss.item()``:

- *DataLoader*: over ``DataLoader(TensorDataset(...), batch_size=..., shuffle=True)``, as in PyTorch's tutorials;
- *indexing*: over rows of the tensors by a permutation, as one writes it who knows what a DataLoader costs;
- *same batch*: on one batch over and over, no data and no reading of the loss: PyTorch alone.

``steps`` compares training alone. ``whole`` adds what a study needs: a cosine schedule by the step on both
sides (``CosineAnnealingLR`` there), and loss and accuracy of 360 held-out samples after each epoch, there over
a DataLoader of the same batch size.

All take turns in this process, an epoch each; a figure is a median over the rounds of the CPU time, a ratio
the median of the rounds' own ratios, so that other programs on the machine meet both sides alike.

    python studies/benchmarks/torch_epoch.py [--epochs 40] [--threads 1] [--batch 32]
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from lrtune.core.recipe import Recipe
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Batches: TypeAlias = Iterable[tuple[torch.Tensor, torch.Tensor]]

SAMPLES, HELD_OUT = 1437, 360  # scikit-learn's digits
LR = 0.01
PROBLEMS = {
    "linear 64-10, SGD": ((), "sgd"),
    "MLP 64-64-10, SGD": ((64,), "sgd"),
    "MLP 64-64-10, SGD with momentum": ((64,), "momentum"),
    "MLP 64-64-10, AdamW": ((64,), "adamw"),
    "MLP 64-128-128-10, SGD": ((128, 128), "sgd"),
}
BARE = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=LR),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=LR, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=LR),
}


def network(hidden: tuple[int, ...]) -> nn.Module:
    sizes = (64, *hidden, 10)
    layers: list[nn.Module] = []
    for begin, end in pairwise(sizes):
        layers += [nn.Linear(begin, end), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def data(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, 64, generator=generator), torch.randint(10, (samples,), generator=generator)


# -- the loops that everybody writes ------------------------------------------------------------------


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, scheduler: CosineAnnealingLR | None = None
) -> float:
    """An epoch; the sum of its losses."""
    total = 0.0
    for inputs, target in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), target)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += loss.item()
    return total


def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Loss and accuracy of the held-out part."""
    model.eval()
    total, right, samples = 0.0, 0, 0
    with torch.no_grad():
        for inputs, target in batches:
            logits = model(inputs)
            total += functional.cross_entropy(logits, target).item() * len(target)
            right += int((logits.argmax(1) == target).sum().item())
            samples += len(target)
    model.train()
    return total / samples, right / samples


def same_batch(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, target = batch
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), target).backward()
    optimizer.step()


class Sides:
    """An epoch of each side, by name; each side has a model of its own."""

    def __init__(self, hidden: tuple[int, ...], optimizer: str, batch: int, epochs: int) -> None:
        self._hidden, self._name, self._batch, self._epochs = hidden, optimizer, batch, epochs
        self.data, self.held_out = data(SAMPLES, 0), data(HELD_OUT, 1)
        self.trainer = self._trainer(whole=False)
        self.recipe = Recipe(lr=LR, epochs=epochs)
        self.steps = self.trainer.steps_per_epoch(self.recipe)

    def _trainer(self, *, whole: bool) -> TorchTrainer:
        return TorchTrainer(
            model=lambda: network(self._hidden),
            train_data=self.data,
            valid_data=self.held_out if whole else None,
            metrics=["accuracy"] if whole else None,
            optimizer=self._name,
            batch_size=self._batch,
            device="cpu",
        )

    def _bare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network(self._hidden)
        return model, BARE[self._name](model.parameters())

    def _loader(self, tensors: tuple[torch.Tensor, torch.Tensor], *, shuffle: bool) -> Batches:
        return DataLoader(TensorDataset(*tensors), batch_size=self._batch, shuffle=shuffle)

    def loader(self) -> Callable[[], object]:
        """The tutorials' loop."""
        model, optimizer = self._bare()
        loader = self._loader(self.data, shuffle=True)
        return lambda: train(model, optimizer, loader)

    def whole_loader(self) -> Callable[[], object]:
        """The same with its schedule and its evaluation."""
        model, optimizer = self._bare()
        loader, held_out = self._loader(self.data, shuffle=True), self._loader(self.held_out, shuffle=False)
        scheduler = CosineAnnealingLR(optimizer, T_max=self._epochs * self.steps)
        return lambda: (train(model, optimizer, loader, scheduler), evaluate(model, held_out))

    def indexing(self) -> Callable[[], object]:
        """Rows of the tensors by a permutation."""
        (model, optimizer), (inputs, target) = self._bare(), self.data

        def batches() -> Batches:
            for rows in torch.randperm(SAMPLES).split(self._batch):
                yield inputs[rows], target[rows]

        return lambda: train(model, optimizer, batches())

    def same(self) -> Callable[[], object]:
        """One batch over and over."""
        (model, optimizer), (inputs, target) = self._bare(), self.data
        batch = inputs[: self._batch], target[: self._batch]
        return lambda: [same_batch(model, optimizer, batch) for _ in range(self.steps)]

    def ours(self) -> Callable[[], object]:
        """The trainer."""
        run = self.trainer.start([self.recipe])
        return lambda: run.advance(self.steps)

    def whole_ours(self) -> Callable[[], object]:
        """The same with its schedule and its evaluation."""
        recipe = Recipe(lr=LR, epochs=self._epochs, schedule="cosine")
        run = self._trainer(whole=True).start([recipe])
        return lambda: run.advance(self.steps)


def measured(sides: Sides, epochs: int) -> dict[str, list[float]]:
    """Microseconds of CPU a step of each side, round by round; the first round warms up and is left out."""
    names = ("loader", "indexing", "same", "ours", "whole_loader", "whole_ours")
    epoch_of = {name: getattr(sides, name)() for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(epochs):
        for name, epoch in epoch_of.items():
            begin = time.process_time()
            epoch()
            found[name].append(1e6 * (time.process_time() - begin) / sides.steps)
    return {name: values[1:] for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, batch {options.batch}, {SAMPLES} samples, "
        "us of CPU a step"
    )
    for name, (hidden, optimizer) in PROBLEMS.items():
        found = measured(Sides(hidden, optimizer, options.batch, options.epochs + 1), options.epochs + 1)

        def ratio(above: str, below: str, found: dict[str, list[float]] = found) -> float:
            return median(a / b for a, b in zip(found[above], found[below], strict=True))

        loader, indexing, same, ours, whole_loader, whole_ours = (median(values) for values in found.values())
        print(
            f"{name:32} steps: DataLoader {loader:6.1f}  indexing {indexing:6.1f}  same batch {same:6.1f}  "
            f"TorchTrainer {ours:6.1f}  ratios {ratio('loader', 'ours'):.2f} {ratio('indexing', 'ours'):.2f} "
            f"{ratio('same', 'ours'):.2f}\n"
            f"{'':32} whole: DataLoader {whole_loader:6.1f}  TorchTrainer {whole_ours:6.1f}  "
            f"ratio {ratio('whole_loader', 'whole_ours'):.2f}"
        )


if __name__ == "__main__":
    main()
