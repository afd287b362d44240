"""The text of `--help`, from the fields of a command's configuration and their descriptions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detector.config.messages import choices, hints, wanted
from detector.config.schema import Config, conf_folder

WIDTH, INDENT = 98, 34
OUTPUT = ("hydra.run.dir", "Folder for what the command writes.", "a folder", "outputs/...")
FOOTER = (
    "--cfg job prints the whole configuration. With -m first, several values make a sweep:",
    "-m optim.lr=1e-3,1e-4.",
)


@dataclass(frozen=True)
class Key:
    """A key of a configuration, for people.

    Attributes:
        name: Dotted, as typed; `N` is the number of a list's entry.
        description: The text below the field.
        wanted: Values that are allowed, in words.
        default: The composed value as it is typed; empty where there is none.
    """

    name: str
    description: str
    wanted: str
    default: str = ""


@dataclass(frozen=True)
class Section:
    """Keys that belong together.

    Attributes:
        group: The dotted group; empty for the keys above all groups.
        description: Subject of the keys.
        keys: In the order of their fields.
    """

    group: str
    description: str
    keys: list[Key]


def help_text(
    command: str, kind: type[Config], everything: bool, overrides: Sequence[str] = ()
) -> str:
    """What `--help` prints.

    Args:
        command: Name of the command.
        kind: Its configuration.
        everything: List all keys instead of the most used.
        overrides: Keys typed beside `--help`: the defaults are those of these choices.
    """
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose(command, list(overrides), return_hydra_config=True)
        groups = _groups(cfg.hydra.runtime.choices)
    about, _, examples = inspect.cleandoc(kind.__doc__ or "").partition("\n\nExamples:\n")
    lines = [f"python -m detector.{command} [GROUP=NAME ...] [KEY=VALUE ...]", "", about, ""]
    lines += ["Examples:", examples, "", "Groups, each with its default and what there is:", ""]
    lines += [line for group in groups for line in _row(group)]
    found = sections(kind, cfg)
    own = {field.name for field in fields(kind)} - _shared()
    shown = None if everything else {*own, *kind.shown, OUTPUT[0]}
    lines += ["", "All keys:" if everything else "The most used keys, each with its default:"]
    for section in found:
        rows = [_row(key) for key in section.keys if shown is None or key.name in shown]
        lines += [f"{section.description}:"] * bool(rows) + [line for row in rows for line in row]
    more = [] if everything else ["--help-all lists all keys, --version prints the version."]
    return "\n".join([*lines, "", *more, *FOOTER])


def sections(kind: type, cfg: DictConfig) -> list[Section]:
    """All keys of a configuration by group: first those of the command, then the shared ones.

    Args:
        kind: Its class.
        cfg: As composed, for the defaults.
    """
    texts, shared = descriptions(kind), _shared()
    found = [Section("", "The command and its run", [Key(*OUTPUT)])]
    for name, hint in sorted(hints(kind).items(), key=lambda item: item[0] in shared):
        parts = [part for part in choices(hint) if is_dataclass(part)]
        if parts:
            found.append(
                Section(name, _first_line(parts[0]), list(_keys(parts[0], f"{name}.", cfg)))
            )
        elif name in texts:
            key = Key(name, texts[name], wanted(hint), _default(cfg, name))
            found[0].keys.insert(-1, key)
    return found


def descriptions(kind: type) -> dict[str, str]:
    """The texts below the fields of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts


def _keys(kind: Any, prefix: str, cfg: DictConfig) -> Iterator[Key]:
    """The keys of a class, those of the classes in it included."""
    texts = descriptions(kind)
    for name, hint in hints(kind).items():
        key = f"{prefix}{name}"
        if name in texts:
            yield Key(key, texts[name], wanted(hint), _default(cfg, key))
        for part in choices(hint):
            if is_dataclass(part):
                yield from _keys(part, f"{key}.", cfg)
            elif get_origin(part) is list and is_dataclass(get_args(part)[0]):
                yield from _keys(get_args(part)[0], f"{key}.N.", cfg)


def _default(cfg: DictConfig, key: str) -> str:
    """The composed value of a key as it is typed; empty where it has none of its own."""
    missing = object()
    if key in cfg and OmegaConf.is_interpolation(cfg, key):  # only a run knows it
        return ""
    try:
        value = OmegaConf.select(cfg, key, default=missing)
    except OmegaConfBaseException:
        return ""
    if value is missing or (OmegaConf.is_list(value) and any(map(OmegaConf.is_config, value))):
        return ""
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _groups(chosen: Mapping[str, str]) -> list[Key]:
    """The groups of files to choose from, in the order of the fields, and those that are added."""
    loader, found = GlobalHydra.instance().config_loader(), []
    folders = [path.relative_to(conf_folder()) for path in conf_folder().rglob("*/")]
    groups = sorted(folder.as_posix() for folder in folders if folder.parts[0] != "hydra")
    for group in sorted(groups, key=lambda group: _position(group.split("/")[0])):
        names = loader.get_group_options(group, ObjectType.CONFIG)
        if group not in chosen:
            found.append(Key(f"+{group}", ", ".join(names), "", "NAME"))
        elif len(names) > 1:
            found.append(Key(group, ", ".join(names), "", chosen[group]))
    return found


def _position(name: str) -> int:
    """The place of a field among those that all commands have; other names come last."""
    names = [field.name for field in fields(Config)]
    return names.index(name) if name in names else len(names)


def _row(key: Key) -> list[str]:
    """A key and what there is to say of it, in two columns."""
    head = f"  {key.name}={key.default}"
    text = f"{key.description} [{key.wanted}]" if key.wanted else key.description
    beside = len(head) < INDENT
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head.ljust(INDENT) if beside else " " * INDENT,
        subsequent_indent=" " * INDENT,
        break_on_hyphens=False,
    )
    return lines if beside else [head, *lines]


def _shared() -> set[str]:
    """The names of the fields that all commands have."""
    return {field.name for field in fields(Config)}


def _first_line(kind: Any) -> str:
    """The first line of a docstring."""
    return inspect.cleandoc(kind.__doc__).splitlines()[0].rstrip(".")
