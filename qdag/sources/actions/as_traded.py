"""Undoing a vendor's adjustment: numbers as they were traded."""

from collections.abc import Mapping

import numpy as np

from qdag.sources.actions.arithmetic import LARGEST_STEP, within


def without_splits(days: np.ndarray, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers as traded, of a vendor that adjusts an instrument's history for all its splits.

    Prices are multiplied by the splits of later days, volume is divided by them and rounded to whole shares; dividends
    are multiplied by those of the same day too, so that they are per share of the day before.

    Parameters
    ----------
    days : datetime64[D] (N,), in any order; NaT: the row stays as it is
    numbers : float64 (N,) by name; without a split where ``split`` is NaN or none that ``LARGEST_STEP`` allows
    """
    known = np.flatnonzero(~np.isnat(days))
    _, first, position = np.unique(days[known][::-1], return_index=True, return_inverse=True)
    # of two rows of a day the later one tells
    split = numbers["split"][known[len(known) - 1 - first]]
    through = np.cumprod(np.where(within(split, LARGEST_STEP), split, 1.0)[::-1])[::-1]
    after = np.append(through, 1.0)[1:]
    scale, paid = np.ones(len(days)), np.ones(len(days))
    scale[known], paid[known] = after[position[::-1]], through[position[::-1]]
    changed = {name: numbers[name] * scale for name in ("open", "high", "low", "close")}
    changed |= {"volume": np.rint(numbers["volume"] / scale), "dividend": numbers["dividend"] * paid}
    return {**numbers, **changed}


def without_factor(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers as traded, of a vendor that multiplies prices with its ``factor`` and divides volume by it, as Qlib does.

    ``numbers``: float64 (N,) by name. A row whose factor is unknown stays as it is: it is refused for that.
    """
    scale = np.where(numbers["factor"] > 0, numbers["factor"], 1.0)
    changed = {name: numbers[name] / scale for name in ("open", "high", "low", "close")}
    return {**numbers, **changed, "volume": numbers["volume"] * scale}
