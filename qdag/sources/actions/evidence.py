"""Weighing what else a vendor tells against the factor, with the room that its rounding leaves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdag.sources.actions.arithmetic import Pairs, divide, last_unit, previous_close, room
from qdag.sources.reasons import FindingKind

REUSE_GAP, REUSE_JUMP = 250, 3.0
"""An instrument that has no valid row for this many sessions and comes back with its adjusted price this many times
higher or lower is taken for another company under a used name."""
CONVENTION, CONTRADICTED = 0.01, 0.05
"""Relative differences of a step of the factor: the largest that a way of reinvesting is an explanation for, and the
largest that is stored although the vendor's adjusted close says another step."""


@dataclass(frozen=True)
class Noticed:
    """Rows that are worth a look: one value per row, float64 with NaN where there is none."""

    kind: FindingKind
    at: np.ndarray
    """Positions of the rows, int64."""
    value: np.ndarray
    """What the vendor tells."""
    expected: np.ndarray
    """What it was compared with."""
    bound: np.ndarray
    """The difference that is allowed."""
    detail: str
    """A sentence with the names of the values in braces."""


@dataclass(frozen=True)
class Events:
    """What the events of all rows say: float64 arrays of shape (N,), but for ``odd`` and ``gaps``."""

    level: np.ndarray
    """Cumulative factor."""
    rounding: np.ndarray
    """Relative rounding of each row's part in it."""
    other: np.ndarray
    """Cumulative factor with dividends reinvested at the close of their day."""
    slack: np.ndarray
    """Relative rounding of each row's part in that."""
    event: np.ndarray
    """What the vendor tells of the row: a dividend, a split that is none, a previous close."""
    known: np.ndarray
    """The previous close; NaN where it is not known."""
    odd: np.ndarray
    """Positions of events that are none and are left out, int64."""
    gaps: np.ndarray
    """Rows with an event that cannot be told, bool (N,)."""
    dividend: np.ndarray | None = None
    """Per share of the day before, 0 without one; None where the vendor tells none."""


@np.errstate(all="ignore")
def ticker_reuse(rows: Mapping[str, np.ndarray], factor: np.ndarray, position: np.ndarray) -> Noticed:
    """Valid rows that look like another company's first under a used name: see ``REUSE_GAP``.

    ``rows`` and ``factor`` as of ``factors``; ``position`` (N,): number of each row's session in the calendar.
    """
    pairs = Pairs.of(rows)
    at, before = pairs.at, pairs.before
    price = rows["close"] * factor
    ratio = pairs.change(price)
    missing = position[at] - position[before] - 1
    found = (missing >= REUSE_GAP) & (np.maximum(ratio, divide(np.ones(len(ratio)), ratio)) >= REUSE_JUMP)
    told = "the adjusted close goes from {expected:g} to {value:g} over {bound:.0f} sessions without a row"
    gone = missing.astype(np.float64)
    return noticed_where(FindingKind.TICKER_REUSE, found, at, price[at], price[before], gone, told)


def by_adjusted_close(
    rows: Mapping[str, np.ndarray], pairs: Pairs, told: Events
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vendor's adjusted close as a second witness of the factor, arrays of shape (P,), one value per pair.

    Parameters
    ----------
    rows : as of ``factors``, with ``adjusted_close``
    pairs : the pairs of valid rows
    told : what the events say

    Returns
    -------
    says : by how much the adjusted close changes the factor; NaN where it is not known
    bound : how far rounding explains a difference from the events
    explained : bool, whether dividends reinvested at the close of their day explain it
    """
    at, before = pairs.at, pairs.before
    close, adjusted = rows["close"], rows["adjusted_close"]
    says = pairs.change(divide(adjusted, close))
    unit = last_unit(2, 4, close[at], close[before])
    digit = last_unit(2, 8, adjusted[at], adjusted[before])
    common = room(divide(digit, 2 * adjusted[at])) + room(divide(digit, 2 * adjusted[before]))
    common += room(divide(unit, 2 * close[at])) + room(divide(unit, 2 * close[before])) + 1e-9

    def step(level: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.append(0.0, np.cumsum(room(rounding)))
        change = pairs.change(level)
        return change, change * np.expm1(common + total[at + 1] - total[before + 1])

    _, bound = step(told.level, told.rounding)
    elsewhere, allowed = step(told.other, told.slack)
    return says, bound, np.abs(says - elsewhere) <= allowed


def against_pct_chg(
    rows: Mapping[str, np.ndarray], new: np.ndarray, factor: np.ndarray, refused: np.ndarray
) -> Noticed:
    """Compare the factor with the vendor's change in percent, but where an event is ``refused`` (positions)."""
    close, pct = rows["close"], rows["pct_chg"]
    known = previous_close(new, close, rows["volume"], np.ones(len(close)))
    before = np.append(np.nan, factor[:-1])
    ratio = divide(close * factor, known * before)
    base = rows.get("pre_close", known)
    base = np.where(base > 0, base, known)
    unit = last_unit(2, 4, close, base)
    off = np.expm1(room(divide(unit, 2 * close)) + room(divide(unit, 2 * base)))
    bound = 100 * ratio * off + last_unit(2, 4, pct) / 2 + 1e-9
    at = np.setdiff1d(np.flatnonzero(rows["valid"] & ~new), refused)
    expected = 100 * (ratio - 1)
    differs = np.abs(pct - expected)[at] > bound[at]
    told = "the vendor tells a change of {value:.6g} %, the factor {expected:.6g} %; rounding explains {bound:.3g}"
    return noticed_where(FindingKind.FACTOR_DIFFERENCE, differs, at, pct[at], expected[at], bound[at], told)


def noticed_where(kind: FindingKind, mask: np.ndarray, *found: np.ndarray | str) -> Noticed:
    """The rows of a mask (bool (P,)); ``found`` are :class:`Noticed`'s fields after ``kind``, (P,) each."""
    *columns, detail = found
    at, value, expected, bound = (np.asarray(column)[mask] for column in columns)
    return Noticed(kind, at, value, expected, bound, str(detail))
