#!/usr/bin/env bash
# torch 2.13.0: an optimizer that is given its learning rate as a tensor hands the *same* tensor to every parameter
# group that names no rate of its own, and the schedulers write into it in place.
#
# Seen, two groups, peak 0.1:
#   - LambdaLR with a factor for each group (1.0 and 0.1): as a float the groups train at 0.1 and 0.01; as a tensor both
#     train at 0.01, the rate of the last group.
#   - ReduceLROnPlateau, factor 0.1: as a float one reduction takes 0.1 to 0.01; as a tensor it takes it to 0.001, since
#     it reduces the shared tensor once for each group.
#   - LinearLR, CosineAnnealingLR and the other schedulers that compute one value for all groups are not affected.
# Tensor rates are what the documentation recommends for torch.compile and for capturable optimizers
# (https://docs.pytorch.org/docs/stable/optim.html), so layer-wise rates and compiled steps meet here.
#
# lrtune sets each group's rate anew at each step instead of writing into the tensor:
# tests/unit/training/test_networks.py,
# test_groups_keep_their_own_rate_where_the_optimizer_is_given_a_tensor.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau


def optimizer(lr):
    return SGD([{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(2)], lr=lr)


def rates(made):
    return [round(float(group["lr"]), 6) for group in made.param_groups]


def by_group(lr):
    made = optimizer(lr)
    LambdaLR(made, [lambda _: 1.0, lambda _: 0.1])
    return rates(made)


def on_plateau(lr):
    made = optimizer(lr)
    plateau = ReduceLROnPlateau(made, factor=0.1, patience=0)
    for _ in range(2):  # the second loss is no better than the first
        plateau.step(1.0)
    return rates(made)


def warmup(lr):
    made = optimizer(lr)
    LinearLR(made, start_factor=0.1, total_iters=5)
    return rates(made)


seen = {f.__name__: (f(0.1), f(torch.tensor(0.1))) for f in (by_group, on_plateau, warmup)}
for name, (number, tensor) in seen.items():
    print(f"{name:10}  lr=0.1: {number}   lr=torch.tensor(0.1): {tensor}")
assert torch.__version__.startswith("2.13.0"), torch.__version__
assert seen == {
    "by_group": ([0.1, 0.01], [0.01, 0.01]),
    "on_plateau": ([0.01, 0.01], [0.001, 0.001]),
    "warmup": ([0.01, 0.01], [0.01, 0.01]),
}, "torch behaves differently now"
PY
