"""Plain types that all packages share. Torch is only imported for type checking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


Box = tuple[float, float, float, float]  # x1, y1, x2, y2
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ClassMap:
    """Conversion between class names, category ids and labels; no other code converts them.

    Labels inside the model are `1..K` in the order of `names`; 0 is background.

    Attributes:
        names: Class names.
        ids: Category ids of the data set, in the same order.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    @classmethod
    def from_names(cls, names: Sequence[str]) -> ClassMap:
        """Number the names 1..K in the given order, for formats without category ids."""
        return cls(tuple(names), tuple(range(1, len(names) + 1)))

    def __len__(self) -> int:
        """Number of classes without background."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a class of that name."""
        return name in self.names

    def label(self, name: str) -> int:
        """The label of a class name; ValueError if there is none."""
        return self.names.index(name) + 1

    def name(self, label: int) -> str:
        """The class name of a label."""
        return self.names[label - 1]

    def category_id(self, label: int) -> int:
        """The category id of a label in the data set."""
        return self.ids[label - 1]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image file and its ground truth.

    Attributes:
        path: Path of the image file.
        size: Height and width given by the annotation, pixels; zeros if not given.
        boxes: `(N, 4)` float32 xyxy, pixels, 0-based, half-open; N may be 0.
        labels: `(N,)` int64, 1..K.
        ignore: `(N,)` bool, boxes that are neither trained on nor counted in evaluation, such as
            those that VOC calls difficult.
    """

    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]


@dataclass(frozen=True)
class AnnotatedImages:
    """A split as packed arrays instead of an object per image, so that workers share the memory.

    Attributes:
        paths: `(n,)` strings, paths of the image files.
        sizes: `(n, 2)` int32 height and width of the upright images; zeros if unknown.
        offsets: `(n + 1,)` int64; image i owns rows `offsets[i]:offsets[i + 1]` of the following.
        boxes: `(m, 4)` float32, as in `AnnotatedImage`.
        labels: `(m,)` int64.
        ignore: `(m,)` bool.
        ids: `(n,)` int64 ids of the images in the data set; None if it has no ids.
    """

    paths: NDArray[np.str_]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    ids: NDArray[np.int64] | None = None

    @classmethod
    def pack(cls, images: Sequence[AnnotatedImage]) -> AnnotatedImages:
        """Pack a list of images."""
        counts = [len(image.labels) for image in images]
        return cls(
            paths=np.array([str(image.path) for image in images], dtype=np.str_),
            sizes=np.array([image.size for image in images], dtype=np.int32).reshape(-1, 2),
            offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(i.boxes for i in images)]),
            labels=np.concatenate([np.zeros(0, np.int64), *(i.labels for i in images)]),
            ignore=np.concatenate([np.zeros(0, np.bool_), *(i.ignore for i in images)]),
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> AnnotatedImage:
        """One image; its arrays are views."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        height, width = self.sizes[index]
        return AnnotatedImage(
            Path(str(self.paths[index])),
            (int(height), int(width)),
            self.boxes[rows],
            self.labels[rows],
            self.ignore[rows],
        )

    def __iter__(self) -> Iterator[AnnotatedImage]:
        """All images, in order."""
        return (self[i] for i in range(len(self)))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> AnnotatedImages:
        """The chosen images in the given order."""
        chosen = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        # Row k of the new arrays is row k - (where its image begins there) + (where it began here).
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return AnnotatedImages(
            self.paths[chosen],
            self.sizes[chosen],
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.ignore[rows],
            None if self.ids is None else self.ids[chosen],
        )

    def files(self, root: Path) -> list[str]:
        """Paths of the images, relative to a folder that they are below."""
        prefix = f"{root}/"
        return [path.removeprefix(prefix) for path in self.paths.tolist()]

    def owners(self) -> NDArray[np.int64]:
        """Index of the image of each box, `(m,)`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


@dataclass
class Target:
    """Ground truth of one image, as the model and the metric take it.

    Attributes:
        boxes: `(N, 4)` float32 xyxy; input pixels in training, original pixels in evaluation.
        labels: `(N,)` int64, 1..K.
        ignore: `(N,)` bool.
        image_id: `()` int64 index of the image in its split.
        scale: `(2,)` float32 factors from original pixels to input pixels, for x and y.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: Tensor
    scale: Tensor


@dataclass
class TensorPrediction:
    """Detections in one image, best first.

    Attributes:
        boxes: `(D, 4)` float32 xyxy, pixels of the original image.
        labels: `(D,)` int64, 1..K.
        scores: `(D,)` float32, 0..1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
