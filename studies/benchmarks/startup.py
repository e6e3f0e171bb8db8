"""What `lrtune optimize` of a small study costs beyond its libraries and its trainings.

    python studies/benchmarks/startup.py [--rounds 5] [--study studies/digits-sgd/study.toml]

Processor time (user and system, of the process and its children), median of several rounds, all sides in each round:

- *command*: ``lrtune optimize`` of the study, from nothing.
- *libraries*: a process that imports scikit-learn's linear models and data sets, Optuna and pandas.
- *and a file*: the same process, which then makes an Optuna study in an SQLite file.
- *fit*: the estimator's own ``fit`` on the same rows, over as many epochs as the command trained each recipe.
- *trainings*: the same recipes through lrtune's trainer, as far as the command trained them, with its evaluations.

The ratio is command / (libraries + fit). The others leave the trainings out on both sides. ``import lrtune`` and
``lrtune --help`` are printed beside the interpreter's own start.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STUDY = Path(__file__).parents[1] / "digits-sgd" / "study.toml"
LIBRARIES = "import sklearn.linear_model, sklearn.datasets, optuna, pandas"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--study", type=Path, default=STUDY)
    options = parser.parse_args(arguments)
    rounds = [measured(options.study) for _ in range(options.rounds + 1)][1:]  # the first one fills the file cache
    found = {name: median(one[name] for one in rounds) for name in rounds[0]}
    for name, seconds in found.items():
        print(f"{name:12s} {seconds:6.3f} s of processor time")
    dashboard = "installed, and its note is written" if find_spec("optuna_dashboard") else "not installed"
    print(f"optuna-dashboard is {dashboard}")
    whole = median(one["command"] / (one["libraries"] + one["fit"]) for one in rounds)
    print(f"command / (libraries + fit): {whole:.2f} (median of {len(rounds)})")
    for name in ("libraries", "and a file"):
        rest = median((one["command"] - one["trainings"]) / one[name] for one in rounds)
        print(f"(command - trainings) / {name}: {rest:.2f}")


def measured(study: Path) -> dict[str, float]:
    """Seconds of each side, in one round."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = spent("-m", "lrtune", "optimize", str(study), "--out", str(out), "--quiet")
        inner = subprocess.run(  # noqa: S603 -- this very file
            [sys.executable, __file__, "--trainings", str(study), str(out / "study.db")],
            check=True,
            capture_output=True,
        )
        stored = f"{LIBRARIES}; optuna.create_study(storage='sqlite:///{folder}/plain.db')"
        file = spent("-W", "ignore", "-c", stored)
    return {
        "command": command,
        "libraries": spent("-c", LIBRARIES),
        "and a file": file,
        **json.loads(inner.stdout),
        "python": spent("-c", ""),
        "import": spent("-c", "import lrtune"),
        "help": spent("-m", "lrtune", "--help"),
    }


def spent(*arguments: str) -> float:
    """Processor time of a Python process and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 -- own commands
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def trainings(study: Path, storage: str) -> dict[str, float]:
    """The trainings of a study, by the estimator's own ``fit`` and by lrtune's trainer."""
    import optuna

    from lrtune.config.study_file import read_study
    from lrtune.study.trials.study_reader import read

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainer = read_study(study).make_trainer()
    records = read(optuna.load_study(study_name=None, storage=f"sqlite:///{storage}")).records
    task = trainer.task
    began = time.process_time()
    for record in records:
        settings = {"eta0": record.recipe.lr, "max_iter": max(1, round(record.trained)), "tol": None}
        estimator = task.adapter.stepper(record.recipe).estimator.set_params(**settings)
        estimator.fit(task.train.X, task.train.y)
    fitted = time.process_time()
    for record in records:
        run, step = trainer.start([record.recipe]), 0
        for point in record.curve:
            run.advance(point.step - step)
            step = point.step
    return {"fit": fitted - began, "trainings": time.process_time() - fitted}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trainings"]:
        print(json.dumps(trainings(Path(sys.argv[2]), sys.argv[3])))
    else:
        main()
