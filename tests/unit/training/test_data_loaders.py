"""A DataLoader with a sampler of the user's own: runs in turn, and runs that are resumed, are what they are alone."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lrtune.core.recipe import Recipe
from lrtune.errors import DataError
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.training.base import Run

ROWS, BATCH = 48, 8
SAMPLE = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, 4, generator=SAMPLE)
Y = (X @ torch.randn(4, 3, generator=SAMPLE)).argmax(1)
PLAIN = TensorDataset(X, Y)


class OwnOrder:
    """A sampler that shuffles what it holds in place, with a generator of NumPy's or Python's."""

    def __init__(self, generator: np.random.Generator | np.random.RandomState | random.Random) -> None:
        self.generator, self.indices = generator, list(range(ROWS))

    def __iter__(self) -> Iterator[int]:
        for begin in range(0, ROWS, 16):
            part = self.indices[begin : begin + 16]
            self.generator.shuffle(part)
            yield from part

    def __len__(self) -> int:
        return ROWS


class Noisy(Dataset[Any]):
    """Augments with a generator that it holds itself."""

    def __init__(self, generator: Any) -> None:
        self.noise = {"generator": generator}

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = self.noise["generator"]
        normal = generator.normal if hasattr(generator, "normal") else generator.gauss
        return X[index] + float(normal(0, 1)), Y[index]


class Streaming(IterableDataset[Any]):
    """Remembers where it is, and how often it was begun."""

    def __init__(self) -> None:
        self.at, self.generator = 0, torch.Generator()

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[Any]:
        self.at = 0
        while self.at < ROWS:
            self.at += 1
            yield X[self.at - 1] + torch.randn((), generator=self.generator), Y[self.at - 1]


class Sharing:
    """A function that returns the same loader each time."""

    def __init__(self) -> None:
        self.loader = drawn()

    def __call__(self) -> DataLoader[Any]:
        return self.loader


def drawn() -> DataLoader[Any]:
    sampler = RandomSampler(PLAIN, replacement=True, num_samples=ROWS, generator=torch.Generator())
    return DataLoader(PLAIN, batch_size=BATCH, sampler=sampler)


def batched(**where: bool) -> DataLoader[Any]:
    sampler = RandomSampler(PLAIN, replacement=True, num_samples=ROWS, generator=torch.Generator())
    return DataLoader(PLAIN, **{name: BatchSampler(sampler, BATCH, drop_last=False) for name in where}, batch_size=None
                      if "sampler" in where else 1)  # fmt: skip


DATA: dict[str, Callable[[], Any]] = {
    "drawn again": drawn,
    "weighted": lambda: DataLoader(
        PLAIN, BATCH, sampler=WeightedRandomSampler(X[:, 0].exp().tolist(), ROWS, generator=torch.Generator())
    ),
    "a subset": lambda: DataLoader(PLAIN, BATCH, sampler=SubsetRandomSampler(range(40), generator=torch.Generator())),
    "batch sampler": lambda: batched(batch_sampler=True),
    "batch sampler as sampler": lambda: batched(sampler=True),
    "distributed": lambda: DataLoader(PLAIN, BATCH, sampler=DistributedSampler(PLAIN, num_replicas=1, rank=0)),
    "numpy": lambda: DataLoader(PLAIN, BATCH, sampler=OwnOrder(np.random.default_rng(0))),
    "old numpy": lambda: DataLoader(PLAIN, BATCH, sampler=OwnOrder(np.random.RandomState(0))),
    "python": lambda: DataLoader(PLAIN, BATCH, sampler=OwnOrder(random.Random(0))),
    "one loader for all": Sharing,
    "noisy loader": lambda: DataLoader(Noisy(np.random.default_rng(0)), BATCH, shuffle=True),
    "noisy data": lambda: Noisy(random.Random(0)),
    "a stream": lambda: DataLoader(Streaming(), BATCH),
}


def trainer(data: Any) -> TorchTrainer:
    return TorchTrainer(
        model=lambda: nn.Linear(4, 3),
        train_data=data,
        valid_data=(X, Y),
        loss=nn.functional.cross_entropy,
        optimizer="sgd",
        batch_size=BATCH,
        device="cpu",
    )


def losses(run: Run, steps: int) -> list[float]:
    return [report.point.values["train_loss"] for report in run.advance(steps)]


@pytest.mark.parametrize("name", DATA)
def test_runs_in_turn_and_resumed_are_what_they_are_alone(name: str) -> None:
    data = DATA[name]()
    one, other = Recipe(lr=0.1, epochs=3, seed=1), Recipe(lr=0.05, epochs=3, seed=2)
    made = trainer(data)
    run = made.start([one])
    alone = [loss for _ in range(8) for loss in losses(run, 2)]
    run, beside = made.start([one]), made.start([other])
    found = []
    for turn in range(8):
        found += losses(run, 2)
        beside.advance(1 + turn % 3)
        if turn == 4:  # resumed in the middle of an epoch
            state = run.state()
            assert state is not None
            run = trainer(DATA[name]()).start([one])
            run.restore(state)
    assert found == alone


@pytest.mark.parametrize("name", ["drawn again", "distributed", "numpy", "python"])
def test_epochs_differ(name: str) -> None:
    from lrtune.training.networks.data_loaders import LoaderSource

    source = LoaderSource(DATA[name](), "train_data", Recipe(lr=1.0))
    feed = source.feed(Recipe(lr=0.1, seed=1), BATCH, torch.device("cpu"))
    first, second = (torch.cat([feed.batch(epoch, at)[0] for at in range(ROWS // BATCH)]) for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_the_users_own_loader_is_left_as_it_was() -> None:
    loader = drawn()
    generator = loader.sampler.generator  # type: ignore[attr-defined]  # it has one
    before = generator.get_state()
    trainer(loader).start([Recipe(lr=0.1, epochs=2)]).advance(5)
    assert torch.equal(generator.get_state(), before)
    assert loader.dataset is PLAIN


class Locked(OwnOrder):
    def __init__(self) -> None:
        super().__init__(random.Random(0))
        self.lock = threading.Lock()


def test_a_sampler_that_cannot_be_copied_is_refused_with_the_cure() -> None:
    with pytest.raises(DataError, match=r"Locked cannot be copied for each run .*give a function"):
        trainer(DataLoader(PLAIN, BATCH, sampler=Locked())).start([Recipe(lr=0.1, epochs=2)])
