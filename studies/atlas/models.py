"""The models of the atlas, each a module from a batch of inputs to outputs; small enough to train sixty at once."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from data import SYMBOLS, WINDOW
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from data import Data

__all__ = ["MODELS", "loss_and_error"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def _outputs(data: Data) -> int:
    return data.classes or 1


def _mlp(data: Data, spec: dict[str, Any]) -> nn.Module:
    sizes = [data.x[0].numel(), *[spec["width"]] * spec["depth"]]
    layers: list[nn.Module] = [nn.Flatten()]
    for one, two in itertools.pairwise(sizes):
        layers += [nn.Linear(one, two)]
        layers += [nn.LayerNorm(two)] if spec["norm"] else []
        layers += [ACTIVATIONS[spec["activation"]]()]
        layers += [nn.Dropout(spec["dropout"])] if spec["dropout"] else []
    return nn.Sequential(*layers, nn.Linear(sizes[-1], _outputs(data)))


class _Residual(nn.Module):
    def __init__(self, width: int, spec: dict[str, Any]) -> None:
        super().__init__()
        norm = nn.LayerNorm(width) if spec["norm"] else nn.Identity()
        self.inner = nn.Sequential(
            norm, nn.Linear(width, width), ACTIVATIONS[spec["activation"]](), nn.Linear(width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def _residual(data: Data, spec: dict[str, Any]) -> nn.Module:
    width = spec["width"]
    blocks = [_Residual(width, spec) for _ in range(spec["depth"])]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(data.x[0].numel(), width), *blocks, nn.ReLU(), nn.Linear(width, _outputs(data))
    )


def _cnn(data: Data, spec: dict[str, Any]) -> nn.Module:
    width, layers, channels = spec["width"], [], data.x.shape[1]
    for _ in range(2):
        layers += [nn.Conv2d(channels, width, 3, padding=1)]
        # statistics of the batch at hand, in evaluation too: running ones cannot be stacked
        layers += [nn.BatchNorm2d(width, track_running_stats=False)] if spec["norm"] else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels, width = width, 2 * width
    side = data.x.shape[2] // 4
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, _outputs(data)))


class _Recurrent(nn.Module):
    """A GRU or LSTM written out, which `torch.func` can stack; of symbols or of values."""

    def __init__(self, data: Data, spec: dict[str, Any]) -> None:
        super().__init__()
        self.width, self.gates = spec["width"], 3 if spec["cell"] == "gru" else 4
        self.symbols = nn.Embedding(SYMBOLS, self.width) if data.x.ndim == 2 else None
        size = self.width if self.symbols is not None else data.x.shape[2]
        self.given, self.held = nn.Linear(size, self.gates * self.width), nn.Linear(self.width, self.gates * self.width)
        self.out = nn.Linear(self.width, _outputs(data))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = self.given(x if self.symbols is None else self.symbols(x))
        state = cell = torch.zeros_like(given[:, 0, : self.width])
        states = []
        for place in range(given.shape[1]):
            new, old = given[:, place].chunk(self.gates, -1), self.held(state).chunk(self.gates, -1)
            if self.gates == 3:
                reset, keep = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
                state = (1 - keep) * torch.tanh(new[2] + reset * old[2]) + keep * state
            else:
                take, keep, show = (torch.sigmoid(new[i] + old[i]) for i in range(3))
                cell = keep * cell + take * torch.tanh(new[3] + old[3])
                state = show * torch.tanh(cell)
            states.append(state)
        return self.out(state if self.symbols is None else torch.stack(states, 1))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, length, width = x.shape
        query, key, value = (
            part.view(size, length, 2, width // 2).transpose(1, 2) for part in self.mix(self.first(x)).chunk(3, -1)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(width / 2)
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -1e9)
        x = x + self.join((scores.softmax(-1) @ value).transpose(1, 2).reshape(size, length, width))
        return x + self.dense(self.second(x))


class _Transformer(nn.Module):
    def __init__(self, data: Data, spec: dict[str, Any]) -> None:
        super().__init__()
        width = spec["width"]
        self.of_symbols = data.x.ndim == 2
        self.enter = nn.Embedding(SYMBOLS, width) if self.of_symbols else nn.Linear(data.x.shape[2], width)
        self.places = nn.Embedding(WINDOW, width)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(spec["depth"])))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, _outputs(data)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.enter(x) + self.places.weight[: x.shape[1]])
        return self.out(hidden if self.of_symbols else hidden.mean(1))


class _Autoencoder(nn.Module):
    """Reconstructs its input; with ``variational`` through a sampled code, whose divergence is added to the loss."""

    def __init__(self, data: Data, spec: dict[str, Any]) -> None:
        super().__init__()
        size, width, code = data.x[0].numel(), spec["width"], spec["code"]
        act = ACTIVATIONS[spec["activation"]]
        self.variational, self.code = spec["variational"], code
        self.encode = nn.Sequential(
            nn.Flatten(), nn.Linear(size, width), act(), nn.Linear(width, 2 * code if self.variational else code)
        )
        self.decode = nn.Sequential(nn.Linear(code, width), act(), nn.Linear(width, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.encode(x)
        if not self.variational:
            return (self.decode(hidden) - x.flatten(1)).square().mean(1)
        mean, log_variance = hidden.chunk(2, -1)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return 0.5 * (self.decode(code) - x.flatten(1)).square().sum(1) + divergence


class _Factors(nn.Module):
    def __init__(self, data: Data, spec: dict[str, Any]) -> None:
        super().__init__()
        rows, columns = (int(data.x[:, i].max()) + 1 for i in (0, 1))
        rank = spec["width"]
        self.rows, self.columns = nn.Embedding(max(rows, 200), rank), nn.Embedding(max(columns, 200), rank)
        self.biases = nn.Embedding(max(rows, 200), 1)
        for part in (self.rows, self.columns, self.biases):
            nn.init.normal_(part.weight, std=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = (self.rows(x[:, 0]) * self.columns(x[:, 1])).sum(1, keepdim=True)
        return product + self.biases(x[:, 0])


def loss_and_error(output: torch.Tensor, y: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of a batch and the share of wrong predictions (the loss again where there are no classes)."""
    if output.ndim == 1:  # an autoencoder's own loss
        return output.mean(), output.mean()
    if not classes:
        loss = functional.mse_loss(output[..., 0], y)
        return loss, loss
    loss = functional.cross_entropy(output.flatten(0, -2), y.flatten())
    return loss, (output.argmax(-1) != y).float().mean()


MODELS: dict[str, Callable[[Data, dict[str, Any]], nn.Module]] = {
    "mlp": _mlp,
    "residual": _residual,
    "cnn": _cnn,
    "recurrent": _Recurrent,
    "transformer": _Transformer,
    "autoencoder": _Autoencoder,
    "factors": _Factors,
}
