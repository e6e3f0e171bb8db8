"""The confusion table of verdicts: on simulated curves with a known cause and, where given, on recorded ones.

    python studies/benchmarks/verdicts.py [--each 200] [--seed 0]

With LRTUNE_CURVES set to a folder that holds ``digits_mlp_joint`` the recorded curves there are judged too: runs
that end at the loss of a constant prediction under a high learning rate are known to be stuck.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from labelled import MAKERS, labelled, make_curve  # noqa: E402 -- found beside the tests

from lrtune.reporting.diagnosis import VerdictKind, judge  # noqa: E402


def confusion(each: int, seed: int) -> pd.DataFrame:
    """Known cause by verdict, shape (kinds, verdicts)."""
    counts: Counter[tuple[str, str]] = Counter()
    for item in labelled(each, seed):
        verdict = judge(item.curve, metric=item.metric, direction=item.direction, untrained=item.untrained, lr=item.lr)
        counts[item.kind.name.lower(), verdict.kind.name.lower()] += 1
    kinds = [kind.name.lower() for kind in MAKERS]
    found_kinds = [kind.name.lower() for kind in VerdictKind if any(key[1] == kind.name.lower() for key in counts)]
    order = [*(kind for kind in kinds if kind in found_kinds), *(kind for kind in found_kinds if kind not in kinds)]
    return pd.DataFrame([[counts[true, judged] for judged in order] for true in kinds], index=kinds, columns=order)


def right(table: pd.DataFrame) -> float:
    """Share of curves whose verdict is their cause."""
    return sum(table.loc[kind, kind] for kind in table.index if kind in table.columns) / table.to_numpy().sum()


def recorded(folder: Path) -> pd.DataFrame:
    """How far the best learning rate is away, by verdict, on the recorded digits runs."""
    runs = pd.read_csv(folder / "runs.csv")
    epochs = pd.read_csv(folder / "epochs.csv.gz")
    final = epochs.sort_values("epoch").groupby("run_id").valid_loss.last()
    runs["final"] = runs.run_id.map(final)
    cells = runs.groupby(["batch_size", "schedule", "warmup"])
    runs["best_lr"] = runs.learning_rate[cells.final.transform("idxmin")].to_numpy()
    by_run = dict(iter(epochs.sort_values("epoch").groupby("run_id")))
    verdicts = []
    for run in runs.itertuples():
        rows = by_run[run.run_id]
        curve = make_curve(1, train_loss=rows.train_loss.to_numpy(), valid_loss=rows.valid_loss.to_numpy())
        verdict = judge(
            curve,
            metric="valid_loss",
            epochs=27,
            lr=run.learning_rate,
            best_lr=run.best_lr,
            untrained=run.untrained_loss,
        )
        verdicts.append(verdict.kind.name.lower())
    runs["verdict"] = verdicts
    decades = np.log10(runs.learning_rate / runs.best_lr)
    bins = pd.cut(decades, [-9, -1.5, -0.6, -0.1, 0.1, 0.6, 1.2, 9], right=True)
    names = ["< -1.5", "-1.5..-.6", "-.6..-.1", "best", ".1...6", ".6..1.2", "> 1.2"]
    return pd.crosstab(runs.verdict, bins.cat.rename_categories(names))


def stuck_recall(folder: Path) -> str:
    """Of the runs known to have died at a high learning rate, how many are called so."""
    runs = pd.read_csv(folder / "runs.csv")
    epochs = pd.read_csv(folder / "epochs.csv.gz").sort_values("epoch")
    best_lr, hits, total = 0.1, 0, 0
    for run_id, rows in epochs.groupby("run_id"):
        run = runs[runs.run_id == run_id].iloc[0]
        if run.learning_rate < best_lr or rows.valid_loss.iloc[-1] < 0.98 * run.untrained_loss:
            continue
        curve = make_curve(1, train_loss=rows.train_loss.to_numpy(), valid_loss=rows.valid_loss.to_numpy())
        verdict = judge(curve, metric="valid_loss", epochs=27, lr=run.learning_rate, untrained=run.untrained_loss)
        total += 1
        hits += verdict.kind in {VerdictKind.STUCK, VerdictKind.EXPLODED}
    return f"{hits} of {total} recorded runs that died at a high learning rate are called stuck or exploded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=200, help="simulated curves of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pd.set_option("display.width", 250, "display.max_columns", 30)
    table = confusion(options.each, options.seed)
    print("rows: known cause; columns: verdict")
    print(table.to_string())
    worst = min(table.loc[kind, kind] if kind in table.columns else 0 for kind in table.index) / options.each
    print(f"right: {100 * right(table):.2f} % of {table.to_numpy().sum()}; worst kind: {100 * worst:.1f} %")
    folder = os.environ.get("LRTUNE_CURVES")
    if folder and (Path(folder) / "digits_mlp_joint").is_dir():
        joint = Path(folder) / "digits_mlp_joint"
        print("\nrecorded (digits_mlp_joint): verdict by decades from the best learning rate of its cell")
        print(recorded(joint).to_string())
        print(stuck_recall(joint))


if __name__ == "__main__":
    main()
