#!/usr/bin/env bash
# torch 2.13.0: the first optimizer that a process makes imports torch._dynamo, and with it sympy: some 800 modules, and
# about a second of processor time, though nothing is compiled. `import torch`, models, autograd and schedules import
# none of them. Optimizer.add_param_group is wrapped by torch/_compile.py, which imports the compiler at its first call.
#
# Seen on one core: `import torch` 0.9 s, a forward and a backward pass 0.01 s, `torch.optim.SGD(...)` 1.0 s, a second
# optimizer 0.0001 s. A process for each trial (Optuna with several processes, lrtune's --isolate) pays it in each one,
# unless the parent has imported torch._dynamo before it forks.
#
# lrtune imports it before it forks, where training code that uses PyTorch is loaded (lrtune/training/subprocess).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import sys
import time

import torch

assert torch.__version__.startswith("2.13.0"), torch.__version__


def loaded(what, action):
    known, began = set(sys.modules), time.process_time()
    action()
    new = set(sys.modules) - known
    print(f"{what}: {len(new)} modules, {time.process_time() - began:.2f} s of processor time")
    return new


weight = torch.zeros(3, requires_grad=True)
passes = loaded("forward and backward", lambda: (weight * 2).sum().backward())
first = loaded("the first optimizer", lambda: torch.optim.SGD([weight], lr=0.1))
second = loaded("another one", lambda: torch.optim.AdamW([weight], lr=0.1))
assert "torch._dynamo" not in passes and "sympy" not in passes
assert {"torch._dynamo", "sympy"} <= first and len(first) > 400
assert len(second) < 20
PY
