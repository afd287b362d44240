"""Augmentation: everything that is specific to albumentations (2.0, archived)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.errors import RequestError
from detector.data.images.pixels import resize

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network

import albumentations as A

Steps = Sequence[dict[str, Any]]

# Columns behind a box's corners: the row it had, and what is left of its area.
ROW, SHARE, COLUMNS = 4, 5, 6
RGB = 3
TRIED = 64  # pixels, the sides of the image that steps are tried on


class Augmenter:
    """Random changes to an image of the network's size, and to its boxes.

    Args:
        steps: Albumentations' transforms: each `{"name": CLASS, **arguments}`.
        image_size: The longer side, pixels; a step that changes it, such as a crop, is followed by
            a resizing.
        min_visibility: A box that keeps less than this share of its area is removed.
        channels: Of the images. Of more than three, steps that know of colours alone change the
            first three; on grey, those that change colours do nothing.

    Raises:
        RequestError: If a step is not a transform of albumentations, refuses its arguments, or
            has no meaning for so many channels.
    """

    def __init__(
        self, steps: Steps, image_size: int, min_visibility: float = 0.0, channels: int = RGB
    ) -> None:
        self.image_size = image_size
        self.min_visibility = min_visibility
        self.channels = channels
        # `Compose` sets the transforms up for boxes, but does not run them: it checks the boxes
        # over and over, which takes as long as half of the decoding, and gives all transforms the
        # same random numbers, so that two of p=0.5 would always come together.
        built = [_build(i, step) for i, step in enumerate(steps)]
        A.Compose([*built, A.NoOp()], bbox_params=A.BboxParams("albumentations", label_fields=[]))
        self.transforms = built
        if channels == 1:  # said of every image; that grey has no hue is no news
            warnings.filterwarnings("ignore", ".*(already gray|to grayscale image)", UserWarning)
        self.appliers = [_applier(i, step, channels) for i, step in enumerate(steps)]

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], key: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Augment one image; a pure function of its arguments.

        Args:
            image: `(H, W, C)` uint8.
            boxes: `(N, 4)` xyxy, pixels.
            key: What the randomness is a function of: seed, epoch, image.

        Returns:
            The new image, the `(M, 4)` boxes left, and the `(M,)` rows they had. Boxes are inside
            the image and at least a pixel wide and high: degenerate ones make the loss infinite.

        Raises:
            RequestError: If a step fails on this image.
        """
        # Albumentations' boxes are shares of the sides, and carry further columns along.
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
        """Cut boxes at the edges and leave out those of which too little remains."""
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
    """One step; what it says when it fails, such as a crop larger than the image, with its name."""
    try:
        done: dict[str, Any] = transform(image=image, bboxes=table)
        if done["image"].dtype != np.uint8:
            raise TypeError(f"it gives {done['image'].dtype}; only the model scales and normalises")
        if done["image"].shape[2:] != image.shape[2:]:
            raise TypeError("it gives another number of channels")
    except Exception as error:  # of any kind: they are the library's
        height, width = image.shape[:2]
        reason = " ".join(str(error).split())
        raise RequestError(
            f"augment.steps: {type(transform).__name__} on an image of {width}x{height}: {reason}"
        ) from error
    return done


def _apply_to_colours(
    transform: A.BasicTransform, image: NDArray[np.uint8], table: NDArray[np.float64]
) -> dict[str, Any]:
    """As `_apply`, to the first three channels of an image of more."""
    done = _apply(transform, image[..., :RGB], table)
    return {**done, "image": np.concatenate((done["image"], image[..., RGB:]), axis=2)}


def _applier(
    index: int, step: dict[str, Any], channels: int
) -> Callable[[A.BasicTransform, NDArray[np.uint8], NDArray[np.float64]], dict[str, Any]]:
    """How a step is applied to images of so many channels, found out by trying."""
    if channels == RGB:
        return _apply
    transform = _build(index, {**step, "p": 1.0})
    A.Compose([transform, A.NoOp()], bbox_params=A.BboxParams("albumentations", label_fields=[]))
    issue = _try(transform, channels)
    # What fails on RGB too, such as a crop larger than this, is said of the image it fails on.
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
    """What a step says to noise of so many channels."""
    noise = np.random.default_rng(0).integers(0, 256, (TRIED, TRIED, channels), dtype=np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _apply(transform, noise, np.array([[0.25, 0.25, 0.75, 0.75, 0, 1]]))
    except RequestError as error:
        return error
    return None


def _sides(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Width, height, width, height."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], dtype=np.float64)


def _areas(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(N,)` areas, as shares of the image's."""
    areas: NDArray[np.float64] = (table[:, 2:4] - table[:, :2]).prod(1)
    return areas


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
