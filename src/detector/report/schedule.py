"""Plot of a run's schedule: phases, validation scores and learning rates over the epochs."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.core.files import atomic

# Importing matplotlib takes a second: only when something is drawn.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME_LENGTH = 40  # characters of a phase's name
ROW_LENGTH = 110  # characters that fit above the panel in one row
SPAN = 0.01  # lowest range of the score axis, so that noise does not look like a change
DEPTH = 100  # lowest learning rate shown, as a divisor of the lowest peak of a group
TINTS = ("#e3ebf4", "#f8f3e4")
INK, FAINT = "#222222", "#707070"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe-Ito

Look = dict[str, Any]  # how matplotlib draws a line
RESTORED: Look = {"color": "#b0440f", "linestyle": ":", "linewidth": 1.8, "zorder": 2}
RESTORED |= {"marker": "o", "markevery": [0], "markersize": 10, "markerfacecolor": "none"}
BEST: Look = {"color": "#d99a00", "linestyle": "none", "zorder": 4, "clip_on": False}
BEST |= {"marker": "*", "markersize": 14, "markeredgecolor": INK}


@dataclass(frozen=True)
class ShadedPhase:
    """A phase of the run.

    Attributes:
        name: Name of the phase, written above it.
        start: Start of the phase, in epochs since the run began.
        end: End of the phase, in epochs since the run began; a phase without length is not drawn.
        restored_epoch: Epoch (from 0) whose weights the phase began with; None: those at hand.
        ended: Why the phase ended; empty if it did not.
    """

    name: str
    start: float
    end: float
    restored_epoch: int | None = None
    ended: str = ""


@dataclass(frozen=True)
class Curve:
    """Learning rate of a parameter group over time.

    Attributes:
        label: Name of the group.
        epochs: `(N,)`, epochs since the run began.
        rates: `(N,)`, learning rates; 0 where the group was frozen.
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
    """Write the plot in one step: on failure nothing is left, and an older plot stays.

    Args:
        file: A `.png` in a folder that exists.
        phases: Phases in their order.
        curves: Learning rates, one curve for each group.
        scores: Epoch (from 0) -> validation score; NaN where there is none.
        best_epoch: Epoch with the best score, if any.
        metric: Name of the score.
    """
    with atomic(file) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font draws a box instead
        figure = make_figure(phases, curves, scores, best_epoch, metric)
        figure.savefig(draft, format="png")


def make_figure(
    phases: Sequence[ShadedPhase],
    curves: Sequence[Curve],
    scores: Mapping[int, float],
    best_epoch: int | None,
    metric: str,
) -> Figure:
    """Draw the plot; the arguments are those of `draw_schedule`.

    An epoch reaches from its number, counted from 0, to the next one. Its score is drawn at its
    end, so that the axis reads as people count: the score of the third epoch is at 3.
    """
    # Not pyplot, which keeps every figure and chooses a window system.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    phases = [phase for phase in phases if phase.end > phase.start]
    scores = {epoch: score for epoch, score in sorted(scores.items()) if math.isfinite(score)}
    end = max([1.0, *(phase.end for phase in phases), *(epoch + 1 for epoch in scores)])
    figure = Figure(figsize=(11.2, 6.2), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, sharex=True)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, color=FAINT)
        axes.set_xlim(0, end)
        for i, phase in enumerate(phases):
            axes.axvspan(phase.start, phase.end, color=TINTS[i % 2], linewidth=0, zorder=0)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    bottom.set_xlabel("epochs trained")
    _name_phases(top, phases, end)
    _draw_scores(top, phases, scores, best_epoch, metric)
    _draw_rates(bottom, curves)
    return figure


def merge_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Make one curve of those with the same values everywhere; its label lists theirs."""
    same: dict[tuple[tuple[float, ...], tuple[float, ...]], list[str]] = {}
    for curve in curves:
        same.setdefault((tuple(curve.epochs), tuple(curve.rates)), []).append(curve.label)
    return [Curve(", ".join(labels), *points) for points, labels in same.items()]


def _name_phases(axes: Axes, phases: Sequence[ShadedPhase], end: float) -> None:
    """Write a title above each phase, or a number and the titles below where they do not fit."""
    from matplotlib.patches import Patch

    titles = [_title(phase) for phase in phases]
    rooms = [ROW_LENGTH * (phase.end - phase.start) / end for phase in phases]
    if all(len(max(title, key=len)) <= room for title, room in zip(titles, rooms, strict=True)):
        headings = ["\n".join(title) for title in titles]
    else:
        headings = [str(i + 1) for i in range(len(phases))]
        figure = axes.get_figure(root=True)
        assert figure is not None
        legend = figure.legend(
            [Patch(color=TINTS[i % 2]) for i in range(len(phases))],
            [f"{i}: {', '.join(title)}" for i, title in enumerate(titles, start=1)],
            loc="outside lower left",
            ncols=1 if len(phases) < 4 else 2,
            frameon=False,
            fontsize=8.5,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        figure.set_figheight(figure.get_figheight() + 0.12 * (len(phases) + 1))
    place: Look = {"transform": axes.get_xaxis_transform(), "ha": "center", "size": 9, "color": INK}
    for phase, heading in zip(phases, headings, strict=True):
        axes.text((phase.start + phase.end) / 2, 1.02, heading, parse_math=False, **place)


def _title(phase: ShadedPhase) -> list[str]:
    """Name of a phase, which epoch it restored and why it ended, one line each."""
    name = " ".join(phase.name.encode("utf-8", errors="replace").decode("utf-8").split())
    lines = [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3] + "..."]
    if phase.restored_epoch is not None:
        lines.append(f"restored epoch {phase.restored_epoch + 1}")
    if phase.ended:
        full = phase.ended == "max_epochs"  # also where the run's time set the length
        lines.append(f"ended: {'full length' if full else phase.ended}")
    return lines


def _draw_scores(
    axes: Axes,
    phases: Sequence[ShadedPhase],
    scores: Mapping[int, float],
    best_epoch: int | None,
    metric: str,
) -> None:
    """Draw the panel of validation scores."""
    axes.set_ylabel(metric, parse_math=False)
    if not scores:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no validation scores", ha="center", transform=axes.transAxes)
        return
    look: Look = {"color": INK, "zorder": 3, "clip_on": False}
    axes.plot([e + 1 for e in scores], list(scores.values()), "o", ms=4, label="score", **look)
    for phase in phases:
        start, end = math.floor(phase.start), math.ceil(phase.end)
        # The weights that a phase begins with have the score of the epoch they come from.
        origin = start - 1 if phase.restored_epoch is None else phase.restored_epoch
        values = [scores.get(epoch, math.nan) for epoch in (origin, *range(start, end))]
        axes.plot(range(start, end + 1), values, linewidth=1.4, **look)
        if phase.restored_epoch is not None and origin in scores:
            axes.plot([origin + 1, start], [scores[origin]] * 2, label="restored", **RESTORED)
    if best_epoch is not None and best_epoch in scores:
        label = f"best {scores[best_epoch]:.3f} (epoch {best_epoch + 1})"
        axes.plot([best_epoch + 1], [scores[best_epoch]], label=label, **BEST)
    low, high = min(scores.values()), max(scores.values())
    half = 0.56 * max(high - low, SPAN)
    middle = (low + high) / 2
    axes.set_ylim(max(middle - half, 0), min(middle + half, 1))  # a score is in 0..1
    _add_legend(axes)


def _draw_rates(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the panel of learning rates; a group is a gap where it is frozen."""
    from matplotlib.ticker import NullFormatter

    axes.set_ylabel("learning rate")
    merged = merge_curves(curves)
    drawn = [curve for curve in merged if any(rate > 0 for rate in curve.rates)]
    if not drawn:
        axes.set_yticks([])
        return
    for i, curve in enumerate(drawn):
        rates = [rate if rate > 0 else math.nan for rate in curve.rates]
        # A line is wider than those drawn over it, so that all are seen where they coincide.
        look: Look = {"color": COLORS[i % len(COLORS)]}
        look["linewidth"] = 1.5 + 1.2 * (len(drawn) - 1 - i)
        axes.plot(curve.epochs, rates, label=textwrap.fill(curve.label, 28), **look)
    for curve in merged:
        if curve not in drawn:
            axes.plot([], [], " ", label=textwrap.fill(f"frozen: {curve.label}", 28))
    peaks = [max(curve.rates) for curve in drawn]
    lowest = min(rate for curve in drawn for rate in curve.rates if rate > 0)
    low = min(max(lowest, min(peaks) / DEPTH), max(peaks) / 10)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(low / 1.5, max(peaks) * 1.6)
    _add_legend(axes)


def _add_legend(axes: Axes) -> None:
    """Name the lines to the right of a panel, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes.legend(
        named.values(), named, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9
    )
