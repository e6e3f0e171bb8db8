"""Peak memory of a search over one large array, as a multiple of that array.

    python studies/benchmarks/memory.py [--megabytes 500] [--kind linear perceptron torch ...]

Each search runs in a process of its own. *one*: the array is made in memory, and ``resource.getrusage`` tells the peak
of the whole process; what it was before the array was made, everything imported and a small search done, is taken off.
*two workers*: ``lrtune optimize --workers 2`` of a training file that opens the array with ``np.load(mmap_mode="c")``;
the sum of the proportional set sizes of the command's processes (``/proc/PID/smaps_rollup``: a page that n processes
share counts 1/n in each), sampled 50 times a second, and again without what the same command takes with a small array.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.base import Trainer

COLUMNS = 250
KINDS = ("linear", "perceptron", "torch")
SMALL = 0.5  # megabytes of the array of the search that is taken off
SEARCH = {"epochs": 1, "budget": 2.0, "strategy": "random", "seed": 0, "trials": 2}
FILE = """import sys
sys.path.insert(0, {here!r})
import memory
import numpy as np

def trainer():
    return memory.trainer_of({kind!r}, np.load({X!r}, mmap_mode="c"), np.load({y!r}))
"""
STUDY = """[study]
name = "memory"
epochs = 1

[train]
trainer = "train.py:trainer"

[space]
lr = [1e-5, 1e-3]

[search]
strategy = "random"
trials = 4
workers = 2
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=500.0)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args(arguments)
    for kind in options.kind:
        command = [sys.executable, __file__, "--one", kind, str(options.megabytes)]
        subprocess.run(command, check=True)  # noqa: S603 -- this very file
        both = [in_two_workers(kind, megabytes) for megabytes in (SMALL, options.megabytes)]
        ratio = (both[1] - both[0]) / (options.megabytes - SMALL)
        print(f"{kind}, two workers: {both[1]:.0f} MB together, {both[0]:.0f} MB of it without the array: {ratio:.2f}")


def one(kind: str, megabytes: float) -> None:
    """Search in this process, and print its peak."""
    import lrtune

    def search(size: float) -> None:
        trainer = trainer_of(kind, *table(size))
        result = lrtune.tune(trainer, lrtune.Space(lr=(1e-5, 1e-3)), **SEARCH)
        with tempfile.TemporaryDirectory() as folder:
            result.report(Path(folder) / "report.html")

    search(SMALL)
    gc.collect()
    before = peak()
    search(megabytes)
    print(f"{kind}: peak {peak():.0f} MB, {before:.0f} MB of it without the array: {(peak() - before) / megabytes:.2f}")


def peak() -> float:
    """Megabytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def table(megabytes: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random features that fill so many megabytes, in float32 for PyTorch's sake, and two classes."""
    rows = round(megabytes * 1e6 / COLUMNS / 4)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    return features, (features[:, 0] > 0).astype(np.int64)


def trainer_of(kind: str, features: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> Trainer:
    """A trainer over the table; PyTorch's gets views of three quarters and the rest."""
    import lrtune

    if kind == "torch":
        import torch
        from torch import nn

        rows, cut = (torch.from_numpy(np.asarray(part)) for part in (features, target)), len(target) * 3 // 4
        X, y = rows  # noqa: N806 -- scikit-learn's name
        return lrtune.TorchTrainer(
            model=lambda: nn.Sequential(nn.Linear(COLUMNS, 32), nn.ReLU(), nn.Linear(32, 2)),
            train_data=(X[:cut], y[:cut]),
            valid_data=(X[cut:], y[cut:]),
            loss="cross_entropy",
            optimizer="sgd",
            batch_size=256,
        )
    from sklearn.linear_model import SGDClassifier
    from sklearn.neural_network import MLPClassifier

    estimator = SGDClassifier(loss="log_loss") if kind == "linear" else MLPClassifier((16,), solver="sgd")
    return lrtune.SklearnTrainer(estimator, features, target, batch_size=256)


def in_two_workers(kind: str, megabytes: float) -> float:
    """The most megabytes that the processes of a command took together."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features, target = table(megabytes)
        files = {"X": str(folder / "X.npy"), "y": str(folder / "y.npy")}
        np.save(files["X"], features)
        np.save(files["y"], target)
        del features, target
        here = str(Path(__file__).parent)
        (folder / "train.py").write_text(FILE.format(here=here, kind=kind, **files))
        (folder / "study.toml").write_text(STUDY)
        command = [sys.executable, "-m", "lrtune", "optimize", str(folder / "study.toml"), "--quiet"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:  # noqa: S603 -- our own
            most = 0.0
            while process.poll() is None:
                most = max(most, sum(map(proportional, [process.pid, *children(process.pid)])))
                time.sleep(0.02)
    if process.returncode:
        msg = f"the command failed with {process.returncode}"
        raise RuntimeError(msg)
    return most


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            direct = (thread / "children").read_text().split()
            for child in map(int, direct):
                found += [child, *children(child)]
    return found


def proportional(pid: int) -> float:
    """Megabytes of a process, where a page that n processes share counts 1/n; 0 of one that is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024 / 1e6
    return 0.0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], float(sys.argv[3]))
    else:
        main()
