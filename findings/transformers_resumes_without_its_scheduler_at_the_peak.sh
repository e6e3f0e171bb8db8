#!/usr/bin/env bash
# transformers 5.24.0 (accelerate 1.15.0, torch 2.13.0): a checkpoint folder that lacks `scheduler.pt` or `optimizer.pt`
# is resumed without a word, warning or error: the schedule begins anew at the peak, and the optimizer without moments.
#
# `Trainer._load_optimizer_and_scheduler` loads the two files only where both are there, so that one that is missing (a
# full disk, a copy that was cut short, `save_only_model=True`) takes the other one with it. The global step is read from
# `trainer_state.json`: the run counts on from where it was, and ends after as many steps.
#
# Seen, linear decay of 1e-3 over 20 steps, resumed at step 10: the eleventh step runs at 5e-4 with both files, and at
# 1e-3 without either one. Nothing is printed at the usual level of logging.
#
# lrtune never reads such a folder: its state of a paused run without optimizer is refused with a sentence,
# tests/hosts/test_hugging_face.py, test_a_state_without_its_optimizer_is_refused; docs/howto/hugging-face.md tells.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import shutil
import warnings
from pathlib import Path

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

CONFIG = BertConfig(
    vocab_size=10,
    max_position_embeddings=4,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
)
DATA = [{"input_ids": torch.arange(4), "labels": torch.tensor(index % 2)} for index in range(80)]


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, optimizer, **more):
        self.seen.append((state.global_step, optimizer.param_groups[0]["lr"]))


def trained(folder, **options):
    torch.manual_seed(0)
    rates = Rates()
    args = TrainingArguments(
        folder, learning_rate=1e-3, num_train_epochs=2, per_device_train_batch_size=8, save_steps=10, use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False,
    )
    trainer = Trainer(BertForSequenceClassification(CONFIG), args, train_dataset=DATA, callbacks=[rates])
    trainer.remove_callback(PrinterCallback)
    trainer.train(**options)
    return rates.seen


assert transformers.__version__ == "5.24.0", transformers.__version__
whole = trained("whole")
assert whole[10] == (10, 5e-4), whole[10]
for missing in (None, "scheduler.pt", "optimizer.pt"):
    folder = Path(f"without-{missing}")
    shutil.copytree("whole/checkpoint-10", folder / "checkpoint-10")
    if missing:
        (folder / "checkpoint-10" / missing).unlink()
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        seen = trained(str(folder), resume_from_checkpoint=str(folder / "checkpoint-10"))
    heard = [str(one.message) for one in warned if missing and missing in str(one.message)]
    print(f"missing {missing}: step {seen[0][0]} at {seen[0][1]:g}, ended after {seen[-1][0] + 1}; told: {told.getvalue()!r}")
    assert seen[0] == (10, 1e-3 if missing else 5e-4)
    assert seen[-1][0] == 19
    assert missing is None or (missing not in told.getvalue() and not heard)
PY
