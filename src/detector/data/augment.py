"""Augmentation and resizing: everything that is specific to albumentations (2.0, archived)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.types import RequestError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network

import albumentations as A

Steps = Sequence[dict[str, Any]]


class Augmenter:
    """Random changes to an image and its boxes, then the one resizing.

    Args:
        steps: Albumentations' transforms: each `{"name": CLASS, **arguments}`.
        image_size: The longer side afterwards, pixels.
        min_visibility: A box that keeps less than this share of its area is removed.

    Raises:
        RequestError: If a step is not a transform of albumentations or refuses its arguments.
    """

    def __init__(self, steps: Steps, image_size: int, min_visibility: float = 0.0) -> None:
        self.pipeline = A.Compose(
            [*(_build(i, step) for i, step in enumerate(steps)), A.LongestMaxSize(image_size)],
            bbox_params=A.BboxParams(
                "pascal_voc", label_fields=["rows"], min_visibility=min_visibility, clip=True
            ),
        )

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], key: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Augment one image; a pure function of its arguments.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            boxes: `(N, 4)` xyxy, pixels.
            key: What the randomness is a function of: seed, epoch, image.

        Returns:
            The new image, the `(M, 4)` boxes left, and the `(M,)` rows they had.
        """
        self.pipeline.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        done = self.pipeline(image=image, bboxes=boxes, rows=np.arange(len(boxes)))
        left = np.asarray(done["bboxes"], dtype=np.float32).reshape(-1, 4)
        rows = np.asarray(done["rows"], dtype=np.int64)
        good = (left[:, 2:] - left[:, :2] >= 1).all(1)  # degenerate boxes make the loss infinite
        return done["image"], left[good], rows[good]


def _build(index: int, step: dict[str, Any]) -> A.BasicTransform:
    """One transform, by name: nothing but albumentations' own can be reached from a config."""
    arguments = dict(step)
    if "name" not in arguments:
        raise RequestError(f"augment.steps[{index}]: no name; expected {{name: TRANSFORM, ...}}")
    name = str(arguments.pop("name"))
    kind = getattr(A, name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise RequestError(f"augment.steps[{index}]: {name!r} is not a transform of albumentations")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # so it speaks of unknown arguments
            transform: A.BasicTransform = kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"augment.steps[{index}]: {name}: {reason}") from error
    return transform
