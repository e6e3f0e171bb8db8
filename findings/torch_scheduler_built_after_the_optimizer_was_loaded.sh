#!/usr/bin/env bash
# torch 2.13.0: a resumed training runs at a tenth of its learning rate to its end when the scheduler is built after
# `optimizer.load_state_dict`, although the scheduler's own state is loaded too.
#
# A scheduler's constructor sets the rate of its first step in the optimizer, and `scheduler.load_state_dict` does not
# put the rate back. Schedulers that compute the next rate from the present one (LinearLR, ConstantLR, and
# CosineAnnealingLR behind a warmup in SequentialLR or ChainedScheduler) then carry the wrong rate on; those that
# compute it from the peak (LambdaLR, OneCycleLR, CyclicLR, CosineAnnealingWarmRestarts) are wrong for one step.
# Resuming by `last_epoch` instead (no state of the scheduler) halves the rate a second time where StepLR or
# MultiStepLR has just reached a milestone.
#
# Seen: 20 steps at a peak of 0.1, stopped after 8, resumed; the rates of the steps 8, 9 and 19 are below. Each is right
# when the scheduler is built first and both states are loaded afterwards, in either order.
#
# lrtune computes the rate from the recipe and the step at each step, and restores no scheduler: the trainer contract
# (save, restore and continue equals never stopped) holds the rates, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import copy

import torch
from torch.optim import SGD, lr_scheduler as s

STEPS, STOP = 20, 8
SCHEDULERS = {
    "LinearLR": lambda o, **k: s.LinearLR(o, 0.1, 1.0, 12, **k),
    "warmup, then cosine": lambda o, **k: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingLR(o, 15)], [5]),
    "LambdaLR": lambda o, **k: s.LambdaLR(o, lambda step: 1 - step / STEPS, **k),
    "StepLR": lambda o, **k: s.StepLR(o, 4, 0.5, **k),
}


def optimizer():
    return SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def rates(made, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(round(float(made.param_groups[0]["lr"]), 5))
        made.step()
        scheduler.step()
    return seen


def resumed(make, order):
    first = optimizer()
    scheduler = make(first)
    rates(first, scheduler, STOP)
    saved = copy.deepcopy((first.state_dict(), scheduler.state_dict()))
    made = optimizer()
    if order == "scheduler first":
        scheduler = make(made)
        made.load_state_dict(saved[0])
        scheduler.load_state_dict(saved[1])
    elif order == "optimizer loaded first":
        made.load_state_dict(saved[0])
        scheduler = make(made)
        scheduler.load_state_dict(saved[1])
    else:
        made.load_state_dict(saved[0])
        scheduler = make(made, last_epoch=STOP - 1)
    seen = rates(made, scheduler, STEPS - STOP)
    return seen[0], seen[1], seen[-1]


assert torch.__version__.startswith("2.13.0"), torch.__version__
found = {}
for name, make in SCHEDULERS.items():
    made = optimizer()
    whole = rates(made, make(made), STEPS)
    found[name] = {
        "never stopped": (whole[STOP], whole[STOP + 1], whole[-1]),
        "scheduler first": resumed(make, "scheduler first"),
        "optimizer loaded first": resumed(make, "optimizer loaded first"),
    }
found["StepLR"]["last_epoch=7"] = resumed(SCHEDULERS["StepLR"], "last_epoch")
for name, rows in found.items():
    for row, seen in rows.items():
        print(f"{name:20} {row:24} {seen}")
    assert rows["scheduler first"] == rows["never stopped"]
right = {name: rows["never stopped"] for name, rows in found.items()}
assert right["warmup, then cosine"] == (0.09045, 0.08346, 0.00109)
assert found["warmup, then cosine"]["optimizer loaded first"] == (0.01, 0.00923, 0.00012)
assert right["LinearLR"] == (0.07, 0.0775, 0.1)
assert found["LinearLR"]["optimizer loaded first"] == (0.007, 0.00775, 0.01)
assert right["LambdaLR"] == (0.06, 0.055, 0.005)
assert found["LambdaLR"]["optimizer loaded first"] == (0.1, 0.055, 0.005)
assert right["StepLR"] == (0.025, 0.025, 0.00625)
assert found["StepLR"]["last_epoch=7"][:2] == (0.0125, 0.0125)
PY
