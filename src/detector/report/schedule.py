"""The picture of a run's schedule: what was trained when, at which rate, and what came of it."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The plotting library takes a second to import: only when something is drawn.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
WIDTH, LEFT, RIGHT = 1120, 76, 210  # pixels; the margins hold axis labels and the legend
SCORE_PANEL, RATE_PANEL, GAP, BOTTOM, TOP = 260, 230, 16, 50, 10
NAME_ROW, NAME_WIDTH = 27, 190  # of a phase's name and the reason below it
LABEL_ROW = 15  # of a restore's label
HEADROOM = 48  # above the best score, for its value and for arrows
SPAN = 0.01  # of scores, at least, so that noise does not look like a change
DEPTH = 100  # what is seen below the peak of the slowest group; warm-up may come from far below
BACKED = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}  # text across lines
TINTS = ("#e9eff6", "#f8f4ea")
INK, FAINT, RESTORE, BEST = "#222222", "#707070", "#b0440f", "#d99a00"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe-Ito


@dataclass(frozen=True)
class ShadedPhase:
    """A phase of the run.

    Attributes:
        name: Written above it.
        start: Where it begins, in epochs since the run began.
        end: Where it ended, or the run did; a phase of no length is not drawn.
        restored_epoch: The epoch (from 0) whose weights it began with; None: those before it.
        ended: Why it ended; empty: it did not.
    """

    name: str
    start: float
    end: float
    restored_epoch: int | None = None
    ended: str = ""


@dataclass(frozen=True)
class Curve:
    """A group's learning rate over time.

    Attributes:
        label: The group.
        epochs: `(N,)`, since the run began.
        rates: `(N,)`; 0 where the group was frozen.
    """

    label: str
    epochs: Sequence[float]
    rates: Sequence[float]


def draw_schedule(
    file: Path,
    phases: Sequence[ShadedPhase],
    curves: Sequence[Curve],
    scores: Mapping[int, float],
    best_epoch: int | None,
    metric: str,
) -> None:
    """Write the picture in one step: on failure nothing is left, and an older picture stays.

    Args:
        file: A `.png`; its folder exists.
        phases: In order.
        curves: One a group.
        scores: Epoch (from 0) -> validation score; NaN where there is none.
        best_epoch: The best of them, if any.
        metric: What the scores are called.
    """
    draft = file.with_name(file.name + ".part")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box in a name says as much
            figure = make_figure(phases, curves, scores, best_epoch, metric)
            figure.savefig(draft, format="png", dpi=DPI)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def make_figure(
    phases: Sequence[ShadedPhase],
    curves: Sequence[Curve],
    scores: Mapping[int, float],
    best_epoch: int | None,
    metric: str,
) -> Figure:
    """The picture; for the arguments see `draw_schedule`.

    An epoch takes up the stretch from its number, counted from 0, to the next. What is known at its
    end stands there, so that the axis reads as people count: the score of the third epoch is at 3.
    """
    # No pyplot, which holds on to every figure and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phases = [phase for phase in phases if phase.end > phase.start]
    scores = {epoch: score for epoch, score in sorted(scores.items()) if math.isfinite(score)}
    end = max([1.0, *(phase.end for phase in phases), *(epoch + 1 for epoch in scores)])
    pixels = (WIDTH - LEFT - RIGHT) / end  # of an epoch
    figure = Figure(dpi=DPI)
    FigureCanvasAgg(figure)
    names = [_fit(figure, phase.name) for phase in phases]
    widths = [
        max(_width(figure, name, 9, "bold"), _width(figure, _reason(phase), 7.5)) + 12
        for name, phase in zip(names, phases, strict=True)
    ]
    rows = stagger([phase.start * pixels for phase in phases], widths)
    height = BOTTOM + RATE_PANEL + GAP + SCORE_PANEL + TOP + NAME_ROW * (max(rows, default=-1) + 1)
    figure.set_size_inches(WIDTH / DPI, height / DPI)
    top = _add_panel(figure, BOTTOM + RATE_PANEL + GAP, SCORE_PANEL, phases, end)
    below = _add_panel(figure, BOTTOM, RATE_PANEL, phases, end)
    top.tick_params(labelbottom=False)
    top.set_ylabel(metric, parse_math=False)
    below.set_ylabel("learning rate")
    below.set_xlabel("epochs trained")
    _write_names(top, phases, names, rows)
    _draw_scores(top, phases, scores, best_epoch, pixels)
    _draw_rates(below, curves)
    return figure


def merge_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Make one of those that are the same everywhere; its label lists theirs."""
    same: dict[tuple[tuple[float, ...], tuple[float, ...]], list[str]] = {}
    for curve in curves:
        same.setdefault((tuple(curve.epochs), tuple(curve.rates)), []).append(curve.label)
    return [Curve(", ".join(labels), *points) for points, labels in same.items()]


def stagger(lefts: Sequence[float], widths: Sequence[float]) -> list[int]:
    """The rows of texts that each begin at a line which comes up from below, from left to right.

    Args:
        lefts: Where the lines are, ascending.
        widths: Of the texts.

    Returns:
        A row each, from 0 at the bottom: no text lies on another one or across another one's line.
    """
    rows = [0] * len(lefts)
    for i in reversed(range(len(lefts))):
        later = range(i + 1, len(lefts))
        covered = [rows[j] for j in later if lefts[j] < lefts[i] + widths[i]]
        rows[i] = max(covered, default=-1) + 1
    return rows


def _add_panel(
    figure: Figure, bottom: int, height: int, phases: Sequence[ShadedPhase], end: float
) -> Axes:
    """An empty panel with the phases in its background."""
    from matplotlib.ticker import MaxNLocator

    pixels = figure.get_figheight() * DPI
    axis = figure.add_axes(
        (LEFT / WIDTH, bottom / pixels, (WIDTH - LEFT - RIGHT) / WIDTH, height / pixels)
    )
    axis.set_xlim(0, end)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axis.yaxis.set_label_coords(-0.067, 0.5)
    axis.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="white", linewidth=1)
    axis.set_axisbelow(True)
    for i, phase in enumerate(phases):
        axis.axvspan(phase.start, phase.end, color=TINTS[i % 2], linewidth=0, zorder=0)
        if phase.start:
            axis.axvline(phase.start, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    return axis


def _write_names(
    axis: Axes, phases: Sequence[ShadedPhase], names: Sequence[str], rows: Sequence[int]
) -> None:
    """Phases' names above the panel, each on a line at its start, and why they ended."""
    for phase, name, row in zip(phases, names, rows, strict=True):
        place: dict[str, Any] = {
            "xy": (phase.start, 1),
            "xycoords": axis.get_xaxis_transform(),
            "textcoords": "offset pixels",
            "annotation_clip": False,
            "parse_math": False,
        }
        y = row * NAME_ROW
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", xytext=(0, y + NAME_ROW - 3), arrowprops=line, **place)
        axis.annotate(name, xytext=(4, y + 14), color=INK, size=9, weight="bold", **place)
        axis.annotate(_reason(phase), xytext=(4, y + 3), color=FAINT, size=7.5, **place)


def _draw_scores(
    axis: Axes,
    phases: Sequence[ShadedPhase],
    scores: Mapping[int, float],
    best_epoch: int | None,
    pixels: float,
) -> None:
    """The panel of scores."""
    from matplotlib.ticker import MaxNLocator

    restores = [phase for phase in phases if phase.restored_epoch is not None]
    labels = [f"restored epoch {(phase.restored_epoch or 0) + 1}" for phase in restores]
    widths = [_width(axis.get_figure(), label, 8) + 12 for label in labels]
    rows = stagger([phase.start * pixels for phase in restores], widths)
    lane = LABEL_ROW * (max(rows, default=-1) + 1)
    lowest, highest = min(scores.values(), default=0.0), max(scores.values(), default=1.0)
    middle = (lowest + highest) / 2
    low, high = min(lowest, middle - SPAN / 2), max(highest, middle + SPAN / 2)
    unit = (high - low) / (SCORE_PANEL - lane - HEADROOM - 12)  # a pixel
    bottom, top = low - (lane + 12) * unit, high + HEADROOM * unit
    axis.set_ylim(bottom, top)
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 5, 10]).tick_values(low, top)
    least = max(bottom, min(lowest, 0))  # no negative ones where scores cannot be
    axis.set_yticks([tick for tick in ticks if least <= tick <= top] if scores else [])
    if not scores:
        axis.text(0.5, 0.6, "no validation scores", ha="center", transform=axis.transAxes)
    for stretch in _stretches(phases, scores):
        axis.plot(*zip(*stretch, strict=True), color=INK, linewidth=1.4, zorder=3)
    axis.plot(
        [epoch + 1 for epoch in scores],
        list(scores.values()),
        color=INK,
        marker="o",
        markersize=4.5,
        linestyle="none",
        clip_on=False,
        zorder=4,
        label="scores",
    )
    for phase, label, row in zip(restores, labels, rows, strict=True):
        _mark_restore(axis, phase, scores, pixels)
        axis.annotate(
            label,
            (phase.start, 0),
            xycoords=axis.get_xaxis_transform(),
            xytext=(5, 4 + row * LABEL_ROW),
            textcoords="offset pixels",
            annotation_clip=False,
            color=RESTORE,
            size=8,
            zorder=6,
            bbox=BACKED,
        )
    if best_epoch is not None and best_epoch in scores:
        _mark_best(axis, best_epoch, scores[best_epoch], pixels)


def _stretches(
    phases: Sequence[ShadedPhase], scores: Mapping[int, float]
) -> list[list[tuple[float, float]]]:
    """The lines through the scores: a restore begins a new one, at the score that it went back to.

    A line also ends where an epoch has no score.
    """
    restored = {phase.start: phase.restored_epoch for phase in phases}
    lines: list[list[tuple[float, float]]] = []
    for epoch, score in scores.items():
        back = restored.get(epoch)
        if back is not None:
            lines.append([(epoch, scores[back])] if back in scores else [])
        elif epoch - 1 not in scores:
            lines.append([])
        lines[-1].append((epoch + 1, score))
    return lines


def _mark_restore(
    axis: Axes, phase: ShadedPhase, scores: Mapping[int, float], pixels: float
) -> None:
    """An arrow from the epoch that a phase went back to; none if it has no score."""
    if phase.restored_epoch is None or phase.restored_epoch not in scores:
        return
    source, score = phase.restored_epoch + 1, scores[phase.restored_epoch]
    length = (phase.start - source) * pixels
    if length:
        # Bent upwards, off the scores between, which are at most as high: the best was restored.
        look = {
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={-min(0.3, 50 / length)}",
            "color": RESTORE,
            "linewidth": 1.4,
            "shrinkA": 6,
            "shrinkB": 0,
            "zorder": 5,
        }
        axis.annotate("", (phase.start, score), xytext=(source, score), arrowprops=look)
    else:  # the epoch just before: an arrow would have no length
        axis.plot(
            [source],
            [score],
            color=RESTORE,
            marker="o",
            markersize=11,
            markerfacecolor="none",
            clip_on=False,
            zorder=5,
            label="restored",
        )


def _mark_best(axis: Axes, epoch: int, score: float, pixels: float) -> None:
    """A star on the best epoch, and its score."""
    axis.plot(
        [epoch + 1],
        [score],
        color=BEST,
        marker="*",
        markersize=14,
        markeredgecolor=INK,
        markeredgewidth=0.7,
        clip_on=False,
        zorder=7,
        label="best",
    )
    text = f"best {score:.3f} (epoch {epoch + 1})"
    # To the left of the star nothing is as high; to the right, arrows begin.
    fits = (epoch + 1) * pixels > _width(axis.get_figure(), text, 9) + 12
    axis.annotate(
        text,
        (epoch + 1, score),
        xytext=(-8, 10) if fits else (3, 31),
        textcoords="offset pixels",
        ha="right" if fits else "left",
        size=9,
        color=INK,
        zorder=8,
        bbox=BACKED,
    )


def _draw_rates(axis: Axes, curves: Sequence[Curve]) -> None:
    """The panel of learning rates."""
    from matplotlib.ticker import NullFormatter

    merged = merge_curves(curves)
    drawn = [curve for curve in merged if any(rate > 0 for rate in curve.rates)]
    peaks = [max(curve.rates) for curve in drawn] or [1.0]
    lowest = min((rate for curve in drawn for rate in curve.rates if rate > 0), default=0.1)
    low = min(max(lowest, min(peaks) / DEPTH), max(peaks) / 10)
    axis.set_yscale("log")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(low / 1.5, max(peaks) * 1.6)
    axis.tick_params(which="both", left=bool(drawn), labelleft=bool(drawn))
    places = [
        {place for place in zip(curve.epochs, curve.rates, strict=True) if place[1] > 0}
        for curve in drawn
    ]
    for i, curve in enumerate(drawn):
        color = COLORS[i % len(COLORS)]
        rates = [rate if rate > 0 else math.nan for rate in curve.rates]
        axis.plot(
            curve.epochs, rates, color=color, linewidth=1.7, label=textwrap.fill(curve.label, 26)
        )
        # Where lines run together, each is seen beside those drawn over it.
        along = list(zip(curve.epochs, rates, strict=True))
        over = [sum(place in others for others in places[i + 1 :]) for place in along]
        for count in range(1, max(over) + 1):
            shared = [y if n >= count else math.nan for (_, y), n in zip(along, over, strict=True)]
            axis.plot(curve.epochs, shared, color=color, linewidth=1.7 + 1.7 * count)
    for curve in merged:
        if drawn and curve not in drawn:
            axis.plot([], [], " ", label=textwrap.fill(f"frozen: {curve.label}", 26))
    if drawn:
        axis.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.03),
            frameon=False,
            fontsize=8.5,
            handlelength=1.4,
            labelcolor=INK,
        )


def _reason(phase: ShadedPhase) -> str:
    """Why a phase ended, in words."""
    return f"ended: {phase.ended.replace('_', ' ')}" if phase.ended else ""


def _fit(figure: Figure, name: str) -> str:
    """As much of the beginning of a name as there is room for, on one line, in what fonts take."""
    drawable = name.encode("utf-8", errors="replace").decode("utf-8")
    short = name = " ".join(drawable.split())[:100]
    while name and _width(figure, short, 9, "bold") > NAME_WIDTH:
        name = name[:-1]
        short = name + "..."
    return short


def _width(figure: Any, text: str, size: float, weight: str = "normal") -> float:
    """How wide a text comes out, pixels."""
    probe = figure.text(0, 0, text, size=size, weight=weight, parse_math=False)
    width: float = probe.get_window_extent(figure.canvas.get_renderer()).width
    probe.remove()
    return width
