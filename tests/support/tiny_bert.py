"""A tiny BERT that classifies sequences of numbers, from a config; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

WORDS, LENGTH = 40, 12


class Texts(Dataset[Any]):
    """Sequences of words; the class is whether more words of the upper half occur."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(WORDS, (count, LENGTH), generator=generator)
        self.labels = ((self.words >= WORDS // 2).sum(1) > LENGTH // 2).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


TRAIN, VALID = Texts(44, 0), Texts(24, 1)


def model(**more: Any) -> BertForSequenceClassification:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, **(sizes | more))
    return BertForSequenceClassification(config)


def trainer(
    folder: Any, *, kind: type[Trainer] = Trainer, options: dict[str, Any] | None = None, **more: Any
) -> Trainer:
    arguments = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 24, "use_cpu": True, **(options or {})}
    given = {"model": model(), "train_dataset": TRAIN, "eval_dataset": VALID, **more}
    return kind(args=TrainingArguments(output_dir=str(folder), **arguments), **given)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
