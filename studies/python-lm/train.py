"""A transformer over characters, trained on a few modules of the running Python's standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import lrtune

MODULES = ("argparse.py", "inspect.py")  # to learn from, 220 KB; single files in every Python since 3.11
HELD_OUT = ("heapq.py", "textwrap.py")  # to be measured on, 40 KB
SYMBOLS = 128  # ASCII; whatever else is written as a question mark
CONTEXT = 64
WIDTH = 32
HEADS = 4
BLOCKS = 2


def text(names: tuple[str, ...]) -> torch.Tensor:
    """Windows of the modules' source, shape (n, CONTEXT + 1), each beginning with the last one's end."""
    folder = Path(sysconfig.get_path("stdlib"))
    source = "".join((folder / name).read_text("utf-8") for name in names)
    codes = torch.tensor(list(source.encode("ascii", "replace")))
    return codes.unfold(0, CONTEXT + 1, CONTEXT).clone()


class Block(nn.Module):
    """Causal attention, then two dense layers, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mix, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dense = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden states, shape (samples, CONTEXT, WIDTH), in and out."""
        size, length, _ = x.shape
        heads = self.mix(self.first(x)).view(size, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(size, length, WIDTH))
        return x + self.dense(self.second(x))


class Model(nn.Module):
    """Characters in, the next character out."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Logits of the next character, shape (samples, SYMBOLS, CONTEXT)."""
        x = self.symbols(codes) + self.places.weight
        return self.out(self.blocks(x)).transpose(1, 2)


def trainer(precision: str = "float32") -> lrtune.TorchTrainer:
    """On the GPU where there is one; there in half precision too: ``bf16`` or ``fp16``."""
    train, valid = text(MODULES), text(HELD_OUT)
    return lrtune.TorchTrainer(
        model=Model,
        train_data=(train[:, :-1], train[:, 1:]),
        valid_data=(valid[:, :-1], valid[:, 1:]),
        loss="cross_entropy",
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.01},
        batch_size=32,
        precision=precision,
    )
