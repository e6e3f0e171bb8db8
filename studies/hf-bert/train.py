"""A tiny BERT that tells whether a text is kind, fine-tuned by ``transformers.Trainer``; nothing is downloaded.

The texts are made by a program: five clauses with a judgement each, of which the most decide; one label in ten is
wrong. What stands for the checkpoint that one would download is trained here, in seconds, on shorter texts without
wrong labels; its head is thrown away.
"""

from __future__ import annotations

import random
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments

import lrtune

KIND = ("fine", "warm", "lovely", "bright", "gentle", "clever")
UNKIND = ("dull", "cold", "awful", "grim", "rude", "slow")
THINGS = ("film", "song", "book", "meal", "walk", "town", "coat", "game", "talk", "rain")
JOINTS = ("and", "but", "while", "so")
WORDS = ("[PAD]", "[CLS]", "[SEP]", "the", "was", *JOINTS, *THINGS, *KIND, *UNKIND)
VOCABULARY = {word: place for place, word in enumerate(WORDS)}
CLAUSES = 5
LENGTH = 1 + 5 * CLAUSES  # words of a text, its marks included
MISTAKEN = 0.1  # share of wrong labels, of both parts


class Texts(Dataset):
    """Texts of so many clauses, each with whether it is kind, as numbers of words."""

    def __init__(self, count: int, seed: int, clauses: int = CLAUSES, mistaken: float = MISTAKEN) -> None:
        draw = random.Random(seed)
        self.samples = []
        for _ in range(count):
            kind = [draw.random() < 0.5 for _ in range(clauses)]
            parts = [f"the {draw.choice(THINGS)} was {draw.choice(KIND if one else UNKIND)}" for one in kind]
            text = parts[0] + "".join(f" {draw.choice(JOINTS)} {part}" for part in parts[1:])
            self.samples.append((text, int(sum(kind) * 2 > clauses) ^ (draw.random() < mistaken)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The model's inputs, padded to one length, and the label."""
        text, label = self.samples[index]
        codes = [VOCABULARY[word] for word in ("[CLS]", *text.split(), "[SEP]")]
        words = torch.tensor(codes + [0] * (LENGTH - len(codes)))
        return {"input_ids": words, "attention_mask": (words > 0).long(), "labels": torch.tensor(label)}


TRAIN, HELD_OUT = Texts(800, seed=0), Texts(400, seed=1)
CONFIG = BertConfig(
    vocab_size=len(WORDS),
    max_position_embeddings=LENGTH,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
)
FOLDER = tempfile.gettempdir()  # nothing is written into it


def arguments(**options: object) -> TrainingArguments:
    return TrainingArguments(FOLDER, per_device_train_batch_size=16, use_cpu=True, disable_tqdm=True, **options)


def pretrained() -> dict[str, torch.Tensor]:
    """The weights of a BERT that has learned what the words mean."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG)
    options = arguments(learning_rate=1e-3, num_train_epochs=3, save_strategy="no", logging_strategy="no")
    trainer = Trainer(model, options, train_dataset=Texts(800, seed=2, clauses=3, mistaken=0.0))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.bert.state_dict()


CHECKPOINT = pretrained()


def make() -> Trainer:
    """As one writes it for ``make().train()``."""
    model = BertForSequenceClassification(CONFIG)
    model.bert.load_state_dict(CHECKPOINT)
    return Trainer(
        model,
        arguments(per_device_eval_batch_size=400),
        train_dataset=TRAIN,
        eval_dataset=HELD_OUT,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )


def trainer() -> lrtune.HuggingFaceTrainer:
    """What the study file names."""
    return lrtune.HuggingFaceTrainer(make)
