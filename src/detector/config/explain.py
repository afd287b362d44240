"""What Hydra and OmegaConf say of a wrong request, as one line with the key that may be meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from detector.config.hints import has_effect, near_miss
from detector.config.schema import conf_folder
from detector.core.console import typed
from detector.models.backbones.table import BACKBONES


def explain_hydra(
    error: Exception, command: str, commands: Sequence[str], words: Sequence[str] = ()
) -> str:
    """Turn an error of Hydra or OmegaConf into one line.

    Args:
        error: What was raised while a configuration was composed.
        command: The command that was called.
        commands: All commands, whose keys may have been meant.
        words: Words that were typed.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _explain_choice(error.missing_cfg_file, error.options, command)
    text = re.sub(r"^\w+Exception: ", "", " ".join(str(error).split()))
    if re.search("LexerNoViableAlt|no viable alternative|mismatched input|extraneous input", text):
        return (
            f"{text.split(' See https')[0]}: a value with spaces, commas, brackets, quotes or ~ "
            "needs quotes of its own, such as \"data.root='my data'\""
        )
    if several := re.search(r"Ambiguous value for argument '(.*?)=(.*)' 1\. To", text):
        key, value = several[1], several[2]
        return (
            f"{key}={value}: a list needs brackets, such as {key}=[{value}], a text with commas "
            f"quotes of its own, such as \"{key}='{value}'\"; with -m, each value is tried"
        )
    wrong = re.search(r"Could not override '([^']+)'|Error merging override (\S+?)=", text)
    if wrong is None:
        return text
    key = (wrong[1] or wrong[2]).lstrip("+~")
    typed_words = [word for word in words if word.lstrip("+~").partition("=")[0] == key]
    return _explain_key(key, command, commands, next(iter(typed_words), key))


def _explain_choice(file: str, options: Sequence[str], command: str) -> str:
    """A choice that its group does not have."""
    group, choice = _split_choice(file)
    close = difflib.get_close_matches(choice, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    if group == "data" and (set(choice) & set("/\\.~") or Path(choice).exists()):
        hint = f"the place of your data is named by {typed('data.root', choice)}; "
    elif group == "model" and not close:
        meant = near_miss(f"model={choice}", command) or ""
        known = choice in BACKBONES or meant.startswith("ckpt=")
        hint = f"did you mean {meant}? " if known else "backbone=NAME chooses the network; "
    return f"{group}={choice}: no such choice; {hint}there are {', '.join(sorted(options))}"


def _split_choice(file: str) -> tuple[str, str]:
    """The group, and the choice in it, which may be a path, of a file that is not in conf/."""
    folders = [p.relative_to(conf_folder()).as_posix() for p in conf_folder().rglob("*/")]
    group = max((f for f in folders if file.startswith(f"{f}/")), key=len)
    return group, file.removeprefix(f"{group}/")


def _explain_key(key: str, command: str, commands: Sequence[str], word: str) -> str:
    """A key that the command does not have."""
    if re.match(r"finetune\.(phases\.\d|auto\.)", key):
        return (
            f"{key}: the schedule chosen has no such key (phases count from 0; finetune.auto is of "
            "finetune=auto alone; with ckpt=RUN its finetune=NAME is typed too); what a phase "
            "leaves out is added with a plus, such as +finetune.phases.1.restore_best=true"
        )
    if (conf_folder() / key).is_dir():
        return f"{key}: this group is added, with a plus: +{key}=NAME"
    known = known_keys(command)
    for other in commands:
        if key not in known and key in known_keys(other):
            return f"{key}: no key of {command}, but of python -m detector.{other}"
    useful = [other for other in known if has_effect(other, command)]
    close = difflib.get_close_matches(key, useful, n=1, cutoff=0.6)
    meant = key if key in known else near_miss(word, command, useful) or next(iter(close), None)
    hint = f"; did you mean {meant}?" if meant else f" (see python -m detector.{command} --help)"
    return f"{key}: no such key{hint}"


def known_keys(command: str) -> list[str]:
    """Every key and group of a command, dotted."""
    GlobalHydra.instance().clear()  # the error may have come within Hydra's own application
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose(command)

    def walk(node: DictConfig, prefix: str) -> list[str]:
        keys: list[str] = []
        for key in map(str, node):
            keys.append(f"{prefix}{key}")
            missing = OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)
            if not missing and isinstance(node[key], DictConfig):
                keys += walk(node[key], f"{prefix}{key}.")
        return keys

    return walk(cfg, "")
