"""Seconds until a command answers: our help beside the import of the libraries it needs.

Both are whole processes, from their start to their exit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from common import Bound, Report, compare


def measure(quick: bool) -> Report:
    """The comparison."""
    figure = compare(
        process("-m", "detector.train", "--help"),
        process("-c", "import torch, torchvision, lightning"),
        rounds=2 if quick else 9,
        what="`python -m detector.train --help`, wanted in at most 2.5 s; "
        "`import torch, torchvision, lightning`",
        bound=Bound(
            process("-c", "import hydra"), "Python and `import hydra`, which composes the help"
        ),
    )
    return Report({"startup": figure})


def process(*arguments: str) -> Callable[[], object]:
    """A Python that is run with the arguments and must succeed."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
