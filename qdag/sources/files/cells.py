"""Cells typed: numbers, dates and symbols of a column, so that a bad cell costs its row and not its file."""

import re
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.store.arrow import text_codes

EMPTY_CELLS = ("", "null", "NULL", "None", "nan", "NaN", "NAN", "NA", "N/A")
"""What stands for nothing in a column of numbers."""
# dates that text can tell too; a typed one may be millions of years away
_EARLIEST, _LATEST = np.datetime64("1000-01-01"), np.datetime64("9999-12-31")
# libraries write dates as the exchange's midnight
_MIDNIGHT = re.compile(r"[ T]00:00:00(\.0+)?([+-]\d\d:?\d\d|Z)?\Z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def to_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Type a column: float64 (N,) with NaN for an empty cell, and a mask of cells that are no finite number."""
    bad = np.zeros(len(column), bool)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            typed = column.cast(pa.float64())
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(column)
            empty = pc.is_in(text, value_set=pa.array(EMPTY_CELLS, kind))
            number = pc.or_(empty, pc.match_substring_regex(text, f"^({_NUMBER.pattern})$"))
            bad = pc.invert(pc.fill_null(number, True)).to_numpy()
            keep = pc.and_(number, pc.invert(empty))
            # Arrow's parser knows no leading plus
            text = pc.replace_substring_regex(pc.if_else(keep, text, pa.scalar(None, kind)), r"^\+", "")
            typed = text.cast(pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        typed = column.cast(pa.float64(), safe=False)
    elif pa.types.is_null(kind):
        return np.full(len(column), np.nan), bad
    else:
        return np.full(len(column), np.nan), ~bad
    values = np.array(typed.to_numpy(), np.float64)
    infinite = np.isinf(values)
    values[infinite] = np.nan
    return values, bad | infinite


def to_dates(column: pa.ChunkedArray, form: str, known: dict[str, np.datetime64]) -> np.ndarray:
    """Type a column of dates: datetime64[D] (N,), NaT where it cannot be read or is of no year from 1000 to 9999.

    ``known`` remembers texts: files share their dates.
    """
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        days = np.array(column.cast(pa.date32(), safe=False).to_numpy(zero_copy_only=False), "M8[D]")
        days[(days < _EARLIEST) | (days > _LATEST)] = np.datetime64("NaT")
        return days
    if pa.types.is_integer(kind):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.full(len(column), np.datetime64("NaT"), "M8[D]")
    position, texts = text_codes(column)
    for text in texts:
        if text not in known:
            known[text] = _date(text.strip(), form)
    values = np.array([known[text] for text in texts] + [np.datetime64("NaT")], "M8[D]")
    return values[position]


def to_symbols(column: pa.ChunkedArray, symbol: Callable[[str], str | None]) -> np.ndarray:
    """Instruments in Qlib's spelling: object (N,), None where there is none."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        try:
            column = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(column), None, object)
    position, texts = text_codes(column)
    return np.array([symbol(text) for text in texts] + [None], object)[position]


def _date(text: str, form: str) -> np.datetime64:
    try:
        day = datetime.strptime(text, form)
    except ValueError:
        plain = _MIDNIGHT.sub("", text)
        return _date(plain, form) if plain != text else np.datetime64("NaT")
    # strptime also takes 2020131 for %Y%m%d; digits may only lack where a separator tells them apart
    shown = day.strftime(form)
    # and a year that begins with 0 is a typing error, not one long before any exchange
    same = shown == text or (re.findall(r"\d+", shown) != [shown] and _unpadded(shown) == _unpadded(text))
    return np.datetime64(day.date(), "D") if same and day.year >= 1000 else np.datetime64("NaT")


def _unpadded(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).lower()
