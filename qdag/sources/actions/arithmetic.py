"""Arithmetic of factors over rows sorted by instrument and date: steps, pairs of valid rows, and the room of rounding.

Refused rows may hold any number: what comes of them is infinite or NaN, and never looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LARGEST_STEP, LARGEST_FACTOR = 1e4, 1e15
"""No event changes a price this many times, and no history does: these and their inverses are the limits."""


@dataclass(frozen=True)
class Pairs:
    """Valid rows and the valid row of the same instrument before each: int64 positions, arrays of shape (P,)."""

    at: np.ndarray
    """Positions of the valid rows that have one before them, increasing."""
    before: np.ndarray
    """Positions of the rows before."""

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray]) -> "Pairs":
        """The pairs of rows with ``code`` and ``valid``, sorted by code."""
        at = np.flatnonzero(rows["valid"])
        same = rows["code"][at[1:]] == rows["code"][at[:-1]]
        return cls(at[1:][same], at[:-1][same])

    def change(self, values: np.ndarray) -> np.ndarray:
        """Value at a row / value at the row before it, (P,), of values per row (N,)."""
        return divide(values[self.at], values[self.before])

    def around(self, row: np.ndarray) -> np.ndarray:
        """Number of the pair with ``before`` < row <= ``at``; -1 where there is none."""
        if not len(self.at):
            return np.full(len(row), -1)
        pair = np.minimum(np.searchsorted(self.at, row), len(self.at) - 1)
        return np.where((self.before[pair] < row) & (row <= self.at[pair]), pair, -1)


def room(rounding: np.ndarray) -> np.ndarray:
    """Logarithm 1/(1 - h) of relative roundings h: they add up. Of what is no number, the most there is."""
    most = 1 - 1e-9
    return -np.log1p(-np.minimum(np.nan_to_num(rounding, nan=most, posinf=most), most))


def _decimals(least: int, most: int, *values: np.ndarray) -> np.ndarray:
    """Decimals that numbers show, int64 (N,): the most of the given ones, no fewer than ``least``; NaN shows none."""
    shown = np.full(len(values[0]), least)
    for value in values:
        for count in range(least, most):
            scaled = value * 10.0**count
            more = np.abs(scaled - np.rint(scaled)) > 1e-6 + 1e-12 * np.abs(scaled)
            shown = np.where(more, np.maximum(shown, count + 1), shown)
    return shown


def last_unit(least: int, most: int, *values: np.ndarray) -> np.ndarray:
    """Unit of the last decimal that numbers show, float64 (N,): the most decimals of the given ones, from ``least`` to
    ``most``; NaN shows none."""
    return 10.0 ** -_decimals(least, most, *values).astype(np.float64)


def cumulate(new: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Cumulative product per instrument, in the order of time: a longer history has the same bits at its begin."""
    level = np.empty(len(ratio))
    edges = np.append(np.flatnonzero(new), len(ratio))
    for low, high in pairwise(edges.tolist()):
        np.cumprod(ratio[low:high], out=level[low:high])
    return level


def first_valid(new: np.ndarray, valid: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Each row's instrument's level at its first valid row; 1 for an instrument without any."""
    group = np.cumsum(new) - 1
    base = np.ones(group[-1] + 1 if len(group) else 0)
    usable = np.flatnonzero(valid)
    base[group[usable[::-1]]] = level[usable[::-1]]
    return base[group]


def previous_close(new: np.ndarray, close: np.ndarray, volume: np.ndarray, split: np.ndarray) -> np.ndarray:
    """The last usable close before each row, in the shares of the day before; NaN where it is not known.

    ``new`` (N,) marks each instrument's first row. A split in a row that has no close itself is taken along.
    """
    usable = close > 0
    traded = volume > 0
    marked = usable | traded | new
    value = np.where(usable, close, np.nan)
    at = np.maximum.accumulate(np.where(marked, np.arange(len(close)), 0))
    carried = value[at]
    passed = at != np.arange(len(close))
    if passed.any():
        shares = cumulate(new, np.where(split > 0, split, 1.0))
        carried = np.where(passed, carried * shares[at] / shares, carried)
    return np.where(new, np.nan, np.append(np.nan, carried[:-1]))


def within(step: np.ndarray, limit: float) -> np.ndarray:
    """Whether a ratio and its inverse are at most ``limit``, bool; False of NaN."""
    return (step >= 1 / limit) & (step <= limit)


def size_of_change(ratio: np.ndarray) -> np.ndarray:
    """Of a change: |log|, the same for twice and half."""
    return np.abs(np.log(ratio))


def filled(values: np.ndarray | None, default: float, like: np.ndarray) -> np.ndarray:
    """Values with ``default`` for NaN; of the shape of ``like`` and all ``default`` where there are none."""
    return np.full(len(like), default) if values is None else np.where(np.isnan(values), default, values)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotient a / b as an array."""
    return np.asarray(a / b)
