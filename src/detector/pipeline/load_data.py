"""The data of a request: read, validated, and refused or trimmed where something is wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from detector.config.schema import Config
from detector.core.console import typed
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.core.structures import SPLITS
from detector.data.formats import table
from detector.data.formats.folder import Folder
from detector.data.formats.paths import CONVERT, SUFFIXES, cache_folder
from detector.data.images.headers import misfit, read_header
from detector.data.read import DataSet, DataSetSpec, Reading
from detector.data.validation.image_info import ImageInfoCache
from detector.pipeline.network_view import crowded

log = logging.getLogger(__name__)

# What no `data.on_bad` can leave out.
FATAL = ("empty split", "split without boxes")
LISTED = 50  # of every kind, in the log


def find_source(config: Config) -> DataSetSpec:
    """Where the data are and how they are split; the data are downloaded if necessary.

    Raises:
        RequestError: If that is not said, or they cannot be had.
    """
    data = config.data
    named = {split: getattr(data.splits, split) for split in SPLITS}
    embedded = table.EMBEDDED.get(data.format)
    kind = embedded.format if embedded else data.format
    if embedded and data.root is None:
        root = embedded.prepare()
    elif data.root is None:
        raise RequestError("data.root= is required: the folder of your images and annotations")
    else:
        root = Path(data.root)
        asked = [part for parts in named.values() for part in parts or ()]
        if data.download:
            download_voc(root, asked)
        elif kind == "voc":
            _check_devkit(root, asked)
    return DataSetSpec(
        root=root,
        format=kind,
        splits=named,
        ratios={"val": data.auto_split.val, "test": data.auto_split.test},
        split_file=_split_file(data.auto_split.file),
        seed=data.auto_split.seed,
        group=data.auto_split.group,
        decode=data.on_bad == "skip",  # what fails to decode is to be left out before the run
        classes=data.classes,
        classes_from=f"those that {config.ckpt} knows" if config.ckpt else "data.classes",
        channels=config.model.in_channels,
    )


def open_data(config: Config, wanted: str | None = None) -> Reading:
    """Read the annotation files, and look at no image yet.

    Args:
        config: Configuration in force.
        wanted: The only split wanted; `final`: `test`, or `val` where there is no test; None: all.
    """
    return Reading(find_source(config), wanted)


def validate(reading: Reading, *, briefly: bool = False) -> DataSet:
    """Look at the images and find whatever is wrong with the data.

    Args:
        reading: The data set, from `open_data`.
        briefly: Decode no image: find what a request can be refused for at once.
    """
    with closing(open_cache()) as cache:
        return reading.validate(cache, decode=not briefly)


def usable_data(
    config: Config, wanted: str | None = None, check: Callable[[DataSet], object] | None = None
) -> DataSet:
    """Read the data, and refuse what is wrong with them.

    Args:
        config: Configuration in force.
        wanted: The only split wanted, as for `open_data`.
        check: Called with the data before all images are decoded, which takes long; refuses what
            else is wrong with the request.

    Raises:
        RequestError: If there are errors and `data.on_bad=error`, or nothing to work with is left.
    """
    reading = open_data(config, wanted)
    data = validate(reading, briefly=True)
    refuse_errors(config, data)
    if check is not None:
        check(data)
    if reading.needs_pixels:
        data = validate(reading)
        refuse_errors(config, data)
    return data


def refuse_errors(config: Config, data: DataSet) -> None:
    """Refuse data with errors that `data.on_bad` does not leave out.

    Raises:
        RequestError: Naming the first error, how many more there are, and what may help.
    """
    errors = data.issues.of("error")
    skip = config.data.on_bad == "skip"
    serious = [issue for issue in errors if not skip or issue.kind in FATAL]
    if not serious:
        return
    item = serious[0].items[0]
    place = f"{data.root / item.file}: " if item.file else ""
    more = sum(issue.count for issue in serious) - 1
    others = f" (and {more} more error{'s' * (more > 1)})" if more else ""
    unknown = [issue for issue in errors if issue.kind == "unknown class"]
    if serious[0].kind in FATAL and unknown:
        others = f"; {unknown[0].count} boxes of it were left out: {unknown[0].items[0].message}"
    nothing_left = not all(len(split.labels) for split in data.splits.values())
    hopeless = skip or serious[0].kind in FATAL or nothing_left
    way_out = "" if hopeless else "data.on_bad=skip leaves such things out; "
    raise RequestError(
        f"{place}{item.message}{others}; {way_out}{_check_command(config, data)} shows everything"
    )


def _check_command(config: Config, data: DataSet) -> str:
    """Command that checks the same data."""
    channels = config.model.in_channels
    kind = "" if config.data.format == "trees" else f"data={config.data.format} "
    more_keys = "" if channels == 3 else f" model.in_channels={channels}"
    return f"python -m detector.check {kind}{typed('data.root', data.root)}{more_keys}"


def describe_data(data: DataSet, limit: int | None = None) -> None:
    """Log what was read, and name everything that was left out.

    Args:
        data: As read.
        limit: Most detections in an image; images with more boxes are reported. None: no limit.
    """
    log.info("%s", data.recognised)
    for line in data.division:
        log.info("%s", line)
    log.info("classes: %s", ", ".join(data.classes.names))
    for name, split in data.splits.items():
        ignored = int(split.ignore.sum())
        note = f", {ignored} of them ignored (difficult or crowd)" if ignored else ""
        log.info("%-5s %d images, %d boxes%s", name, len(split), len(split.labels), note)
    if limit is not None and (said := crowded(data.splits, limit)):
        log.warning("%s", said)
    for issue in data.issues.of("leakage"):
        log.warning("%d x %s, so figures are too good: %s", issue.count, issue.kind, issue.items[0])
    for issue in data.issues.of("error"):
        log.warning("left out, %d x %s:", issue.count, issue.kind)
        for item in issue.items[:LISTED]:
            log.warning("  %s", item)
        if issue.count > LISTED:
            log.warning("  ... and %d more (python -m detector.check)", issue.count - LISTED)
    warnings = [f"{f.count} x {f.kind}" for f in data.issues.of("warning")]
    if warnings:
        log.info("worth a look (python -m detector.check): %s", ", ".join(warnings))


def open_cache() -> ImageInfoCache:
    """Open the cache of what is known of image files."""
    return ImageInfoCache(cache_folder() / "files.sqlite")


def _split_file(named: str | None) -> Path | None:
    """The splits.json that `data.auto_split.file` names: a file, or a run's folder."""
    if named is None:
        return None
    path = Path(named).expanduser()
    path = RunFolder(path).splits if path.is_dir() else path
    if not path.is_file():
        raise RequestError(
            f"data.auto_split.file={named}: no such file, nor a run that has splits.json"
        )
    return path


def _check_devkit(root: Path, parts: list[str]) -> None:
    """Say how to get the years of VOC that are asked for, where they are not there."""
    years = dict.fromkeys(p.partition("/")[0] for p in parts if re.match(r"VOC\d{4}/", p))
    for year in years:
        if not any((base / year).is_dir() for base in (root, root / "VOCdevkit")):
            raise RequestError(
                f"data.root={root}: no VOCdevkit/{year} in it; expected VOCdevkit/"
                f"{{{','.join(years)}}}/{{Annotations,ImageSets/Main,JPEGImages}}, "
                "or fetch them with data.download=true (3 GB)"
            )


def download_voc(root: Path, parts: list[str]) -> None:
    """Fetch the VOC years that split names ask for, through torchvision.

    Args:
        root: The folder that gets `VOCdevkit/`.
        parts: Such as `VOC2007/trainval`; other names are left alone.

    Raises:
        RequestError: If it cannot be fetched.
    """
    from torchvision.datasets import VOCDetection

    for part in parts:
        year, _, name = part.partition("/")
        if not year.startswith("VOC"):
            continue
        if (root / "VOCdevkit" / year / "ImageSets" / "Main" / f"{name}.txt").is_file():
            continue
        root.mkdir(parents=True, exist_ok=True)
        image_set = "test" if name == "test" else "trainval"
        try:
            VOCDetection(root, year=year[3:], image_set=image_set, download=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"data.download=true: cannot fetch {part}: {error}") from error


def check_source(source: str) -> None:
    """Refuse predict's `source` if there is nothing there."""
    if not Path(source).exists():
        raise RequestError(f"source={source}: no such file or folder")


def source_files(source: str, channels: int) -> list[Path]:
    """Image files that predict's `source` names, sorted.

    Args:
        source: A file or a folder.
        channels: Number of channels of the network's images.

    Raises:
        RequestError: If there is nothing there, or no file that will do.
    """
    check_source(source)
    path = Path(source)
    files, unread = [path], ""
    if path.is_dir():
        folder = Folder(path, "source")
        files = [path / file for file in folder.images]
        unread = unread_pictures(folder)
    if not files:
        raise RequestError(f"source={source}: no images in it ({unread or ', '.join(SUFFIXES)})")
    faults = []
    for file in files:
        try:
            fault = misfit(read_header(file).bands, channels)
        except RequestError as error:
            faults.append(str(error))
            continue
        if not fault:
            return files  # what is wrong with others is said when their turn comes
        faults.append(f"{file}: {fault}")
    raise nothing_read(source, faults)


def unread_pictures(folder: Folder) -> str:
    """Number of images in a folder whose format is not read, in words; empty if none."""
    said = []
    if count := len(folder.unread):
        kinds = ", ".join(sorted({Path(file).suffix.lower() for file in folder.unread}))
        said.append(
            f"{count} file{'s' * (count > 1)} of kinds that are not read, {kinds}: {CONVERT}"
        )
    if broken := folder.broken_images:
        said.append(
            f"{len(broken)} link{'s' * (len(broken) > 1)} that lead nowhere, or no files, such as "
            f"{broken[0]}"
        )
    return "; ".join(said)


def nothing_read(source: str, faults: Sequence[str]) -> RequestError:
    """Error to raise where predict's `source` has no readable image.

    Args:
        source: As asked for.
        faults: What is wrong, for each file.
    """
    more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
    return RequestError(f"source={source}: nothing could be read: {faults[0]}{more}")
