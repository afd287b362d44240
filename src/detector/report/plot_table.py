"""Table of the report's plots: a new plot is one function and one row here.

The page draws the plots of a section in the order of their rows, where its template says
`{{ plots_of("<section>") }}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from detector.report import plots_curves, plots_errors, plots_training
from detector.report.plots import Figure

TABLE_BELOW = "The table below has the numbers."
TABLE_BESIDE = "The table beside has the numbers."
NO_BOXES = "There are no boxes to find and no detections."


@dataclass(frozen=True)
class Plot:
    """One plot of the report.

    Attributes:
        name: Name of the plot in the page's data and in its element's id.
        section: Section of the page that shows it.
        title: Title above the plot.
        function: Makes the figure of the values that are needed; None where there is nothing to
            plot.
        needs: Keys of the report's content; without one of the values there is no figure.
        alternative: Text for those who cannot see the plot, beside its title.
        empty: Text in place of a figure that is None.
        note: Sentence below the plot.
    """

    name: str
    section: str
    title: str
    function: Callable[..., Figure | None]
    needs: tuple[str, ...]
    alternative: str
    empty: str
    note: str = ""

    def draw(self, content: Mapping[str, Any]) -> Figure | None:
        """The figure for a report's content, None where there is nothing to plot."""
        values = [content[key] for key in self.needs]
        return None if any(value is None for value in values) else self.function(*values)


PLOTS = (
    Plot(
        name="differences",
        section="comparison",
        title="Difference, B minus A",
        function=plots_errors.differences,
        needs=("comparison",),
        alternative=TABLE_BESIDE,
        empty="No difference is defined.",
        note="The lines are intervals; where one crosses zero, the difference may be due to "
        "chance.",
    ),
    Plot(
        name="scores",
        section="training",
        title="Validation scores",
        function=plots_training.scores,
        needs=("training",),
        alternative=TABLE_BELOW,
        empty="There are no validation scores.",
        note="Pale names are hidden; a click on a name shows or hides its line.",
    ),
    Plot(
        name="losses",
        section="training",
        title="Losses",
        function=plots_training.losses,
        needs=("training",),
        alternative=TABLE_BELOW,
        empty="There are no losses.",
    ),
    Plot(
        name="rates",
        section="training",
        title="Learning rates",
        function=plots_training.rates,
        needs=("training",),
        alternative=TABLE_BELOW,
        empty="There are no learning rates.",
        note="Where a line has a gap, its group is frozen.",
    ),
    Plot(
        name="thresholds",
        section="classes",
        title="Precision, recall and F1 by score threshold",
        function=plots_curves.thresholds,
        needs=("curves", "classes", "detections"),
        alternative="At IoU 0.5.",
        empty="Nothing was detected, so there is no curve.",
        note="At IoU 0.5. The pointer shows all values at a threshold.",
    ),
    Plot(
        name="recall_precision",
        section="classes",
        title="Precision over recall",
        function=plots_curves.recall_precision,
        needs=("recall_precision", "per_class", "classes"),
        alternative="At IoU 0.5.",
        empty="No curve: nothing was detected, or there is nothing to find.",
        note="At IoU 0.5, interpolated as COCO does; the area under a line is its class's AP50.",
    ),
    Plot(
        name="sizes",
        section="sizes and shapes",
        title="By size",
        function=partial(plots_curves.ranges, title="root of the area, pixels"),
        needs=("sizes",),
        alternative=TABLE_BELOW,
        empty=NO_BOXES,
    ),
    Plot(
        name="aspects",
        section="sizes and shapes",
        title="By aspect ratio",
        function=partial(plots_curves.ranges, title="height : width"),
        needs=("aspects",),
        alternative=TABLE_BELOW,
        empty=NO_BOXES,
    ),
    Plot(
        name="errors",
        section="errors",
        title="AP50 gained by correcting a type of error",
        function=plots_errors.errors,
        needs=("errors",),
        alternative=TABLE_BESIDE,
        empty="No cost is defined: nothing was detected, or there is nothing to find.",
    ),
    Plot(
        name="confusion",
        section="confusion",
        title="Confusion matrix",
        function=plots_errors.confusion,
        needs=("confusion",),
        alternative="Rows are the ground truth, columns the detections.",
        empty="Empty: there are neither boxes nor detections.",
    ),
    Plot(
        name="calibration",
        section="confidence",
        title="Reliability",
        function=plots_curves.calibration,
        needs=("calibration",),
        alternative="Precision by confidence, and how many detections there are.",
        empty="Nothing was detected.",
    ),
)
