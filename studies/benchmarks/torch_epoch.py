"""How long an epoch takes: a TorchTrainer against the same model under a default DataLoader loop.

Both train the same network on the same tensors in memory, batch 32, side by side in this process, an
epoch of one and then an epoch of the other; the ratio is that of the medians of the CPU time, which
on an idle machine is the time that passes and on a busy one is not other people's. ``--threads`` sets
the number of PyTorch's threads.

    python studies/benchmarks/torch_epoch.py [--epochs 40] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.recipe import Recipe
from lrtune.training.network import TorchTrainer

BATCH = 32
SAMPLES = 1437  # as scikit-learn's digits without a fifth
PROBLEMS = {
    "linear 64-10, SGD": ((), "sgd"),
    "MLP 64-64-10, SGD": ((64,), "sgd"),
    "MLP 64-64-10, SGD with momentum": ((64,), "momentum"),
    "MLP 64-64-10, AdamW": ((64,), "adamw"),
    "MLP 64-128-128-10, SGD": ((128, 128), "sgd"),
}
BARE = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def network(hidden: tuple[int, ...]) -> nn.Module:
    sizes = (64, *hidden, 10)
    layers: list[nn.Module] = []
    for begin, end in pairwise(sizes):
        layers += [nn.Linear(begin, end), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def bare_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[tuple[torch.Tensor, ...]]
) -> float:
    """The loop that everybody writes; reads the loss at each step, as the trainer does."""
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    for inputs, target in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), target)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def compare(hidden: tuple[int, ...], optimizer: str, epochs: int) -> tuple[float, float]:
    """Median milliseconds of an epoch: of the bare loop, and of the trainer."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(SAMPLES, 64, generator=generator)
    target = torch.randint(10, (SAMPLES,), generator=generator)
    model = network(hidden)
    made = BARE[optimizer](model.parameters())
    loader = DataLoader(TensorDataset(inputs, target), batch_size=BATCH, shuffle=True)
    trainer = TorchTrainer(
        model=lambda: network(hidden), train_data=(inputs, target), optimizer=optimizer, batch_size=BATCH, device="cpu"
    )
    recipe = Recipe(lr=0.01, epochs=epochs + 1)
    run = trainer.start([recipe])
    steps = trainer.steps_per_epoch(recipe)
    bare, ours = [], []
    for _ in range(epochs + 1):
        begin = time.process_time()
        bare_epoch(model, made, loader)
        middle = time.process_time()
        run.advance(steps)
        end = time.process_time()
        bare.append(1e3 * (middle - begin))
        ours.append(1e3 * (end - middle))
    run.close()
    return statistics.median(bare[1:]), statistics.median(ours[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, batch {BATCH}, {SAMPLES} samples, ms an epoch")
    for name, (hidden, optimizer) in PROBLEMS.items():
        bare, ours = compare(hidden, optimizer, arguments.epochs)
        print(f"{name:34} DataLoader {bare:7.1f}   TorchTrainer {ours:7.1f}   ratio {bare / ours:5.2f}")


if __name__ == "__main__":
    main()
