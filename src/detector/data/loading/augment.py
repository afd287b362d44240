"""Augmentation; the only module that uses albumentations (2.0, archived)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.images.pixels import resize

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import makes a network request

import albumentations as A

Steps = Sequence[dict[str, Any]]

# Columns after the corners of a box: its original row, and the share of its area that is left.
ROW, SHARE, COLUMNS = 4, 5, 6
RGB = 3
TRIED = 64  # sides of the image that steps are tried on, pixels


class Augmenter:
    """Random changes of an image at the input size of the network, and of its boxes.

    Args:
        steps: Transforms of albumentations, each as `{"name": CLASS, **arguments}`.
        image_size: Longer side of the images, pixels; after a step that changes it, such as a crop,
            the image is resized.
        min_visibility: A box that keeps less than this share of its area is removed.
        channels: Number of channels of the images. If there are more than three, steps for colours
            change the first three; on grey images, they have no effect.

    Raises:
        RequestError: If a step is not a transform of albumentations, refuses its arguments, or
            cannot be applied to images of so many channels.
    """

    def __init__(
        self, steps: Steps, image_size: int, min_visibility: float = 0.0, channels: int = RGB
    ) -> None:
        self.image_size = image_size
        self.min_visibility = min_visibility
        self.channels = channels
        # `Compose` only sets the transforms up for boxes. Running them in it would check the boxes
        # repeatedly, which takes half as long as decoding, and would give all transforms the same
        # random numbers, so that two transforms with p=0.5 would always be applied together.
        built = [_build(i, step) for i, step in enumerate(steps)]
        A.Compose([*built, A.NoOp()], bbox_params=A.BboxParams("albumentations", label_fields=[]))
        self.transforms = built
        if channels == 1:  # it would warn for every image
            warnings.filterwarnings("ignore", ".*(already gray|to grayscale image)", UserWarning)
        self.appliers = [_applier(i, step, channels) for i, step in enumerate(steps)]

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], key: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Augment one image; a pure function of its arguments.

        Args:
            image: `(H, W, C)` uint8.
            boxes: `(N, 4)` xyxy, pixels.
            key: Seed of the random numbers: seed, epoch and image.

        Returns:
            The new image, the `(M, 4)` boxes that are left, and their `(M,)` original rows. Boxes
            lie inside the image and have sides of at least a pixel: degenerate boxes would make the
            loss infinite.

        Raises:
            RequestError: If a step fails on this image.
        """
        # Boxes of albumentations are fractions of the sides, and may have further columns.
        table = np.empty((len(boxes), COLUMNS))
        table[:, :4] = boxes / _sides(image)
        table[:, ROW], table[:, SHARE] = np.arange(len(boxes)), 1
        table = self._clip(table)
        seeds = np.random.SeedSequence(key).generate_state(len(self.transforms))
        chosen = zip(self.transforms, self.appliers, seeds.tolist(), strict=True)
        for transform, apply, seed in chosen:
            transform.set_random_seed(seed)
            done = apply(transform, image, table)
            image, table = done["image"], self._clip(np.reshape(done["bboxes"], (-1, COLUMNS)))
        image = resize(image, self.image_size)
        left = (table[:, :4] * _sides(image)).astype(np.float32)
        good = (left[:, 2:] - left[:, :2] >= 1).all(1)
        return image, left[good], table[good, ROW].astype(np.int64)

    def _clip(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Clip boxes to the image and remove those of which too little remains."""
        corners = table[:, :4]
        if not len(table) or (corners.min() >= 0 and corners.max() <= 1):
            return table
        before = _areas(table)
        table = np.concatenate([corners.clip(0, 1), table[:, 4:]], axis=1)
        area = _areas(table)
        table[:, SHARE] *= area / np.maximum(before, np.finfo(np.float64).tiny)
        kept: NDArray[np.float64] = table[(area > 0) & (table[:, SHARE] >= self.min_visibility)]
        return kept


def _apply(
    transform: A.BasicTransform, image: NDArray[np.uint8], table: NDArray[np.float64]
) -> dict[str, Any]:
    """Apply one step; an error, such as of a crop larger than the image, names the step."""
    try:
        done: dict[str, Any] = transform(image=image, bboxes=table)
        if done["image"].dtype != np.uint8:
            raise TypeError(f"it gives {done['image'].dtype}; only the model scales and normalises")
        if done["image"].shape[2:] != image.shape[2:]:
            raise TypeError("it gives another number of channels")
    except Exception as error:  # the library may raise any
        height, width = image.shape[:2]
        reason = " ".join(str(error).split())
        raise RequestError(
            f"augment.steps: {type(transform).__name__} on an image of {width}x{height}: {reason}"
        ) from error
    return done


def _apply_to_colours(
    transform: A.BasicTransform, image: NDArray[np.uint8], table: NDArray[np.float64]
) -> dict[str, Any]:
    """Apply one step to the first three channels of an image with more."""
    done = _apply(transform, image[..., :RGB], table)
    return {**done, "image": np.concatenate((done["image"], image[..., RGB:]), axis=2)}


def _applier(
    index: int, step: dict[str, Any], channels: int
) -> Callable[[A.BasicTransform, NDArray[np.uint8], NDArray[np.float64]], dict[str, Any]]:
    """The function that applies a step to images of so many channels, determined by a trial."""
    if channels == RGB:
        return _apply
    transform = _build(index, {**step, "p": 1.0})
    A.Compose([transform, A.NoOp()], bbox_params=A.BboxParams("albumentations", label_fields=[]))
    issue = _try(transform, channels)
    # A step that fails on RGB too, such as a crop larger than this image, is reported when used.
    if issue is None or _try(transform, RGB) is not None:
        return _apply
    if channels > RGB and isinstance(transform, A.ImageOnlyTransform):
        return _apply_to_colours
    reason = " ".join(str(issue.__cause__).split())
    raise RequestError(
        f"augment.steps[{index}]: {step['name']} has no meaning for model.in_channels={channels}: "
        f"{reason}"
    )


def _try(transform: A.BasicTransform, channels: int) -> RequestError | None:
    """The error of a step on a random image with so many channels; None if it works."""
    noise = np.random.default_rng(0).integers(0, 256, (TRIED, TRIED, channels), dtype=np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _apply(transform, noise, np.array([[0.25, 0.25, 0.75, 0.75, 0, 1]]))
    except RequestError as error:
        return error
    return None


def _sides(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Width, height, width and height of an image."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], dtype=np.float64)


def _areas(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(N,)` areas of boxes, as fractions of the area of the image."""
    areas: NDArray[np.float64] = (table[:, 2:4] - table[:, :2]).prod(1)
    return areas


def _build(index: int, step: dict[str, Any]) -> A.BasicTransform:
    """One transform by name; a configuration can only name transforms of albumentations."""
    arguments = dict(step)
    if "name" not in arguments:
        raise RequestError(f"augment.steps[{index}]: no name; expected {{name: TRANSFORM, ...}}")
    name = str(arguments.pop("name"))
    kind = getattr(A, name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise RequestError(f"augment.steps[{index}]: {name!r} is not a transform of albumentations")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # its way to report unknown arguments
            transform: A.BasicTransform = kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"augment.steps[{index}]: {name}: {reason}") from error
    return transform
