"""The command line of every verb: Hydra around it, clear refusals, exit codes.

Exit codes: 0 done; 1 the work failed; 2 the request was wrong; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from detector import __version__
from detector.config.groups import register_backbones
from detector.config.schema import conf_folder
from detector.core import run_folder
from detector.core.console import (
    first_process,
    harmless,
    show_what_can_be_shown,
    stop_showing,
    tell,
    typed,
)
from detector.core.errors import RequestError, WorkError

VERBS = ("train", "evaluate", "predict", "check")
PATIENCE = 0.5  # seconds, before a line says what is being done


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): everything that Ctrl-C keeps is kept."""


def run_verb(verb: str, work: Callable[[DictConfig], Any]) -> None:
    """Run a verb as a command and exit.

    Args:
        verb: Its name, also of its file in conf/.
        work: Takes the composed configuration, completed with `output_dir` and `overrides`.
    """
    _find_home()
    register_backbones()
    _register_resolvers()
    show_what_can_be_shown()
    _end_on_sigterm()
    sys.argv[1:] = map(quote_letters, sys.argv[1:])
    # Errors are to reach the handlers below instead of being printed and swallowed by Hydra.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def job(cfg: DictConfig) -> Any:
        run = HydraConfig.get()
        request = complete(cfg, run.runtime.output_dir, list(run.overrides.task))
        if run.mode == RunMode.MULTIRUN:
            return work(request)
        with _exits(verb):  # before Hydra says a line of its own
            return work(request)

    try:
        with _exits(verb):
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=verb)(job)()
    finally:
        stop_showing()


@contextmanager
def _exits(verb: str, *, checking: bool = False) -> Iterator[None]:
    """Turn everything that ends a command into a line and an exit code.

    Args:
        verb: The command.
        checking: The request is being checked: what cannot be read is what was asked for.
    """
    try:
        yield
    except RequestError as error:
        refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        refuse(_explain(verb, error))
    except (WorkError, FloatingPointError) as error:
        _fail(str(error))
    except BrokenPipeError:  # nobody reads what is printed, as after `| head`
        stop_showing()
        sys.exit(1)
    except OSError as error:
        place = error.filename or ("a file" if checking else "the folder for outputs")
        line = f"{place}: {error.strerror or error}"
        if checking:
            refuse(line)
        _log_traceback(error)
        _fail(line)
    except KeyboardInterrupt as interruption:
        terminated = isinstance(interruption, Terminated) or bool(_terminated)
        # The others say what is kept, and how to go on.
        kept = "; results that were there before are kept" if verb in ("evaluate", "check") else ""
        print(("terminated by SIGTERM" if terminated else "interrupted") + kept, file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
    except UnicodeError as error:
        if "surrogates" not in str(error):
            raise
        refuse("a path has letters that this locale has not; with LC_ALL=C.UTF-8 it can be used")
    except Exception as error:
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


_terminated: list[bool] = []


def _end_on_sigterm() -> None:
    """Have SIGTERM end a command as Ctrl-C does; by default it ends in silence."""
    own = os.getpid()

    def end(number: int, _: Any) -> None:
        if os.getpid() != own:  # a loader's process, which has nothing to keep
            os._exit(128 + number)
        _terminated.append(True)
        raise Terminated

    signal.signal(signal.SIGTERM, end)


def quote_letters(argument: str) -> str:
    """Quote a value with characters that Hydra's grammar takes only so, such as `é`, `=` or `~`.

    Args:
        argument: As typed; returned as it is where quotes of one's own or lists would be meant.
    """
    key, equals, value = argument.partition("=")
    structure = set(value) & set("'\"[]{}(),$\\")
    plain = re.fullmatch(r"[\w/\-+.%*@?|: \t]*", value, re.ASCII)
    if equals and not structure and not plain and re.fullmatch(r"[+~]*[\w./@-]+", key):
        return f"{key}='{value}'"
    return argument


def compose(verb: str, overrides: Sequence[str], output_dir: Path | None = None) -> DictConfig:
    """Compose a configuration as the command line would, for notebooks and tests.

    Args:
        verb: `train`, `evaluate`, `predict` or `check`.
        overrides: As typed on the command line.
        output_dir: Where outputs go; None leaves it open.
    """
    _find_home()
    register_backbones()
    _register_resolvers()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose(verb, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            cfg.name = cfg.name  # resolved while Hydra's part of it is there
            del cfg["hydra"]
    return complete(cfg, None if output_dir is None else str(output_dir), list(overrides))


def complete(cfg: DictConfig, output_dir: str | None, overrides: list[str]) -> DictConfig:
    """Add what only the run knows: where outputs go, and what was typed."""
    with open_dict(cfg):
        if cfg.ckpt is not None:
            cfg.ckpt = str(cfg.ckpt)  # a folder may be called 0
        cfg.output_dir = output_dir
        cfg.overrides = overrides
    return cfg


class CheckRequest(Callback):
    """Hydra's hook before it creates the run's folder: a wrong request ends here."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        verb = str(kwargs["config_name"])
        # Hydra turns an exception of a callback into a warning, but lets SystemExit through.
        with _exits(verb, checking=True):
            for typed_key in map(str, config.hydra.overrides.task):
                if typed_key.startswith("+sweep="):
                    raise RequestError(
                        f"{typed_key}: searches only with -m: python -m detector.{verb} -m ..."
                    )
            self._check(config, verb, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the first trial of a sweep; another one may still be wrong where it differs."""
        verb = str(kwargs["config_name"])
        with _exits(verb, checking=True):
            try:
                first = _first_trial(verb, config)
            except HydraException:
                first = config  # the sweeper says what is wrong
            self._check(first, verb, "sweep")
            folder = str(first.hydra.sweep.dir)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.sweep.dir = folder
                # What the configurations of the trials are composed with.
                config.hydra.overrides.hydra.append(typed("hydra.sweep.dir", folder, shell=False))

    def _check(self, config: DictConfig, verb: str, mode: str) -> None:
        """Check a request, and take a folder for it."""
        from detector.pipeline.request import check_backbone, check_request, resolve

        HydraConfig.instance().set_config(config)
        overrides = [str(o) for o in config.hydra.overrides.task]
        cfg = config.copy()
        with open_dict(cfg):
            del cfg["hydra"]
        request = complete(cfg, None, overrides)
        if verb == "train" and request.dry_run:
            from detector.pipeline.dry_run import print_phases

            asked = resolve(verb, request)
            check_backbone(asked)  # sooner than all that a dry run needs
            print_phases(asked, sweep=mode == "sweep")
            raise SystemExit(0)
        key, folder = f"hydra.{mode}.dir", Path(str(config.hydra[mode].dir))
        _check_folder(verb, key, folder)
        if run_folder.writes(verb):
            trial = folder / str(config.hydra.sweep.subdir) if mode == "sweep" else folder
            ckpt = request.ckpt if mode == "run" else None
            run_folder.check_unused(verb, key, trial, ckpt)
        given = [request.get(k) for k in ("source", "predictions") if k in request]
        what = next(filter(None, [*given, request.data.root, request.ckpt]), "the data")
        with said_if_slow(f"reading {what} ..."):
            check_request(verb, request)
        if run_folder.writes(verb):
            chosen = any(str(o).startswith(f"{key}=") for o in config.hydra.overrides.hydra)
            resumed = request.ckpt is not None and run_folder.is_resumed(folder, request.ckpt)
            if not chosen and not resumed:
                folder = run_folder.make_folder(folder)
                with read_write(config.hydra), open_dict(config.hydra):
                    config.hydra[mode].dir = str(folder)
            run_folder.claim(folder, key)


@contextmanager
def said_if_slow(text: str) -> Iterator[threading.Timer]:
    """Print what is being done if it takes more than a moment: there is no log before a run."""
    timer = threading.Timer(PATIENCE, tell, [text])
    timer.daemon = True
    if first_process():
        timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _first_trial(verb: str, config: DictConfig) -> DictConfig:
    """A sweep's configuration with the first of all values to choose from; ranges stay out."""
    parser, typed = OverridesParser.create(), []
    for text in map(str, config.hydra.overrides.task):
        override = parser.parse_override(text)
        if not override.is_sweep_override():
            typed.append(text)
        elif override.is_discrete_sweep():
            typed.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    hydra_ = GlobalHydra.instance().hydra
    assert hydra_ is not None
    overrides = [*map(str, config.hydra.overrides.hydra), *typed]
    first = hydra_.compose_config(verb, overrides, RunMode.MULTIRUN, with_log_configuration=False)
    assert isinstance(first, DictConfig)
    with read_write(first.hydra), open_dict(first.hydra):
        first.hydra.job.num, first.hydra.job.id = 0, "0"
    return first


def _check_folder(verb: str, key: str, folder: Path) -> None:
    """Refuse a folder for outputs that cannot be made, written to, or given the results."""
    path = folder.absolute()
    try:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        tempfile.TemporaryDirectory(dir=there).cleanup()  # permissions do not tell
    except NotADirectoryError as error:
        raise RequestError(f"{key}={folder}: {there} is a file, expected a folder") from error
    except OSError as error:
        raise RequestError(f"{key}={folder}: cannot be written to ({error.strerror})") from error
    if verb == "evaluate" and path.is_dir():
        from detector.pipeline.results import FILES

        for file in (path / name for name in FILES):
            if file.is_dir() or (file.parent.exists() and not file.parent.is_dir()):
                wrong = file if file.is_dir() else file.parent
                raise RequestError(f"{key}={folder}: {wrong} is in the way of the results")


def _fail(message: str) -> NoReturn:
    """Say in one line what went wrong, and exit with 1."""
    print(f"error: {harmless(message)}", file=sys.stderr)
    sys.exit(1)


def refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the request, and exit with 2."""
    logging.shutdown()
    print(f"error: {harmless(message)}", file=sys.stderr)
    sys.exit(2)


def _explain(verb: str, error: Exception) -> str:
    """A message of Hydra's or OmegaConf's as one line, with the key that may have been meant."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, choice = _split_choice(error.missing_cfg_file)
        close = difflib.get_close_matches(choice, error.options, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        if group == "data" and (set(choice) & set("/\\.~") or Path(choice).exists()):
            hint = f"the place of your data is named by {typed('data.root', choice)}; "
        there = ", ".join(sorted(error.options))
        return f"{group}={choice}: no such choice; {hint}there are {there}"
    text = re.sub(r"^\w+Exception: ", "", " ".join(str(error).split()))
    if re.search("LexerNoViableAlt|no viable alternative|mismatched input|extraneous input", text):
        return (
            f"{text.split(' See https')[0]}: a value with spaces, commas, brackets, quotes or ~ "
            "needs quotes of its own, such as \"data.root='my data'\""
        )
    wrong = re.search(r"Could not override '([^']+)'|Error merging override (\S+?)=", text)
    if wrong is None:
        return text
    key = (wrong[1] or wrong[2]).lstrip("+~")
    if re.match(r"finetune\.(phases\.\d|auto\.)", key):
        return (
            f"{key}: the schedule chosen has no such key (phases count from 0; finetune.auto is of "
            "finetune=auto alone; with ckpt=RUN its finetune=NAME is typed too); what a phase "
            "leaves out is added with a plus, such as +finetune.phases.1.restore_best=true"
        )
    if (conf_folder() / key).is_dir():
        return f"{key}: this group is added, with a plus: +{key}=NAME"
    known = _known_keys(verb)
    for other in VERBS:
        if key not in known and key in _known_keys(other):
            return f"{key}: no key of {verb}, but of python -m detector.{other}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else f" (see python -m detector.{verb} --help)"
    return f"{key}: no such key{hint}"


def _split_choice(file: str) -> tuple[str, str]:
    """The group and what was chosen of it, which may be a path, of a file that is not in conf/."""
    folders = [p.relative_to(conf_folder()).as_posix() for p in conf_folder().rglob("*/")]
    group = max((f for f in folders if file.startswith(f"{f}/")), key=len)
    return group, file.removeprefix(f"{group}/")


def _known_keys(verb: str) -> list[str]:
    """Every key and group of a verb."""
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose(verb)

    def walk(node: DictConfig, prefix: str) -> list[str]:
        keys: list[str] = []
        for key in map(str, node):
            keys.append(f"{prefix}{key}")
            missing = OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)
            if not missing and isinstance(node[key], DictConfig):
                keys += walk(node[key], f"{prefix}{key}.")
        return keys

    return walk(cfg, "")


def _find_home() -> None:
    """Give a user without a home folder, as in a container, the temporary folder as one.

    It is where caches lie: ours, and those of torch, Hugging Face's hub and matplotlib.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def _register_resolvers() -> None:
    """What conf/hydra/detector.yaml uses."""
    OmegaConf.register_new_resolver(
        "detector_run_folder", output_folder_of, replace=True, use_cache=True
    )


def output_folder_of(name: str, ckpt: str | float | None) -> str:
    """Where a run's outputs go unless `hydra.run.dir` says otherwise.

    Args:
        name: Of the configuration.
        ckpt: What is resumed, if anything: a run folder goes on in itself. One that is called like
            a number comes as that.
    """
    if ckpt not in (None, "") and name not in ("evaluate", "predict", "check"):
        path = Path(str(ckpt))
        run = path.parent.parent if path.name == "last.ckpt" else path
        if (run / "checkpoints" / "last.ckpt").is_file():
            return str(run)
    return f"outputs/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
