#!/usr/bin/env bash
# torch 2.13.0: `SWALR(optimizer, swa_lr, anneal_epochs=0)` sets the SWA rate when it is made, not when it is first
# stepped. Made beside the main scheduler, as the documentation of torch.optim shows it, the whole training before
# `swa_start` runs at the SWA rate times the schedule, or with the schedule gone.
#
# anneal_epochs=0 is what the paper does (a constant SWA rate at once; Izmailov et al. 2018), and the documentation
# allows it. Seen, peak 0.1, swa_lr 0.001, 20 epochs, averaging from epoch 15 on, CosineAnnealingLR(T_max=20):
#   - anneal_epochs 1 or more: epochs 0, 10 and 15 at 0.1, 0.05, 0.01464: the cosine
#   - anneal_epochs=0: 0.001, 0.0005, 0.00015, a hundredth of it; only the averaging phase is right
# The larger SWA rates that are usual do it the other way round: peak 0.01, swa_lr 0.05 trains at five times the rate.
# With LambdaLR the rate is wrong in the first epoch alone, as it computes it from the peak.
# StepLR is wrong for good, too.
#
# lrtune computes each rate from the recipe and the step, and builds no scheduler of torch's; a generator that makes its
# own SWALR is touched, and should make it when averaging begins.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import torch
from torch.optim import SGD, lr_scheduler as s
from torch.optim.swa_utils import SWALR

EPOCHS, START = 20, 15
MAIN = {
    "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, T_max=EPOCHS),
    "StepLR": lambda o: s.StepLR(o, 10, 0.5),
    "LambdaLR": lambda o: s.LambdaLR(o, lambda epoch: 1 - epoch / EPOCHS),
}


def rates(make, peak, swa_lr, anneal_epochs):
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=peak)
    main = make(optimizer)
    swa = SWALR(optimizer, swa_lr=swa_lr, anneal_epochs=anneal_epochs)
    seen = []
    for epoch in range(EPOCHS):
        seen.append(round(float(optimizer.param_groups[0]["lr"]), 5))
        optimizer.step()
        (swa if epoch >= START else main).step()
    return seen


assert torch.__version__.startswith("2.13.0"), torch.__version__
found = {}
for name, make in MAIN.items():
    for anneal in (1, 0):
        seen = found[name, anneal] = rates(make, 0.1, 0.001, anneal)
        print(f"{name:18} anneal_epochs={anneal}: epochs 0, 1, 10, 15, 16:", [seen[e] for e in (0, 1, 10, 15, 16)])
right, wrong = found["CosineAnnealingLR", 1], found["CosineAnnealingLR", 0]
assert [right[e] for e in (0, 10, 15, 16)] == [0.1, 0.05, 0.01464, 0.001]
assert [wrong[e] for e in (0, 10, 15, 16)] == [0.001, 0.0005, 0.00015, 0.001]
assert found["StepLR", 1][:START:10] == [0.1, 0.05] and found["StepLR", 0][:START:10] == [0.001, 0.0005]
assert found["LambdaLR", 0][0] == 0.001 and found["LambdaLR", 0][1:] == found["LambdaLR", 1][1:]
large = [rates(MAIN["CosineAnnealingLR"], 0.01, 0.05, anneal)[0] for anneal in (1, 0)]
print("peak 0.01, swa_lr 0.05: first epoch at", large)
assert large == [0.01, 0.05]
PY
