"""A trained detector, for use from Python; the command `predict` is a thin layer over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.config.resolve import saved_config
from detector.config.schema import Config
from detector.core.errors import RequestError, one_of, require
from detector.core.structures import ClassMap
from detector.data.images.pixels import Resized, read_resized, resize
from detector.training.checkpoint import (
    checkpoint_classes,
    checkpoint_path,
    read_checkpoint,
    score_thresholds,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from detector.core.structures import TensorPrediction
    from detector.training.module import DetectionTask

DEVICES = ("auto", "cpu", "gpu", "mps")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


@dataclass(frozen=True)
class Prediction:
    """The objects that were detected in one image, best first.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, pixels of the image, 0-based, half-open.
        scores: `(N,)` float32, 0..1.
        labels: `(N,)` int64, 1..K, in the order of `Detector.classes`.
        names: Class name of each object.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        """Number of detected objects."""
        return len(self.names)


class Detector:
    """A trained detector with its weights.

    Args:
        config: Configuration in force; `ckpt` names the checkpoint.
        thresholds: For each class name the lowest score of a detection that is wanted.

    Attributes:
        class_map: Classes with their labels and the data set's own category ids.
        thresholds: For each class name the lowest score of a detection that is wanted.
    """

    def __init__(self, config: Config, thresholds: Mapping[str, float]) -> None:
        from detector.pipeline import build

        self.config = config
        self.thresholds = dict(thresholds)
        self.task: DetectionTask = build.load_task(config)
        self.class_map: ClassMap = self.task.classes
        self._device, self._dtype = _device(config)
        self.task.eval().to(self._device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of labels 1..K."""
        return self.class_map.names

    def __repr__(self) -> str:
        """The checkpoint, its backbone and its classes."""
        ckpt, backbone = self.config.ckpt, self.config.backbone.name
        return f"Detector({ckpt=}, {backbone=}, classes={self.classes})"

    def predict(
        self, images: Sequence[Any] | Any, *, score_threshold: float | None = None
    ) -> list[Prediction]:
        """Detect objects in images.

        Args:
            images: One image or several: paths, Pillow images, or `(H, W, C)` uint8 arrays in RGB
                (`(H, W)` for a network of one channel), or an `(N, H, W, C)` array.
            score_threshold: Lowest score of a detection, for all classes; None: for each class the
                score of best F1 on the validation split, as `thresholds` has it.

        Returns:
            A prediction for each image, in the same order.

        Raises:
            RequestError: If an image cannot be read, its channels do not fit the network, or the
                threshold is not in 0..1.

        Example:
            >>> model = detector.load("runs/first")
            >>> predictions = model.predict(["photo.jpg"], score_threshold=0.5)
            >>> len(predictions)
            1
            >>> [name for name in predictions[0].names if name not in model.classes]
            []
        """
        if score_threshold is not None:
            require(_is_score(score_threshold), "score_threshold", score_threshold, "null or 0..1")
        single = isinstance(images, str | bytes) or not isinstance(images, Iterable)
        single = single or (isinstance(images, np.ndarray) and images.ndim != 4)
        several = [images] if single else list(images)
        found: list[Prediction] = []
        for batch in batches(several, self.config.data.batch_size):
            found += self.detect([self.read(image) for image in batch], score_threshold)
        return found

    def read(self, image: Any) -> Resized:
        """Bring an image to the network's size.

        Args:
            image: A path, a Pillow image or an array, as of `predict`.

        Raises:
            RequestError: If it cannot be read, or its channels do not fit the network.
        """
        side, channels = self.config.data.side, self.config.model.in_channels
        if isinstance(image, str | Path):
            return read_resized(Path(image), side, channels=channels)
        if hasattr(image, "convert"):
            image = _upright(image, channels)
        if not hasattr(image, "__array__") and not hasattr(image, "__array_interface__"):
            raise RequestError(f"{image!r:.60}: expected a path, a Pillow image or an array")
        given = np.array(image)  # a copy: Pillow's own memory is read-only
        pixels = given[:, :, None] if given.ndim == 2 else given
        good = pixels.ndim == 3 and pixels.shape[2] == channels and pixels.size > 0
        if not good or pixels.dtype != np.uint8:
            raise RequestError(
                f"image of shape {given.shape} and type {given.dtype}: expected "
                f"(H, W, {channels}) uint8"
            )
        height, width = pixels.shape[:2]
        return Resized(resize(pixels, side, (height, width)), height, width)

    def detect(
        self, images: Sequence[Resized], score_threshold: float | None = None
    ) -> list[Prediction]:
        """Run the network on one batch.

        Args:
            images: Images from `read`.
            score_threshold: Lowest score, as for `predict`.
        """
        import torch

        from detector.data.loading.dataset import to_tensor

        if not images:
            return []
        pixels = [to_tensor(image.image).to(self._device) for image in images]
        scales = [torch.tensor(_scale(image), device=self._device) for image in images]
        dtype = self._dtype
        with torch.inference_mode(), torch.autocast(self._device.type, dtype, dtype is not None):
            found = self.task.predict(pixels, scales)
        return [self._wanted(one, score_threshold) for one in found]

    def _wanted(self, found: TensorPrediction, score_threshold: float | None) -> Prediction:
        """The detections whose score reaches the threshold of their class."""
        labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
        lowest = [self.thresholds[name] for name in self.classes]
        if score_threshold is not None:
            lowest = [score_threshold] * len(lowest)
        # In float64, as the thresholds are.
        kept = scores.astype(np.float64) >= np.array(lowest)[labels - 1]
        names = [self.class_map.name(label) for label in labels[kept].tolist()]
        return Prediction(found.boxes.cpu().numpy()[kept], scores[kept], labels[kept], names)


def load(run: str | Path, *, device: Literal["auto", "cpu", "gpu"] = "auto") -> Detector:
    """Load a trained detector.

    Args:
        run: The folder of a run, of which the best checkpoint is taken, or a checkpoint.
        device: `auto`, `cpu`, `gpu` or `mps`.

    Raises:
        RequestError: If there is no such run, or it is no checkpoint of this package.
    """
    one_of("device", device, DEVICES)
    path = checkpoint_path("predict", str(run))
    ours = read_checkpoint(path)
    config = saved_config(path)
    names = list(checkpoint_classes(ours).names)
    trainer = replace(config.trainer, accelerator=device)
    config = replace(
        config, ckpt=str(path), trainer=trainer, data=replace(config.data, classes=names)
    )
    chosen, _ = score_thresholds(str(path), names)
    return Detector(config, dict(zip(names, chosen, strict=True)))


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in groups of so many."""
    return (items[i : i + size] for i in range(0, len(items), size))


def _device(config: Config) -> tuple[torch.device, torch.dtype | None]:
    """Device of the network, and type of autocast; None for float32."""
    import torch

    from detector.pipeline import build

    run = config.trainer
    device = torch.device("cuda" if build.uses_gpu(run.accelerator) else "cpu")
    half = build.precision(run.precision, run.accelerator)
    return device, {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(half)


def _is_score(value: object) -> bool:
    """Whether a value is a number that a score can be."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and 0 <= value <= 1  # type: ignore[operator]


def _scale(image: Resized) -> list[float]:
    """Original pixels times this are input pixels, for x and y."""
    height, width = image.image.shape[:2]
    return [width / image.width, height / image.height]


def _upright(image: Image, channels: int) -> Image:
    """A Pillow image as files are read: upright, with the given number of channels."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    return turned if turned.mode == MODES[channels] else turned.convert(MODES[channels])
