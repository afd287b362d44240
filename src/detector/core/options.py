"""What the option classes of all rooms have in common.

A room declares its options once, in its `options.py`, as a pydantic dataclass: constraints are in
the types, and the text below a field is its description in `--help` and docs/keys.md. Classes have
defaults only where a room is also used without a configuration; these are the values that conf/
chooses by default, but for `auto`, which takes a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

# A folder or a class may be called 0, which YAML and Hydra read as a number.
STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Fixed:
    """What a field's value has to do with a checkpoint's; without it, a typed value replaces it.

    Attributes:
        by: `network`: the weights fit no other value. `resume`: a run that continues cannot change
            it. `scoring`: taken from a checkpoint only where its run continues. `command`: belongs
            to the command, and is never taken from a checkpoint.
    """

    by: Literal["network", "resume", "scoring", "command"]


@dataclass(frozen=True)
class Wanted:
    """What messages and help say that a value may be, where the type alone does not say it well."""

    text: str


def fixed(by: Literal["network", "resume", "scoring", "command"]) -> Fixed:
    """Metadata of a field: what its value has to do with a checkpoint's (see `Fixed`)."""
    return Fixed(by)


def _no_flag(value: object) -> object:
    """Refuse `true`, which is 1 to Python."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _as_text(value: object) -> object:
    """A number or a flag as it was typed."""
    return str(value).lower() if isinstance(value, bool | int | float) else value


TYPED = BeforeValidator(_as_text)  # of words that YAML and Hydra may read as something else
Int = Annotated[int, BeforeValidator(_no_flag)]
Real = Annotated[float, BeforeValidator(_no_flag)]
Count = Annotated[Int, Field(ge=1)]
NotNegative = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(gt=0, lt=1)]
Seed = Annotated[Int, Field(ge=0, le=2**32 - 1)]
