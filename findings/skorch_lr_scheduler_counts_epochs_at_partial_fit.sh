#!/usr/bin/env bash
# skorch 1.4.0 (torch 2.13.0): an `LRScheduler(..., step_every="batch")` follows another schedule when a training is cut
# into several `partial_fit` calls. At the begin of each call it makes the scheduler of PyTorch anew, with the number of
# epochs so far as `last_epoch`, where it has counted batches: the schedule is set back at every call.
#
# Cutting by `partial_fit(X, y, epochs=1)` is the usual way to look at a net between epochs, to pause it and to go on with
# it. With `step_every="epoch"` the rates are those of one call, but for policies that multiply the last rate, as StepLR:
# making the scheduler anew steps it once more to the epoch at which it stands, which multiplies the rate again.
#
# Seen, 4 epochs of 2 batches, peak 1, falling in a line to zero (LambdaLR), stepped every batch:
#   in one call    1.0  0.875  0.75   0.625  0.5   0.375  0.25   0.125
#   in four calls  1.0  0.875  0.875  0.75   0.75  0.625  0.625  0.5
# and StepLR(step_size=2, gamma=0.5), stepped every epoch: 1 1 1 1 0.5 0.5 0.5 0.5 in one call, 1 1 1 1 0.25 0.25 0.25 0.25
# in four. No warning.
#
# lrtune sets such a callback aside and sets the rate of each step itself (tests/hosts/test_skorch.py); the lines to paste
# have a callback that counts its own steps. Whoever yields from a loop of `partial_fit` in a generator is touched.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 skorch==1.4.0
"$work/venv/bin/python" - <<'PY'
import numpy as np
import skorch
import torch
from skorch.callbacks import Callback, LRScheduler
from torch.optim.lr_scheduler import LambdaLR, StepLR

X, y = np.zeros((40, 2), "float32"), np.zeros((40, 1), "float32")


class Rates(Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            self.seen.append(net.optimizer_.param_groups[0]["lr"])


def rates(pieces, policy, every, **options):
    """The learning rate of each batch, with so many epochs in each call of partial_fit."""
    seen = []
    net = skorch.NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=2,
        module__out_features=1,
        lr=1.0,
        batch_size=20,
        train_split=None,
        verbose=0,
        callbacks=[("schedule", LRScheduler(policy, step_every=every, **options)), ("rates", Rates(seen))],
    )
    for count in pieces:
        net.partial_fit(X, y, epochs=count)
    return seen


def line(step):
    return 1 - step / 8


assert skorch.__version__ == "1.4.0", skorch.__version__
whole = rates([4], LambdaLR, "batch", lr_lambda=line)
cut = rates([1] * 4, LambdaLR, "batch", lr_lambda=line)
print("a line, stepped every batch: in one call  ", *whole)
print("                             in four calls", *cut)
assert whole == [line(step) for step in range(8)]
assert cut == [1.0, 0.875, 0.875, 0.75, 0.75, 0.625, 0.625, 0.5]
assert rates([4], LambdaLR, "epoch", lr_lambda=line) == rates([1] * 4, LambdaLR, "epoch", lr_lambda=line)
steps = {"step_size": 2, "gamma": 0.5}
whole, cut = (rates(pieces, StepLR, "epoch", **steps) for pieces in ([4], [1] * 4))
print("StepLR, stepped every epoch: in one call  ", *whole)
print("                             in four calls", *cut)
assert whole == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
assert cut == [1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25]
PY
