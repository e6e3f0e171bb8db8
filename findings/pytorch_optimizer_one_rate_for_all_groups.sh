#!/usr/bin/env bash
# pytorch_optimizer 4.1.0 with torch 2.13.0: Prodigy, the five D-Adaptation optimizers and ApolloDQN train every
# parameter group at one learning rate, whatever the groups' own `lr`; a group at `lr=0` trains at full speed.
#
# Layer-wise rates and a frozen group are given to an optimizer as the `lr` of its parameter groups. Seen, two groups
# of one 8 x 8 matrix each, 30 steps, how far each group has moved:
#   - Prodigy: 0.48 and 0.41 with the rates (1, 1), and the very same with (1, 0.1) and with (1, 0). Only the first
#     group's rate is read: with (0.1, 1) both groups move by 0.003. DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptLion
#     and DAdaptSGD behave alike.
#   - ApolloDQN: the rates of all groups, and those that a scheduler sets, count from step 500 (`warmup_steps`) on;
#     until then it follows the `lr` of its constructor.
#   - AdamW of the same package: (1, 0) leaves the second group where it was.
# The original packages differ: prodigyopt 1.1.2 leaves the group at 0 alone and raises for the rates (1, 0.1) ("Setting
# different lr values in different parameter groups is only supported for values of 0"). So the same lines, with the
# import changed, train a backbone that was meant to stand still; nothing is said.
#
# lrtune looks, before it trains, whether the rates of single groups make a difference, and says so where they do not:
# tests/unit/training/test_optimizers.py, test_rates_of_groups_that_count_for_nothing_are_told and (with this very
# package, where it is installed) test_groups_of_pytorch_optimizer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 pytorch_optimizer==4.1.0 prodigyopt==1.1.2
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import prodigyopt
import pytorch_optimizer as po
import torch


def moved(kind, rates, steps=30, later=None):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(8, 8) * 0.5) for _ in rates]
    before = [weight.detach().clone() for weight in weights]
    made = kind([{"params": [w], "lr": rate} for w, rate in zip(weights, rates)], lr=1.0)
    numbers = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 8, generator=numbers), torch.randn(64, 8, generator=numbers)
    for step in range(steps):
        if later is not None and step == steps // 2:
            for group in made.param_groups:
                group["lr"] = later
        made.zero_grad()
        sum(((x @ weight - y) ** 2).mean() for weight in weights).backward()
        made.step()
    return [round(float((w - b).detach().abs().mean()), 9) for w, b in zip(weights, before)]


assert version("pytorch_optimizer") == "4.1.0", version("pytorch_optimizer")
RATES = [(1.0, 1.0), (1.0, 0.1), (1.0, 0.0), (0.1, 1.0)]
found = {}
names = ["Prodigy", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD", "ApolloDQN", "AdamW"]
for name in names:
    kind = po.load_optimizer(name.lower())
    found[name] = [moved(kind, rates) for rates in RATES]
    print(f"{name:14}", *(f"{rates}: {seen}" for rates, seen in zip(RATES, found[name])), sep="  ")
for name in names[:-1]:
    equal, smaller, frozen, first = found[name]
    assert equal == smaller == frozen, name
    assert equal[1] > 0, name
    if name != "ApolloDQN":
        assert first[1] < 0.7 * equal[1], name  # the second group's own rate is 1 in both
assert found["ApolloDQN"][3] == found["ApolloDQN"][0]
assert found["AdamW"][2][1] == 0 < found["AdamW"][2][0]

apollo = po.load_optimizer("apollodqn")
short = [moved(apollo, (1.0, 1.0), 400, later) for later in (None, 0.0)]
print("ApolloDQN, 400 steps, a rate of 0 from step 200 on makes no difference:", short[0] == short[1])
assert short[0] == short[1]

original = moved(prodigyopt.Prodigy, (1.0, 0.0))
print("prodigyopt (1.0, 0.0):", original)
assert original[1] == 0 < original[0]
try:
    moved(prodigyopt.Prodigy, (1.0, 0.1))
except RuntimeError as error:
    print("prodigyopt (1.0, 0.1):", error)
else:
    raise AssertionError("prodigyopt takes different rates now")
PY
