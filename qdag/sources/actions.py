"""Adjustment factors from what vendors tell about corporate actions. Arithmetic on arrays only; no files, no tables.

The factor F turns raw prices into comparable ones: adjusted price = raw price x F. It is 1 at an instrument's first
valid session in the universe's history and changes forward from there, so that a new event never changes the past.

    events           F[t] = F[t-1] x split[t] / (1 - dividend[t] / close[t-1])     (the dividend is per share before
                     a split of the same day; the formula of CRSP and Yahoo)
    pre_close        F[t] = F[t-1] x close[t-1] / pre_close[t]
    adjusted_close   F[t] = (adjusted_close[t] / close[t]) / (the same at the first session)
    factor           F[t] = factor[t] / factor[first session]
    none             F[t] = 1

State rules, for the rows that precede a session:

- close[t-1] is the close of the last delivered row, be that row valid or refused, as long as the close is a positive
  number; an event in a refused row counts.
- A row that traded (volume > 0) without a usable close leaves the previous close unknown: no ratio can be told for the
  next row, it counts as 1 and in ``factor_gaps``. A row without trade and without close is passed over.
- A dividend not below the previous close, or without one, changes nothing and counts in ``factor_gaps``.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np

Adjustment = Literal["events", "pre_close", "adjusted_close", "factor", "none"]


def factors(
    adjustment: Adjustment, rows: Mapping[str, np.ndarray], start: np.datetime64
) -> tuple[np.ndarray, dict[str, float]]:
    """Adjustment factors of all rows.

    Parameters
    ----------
    adjustment : which of the rules above
    rows : arrays of shape (N,), sorted by instrument and date, one row per date: ``code`` (instrument as a number),
        ``date``, ``valid`` (not refused), ``close``, ``volume`` and the columns that the rule needs; NaN: not given.
    start : rows from here on are counted in the checks

    Returns
    -------
    factor : float64 (N,); of no meaning in a refused row
    checks : ``factor_gaps``, events that could not be told (see above), and where both events and an adjusted close are
        delivered ``factor_max_relative_difference`` and ``factor_differences_over_1e-3``: how far the two ways differ
        in the change of the factor from one row to the next, at worst and in how many rows.
    """
    code, valid, close = rows["code"], rows["valid"], rows["close"]
    new = np.append(True, code[1:] != code[:-1])
    asked = rows["date"] >= start
    checks: dict[str, float] = {}
    if adjustment in ("adjusted_close", "factor"):
        level = rows["factor"] if adjustment == "factor" else _divide(rows["adjusted_close"], close)
    elif adjustment == "none":
        level = np.ones(len(code))
    else:
        split = _or(rows.get("split"), 1.0, close)
        known = previous_close(new, close, rows["volume"], split if adjustment == "events" else np.ones(len(code)))
        if adjustment == "events":
            dividend = _or(rows.get("dividend"), 0.0, close)
            paid = dividend > 0
            usable = paid & (dividend < known)
            ratio = np.where(split > 0, split, 1.0) / np.where(usable, 1 - _divide(dividend, known), 1.0)
            gap = paid & ~usable & ~new
        else:
            given = rows["pre_close"] > 0
            ratio = np.where(given & (known > 0), _divide(known, rows["pre_close"]), 1.0)
            gap = given & ~(known > 0) & ~new
        ratio = np.where(new, 1.0, ratio)
        checks["factor_gaps"] = float((gap & asked).sum())
        level = _cumulate(new, ratio)
        if adjustment == "events" and "adjusted_close" in rows:
            checks |= _compare(new, level, _divide(rows["adjusted_close"], close), valid & asked)
    base = _first_valid(new, valid, level)
    return _divide(level, base), checks


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
        shares = _cumulate(new, np.where(split > 0, split, 1.0))
        carried = np.where(passed, carried * shares[at] / shares, carried)
    return np.where(new, np.nan, np.append(np.nan, carried[:-1]))


def _cumulate(new: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Cumulative product per instrument, in the order of time: a longer history has the same bits at its begin."""
    level = np.empty(len(ratio))
    edges = np.append(np.flatnonzero(new), len(ratio))
    for low, high in pairwise(edges.tolist()):
        np.cumprod(ratio[low:high], out=level[low:high])
    return level


def _first_valid(new: np.ndarray, valid: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Each row's instrument's level at its first valid row; 1 for an instrument without any."""
    group = np.cumsum(new) - 1
    base = np.ones(group[-1] + 1 if len(group) else 0)
    usable = np.flatnonzero(valid & (level > 0))
    base[group[usable[::-1]]] = level[usable[::-1]]
    return base[group]


def _compare(new: np.ndarray, level: np.ndarray, vendor: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    step = _divide(_divide(level[1:], level[:-1]), _divide(vendor[1:], vendor[:-1]))
    difference = np.abs(step - 1)[(counted & ~new)[1:]]
    difference = difference[np.isfinite(difference)]
    return {
        "factor_max_relative_difference": float(difference.max(initial=0.0)),
        "factor_differences_over_1e-3": float((difference > 1e-3).sum()),
    }


def _or(values: np.ndarray | None, default: float, like: np.ndarray) -> np.ndarray:
    return np.full(len(like), default) if values is None else np.where(np.isnan(values), default, values)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a / b)
