"""Run studies and write what they found beside them: result.json, figure.svg, and the answer in each README.

    python studies/record.py                  # all six
    python studies/record.py digits-sgd       # one
    python studies/record.py --out lrtune-out digits-sgd    # from what is there already; trains nothing

The figure shows every trial at its learning rate, over the dense sweep (``benchmarks/dense_sweep.py``).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.core.outcome import Outcome
from lrtune.study.result import Result
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.core.records import StudyRecord, TrialRecord

HERE = Path(__file__).parent
STUDIES = ("digits-sgd", "digits-mlp", "diabetes-sgd-regressor", "breast-cancer-csv", "python-lm", "hf-bert")
WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 46
BLUE, RED, GREY = "#2563eb", "#dc2626", "#6b7280"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="*", default=STUDIES, metavar="STUDY")
    parser.add_argument("--out", type=Path, help="where outputs of lrtune optimize are; they are made unless given")
    options = parser.parse_args(arguments)
    for name in options.studies:
        if options.out is not None:
            write(HERE / name, options.out / name)
            continue
        with tempfile.TemporaryDirectory() as out:
            search(HERE / name, Path(out))
            write(HERE / name, Path(out))
    page = HERE.parent / "README.md"
    page.write_text(front(page.read_text("utf-8")), encoding="utf-8")


def search(study: Path, out: Path) -> None:
    command = [sys.executable, "-m", "lrtune", "optimize", str(study / "study.toml"), "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)  # noqa: S603 -- our own command


def write(study: Path, out: Path) -> None:
    """What a search left in its output folder, into the study's folder."""
    found = json.loads((out / "result.json").read_text("utf-8"))
    (study / "result.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    stored = optuna.load_study(study_name=found["study"], storage=f"sqlite:///{out / 'study.db'}")
    record = read(stored)
    sweep = rows(study / "sweep.csv")
    (study / "figure.svg").write_text(figure(record, found, sweep), encoding="utf-8")
    readme = study / "README.md"
    if readme.exists():
        answer = Result.from_json(found, study=stored).text()
        text = placed(readme.read_text("utf-8"), "recorded", f"```text\n{answer}\n```")
        if sweep:
            text = placed(text, "compared", compared(study))
        readme.write_text(text, encoding="utf-8")
    print(f"{study.name}: result.json, figure.svg, README.md")


def compared(study: Path) -> str:
    """The answer beside the sweep's best, with the command that says so."""
    program = ["studies/benchmarks/dense_sweep.py", f"studies/{study.name}/study.toml"]
    command = [*program, "--compare", f"studies/{study.name}/result.json"]
    ran = subprocess.run([sys.executable, *command], check=True, cwd=HERE.parent, capture_output=True, text=True)  # noqa: S603
    return f"```sh\npython {' '.join(command)}\n```\n\n> {ran.stdout.strip()}"


def placed(text: str, mark: str, block: str) -> str:
    """The text with the block between its two marks."""
    between = re.compile(f"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)
    return between.sub(lambda _: block + "\n", text)


def front(page: str) -> str:
    """The project's README with the first study's answer and the table of all that were swept."""
    first = HERE / STUDIES[0] / "README.md"
    answer = re.search(r"(?<=<!-- recorded -->\n).*?(?=\n<!-- /recorded -->)", first.read_text("utf-8"), re.DOTALL)
    return placed(placed(page, "answer", answer[0] if answer else ""), "studies", table())


def table() -> str:
    """One row for each study that has a sweep, from the files beside it."""
    lines = [
        "| study | learning rate | full trainings spent | value | best of the sweep | lost |",
        "|---|---|---|---|---|---|",
    ]
    for name in STUDIES:
        swept = rows(HERE / name / "sweep.csv", nothing=True)
        if not swept:
            continue
        found = json.loads((HERE / name / "result.json").read_text("utf-8"))
        best = min(value for lr, value in swept if not math.isnan(lr))
        nothing = min(value for lr, value in swept if math.isnan(lr))
        value, count = found["best"]["value"], sum(not math.isnan(lr) for lr, _ in swept)
        lost = (value - best) / (nothing - best)
        lines.append(
            f"| [{name}](studies/{name}/README.md) | {found['best']['lr']:.3g} | {found['cost']:.2f} | {value:.4g} | "
            f"{best:.4g} of {count} | {lost:.1%} |"
        )
    return "\n".join(lines)


def rows(table: Path, *, nothing: bool = False) -> list[tuple[float, float]]:
    """Learning rate and value of every training of a sweep; no rows where there is no sweep.

    With `nothing`, also what knowing nothing is worth, under a learning rate of NaN.
    """
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        held = [(float(row["lr"] or "nan"), float(row["value"] or "nan")) for row in csv.DictReader(file)]
    return [(lr, value) for lr, value in held if not math.isnan(value) and (nothing or not math.isnan(lr))]


# -- the figure ---------------------------------------------------------------------------------------


class Axes:
    """From learning rates and values to pixels; what lies above the top is drawn at the top."""

    def __init__(self, lrs: Iterable[float], low: float, high: float) -> None:
        logs = [math.log10(lr) for lr in lrs]
        self.left, self.right = math.floor(min(logs)), math.ceil(max(logs))
        margin = 0.06 * (high - low)
        self.low, self.high = low - margin, high + margin

    def x(self, lr: float) -> float:
        """Pixels from the left."""
        share = (math.log10(lr) - self.left) / (self.right - self.left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = 1.0 if not math.isfinite(value) else min(1.0, (value - self.low) / (self.high - self.low))
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def figure(record: StudyRecord, found: dict[str, Any], sweep: Sequence[tuple[float, float]]) -> str:
    """Value over learning rate: the sweep in grey, the trials, the band, the answer and the edge."""
    best = found["best"]
    floor = min([best["value"], *(value for _, value in sweep if math.isfinite(value))])
    baseline = record.baseline
    known = [v for v in (baseline.chance, baseline.untrained) if v is not None] if baseline else []
    top = min(known) if known else floor + 1.0
    lrs = [*record.space.lr_range, *(lr for lr, _ in sweep), *(r.recipe.lr for r in record.records)]
    axes = Axes(lrs, floor, top + 0.15 * (top - floor))
    parts = [
        *_band(axes, found["band"]),
        *_grid(axes, record.metric),
        *(f'<circle cx="{axes.x(lr)}" cy="{axes.y(v)}" r="1.6" fill="{GREY}" opacity=".55"/>' for lr, v in sweep),
        *_line(axes.y(top), "knowing nothing"),
        *_edge(axes, found["edge"]["lr"]),
        *(part for one in record.records for part in _trial(axes, one, record.metric)),
        _ring(axes, best),
        _legend(sweep=bool(sweep)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<title>{escape(record.name)}: {escape(record.metric)} over learning rate</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, fill: str = GREY, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(axes: Axes, metric: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="{GREY}"/>']
    for exponent in range(axes.left, axes.right + 1):
        x = axes.x(10.0**exponent)
        parts += [f'<path d="M{x} {bottom}v5" stroke="{GREY}"/>', _text(x, bottom + 19, f"{10.0**exponent:g}")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = axes.low + share * (axes.high - axes.low)
        parts.append(_text(LEFT - 8, axes.y(value) + 4, f"{value:.4g}", anchor="end"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, _text(middle, HEIGHT - 8, "learning rate"), _text(LEFT, TOP - 24, metric, anchor="start")]


def _band(axes: Axes, band: dict[str, float] | None) -> list[str]:
    if band is None:
        return []
    low, high = axes.x(band["low"]), axes.x(band["high"])
    tall = HEIGHT - TOP - BOTTOM
    return [
        f'<rect x="{low}" y="{TOP}" width="{max(high - low, 2):.1f}" height="{tall}" fill="#16a34a" opacity=".16"/>'
    ]


def _line(y: float, text: str) -> list[str]:
    path = f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-dasharray="2 4"/>'
    return [path, _text(LEFT + 6, y - 5, text, anchor="start")]


def _edge(axes: Axes, lr: float | None) -> list[str]:
    if lr is None:
        return []
    x = axes.x(lr)
    path = f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="{RED}" stroke-dasharray="6 4"/>'
    return [path, _text(x, TOP - 6, "edge", fill=RED)]


def _trial(axes: Axes, record: TrialRecord, metric: str) -> list[str]:
    values = record.curve.of(metric)[1]
    x, last = axes.x(record.recipe.lr), float(values[-1]) if len(values) else math.inf
    y = axes.y(last)
    if record.outcome is not None and record.outcome.diverged:
        y = axes.y(math.inf)
        return [f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8" stroke="{RED}" stroke-width="2"/>']
    fill = BLUE if record.outcome is Outcome.COMPLETED else "#fff"
    return [f'<circle cx="{x}" cy="{y}" r="4.5" fill="{fill}" stroke="{BLUE}" stroke-width="1.5"/>']


def _ring(axes: Axes, best: dict[str, Any]) -> str:
    x, y = axes.x(best["lr"]), axes.y(best["value"])
    ring = f'<circle cx="{x}" cy="{y}" r="9" fill="none" stroke="{BLUE}" stroke-width="2"/>'
    return ring + _text(x, y - 14, f"{best['lr']:.3g}", fill=BLUE)


def _legend(*, sweep: bool) -> str:
    y, x = TOP - 24, WIDTH - RIGHT
    legend = "filled: trained to the end, open: stopped early, red cross: diverged"
    return _text(x, y, legend + (", grey: dense sweep" if sweep else ""), anchor="end")


if __name__ == "__main__":
    main()
