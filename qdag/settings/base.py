"""What every table of settings is built of: the frozen model, names, and values that many tables share.

No setting belongs here.
"""

import os
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME_PATTERN = r"[a-z][a-z0-9_]{0,39}"
"""Of universes, pools, tables and custom factors: the whole name must match."""
SYMBOL_PATTERN = r"[A-Za-z0-9^][A-Za-z0-9.^=_-]{0,63}"
"""Of instruments: nothing that means something in a path, a page, a message, a formula or a tab-separated list."""
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)
"""Days that a setting may hold, both inclusive."""


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError naming the first name that does not match :data:`NAME_PATTERN`."""
    for name in names:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")


def one_line(text: str) -> str:
    """The text as it is; ValueError where it is blank, or holds a line break or what cannot be printed."""
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of printable text that is not blank")
    return text


def local_path(value: Any) -> Any:
    """A path or its text, checked and left as it is; other values too, for pydantic to refuse.

    Path would make the folder ``s3:`` of an address, and the current folder of nothing: both are a ValueError.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        return value
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError("must be a path of this machine; object stores and other addresses are not supported")
    return one_line(text)


def _name(text: str) -> str:
    check_names([text])
    return text


def _symbol(text: str) -> str:
    if not re.fullmatch(SYMBOL_PATTERN, text):
        raise ValueError("must be a symbol: at most 64 of A-Z a-z 0-9 . ^ = _ -, the first a letter, a digit or ^")
    return text


def _day(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("write a day as 2020-01-31")
    return value


def _in_range(day: date) -> date:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"must lie from {FIRST_DAY} to {LAST_DAY}")
    return day


def _web_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]\S*", text):
        raise ValueError("must be an address that begins with http:// or https://")
    return text


Text = Annotated[str, Field(max_length=1000), AfterValidator(one_line)]
"""One line of printable text that is not blank."""
Name = Annotated[str, AfterValidator(_name)]
"""A name by :data:`NAME_PATTERN`."""
Symbol = Annotated[str, AfterValidator(_symbol)]
"""An instrument's name by :data:`SYMBOL_PATTERN`."""
Day = Annotated[date, BeforeValidator(_day), AfterValidator(_in_range)]
"""A day from :data:`FIRST_DAY` to :data:`LAST_DAY`."""
LocalPath = Annotated[Path, BeforeValidator(local_path)]
"""A path of this machine; in a settings file, relative to it."""
WebAddress = Annotated[Text, AfterValidator(_web_address)]
"""An address of http or https."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of 1."""
Sessions = Annotated[int, Field(ge=1, le=100_000)]
"""A number of sessions, at least one."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many, at least one."""
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]
"""Seconds, at most 30 days of them."""
Hours = Annotated[float, Field(gt=0, le=10 * 8766)]
"""Hours, at most ten years of them."""


class FrozenModel(BaseModel):
    """A table of settings: it cannot be changed, knows no other keys, takes no inf, no NaN and no truth for a number.

    What was given stays out of pydantic's own text: it may be a secret, and Dagster prints the cause of an error.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_number_is_true(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key)
            values = value if isinstance(value, list | tuple) else (value,)
            if field and field.annotation is not bool and any(isinstance(one, bool) for one in values):
                raise ValueError(f"{key} is neither true nor false; see docs/settings.md for its values")
        return data
