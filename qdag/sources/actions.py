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
- A dividend not below the previous close, or without one, changes nothing and is a factor gap.

What else a vendor tells is compared with the factor, never used for it. A difference is listed when it is more than the
vendor's rounding explains, with u the unit of a number's last decimal:

    events beside an adjusted close A
        the change of F from one valid row i to the next one j against the change of A / close. Relative roundings:
        for each dividend D in (i, j], on the previous close P, (u(D) + u D/P) / (2P - u) / (1 - D/P);
        u(A)/2A[i], u(A)/2A[j], u/2close[i], u/2close[j]
        Some vendors reinvest the dividend at the close of its day: A changes by split x (1 + D / close). Where this
        explains the difference (P is close then, and 1 + D/P divides) it is a ``factor_convention``, else, and for
        pct_chg always, a ``factor_difference``.
    pct_chg
        100 (close[t] F[t] / (close[t-1] F[t-1]) - 1) against pct_chg. Relative roundings of the ratio: u/2close[t] and
        u/2P, where P is pre_close, or close[t-1] without one; and u(pct)/2 of the percentage

Numbers with the relative roundings h have a product or quotient that is off by at most prod 1/(1 - h) - 1.

The decimals are those that the compared numbers show, the most of them for all prices of one comparison: 2 to 4 for
prices and pct_chg, 2 to 6 for dividends, 2 to 8 for an adjusted close.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

Adjustment = Literal["events", "pre_close", "adjusted_close", "factor", "none"]

REUSE_GAP, REUSE_JUMP = 250, 3.0
"""An instrument that has no valid row for this many sessions and comes back with its adjusted price this many times
higher or lower is taken for another company under a used name."""


@dataclass(frozen=True)
class Noticed:
    """Rows that are worth a look: positions ``at`` (int64), and per position what the vendor tells (``value``), what it
    was compared with (``expected``), and the allowed difference (``bound``), float64 with NaN where there is none.
    ``detail`` is a sentence with these names in braces."""

    kind: str
    at: np.ndarray
    value: np.ndarray
    expected: np.ndarray
    bound: np.ndarray
    detail: str


# refused rows may hold any number; what comes of them is never looked at
@np.errstate(all="ignore")
def factors(adjustment: Adjustment, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[Noticed]]:
    """Adjustment factors of all rows.

    Parameters
    ----------
    adjustment : which of the rules above
    rows : arrays of shape (N,), sorted by instrument and date, one row per date: ``code`` (instrument as a number),
        ``date``, ``valid`` (not refused), ``close``, ``volume`` and the columns that the rule needs; NaN: not given.

    Returns
    -------
    factor : float64 (N,); of no meaning in a refused row
    gaps : bool (N,), an event that could not be told (see above)
    noticed : valid rows with such a gap, and valid rows whose factor is not what else the vendor tells
    """
    code, valid, close = rows["code"], rows["valid"], rows["close"]
    new = np.append(True, code[1:] != code[:-1])
    gaps = np.zeros(len(code), bool)
    nan = np.full(len(code), np.nan)
    noticed = []
    if adjustment in ("adjusted_close", "factor"):
        level = rows["factor"] if adjustment == "factor" else _divide(rows["adjusted_close"], close)
    elif adjustment == "none":
        level = np.ones(len(code))
    else:
        split = _or(rows.get("split"), 1.0, close)
        known = previous_close(new, close, rows["volume"], split if adjustment == "events" else np.ones(len(code)))
        if adjustment == "events":
            event = dividend = _or(rows.get("dividend"), 0.0, close)
            paid = dividend > 0
            usable = paid & (dividend < known)
            share = np.where(usable, _divide(dividend, known), 0.0)
            ratio = np.where(split > 0, split, 1.0) / (1 - share)
            gaps = paid & ~usable & ~new
            unit = _unit(_decimals(2, 4, known))
            digit = _unit(_decimals(2, 6, dividend))
            rounding = np.where(usable & ~new, _divide(digit + share * unit, 2 * known - unit) / (1 - share), 0.0)
        else:
            event = rows["pre_close"]
            given = event > 0
            ratio = np.where(given & (known > 0), _divide(known, event), 1.0)
            gaps = given & ~(known > 0) & ~new
        ratio = np.where(new, 1.0, ratio)
        level = _cumulate(new, ratio)
        at = np.flatnonzero(gaps & valid)
        told = "the event {value:g} has no usable previous close; the factor does not change here"
        noticed.append(Noticed("factor_gap", at, event[at], known[at], nan[at], told))
    if adjustment == "events" and "adjusted_close" in rows:
        here = np.where(paid & (close > 0), _divide(dividend, close), 0.0)
        other = _cumulate(new, np.where(new, 1.0, np.where(split > 0, split, 1.0) * (1 + here)))
        slack = np.where(paid & (close > 0), _divide(digit + here * unit, 2 * close - unit) / (1 + here), 0.0)
        noticed += _against_adjusted_close(rows, (level, rounding), (other, slack))
    if "pct_chg" in rows:
        noticed.append(_against_pct_chg(rows, new, level))
    base = _first_valid(new, valid, level)
    return _divide(level, base), gaps, noticed


@np.errstate(all="ignore")
def ticker_reuse(rows: Mapping[str, np.ndarray], factor: np.ndarray, position: np.ndarray) -> Noticed:
    """Valid rows that look like another company's first under a used name: see ``REUSE_GAP``.

    ``rows`` and ``factor`` as of ``factors``; ``position`` (N,): number of each row's session in the calendar.
    """
    at, before = _neighbours(rows)
    price = rows["close"] * factor
    ratio = _divide(price[at], price[before])
    missing = position[at] - position[before] - 1
    found = (missing >= REUSE_GAP) & (np.maximum(ratio, _divide(np.ones(len(ratio)), ratio)) >= REUSE_JUMP)
    told = "the adjusted close goes from {expected:g} to {value:g} over {bound:.0f} sessions without a row"
    gone = missing.astype(np.float64)
    return _noticed("ticker_reuse", found, at, price[at], price[before], gone, told)


def _neighbours(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the valid rows that have a valid row of the same instrument before them, and of that row."""
    at = np.flatnonzero(rows["valid"])
    same = rows["code"][at[1:]] == rows["code"][at[:-1]]
    return at[1:][same], at[:-1][same]


def _against_adjusted_close(
    rows: Mapping[str, np.ndarray], ours: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> list[Noticed]:
    """Compare with our level and its rounding by row; and where they differ with the level of the other convention."""
    at, before = _neighbours(rows)
    close, adjusted = rows["close"], rows["adjusted_close"]
    told = _divide(adjusted, close)
    value = _divide(told[at], told[before])
    unit = _unit(_decimals(2, 4, close[at], close[before]))
    digit = _unit(_decimals(2, 8, adjusted[at], adjusted[before]))
    common = _room(_divide(digit, 2 * adjusted[at])) + _room(_divide(digit, 2 * adjusted[before]))
    common += _room(_divide(unit, 2 * close[at])) + _room(_divide(unit, 2 * close[before])) + 1e-9

    def step(level: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.append(0.0, np.cumsum(_room(rounding)))
        change = _divide(level[at], level[before])
        return change, change * np.expm1(common + total[at + 1] - total[before + 1])

    expected, bound = step(*ours)
    elsewhere, allowed = step(*other)
    told_so = "the adjusted close changes the factor by {value:.8g}, the events by {expected:.8g}"
    differs = np.abs(value - expected) > bound
    explained = differs & (np.abs(value - elsewhere) <= allowed)
    return [
        _noticed(kind, mask, at, value, expected, bound, f"{told_so}; {more}")
        for kind, mask, more in (
            ("factor_difference", differs & ~explained, "rounding explains {bound:.3g}"),
            ("factor_convention", explained, "the vendor reinvests dividends at the close of their day"),
        )
    ]


def _against_pct_chg(rows: Mapping[str, np.ndarray], new: np.ndarray, level: np.ndarray) -> Noticed:
    close, pct = rows["close"], rows["pct_chg"]
    known = previous_close(new, close, rows["volume"], np.ones(len(close)))
    before = np.append(np.nan, level[:-1])
    ratio = _divide(close * level, known * before)
    base = rows.get("pre_close", known)
    base = np.where(base > 0, base, known)
    unit = _unit(_decimals(2, 4, close, base))
    off = np.expm1(_room(_divide(unit, 2 * close)) + _room(_divide(unit, 2 * base)))
    bound = 100 * ratio * off + _unit(_decimals(2, 4, pct)) / 2 + 1e-9
    at = np.flatnonzero(rows["valid"] & ~new)
    expected = 100 * (ratio - 1)
    differs = np.abs(pct - expected)[at] > bound[at]
    told = "the vendor tells a change of {value:.6g} %, the factor {expected:.6g} %; rounding explains {bound:.3g}"
    return _noticed("factor_difference", differs, at, pct[at], expected[at], bound[at], told)


def _noticed(kind: str, mask: np.ndarray, *found: np.ndarray | str) -> Noticed:
    *columns, detail = found
    at, value, expected, bound = (np.asarray(column)[mask] for column in columns)
    return Noticed(kind, at, value, expected, bound, str(detail))


def _room(rounding: np.ndarray) -> np.ndarray:
    """log 1/(1 - h) of relative roundings h: they add up."""
    return -np.log1p(-np.minimum(rounding, 1 - 1e-9))


def _decimals(least: int, most: int, *values: np.ndarray) -> np.ndarray:
    """Decimals that numbers show, int64 (N,): the most of the given ones, no fewer than ``least``; NaN shows none."""
    shown = np.full(len(values[0]), least)
    for value in values:
        for count in range(least, most):
            scaled = value * 10.0**count
            more = np.abs(scaled - np.rint(scaled)) > 1e-6 + 1e-12 * np.abs(scaled)
            shown = np.where(more, np.maximum(shown, count + 1), shown)
    return shown


def _unit(decimals: np.ndarray) -> np.ndarray:
    return 10.0 ** -decimals.astype(np.float64)


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


def _or(values: np.ndarray | None, default: float, like: np.ndarray) -> np.ndarray:
    return np.full(len(like), default) if values is None else np.where(np.isnan(values), default, values)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a / b)
