"""Rows of instruments by days as numbers, to put values of several origins into one frame."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from qdag.store.arrow import days as days_of
from qdag.store.arrow import text_codes

DAY, NAME = "datetime", "instrument"
"""Levels of Qlib's frames."""


def places(index: pd.Index, names: list[str], days: pd.DatetimeIndex) -> tuple[np.ndarray, np.ndarray]:
    """(instrument, day) positions of a frame's rows, whichever level comes first; -1 for what is not among them."""
    assert isinstance(index, pd.MultiIndex)
    of_name = pd.Index(names, dtype=object).get_indexer(pd.Index(index.levels[index.names.index(NAME)], dtype=object))
    of_day = days.get_indexer(index.levels[index.names.index(DAY)])
    return of_name[index.codes[index.names.index(NAME)]], of_day[index.codes[index.names.index(DAY)]]


def qlib_index(
    name: np.ndarray, day: np.ndarray, names: list[str], days: pd.DatetimeIndex, levels: tuple[str, str]
) -> pd.MultiIndex:
    """The index of rows at (instrument, day) positions as Qlib makes it, with levels of what is there only.

    Parameters
    ----------
    levels : ``NAME`` and ``DAY``, in the order wanted
    """
    (held_names, name_codes), (held_days, day_codes) = _used(name, len(names)), _used(day, len(days))
    parts: dict[str, Any] = {
        NAME: (pd.Index([names[i] for i in held_names.tolist()]), name_codes),
        DAY: (days[held_days], day_codes),
    }
    values, codes = zip(*(parts[level] for level in levels), strict=True)
    return pd.MultiIndex(values, codes, names=levels, verify_integrity=False)


def _used(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``size`` positions occur, and of each its place among these."""
    there = np.bincount(positions, minlength=size) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1)[positions]


class Grid:
    """Instruments by days: rows as one number each, in the order of (datetime, instrument)."""

    def __init__(self, names: list[str], days: pd.DatetimeIndex):
        self.names = names
        self.days = days

    @property
    def ends(self) -> tuple[date, date]:
        return self.days[0].date(), self.days[-1].date()

    def codes(self, index: pd.Index) -> np.ndarray:
        """Of a frame's rows, int64; those of other instruments are -1."""
        name, day = places(index, self.names, self.days)
        return np.where((name < 0) | (day < 0), -1, day.astype(np.int64) * len(self.names) + name)

    def row_codes(self, rows: pa.Table) -> np.ndarray:
        """Of a table's rows, from their dates and instruments, as ``codes``."""
        texts, names = text_codes(rows["instrument"])
        row = pd.Index(self.names, dtype=object).get_indexer(pd.Index(names, dtype=object))[texts]
        at = days_of(rows["date"])
        own = self.days.to_numpy().astype("M8[D]")
        day = np.searchsorted(own, at)
        known = (row >= 0) & (day < len(own))
        known[known] = own[day[known]] == at[known]
        return np.where(known, day * len(self.names) + row, -1)

    def positions(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(instrument, day) of rows."""
        day, name = np.divmod(codes, max(len(self.names), 1))
        return name, day

    def index(self, codes: np.ndarray) -> pd.MultiIndex:
        """Sorted rows as Qlib's index, levels of what is there only."""
        return qlib_index(*self.positions(codes), self.names, self.days, (DAY, NAME))


def put_rows(
    block: np.ndarray,
    columns: Sequence[int],
    wanted: np.ndarray,
    codes: np.ndarray,
    values: Sequence[Any],
    has: np.ndarray | None = None,
) -> None:
    """Put rows of some columns where they belong.

    Parameters
    ----------
    block : (columns, rows wanted)
    wanted : codes, increasing
    codes : int64 (rows,); rows of others are left out
    values : of each of the columns (rows,), arrays of NumPy or Arrow, nulls as NaN
    has : bool (rows wanted,), in which the rows that came are marked
    """
    at = np.searchsorted(wanted, codes)
    fits = at < len(wanted)
    fits[fits] = wanted[at[fits]] == codes[fits]
    at = at[fits]
    if not len(at):
        return
    whole, one_after_the_other = len(at) == len(codes), at[-1] - at[0] == len(at) - 1
    to = slice(at[0], at[-1] + 1) if one_after_the_other and (np.diff(at) == 1).all() else at
    for column, given in zip(columns, values, strict=True):
        given = given if isinstance(given, np.ndarray) else given.to_numpy()
        block[column, to] = given if whole else given[fits]
    if has is not None:
        has[to] = True
