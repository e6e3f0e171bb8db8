"""What all figures share: colours for colour-blind readers and dark pages, escaped labels, axes without outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = [
    "ACCENT",
    "AXIS",
    "BAND_FILL",
    "EDGE",
    "EDGE_FILL",
    "GRID",
    "INK",
    "MUTED",
    "OUTCOMES",
    "SCALE",
    "AxisRange",
    "OutcomeStyle",
    "blank",
    "chosen",
    "colorbar",
    "colours",
    "decades",
    "hover",
    "label",
    "log_ticks",
    "mark",
    "note",
    "number",
    "robust",
    "rows",
    "thinned",
]

Floats: TypeAlias = npt.NDArray[np.float64]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID = "#3d4450", "#7a8290", "rgba(128,136,150,0.22)"
ACCENT, EDGE = "#2f6fd0", "#d55e00"
BAND_FILL, EDGE_FILL = "rgba(47,111,208,0.13)", "rgba(213,94,0,0.10)"
AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": GRID,
    "ticks": "outside",
    "tickcolor": GRID,
    "ticklen": 4,
    "title": {"standoff": 8, "font": {"size": 12}},
    "automargin": True,
}
LOG_FROM = 8.0  # high over low
FEW_DECADES = 2.5
# From slow and cool to fast and warm; lightness rises throughout, and both ends stay readable on white and on black.
SCALE = [[0.0, "#4747b8"], [0.25, "#2f7fc8"], [0.5, "#1f9e95"], [0.75, "#74b03f"], [1.0, "#e3a51a"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeStyle:
    """How an outcome is drawn and called."""

    name: str
    colour: str
    symbol: str


# Okabe and Ito's palette; every outcome has its own symbol as well, so that colour is never alone.
OUTCOMES: dict[str, OutcomeStyle] = {
    "completed": OutcomeStyle(name="completed", colour="#2f6fd0", symbol="circle"),
    "pruned": OutcomeStyle(name="stopped early", colour="#8b93a1", symbol="circle-open"),
    "open": OutcomeStyle(name="paused or running", colour="#56a3d9", symbol="diamond-open"),
    "non_finite": OutcomeStyle(name="diverged: non-finite", colour="#d55e00", symbol="x-thin"),
    "exploded": OutcomeStyle(name="diverged: exploded", colour="#d55e00", symbol="triangle-up"),
    "stuck": OutcomeStyle(name="stuck at chance", colour="#cc7a1e", symbol="square-open"),
    "out_of_memory": OutcomeStyle(name="out of memory", colour="#b0609a", symbol="hexagon-open"),
    "stalled": OutcomeStyle(name="stalled", colour="#b0609a", symbol="hourglass-open"),
    "interrupted": OutcomeStyle(name="interrupted", colour="#8b93a1", symbol="line-ew-open"),
    "failed": OutcomeStyle(name="failed", colour="#b0609a", symbol="cross-thin"),
}


def label(text: object, most: int = 80) -> str:
    """Text for a plotly label: it appears as it is, whatever HTML it holds."""
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    shown = shown.encode("utf-8", "replace").decode("utf-8")
    shown = shown if len(shown) <= most else f"{shown[: most - 1]}…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def hover(*lines: object) -> str:
    """A hover template of these lines, every one escaped; empty ones are left out."""
    return "<br>".join(label(line, 160) for line in lines if line not in {"", None}) + "<extra></extra>"


def number(value: float | None, digits: int = 3) -> str:
    """A number as people write it; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:.{digits}g}"


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table, each with its columns as attributes."""
    return iter(table.itertuples())


def blank(*, x: str, y: str, height: int = 420, **axes: Any) -> go.Figure:
    """An empty figure in the style of all; `axes` are further settings of ``xaxis`` and ``yaxis``."""
    layout: dict[str, Any] = {
        "template": {},  # the page needs none, and merging plotly's own takes longer than all else
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "legend": {
            "orientation": "h",
            "y": 1.06,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 11},
            "traceorder": "normal",
        },
        "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ACCENT},
    }
    for name, title in (("xaxis", x), ("yaxis", y)):
        axis = AXIS | axes.get(name, {})
        layout[name] = axis | {"title": axis["title"] | {"text": label(title)}}
    return go.Figure(layout=layout)


def mark(figure: go.Figure, at: float, text: str, colour: str, *, yanchor: str = "bottom") -> None:
    """A word at a learning rate, at the top of a figure whose horizontal axis is logarithmic."""
    figure.add_annotation(
        x=math.log10(at),
        y=1,
        yref="paper",
        yanchor=yanchor,
        text=label(text),
        showarrow=False,
        font={"size": 11, "color": colour},
    )


def note(drawn: int, count: int, what: str) -> dict[str, str]:
    """The layout's ``meta``: the sentence below a figure in which not everything is drawn."""
    return {"note": "" if drawn == count else f"{drawn:,} of {count:,} {what}"}


def colorbar(title: str, ticks: Sequence[float], texts: Sequence[str]) -> dict[str, Any]:
    """A thin colour bar beside a figure."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 11}},
        "tickvals": list(ticks),
        "ticktext": list(texts),
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.9,
    }


def decades(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks and their texts for log10 values from low to high."""
    ticks = [float(t) for t in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(ticks) < 2:  # noqa: PLR2004 -- within one decade
        ticks = [float(t) for t in np.linspace(low, high, 3)]
    return ticks, [plain_tick(10**t if abs(t - round(t)) > 1e-9 else float(f"1e{round(t)}")) for t in ticks]  # noqa: PLR2004 -- said by the expression itself


def log_steps(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks for a logarithmic axis: 1, 2, 5 in every decade where there are few of them, else whole decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) < FEW_DECADES else (1,)
    every = max(1, (last - first) // 8)
    ticks = [step * 10.0**d for d in range(first, last + 1, every) for step in steps]
    ticks = [tick for tick in ticks if low / 1.001 <= tick <= high * 1.001]
    return ticks, [plain_tick(tick) for tick in ticks]


def plain_tick(value: float) -> str:
    """0.001, 0.02, 5, 300, 1e-5."""
    if 1e-3 * 0.999 <= value < 1e5:  # noqa: PLR2004 -- what reads well in full
        return f"{value:.6g}"
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis over this range whose ticks read 0.001, 0.01, 0.1."""
    ends = [math.log10(low), math.log10(high)]
    ticks, texts = decades(*ends)
    return {"type": "log", "range": ends, "tickvals": [10**t for t in ticks], "ticktext": texts}


def colours(lrs: Sequence[float] | Floats, lr_range: tuple[float, float]) -> list[str]:
    """The colour of each learning rate on the log scale of the range."""
    low, high = (math.log10(end) for end in lr_range)
    share = np.clip((np.log10(np.asarray(lrs, dtype=np.float64)) - low) / max(high - low, 1e-9), 0.0, 1.0)
    return [str(colour) for colour in sample_colorscale(SCALE, share.tolist())] if len(share) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRange:
    """What a value axis shows: from low to high, on a log scale or not."""

    low: float
    high: float
    log: bool

    def axis(self) -> dict[str, Any]:
        """As a plotly axis, with room for :meth:`beyond`."""
        low, high = self.low, self.high
        if not self.log:
            pad = 0.05 * (high - low)
            return {"range": [low - pad, high + pad]}
        stretch = (high / low) ** 0.05
        ends = [math.log10(low / stretch), math.log10(high * stretch)]
        ticks, texts = log_steps(low, high)
        return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": texts}

    def beyond(self, sign: float) -> float:
        """A height just beyond the worse end: where trials are drawn that have no value."""
        if self.log:
            stretch = math.exp(0.03 * math.log(self.high / self.low))
            return self.high * stretch if sign > 0 else self.low / stretch
        return self.high + 0.03 * (self.high - self.low) if sign > 0 else self.low - 0.03 * (self.high - self.low)

    def clip(self, values: Floats) -> Floats:
        """The values moved onto the axis; what is no number becomes its end."""
        filled = np.where(np.isnan(values), self.high, values)
        return np.asarray(np.clip(filled, self.low, self.high), dtype=np.float64)


def robust(values: Floats, *, sign: float, worst: float | None = None) -> AxisRange:
    """A range that one exploded trial cannot flatten.

    From the best value to that of an untrained model (`worst`, in the metric's own sign) where that is known, else to
    the far end of what lies within five times the better half's spread. `sign` is -1 for a metric that is maximised.
    """
    finite = sign * values[np.isfinite(values)]
    if not len(finite):
        return AxisRange(low=0.0, high=1.0, log=False)
    best, middle = float(finite.min()), float(np.median(finite))
    reach = best + 5.0 * max(middle - best, 1e-9 * max(1.0, abs(best)))
    top = min(float(finite.max()), reach)
    if worst is not None and math.isfinite(worst):
        top = min(max(float(finite.max()), middle), max(sign * worst, middle)) if sign * worst > best else top
    if top <= best:
        top = best + max(abs(best) * 0.1, 1e-6)
    low, high = sorted((sign * best, sign * top))
    # Nearly a decade reads better on a log scale.
    return AxisRange(low=low, high=high, log=low > 0 and high / low > LOG_FROM)


def thinned(count: int, most: int, keep: Sequence[int] = ()) -> list[int]:
    """Which of `count` things are drawn: those to keep, and the rest drawn evenly, `most` in all, ascending."""
    if count <= most:
        return list(range(count))
    kept = dict.fromkeys(list(keep)[: most // 2])
    rest = [i for i in range(count) if i not in kept]
    places = np.linspace(0, len(rest) - 1, most - len(kept)).round().astype(int)
    return sorted({*kept, *(rest[place] for place in places)})


def chosen(record: StudyRecord, candidates: Sequence[int], most: int) -> list[int]:
    """Indices of the trials that are drawn, by learning rate: the answer, the best ones, the rest evenly over lr."""
    answer, trials = record.best, record.records
    by_lr = sorted(candidates, key=lambda i: trials[i].recipe.lr)
    best = [i for i in candidates if trials[i].value is not None]
    best.sort(key=lambda i: (trials[i] is not answer, record.sign * float(trials[i].value or 0.0)))
    return [by_lr[place] for place in thinned(len(by_lr), most, [by_lr.index(i) for i in best[: most // 3]])]
