"""How a command ends: one line and an exit code, whatever happened.

Exit codes: 0 done; 1 the work failed; 2 the request was wrong; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from detector.core.console import harmless, stop_showing
from detector.core.errors import RequestError, WorkError
from detector.core.version import __version__


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): everything that Ctrl-C keeps is kept."""


_terminated: list[bool] = []


def end_on_sigterm() -> None:
    """Have SIGTERM end a command as Ctrl-C does; by default it ends in silence."""
    own = os.getpid()

    def end(number: int, _: Any) -> None:
        if os.getpid() != own:  # a loader's process, which has nothing to keep
            os._exit(128 + number)
        _terminated.append(True)
        raise Terminated

    signal.signal(signal.SIGTERM, end)


@contextmanager
def exits(explain: Callable[[Exception], str], *, checking: bool = False) -> Iterator[None]:
    """Turn everything that ends a command into a line and an exit code.

    Args:
        explain: Turns an error of Hydra or OmegaConf into a line.
        checking: Whether the request is being checked, so that a file that cannot be read is a
            wrong request.
    """
    try:
        yield
    except RequestError as error:
        refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        refuse(explain(error))
    except (WorkError, FloatingPointError) as error:
        _fail(str(error))
    except BrokenPipeError:  # nobody reads what is printed, as after `| head`
        stop_showing()
        sys.exit(1)
    except OSError as error:
        _end_by_system(error, checking=checking)
    except KeyboardInterrupt as interruption:
        terminated = isinstance(interruption, Terminated) or bool(_terminated)
        print("terminated by SIGTERM" if terminated else "interrupted", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
    except UnicodeError as error:
        if "surrogates" not in str(error):
            raise
        refuse("a path has letters that this locale has not; with LC_ALL=C.UTF-8 it can be used")
    except Exception as error:
        _end_by_fault(error)


def refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the request, and exit with 2."""
    logging.shutdown()
    print(f"error: {harmless(message)}", file=sys.stderr)
    sys.exit(2)


def _fail(message: str) -> NoReturn:
    """Say in one line what went wrong, and exit with 1."""
    print(f"error: {harmless(message)}", file=sys.stderr)
    sys.exit(1)


def _end_by_system(error: OSError, *, checking: bool) -> NoReturn:
    """End with what the operating system says of a file."""
    place = error.filename or ("a file" if checking else "the folder for outputs")
    line = f"{place}: {error.strerror or error}"
    if checking:
        refuse(line)
    _log_traceback(error)
    _fail(line)


def _end_by_fault(error: Exception) -> NoReturn:
    """End with an error that nobody expected, or for want of memory."""
    if _is_out_of_memory(error):
        _log_traceback(error)
        _fail("out of memory; a smaller data.batch_size= or data.image_size= needs less")
    log = _log_traceback(error) or _keep_traceback(error)
    reason = " ".join(str(error).split())[:300]
    _fail(
        f"internal error of detector {__version__}, which is no fault of the request: "
        f"{type(error).__name__}: {reason} (traceback in {log})"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, the system's allocator or a GPU's had no memory left."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(
        error
    )


def _log_traceback(error: Exception) -> Path | None:
    """Write a traceback into the run's log alone; the log's path, None if there is none yet."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            what = (type(error), error, error.__traceback__)
            line = ("detector", logging.ERROR, __file__, 0, "the command failed", (), what)
            handler.emit(logging.LogRecord(*line))
            return Path(handler.baseFilename)
    return None


def _keep_traceback(error: Exception) -> str:
    """Write a traceback into a file of its own: before a run begins there is no log."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="detector-error-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    return file.name
