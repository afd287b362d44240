"""Errors that end a command with a line, and checks that raise them."""

from __future__ import annotations

from collections.abc import Collection


class RequestError(Exception):
    """The request was wrong: one or two lines naming the key or path and what would be right."""


class WorkError(Exception):
    """The work failed for a reason outside the program: one line."""


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise `RequestError` for a key unless the condition holds."""
    if not condition:
        raise RequestError(f"{key}={value}: expected {wanted}")


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """Raise `RequestError` for a key unless its value is among the choices."""
    require(value in choices, key, value, "one of " + ", ".join(choices))
