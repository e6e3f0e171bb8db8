"""Draws docs/img/freeze-thaw.svg: one search on a made-up landscape, what each run cost and what the table says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from landscapes import landscapes
from simulate import Play, context_of, play

from lrtune.core.outcome import Outcome
from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from tables import Problem

WIDTH, HEIGHT, LEFT, TOP, MIDDLE, BOTTOM = 760, 520, 70, 40, 300, 470
INK, QUIET, GOOD, BAD = "#1f2933", "#9aa5b1", "#0b7a75", "#c0392b"
TARGET = Path(__file__).parents[2] / "docs" / "img" / "freeze-thaw.svg"


def drawn(problem: Problem, played: Play) -> str:
    """The picture as SVG: above, how far each run was trained; below, where each stood when it was left."""
    low, high = problem.grid[0], problem.grid[-1]
    found = answer(context_of(problem, played.trials, played.cost))

    def across(x: float) -> float:
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - 20)

    def up(epochs: float) -> float:
        return MIDDLE - 40 - math.log(max(epochs, 0.5) / 0.5) / math.log(problem.epochs / 0.5) * (MIDDLE - 40 - TOP)

    def value(y: float) -> float:
        return BOTTOM - (min(y, 1.05) - problem.best) / (1.05 - problem.best) * (BOTTOM - MIDDLE - 10)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    if found.band is not None:
        ends = [across(math.log10(lr)) for lr in found.band]
        parts.append(
            f'<rect x="{ends[0]:.1f}" y="{TOP}" width="{ends[1] - ends[0]:.1f}" height="{BOTTOM - TOP}" '
            f'fill="{GOOD}" fill-opacity="0.12"/>'
            f'<text x="{sum(ends) / 2:.1f}" y="{TOP - 22}" fill="{GOOD}" text-anchor="middle">band</text>'
        )
    if found.edge.low is not None and found.edge.high is not None:
        ends = [across(math.log10(lr)) for lr in (found.edge.low, found.edge.high)]
        parts.append(
            f'<rect x="{ends[0]:.1f}" y="{TOP}" width="{ends[1] - ends[0]:.1f}" height="{BOTTOM - TOP}" '
            f'fill="{BAD}" fill-opacity="0.10"/>'
            f'<text x="{sum(ends) / 2:.1f}" y="{TOP - 22}" fill="{BAD}" text-anchor="middle">edge</text>'
        )
    finals = problem.curves[()][:, -1]
    shown = [(across(x), value(y)) for x, y in zip(problem.grid, finals, strict=True) if np.isfinite(y)]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
    parts.append(f'<polyline points="{corners}" fill="none" stroke="{QUIET}"/>')
    for view in played.trials:
        x, dead = across(math.log10(view.recipe.lr)), view.outcome is not None and view.outcome.diverged
        done = view.outcome is Outcome.COMPLETED
        colour = BAD if dead else GOOD if done else INK
        top = up(view.trained)
        parts.append(
            f'<line x1="{x:.1f}" y1="{MIDDLE - 40}" x2="{x:.1f}" y2="{top:.1f}" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{top - 5:.1f}" fill="{colour}" text-anchor="middle">{view.number + 1}</text>'
        )
        last = float(view.values[-1])
        if math.isfinite(last):
            inner = colour if done else "white"
            parts.append(f'<circle cx="{x:.1f}" cy="{value(last):.1f}" r="4" fill="{inner}" stroke="{colour}"/>')
    parts += [
        f'<text x="{LEFT - 8}" y="{up(epochs) + 4:.1f}" text-anchor="end" fill="{INK}">{epochs}</text>'
        for epochs in (1, 10, problem.epochs)
    ]
    parts += [
        f'<text x="{across(x):.1f}" y="{BOTTOM + 18}" text-anchor="middle" fill="{INK}">1e{x}</text>'
        for x in range(math.ceil(low), math.floor(high) + 1)
    ]
    captions = [
        (TOP + 20, "epochs trained (numbers: order of starting)"),
        (MIDDLE - 8, "loss: where each run was left (circles), and every full training (line)"),
        (BOTTOM + 36, f"learning rate; the whole search cost {played.cost:.2f} full trainings"),
    ]
    parts += [f'<text x="{LEFT + 4}" y="{y}" fill="{INK}">{text}</text>' for y, text in captions]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, "<title>One freeze-thaw search</title>", *parts, "</svg>", ""])


def main() -> None:
    """Search one made-up landscape and draw it."""
    problem = landscapes(8)[6]
    played = play(FreezeThaw(), problem, seed=0, budget=None, self_stopping=True)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(drawn(problem, played), encoding="utf-8")


if __name__ == "__main__":
    main()
