"""What you have already: a model, data, and the Trainer that you call ``train()`` of."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

WORDS, LENGTH = 40, 12
CONFIG = BertConfig(
    vocab_size=WORDS,
    max_position_embeddings=LENGTH,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
)


def texts(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    words = torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": text, "labels": (text[0] >= WORDS // 2).long()} for text in words]


TRAIN, HELD_OUT = texts(320, seed=0), texts(160, seed=1)


def make() -> Trainer:
    return Trainer(
        model=BertForSequenceClassification(CONFIG),
        args=TrainingArguments("out", per_device_train_batch_size=16, use_cpu=True, dataloader_pin_memory=False),
        train_dataset=TRAIN,
        eval_dataset=HELD_OUT,
    )
