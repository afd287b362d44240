"""What a type accepts, in words, and pydantic's errors as one line with the key that was typed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from detector.config.hints import RENAMED
from detector.core.options import Wanted

NUMBERS = {int: "a whole number", float: "a number"}
LONGEST = 60  # characters of a value that a message repeats


def hints(kind: type) -> dict[str, Any]:
    """The types of a class's fields, with their constraints."""
    types = get_type_hints(kind, include_extras=True)
    return {field.name: types[field.name] for field in fields(kind)}


def choices(hint: Any) -> tuple[Any, ...]:
    """The parts of a union, or the type alone; without metadata."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def wanted(hint: Any) -> str:
    """What a type accepts, in words, such as `null or at least 1`."""
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    for item in metadata:
        if isinstance(item, Wanted):
            return item.text
    parts = [_accepted(part, metadata) for part in choices(hint) if part is not NoneType]
    return " or ".join(["null"] * (NoneType in choices(hint)) + parts)


def _accepted(hint: Any, metadata: Collection[Any]) -> str:
    """What one part of a union accepts."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return wanted(hint)
    if origin is Literal:
        names = ", ".join(map(str, args))
        return f"one of {names}" if len(args) > 1 else names
    if hint in NUMBERS:
        return _range(metadata) or NUMBERS[hint]
    if origin in (list, tuple):
        least = " of at least one" if "min_length" in _bounds(metadata) else ""
        number = choices(args[0])[0] in NUMBERS
        return f"a list{least}, " + (f"each {wanted(args[0])}" if number else "such as [a, b]")
    if isinstance(hint, type) and is_dataclass(hint):
        return "the keys " + ", ".join(hints(hint))
    return {bool: "true or false", str: "text"}.get(hint, "KEY: VALUE pairs")


def _bounds(metadata: Collection[Any]) -> dict[str, Any]:
    """The limits among a field's metadata, by their names in pydantic."""
    infos = [item for field in metadata if isinstance(field, FieldInfo) for item in field.metadata]
    return {key: getattr(item, key) for item in infos for key in getattr(item, "__slots__", ())}


def _range(metadata: Collection[Any]) -> str:
    """The limits of a number, in words; empty where there are none."""
    bounds = _bounds(metadata)
    if {"ge", "le"} <= {*bounds}:
        return f"{bounds['ge']}..{bounds['le']}"
    upper = next(
        (f" {sign} {bounds[k]}" for k, sign in (("lt", "<"), ("le", "<=")) if k in bounds), ""
    )
    for key, sign, words in (("ge", "<=", "at least"), ("gt", "<", "a number above")):
        if key in bounds:
            return f"{bounds[key]} {sign} x{upper}" if upper else f"{words} {bounds[key]}"
    return ""


def explain(error: ValidationError, kind: type, conf: Path) -> str:
    """The first thing that is wrong, after the key that it is about.

    Args:
        error: Error of pydantic about a configuration.
        kind: Its class.
        conf: The folder of the YAML files: its folders are groups to choose from.
    """
    found = [(*_place(kind, one["loc"]), one) for one in error.errors(include_url=False)]
    first = found[0][0]
    # Of the alternatives of a union, the one that was understood furthest is what was meant.
    alike = [one for one in found if one[0].startswith(first)]
    key, hint, one = max(alike, key=lambda one: len(one[0]))
    if one["type"] == "missing":
        return f"{key}: missing"
    if one["type"] == "unexpected_keyword_argument":
        parent = _place(kind, one["loc"][:-1])[1]
        known = next(list(hints(part)) for part in choices(parent) if isinstance(part, type))
        return unknown_key(key, known)
    group = key.replace(".", "/")
    if one["type"] == "dataclass_type" and (conf / group).is_dir():
        return f"{key}: expected a group; {group}=NAME chooses one of its files"
    return f"{key}{_value(one['input'])}: expected {_wanted_instead(hint, one['input'])}"


def _wanted_instead(hint: Any, value: object) -> str:
    """What a type accepts, and that it is a whole number where a value is none."""
    whole = value is None or (isinstance(value, int) and not isinstance(value, bool))
    named = any(isinstance(item, Wanted) for item in get_args(hint)[1:])
    if whole or named or int not in (choices(part)[0] for part in choices(hint)):
        return wanted(hint)
    return re.sub("^(null or )?", r"\1a whole number, ", wanted(hint), count=1)


def unknown_key(key: str, known: Collection[str]) -> str:
    """What to say of a key that does not exist.

    Args:
        key: Dotted, as typed.
        known: The keys beside which it stands.
    """
    for old, new in RENAMED.items():
        if f"{key}.".startswith(f"{old}."):
            return f"{key}: no such key; it is called {new + key.removeprefix(old)} now"
    close = difflib.get_close_matches(key.rpartition(".")[2], list(known), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{key}: no such key; {hint}there are {', '.join(known)}"


def _value(value: object) -> str:
    """`=VALUE` as it is typed; nothing of one that is long."""
    words: Mapping[object, str] = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return f"={text}" if len(text) <= LONGEST else ""


def _place(kind: type, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """The dotted key of a location in a class, and the type there.

    Pydantic's locations also name the alternatives of unions, which nobody types.
    """
    key, hint = "", kind
    for step in location:
        below = _below(hint, step)
        if below is None:
            continue
        hint = below
        key += f"[{step}]" if isinstance(step, int) else f".{step}"
    if location and below is None:  # a key that the class does not have
        key += f".{location[-1]}" if _is_unknown(hint) else ""
    return key.lstrip("."), hint


def _is_unknown(hint: Any) -> bool:
    """Whether a location that ends below a type can only be an unknown key of it."""
    return any(is_dataclass(part) for part in choices(hint))


def _below(hint: Any, step: int | str) -> Any:
    """The type of an item of a list or of a value behind a key; None if there is none."""
    for part in choices(hint):
        origin, args = get_origin(part), get_args(part)
        if isinstance(step, int) and origin in (list, tuple):
            return args[0]
        if isinstance(step, str) and origin is dict:
            return args[1]
        if isinstance(part, type) and is_dataclass(part) and step in (there := hints(part)):
            return there[step]
    return None
