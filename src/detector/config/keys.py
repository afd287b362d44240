"""docs/keys.md: every key of every command (`python -m detector.config.keys docs/keys.md`)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import hydra
from omegaconf import DictConfig

from detector.config.groups import register_backbones
from detector.config.help import Key, sections
from detector.config.schema import Config, command_names, conf_folder

TITLE = """\
# All keys

Made by `make keys` from the options of the rooms and from conf/; `--help-all` prints the same.
"""


def markdown(kinds: Mapping[str, type[Config]]) -> str:
    """The page, from the configurations of the commands by name."""
    shared = sections(Config, _composed("base"))
    common = {key.name for section in shared for key in section.keys}
    text = TITLE
    for command, kind in kinds.items():
        first = sections(kind, _composed(command))[0]
        text += _table(f"Only {command}", [key for key in first.keys if key.name not in common])
    text += _table("All commands", shared[0].keys)
    return text + "".join(_table(f"{s.group}: {s.description}", s.keys) for s in shared[1:])


def _composed(name: str) -> DictConfig:
    """The configuration of a file of conf/."""
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra.compose(name)


def _table(title: str, keys: list[Key]) -> str:
    """A heading and a row for each key."""
    rows = ["| key | default | values | |", "|---|---|---|---|"]
    for key in keys:
        default = f"`{key.default}`" if key.default else ""
        cells = (f"`{key.name}`", default, key.wanted, key.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n## " + title + "\n\n" + "\n".join(rows) + "\n"


def commands() -> dict[str, type[Config]]:
    """The configurations of all commands, which have a file in conf/ and a module of one name."""
    return {name: importlib.import_module(f"detector.{name}").KEYS for name in command_names()}


if __name__ == "__main__":
    register_backbones()
    Path(sys.argv[1]).write_text(markdown(commands()), encoding="utf-8")
