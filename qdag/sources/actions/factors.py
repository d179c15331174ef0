"""The factor of every row: the vendor's events where the evidence does not speak against them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdag.sources.actions.arithmetic import (
    LARGEST_FACTOR,
    LARGEST_STEP,
    Pairs,
    divide,
    first_valid,
    size_of_change,
    within,
)
from qdag.sources.actions.events import Adjustment, read_events
from qdag.sources.actions.evidence import (
    CONTRADICTED,
    CONVENTION,
    Events,
    Noticed,
    against_pct_chg,
    by_adjusted_close,
    noticed_where,
)
from qdag.sources.reasons import FindingKind

JUMP = 1.4
"""A change of the adjusted price, this many times up or down, that an event alone does not make."""


@dataclass(frozen=True)
class Adjusted:
    """What ``factors`` found, arrays of shape (N,)."""

    factor: np.ndarray
    """float64, finite and positive; of no meaning in a refused row."""
    dividend: np.ndarray | None
    """float64, per share of the day before, 0 without one; None where the vendor tells none."""
    gaps: np.ndarray
    """bool, an event that could not be told."""
    noticed: list[Noticed]
    """Valid rows with such a gap, with a refused step, and whose factor is not what else the vendor tells."""


# refused rows may hold any number; what comes of them is never looked at
@np.errstate(all="ignore")
def factors(adjustment: Adjustment, rows: Mapping[str, np.ndarray]) -> Adjusted:
    """Adjustment factors of all rows.

    Parameters
    ----------
    adjustment : which of the rules of the package's docstring
    rows : arrays of shape (N,), sorted by instrument and date, one row per date: ``code`` (instrument as a number),
        ``date``, ``valid`` (not refused), ``close``, ``volume`` and the columns that the rule needs; NaN: not given.
    """
    new = np.append(True, rows["code"][1:] != rows["code"][:-1])
    pairs = Pairs.of(rows)
    told = read_events(adjustment, rows, new, pairs)
    step, move = pairs.change(told.level), pairs.change(rows["close"])
    nothing = np.full(len(step), np.nan)
    says, bound, explained = nothing, nothing, np.zeros(len(step), bool)
    if adjustment == "events" and "adjusted_close" in rows:
        says, bound, explained = by_adjusted_close(rows, pairs, told)
    taken = np.where(within(step, LARGEST_STEP), step, 1.0)
    off = np.abs(says - taken)
    contradicted = within(says, LARGEST_STEP) & (off - bound > CONTRADICTED * taken)
    better = contradicted & (size_of_change(says * move) < size_of_change(taken * move))
    taken = np.where(better, says, taken)
    jumps = (size_of_change(taken * move) > np.log(JUMP)) & (size_of_change(taken * move) > 2 * size_of_change(move))
    factor, far = _in_parts(rows, new, pairs, told.level, np.where(jumps, 1.0, taken))
    lost = jumps | far | ~(better | within(step, LARGEST_STEP))
    differs = (off > bound) & ~better & ~lost
    convention = differs & explained & (off <= CONVENTION * taken)
    noticed = _lost_events(rows, pairs, told)
    told_so = "the adjusted close changes the factor by {value:.8g}, the events by {expected:.8g}"
    for kind, mask, more in (
        (FindingKind.FACTOR_DIFFERENCE, differs & ~convention, "rounding explains {bound:.3g}"),
        (FindingKind.FACTOR_CONVENTION, convention, "the vendor reinvests dividends at the close of their day"),
        (FindingKind.EVENT_REFUSED, better & ~lost, "the factor follows the adjusted close"),
    ):
        noticed.append(noticed_where(kind, mask, pairs.at, says, step, bound, f"{told_so}; {more}"))
    why = "a step of the factor by {value:.4g} where the close changes by {bound:.4g} is no event's; the factor stays"
    noticed.append(noticed_where(FindingKind.EVENT_REFUSED, lost, pairs.at, step, np.ones(len(step)), move, why))
    if "pct_chg" in rows:
        refused = np.concatenate([found.at for found in noticed if found.kind == FindingKind.EVENT_REFUSED])
        noticed.append(against_pct_chg(rows, new, factor, refused))
    return Adjusted(factor, told.dividend, told.gaps, noticed)


def _lost_events(rows: Mapping[str, np.ndarray], pairs: Pairs, told: Events) -> list[Noticed]:
    """Events that could not be told, in valid rows, and events that are none, with the next valid row."""
    gap = np.flatnonzero(told.gaps & rows["valid"])
    odd, pair = told.odd, pairs.around(told.odd)
    odd, at = odd[pair >= 0], pairs.at[pair[pair >= 0]]
    nan = np.full(len(told.event), np.nan)
    return [
        Noticed(
            FindingKind.FACTOR_GAP,
            gap,
            told.event[gap],
            told.known[gap],
            nan[gap],
            "the event {value:g} has no usable previous close; the factor does not change here",
        ),
        Noticed(
            FindingKind.EVENT_REFUSED,
            at,
            told.event[odd],
            nan[odd],
            nan[odd],
            f"the event {{value:g}} changes no price by more than {LARGEST_STEP:g}; the factor does not follow it",
        ),
    ]


def _in_parts(
    rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: Pairs, level: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors that follow ``level`` from 1 on, but for pairs whose step ``taken`` is another: from there on anew.

    Also: pairs whose step would have left ``LARGEST_FACTOR``, and is 1.
    """
    at, before = pairs.at, pairs.before
    factor = divide(level, first_valid(new, rows["valid"], level))
    begins = rows["valid"].copy()
    begins[at] = False
    factor[begins] = 1.0
    ends = np.append(np.flatnonzero(new)[1:], len(new))
    end = ends[np.cumsum(new)[at] - 1] if len(at) else at
    again = np.flatnonzero(taken != pairs.change(level))
    stops = np.minimum(end[again], np.append(at[again][1:], len(new)))
    for pair, stop in zip(again.tolist(), stops.tolist(), strict=True):
        here = at[pair]
        begin = factor[before[pair]] * taken[pair]
        factor[here:stop] = level[here:stop] / level[here] * begin
        factor[here] = begin
    far = np.zeros(len(at), bool)
    done = 0
    for pair in np.flatnonzero(~within(factor[at], LARGEST_FACTOR)).tolist():
        if at[pair] < done:
            continue
        done = end[pair]
        for k in range(pair, int(np.searchsorted(at, done))):
            value = factor[before[k]] * taken[k]
            far[k] = not 1 / LARGEST_FACTOR <= value <= LARGEST_FACTOR
            factor[at[k]] = factor[before[k]] if far[k] else value
    return factor, far
