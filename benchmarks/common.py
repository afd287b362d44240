"""What the benchmarks share: a comparison, what a benchmark reports, and the machine in words."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import psutil
import torch
import torchvision


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        ratio: The peer's time over ours, median of the rounds; above 1, ours is faster.
        ours_s: Seconds, median of the rounds.
        peer_s: Seconds, median of the rounds.
        spread: How far the rounds' ratios are apart: (largest - smallest) / median.
        what: One line: what is compared, at which sizes.
        target: The ratio that is wanted, if any.
        bound_s: The least seconds that ours could take, median of the rounds; None: not known.
        bound_by: What takes them, in a few words.
    """

    ratio: float
    ours_s: float
    peer_s: float
    spread: float
    what: str
    target: float | None = None
    bound_s: float | None = None
    bound_by: str = ""

    @classmethod
    def of(
        cls,
        ours: Sequence[float],
        peer: Sequence[float],
        what: str,
        target: float | None = None,
        bound: Sequence[float] = (),
        bound_by: str = "",
    ) -> Figure:
        """The figure of some rounds.

        Args:
            ours: Seconds of each round.
            peer: Seconds of the same rounds.
            what: As the attribute.
            target: As the attribute.
            bound: The least seconds that ours could take, of the same rounds; empty: not known.
            bound_by: As the attribute.
        """
        ratios = [b / a for a, b in zip(ours, peer, strict=True)]
        middle = statistics.median(ratios)
        return cls(
            ratio=middle,
            ours_s=statistics.median(ours),
            peer_s=statistics.median(peer),
            spread=(max(ratios) - min(ratios)) / middle,
            what=what,
            target=target,
            bound_s=statistics.median(bound) if bound else None,
            bound_by=bound_by,
        )

    @property
    def bound(self) -> float | None:
        """The ratio if ours took only `bound_s`: it can be no larger on this machine."""
        return None if self.bound_s is None else self.peer_s / self.bound_s


@dataclass(frozen=True)
class Bound:
    """What bounds a ratio: work that ours cannot do without.

    Attributes:
        work: That alone, or something that takes as long in a known proportion.
        by: What it is, in a few words; the page names all figures of the same words together.
        times: How many times as long as the work ours takes at least.
    """

    work: Callable[[], object]
    by: str
    times: float = 1.0

    def seconds(self) -> float:
        """The least seconds that ours could take, measured once."""
        return self.times * seconds(self.work)


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        figures: Comparisons by name.
        tables: Markdown that is put below the table of all comparisons.
        extra: For the JSON: values that are no comparison.
    """

    figures: dict[str, Figure]
    tables: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def compare(
    ours: Callable[[], object],
    peer: Callable[[], object],
    rounds: int,
    warmup: int = 1,
    *,
    what: str,
    target: float | None = None,
    count: int = 1,
    bound: Bound | None = None,
) -> Figure:
    """Run the two in turn, so that what else the machine does meets both.

    Args:
        ours: What is measured.
        peer: What it is compared with.
        rounds: That count.
        warmup: Rounds before them, which do not.
        what: As in `Figure`.
        target: As in `Figure`.
        count: Things that a call does; the figure's seconds are those of one.
        bound: Measured in each round too; its seconds are those of a call of ours.
    """
    return _in_turn(
        lambda: seconds(ours), lambda: seconds(peer), rounds, warmup, what, target, count, bound
    )


def _in_turn(
    ours: Callable[[], float],
    peer: Callable[[], float],
    rounds: int,
    warmup: int,
    what: str,
    target: float | None,
    count: int,
    bound: Bound | None,
) -> Figure:
    """As `compare`, of two that tell their seconds."""
    sides = [ours, peer, *([bound.seconds] if bound else [])]
    took = [[side() / count for side in sides] for _ in range(warmup + rounds)][warmup:]
    of_ours, of_peer, *least = zip(*took, strict=True)
    of_bound = least[0] if least else ()
    return Figure.of(of_ours, of_peer, what, target, of_bound, bound.by if bound else "")


Work = Callable[[], object]


class Worker:
    """A process that makes some work and does it when told.

    So each side has a memory allocator as it would have it, and is not warmed by the other.

    Args:
        make: Makes the work; a function of a module, or a `functools.partial` of one.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(make, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def seconds(self) -> float:
        """How long the work takes, done once."""
        self._pipe.send("work")
        return float(self._pipe.recv())

    def peak_bytes(self) -> int:
        """The most memory held while working, above what it held before making the work."""
        self._pipe.send("memory")
        return int(self._pipe.recv())

    def __enter__(self) -> Worker:
        """For `with`: the process ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, in good order if it will."""
        with suppress(OSError):
            self._pipe.send("end")
        self._process.join(10)
        self._process.terminate()


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    """A worker's process, which ends with its parent and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = psutil.Process().memory_info().rss
    work = make()
    _forget_peak()
    while (told := pipe.recv()) != "end":
        pipe.send(seconds(work) if told == "work" else _peak() - before)


def _peak() -> int:
    """The most memory this process has held, bytes."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    # `getrusage` would count in what the parent held when this process was started.
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    """Let the process' peak memory start anew, where the system can (Linux)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def compare_processes(
    ours: Callable[[], Work],
    peer: Callable[[], Work],
    rounds: int,
    warmup: int = 2,
    *,
    what: str,
    target: float | None = None,
    count: int = 1,
    bound: Bound | None = None,
) -> Figure:
    """As `compare`, each side in a process of its own, in turn.

    Args:
        ours: Makes what is measured, as `Worker` takes it.
        peer: Makes what it is compared with.
        rounds: As in `compare`.
        warmup: As in `compare`.
        what: As in `compare`.
        target: As in `compare`.
        count: As in `compare`.
        bound: As in `compare`, in this process.
    """
    with Worker(ours) as a, Worker(peer) as b:
        return _in_turn(a.seconds, b.seconds, rounds, warmup, what, target, count, bound)


def median_seconds(work: Callable[[], object], rounds: int, warmup: int = 2) -> float:
    """The median of some rounds.

    Args:
        work: What is measured.
        rounds: That count.
        warmup: Rounds before them, which do not.
    """
    return statistics.median([seconds(work) for _ in range(warmup + rounds)][warmup:])


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a loader's worker: torch and OpenCV start no threads of their own."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def machine() -> str:
    """What the figures were measured on, one paragraph: the machine and the versions."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {_cores()} cores used, {_instructions()}; {memory:.0f} GiB; "
        f"{_system()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}."
    )


def conditions() -> str:
    """As `machine`, and with how many threads torch computes."""
    return f"{machine().removesuffix('.')}; torch's threads: {torch.get_num_threads()}."


def _instructions() -> str:
    """The vector instructions that matter here, and what the environment limits them to."""
    has = torch.cpu.get_capabilities()
    names = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if has.get(name)]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    limited = f", limited to {limit} by ONEDNN_MAX_CPU_ISA" if limit else ""
    return f"instructions {', '.join(names) or 'unknown'}{limited}"


def _processor() -> str:
    """The processor's name: Linux keeps it in a file, others tell Python."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  # no file on a disk
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1


def _system() -> str:
    """The operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
