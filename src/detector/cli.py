"""The command line: commands found by name, requests checked before anything is written.

Hydra composes the configuration. Before it makes the run's folder, `CheckRequest` has the command
`prepare`; what that returned is kept until Hydra calls the job, which has the command `run`.
"""

from __future__ import annotations

import importlib
import os
import re
import runpy
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from detector.config.explain import explain_hydra
from detector.config.groups import register_backbones
from detector.config.hints import FLAGS, check_words, flags_first
from detector.config.schema import command_names, conf_folder
from detector.core.console import first_process, show_what_can_be_shown, stop_showing, tell, typed
from detector.core.errors import RequestError
from detector.core.run_folder import RunFolder
from detector.core.version import __version__
from detector.pipeline.command import Command, Outcome
from detector.pipeline.exits import end_on_sigterm, exits, refuse

PATIENCE = 0.5  # seconds, before a line says what is being done

# What `prepare` returned for the run that Hydra is about to start.
_prepared: list[Any] = []


def load_command(name: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"detector.{name}"))


def main() -> None:
    """Run `detector COMMAND KEY=VALUE ...`, which is `python -m detector.COMMAND KEY=VALUE ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        lines = [f"  {each:10}{_summary(each)}" for each in command_names()]
        head, foot = "detector COMMAND [KEY=VALUE ...]", "detector COMMAND --help lists its keys."
        tell("\n".join([head, "", *lines, "", foot]))
        return
    if name == "--version":
        tell(f"detector {__version__}")
        return
    if name not in command_names():
        refuse(f"{name}: no such command; there are {', '.join(command_names())}")
    del sys.argv[1]
    runpy.run_module(f"detector.{name}", run_name="__main__", alter_sys=True)


def _summary(name: str) -> str:
    """Summary of a command, from the comment at the top of its YAML file."""
    return (conf_folder() / f"{name}.yaml").read_text().partition("\n")[0].removeprefix("# ")


def run_command(name: str) -> NoReturn:
    """Run a command with the arguments of the process, and exit."""
    _set_up()
    show_what_can_be_shown()
    end_on_sigterm()
    sys.argv[1:] = map(quote_letters, sys.argv[1:])
    # Errors are to reach the handlers below instead of being printed and swallowed by Hydra.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    codes: list[int] = []

    def job(cfg: DictConfig) -> float | None:
        hydra_config = HydraConfig.get()
        folder = RunFolder(Path(hydra_config.runtime.output_dir))
        if hydra_config.mode == RunMode.MULTIRUN:
            outcome = _run_trial(name, cfg, folder)
        else:
            with _exits(name):  # before Hydra says a line of its own
                outcome = load_command(name).run(_prepared.pop(), folder)
        codes.append(outcome.exit_code)
        return outcome.score

    try:
        with _exits(name):
            if _is_answered(name, sys.argv[1:]):
                sys.exit(0)
            sys.argv[1:] = flags_first(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(job)()
    finally:
        stop_showing()
    sys.exit(max(codes, default=0))


def _is_answered(name: str, words: Sequence[str]) -> bool:
    """Print the version or the help if a word asks for it; refuse words that are no KEY=VALUE."""
    if "--version" in words:
        tell(f"detector {__version__}")
        return True
    if {"-h", "--help", "--help-all"} & {*words}:
        from detector.config.help import help_text

        chosen = [word for word in words if "=" in word and not word.startswith(("-", "hydra."))]
        tell(help_text(name, load_command(name).KEYS, "--help-all" in words, chosen))
        return True
    check_words(name, words)
    return False


def _run_trial(name: str, cfg: DictConfig, folder: RunFolder) -> Outcome:
    """Check and run one trial of a sweep."""
    request = complete(cfg, list(HydraConfig.get().overrides.task))
    return _run_in(name, load_command(name).prepare(request), request, folder, "output_dir")


def call(
    name: str, overrides: Sequence[str], folder: Path | None = None
) -> tuple[Outcome, RunFolder]:
    """Run a command in this process, as from a notebook.

    Args:
        name: The command.
        overrides: As typed on the command line.
        folder: Folder for the outputs; None: a new one, named by the time, or that of the run that
            is resumed.

    Returns:
        The outcome, and the folder.

    Raises:
        RequestError: If the request is wrong.
    """
    request = compose(name, overrides)
    if request.get("dry_run"):
        raise RequestError(
            "dry_run=true: only python -m detector.train prints the phases and stops"
        )
    prepared = load_command(name).prepare(request)
    run = (
        RunFolder(folder)
        if folder is not None
        else _make_folder(Path(output_folder_of(request.name, request.ckpt)), request.ckpt)
    )
    return _run_in(name, prepared, request, run, "folder"), run


def _make_folder(wanted: Path, ckpt: str | None) -> RunFolder:
    """Make a new folder for a run, unless it is that of the run which is resumed."""
    folder = RunFolder(wanted)
    resumed = ckpt is not None and folder.is_resumed(ckpt)
    return folder if resumed else RunFolder.create(wanted)


def _run_in(name: str, prepared: Any, cfg: DictConfig, folder: RunFolder, key: str) -> Outcome:
    """Run a command in a folder that no other process may write into meanwhile."""
    if prepared is None:
        return Outcome(None)
    if not _writes(name):
        folder.path.mkdir(parents=True, exist_ok=True)
        return load_command(name).run(prepared, folder)
    folder.check_unused(name, key, cfg.ckpt)
    with folder.locked(key):
        return load_command(name).run(prepared, folder)


def _writes(name: str) -> bool:
    """Whether this process writes; of several that run a command together, the first does."""
    return first_process() or not getattr(load_command(name), "DISTRIBUTED", False)


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of a command as the command line would.

    Args:
        name: The command.
        overrides: As typed on the command line.

    Raises:
        RequestError: If a key or a choice does not exist, or a value cannot be read.
    """
    _set_up()
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    for word in words:
        if not isinstance(word, str) or word.partition("=")[0] in FLAGS:
            raise RequestError(f"{word}: expected KEY=VALUE; flags are for the command line only")
    check_words(name, words)
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = hydra.compose(name, words, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                cfg.name = cfg.name  # resolved while Hydra's part of it is there
                del cfg["hydra"]
        return complete(cfg, words)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(explain_hydra(error, name, command_names(), words)) from error


def complete(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Add to a configuration what was typed, as `overrides`."""
    with open_dict(cfg):
        if cfg.ckpt is not None:
            cfg.ckpt = str(cfg.ckpt)  # a folder may be called 0
        cfg.overrides = [word.replace("${", r"\${") for word in overrides]  # read as typed
    return cfg


class CheckRequest(Callback):
    """Hydra's hook before it creates the run's folder: a wrong request ends here."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        name = str(kwargs["config_name"])
        # Hydra turns an exception of a callback into a warning, but lets SystemExit through.
        with _exits(name, checking=True):
            for typed_key in map(str, config.hydra.overrides.task):
                if typed_key.startswith("+sweep="):
                    raise RequestError(
                        f"{typed_key}: searches only with -m: python -m detector.{name} -m ..."
                    )
            _prepared.append(self._check(config, name, "run"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the first trial of a sweep; another one may still be wrong where it differs."""
        name = str(kwargs["config_name"])
        with _exits(name, checking=True):
            first = _first_trial(name, config)
            self._check(first, name, "sweep")
            folder = str(first.hydra.sweep.dir)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.sweep.dir = folder
                # What the configurations of the trials are composed with.
                config.hydra.overrides.hydra.append(typed("hydra.sweep.dir", folder, shell=False))

    def _check(self, config: DictConfig, name: str, mode: str) -> Any:
        """Have the command prepare, and take a folder for its outputs."""
        HydraConfig.instance().set_config(config)
        cfg = config.copy()
        with open_dict(cfg):
            del cfg["hydra"]
        request = complete(cfg, [str(o) for o in config.hydra.overrides.task])
        key, folder = f"hydra.{mode}.dir", Path(str(config.hydra[mode].dir))
        _check_folder(key, folder)
        RunFolder(folder).check_replaceable(key)
        trial = folder / str(config.hydra.sweep.subdir) if mode == "sweep" else folder
        if _writes(name) and not request.get("dry_run"):
            RunFolder(trial).check_unused(name, key, request.ckpt if mode == "run" else None)
        with said_if_slow(
            f"reading {_what_is_read(request)} ...", quiet=bool(request.get("dry_run"))
        ):
            prepared = load_command(name).prepare(request)
        if prepared is None:
            if mode == "sweep":
                tell(f"{'sweep':<12}what trials vary is shown as in the first of them")
            raise SystemExit(0)
        if _writes(name):
            self._take_folder(config, request, mode, folder)
        return prepared

    def _take_folder(self, config: DictConfig, request: DictConfig, mode: str, path: Path) -> None:
        """Make the folder, unless it was chosen by name, and keep other processes out of it."""
        key = f"hydra.{mode}.dir"
        chosen = any(str(o).startswith(f"{key}=") for o in config.hydra.overrides.hydra)
        folder = RunFolder(path) if chosen else _make_folder(path, request.ckpt)
        if folder.path != path:
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra[mode].dir = str(folder)
        folder.claim(key)


def _what_is_read(request: DictConfig) -> str:
    """What is probably read while a request is checked, for a message."""
    given = [request.get(key) for key in ("source", "predictions")]
    return str(next(filter(None, [*given, request.data.root, request.ckpt]), "the data"))


@contextmanager
def said_if_slow(text: str, *, quiet: bool = False) -> Iterator[threading.Timer]:
    """Print what is being done if it takes more than a moment: there is no log before a run."""
    timer = threading.Timer(PATIENCE, tell, [text])
    timer.daemon = True
    if first_process() and not quiet:
        timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _first_trial(name: str, config: DictConfig) -> DictConfig:
    """Configuration of the first trial of a sweep; ranges keep their default."""
    hydra_ = GlobalHydra.instance().hydra
    assert hydra_ is not None
    parser, words = OverridesParser.create(hydra_.config_loader), []
    for text in map(str, config.hydra.overrides.task):
        (override,) = parser.parse_overrides([text])  # knows the choices of glob(*)
        if not override.is_sweep_override():
            words.append(text)
        elif override.is_discrete_sweep():
            words.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    overrides = [*map(str, config.hydra.overrides.hydra), *words]
    first = hydra_.compose_config(name, overrides, RunMode.MULTIRUN, with_log_configuration=False)
    assert isinstance(first, DictConfig)
    with read_write(first.hydra), open_dict(first.hydra):
        first.hydra.job.num, first.hydra.job.id = 0, "0"
    return first


def _check_folder(key: str, folder: Path) -> None:
    """Refuse a folder for outputs that cannot be made or written to."""
    path = folder.absolute()
    try:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        tempfile.TemporaryDirectory(dir=there).cleanup()  # permissions do not tell
    except NotADirectoryError as error:
        raise RequestError(f"{key}={folder}: {there} is a file, expected a folder") from error
    except OSError as error:
        raise RequestError(f"{key}={folder}: cannot be written to ({error.strerror})") from error


@contextmanager
def _exits(name: str, *, checking: bool = False) -> Iterator[None]:
    """Turn everything that ends a command into a line and an exit code."""
    words = sys.argv[1:]
    explain = partial(explain_hydra, command=name, commands=command_names(), words=words)
    with exits(explain, checking=checking):
        yield


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


def _set_up() -> None:
    """Make ready for composing: a home folder for caches, backbones, and conf/hydra's resolver.

    A user without a home folder, as in a container, is given the temporary folder as one. Caches
    lie there: ours, and those of torch, Hugging Face's hub and matplotlib.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
    register_backbones()
    OmegaConf.register_new_resolver(
        "detector_run_folder", output_folder_of, replace=True, use_cache=True
    )


def output_folder_of(name: str, ckpt: str | float | None) -> str:
    """Folder of a run's outputs, unless `hydra.run.dir` is given.

    Args:
        name: Name of the configuration.
        ckpt: Run folder or checkpoint that is resumed, if any: a run continues in its own folder.
            A folder that is named like a number comes as one.
    """
    if ckpt not in (None, "") and name not in command_names():
        path = Path(str(ckpt))
        run = RunFolder.of_checkpoint(path).path if path.name == "last.ckpt" else path
        if RunFolder(run).last_checkpoint.is_file():
            return str(run)
    return f"outputs/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
