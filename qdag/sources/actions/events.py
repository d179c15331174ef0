"""Reading what a vendor tells: the cumulative factor of splits and dividends, of a previous or adjusted close."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from qdag.sources.actions.arithmetic import (
    LARGEST_STEP,
    Pairs,
    cumulate,
    divide,
    filled,
    last_unit,
    previous_close,
    size_of_change,
    within,
)
from qdag.sources.actions.evidence import CONVENTION, Events, by_adjusted_close

Adjustment = Literal["events", "pre_close", "adjusted_close", "factor", "none"]
"""What of a vendor's columns tells the factor; ``none``: nothing does."""


def read_events(adjustment: Adjustment, rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: Pairs) -> Events:
    """What the vendor tells, by the rule of ``adjustment``.

    Parameters
    ----------
    adjustment, rows : as of ``factors``
    new : bool (N,), each instrument's first row
    pairs : the pairs of valid rows
    """
    if adjustment == "events":
        return _splits_and_dividends(rows, new, pairs)
    close = rows["close"]
    nothing, no = np.zeros(len(close)), np.zeros(len(close), bool)
    event, known, odd, gaps = nothing, nothing, no, no
    if adjustment == "pre_close":
        event = rows["pre_close"]
        known = previous_close(new, close, rows["volume"], np.ones(len(close)))
        given = event > 0
        ratio = np.where(given & (known > 0), divide(known, event), 1.0)
        odd = ~within(ratio, LARGEST_STEP) & ~new
        gaps = given & ~(known > 0) & ~new
        level = cumulate(new, np.where(new | odd, 1.0, ratio))
    elif adjustment == "adjusted_close":
        level = divide(rows["adjusted_close"], close)
    else:
        level = rows["factor"] if adjustment == "factor" else np.ones(len(close))
    return Events(level, nothing, level, nothing, event, known, np.flatnonzero(odd), gaps)


def _splits_and_dividends(rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: Pairs) -> Events:
    """From splits and dividends: rule ``events`` of the package's docstring."""
    close = rows["close"]
    given = filled(rows.get("split"), 1.0, close)
    odd = (given > 0) & ~within(given, LARGEST_STEP) & ~new
    split = np.where(within(given, LARGEST_STEP), given, 1.0)
    known = previous_close(new, close, rows["volume"], split)
    dividend = filled(rows.get("dividend"), 0.0, close)
    paid = dividend > 0
    digit = last_unit(2, 6, dividend)
    unit = last_unit(2, 4, known)
    # a dividend that leaves next to nothing is none either
    most = known * (1 - 1 / LARGEST_STEP)
    first, second = paid & (dividend <= most), paid & (dividend * split <= most)

    def reading(after: np.ndarray) -> Events:
        """With the dividends of ``after`` per share after a split."""
        scale = np.where(after, split, 1.0)
        amount = dividend * scale
        usable = (first | after) & ~new
        share = np.where(usable, divide(amount, known), 0.0)
        here = np.where(paid & (close > 0), divide(amount, close), 0.0)
        return Events(
            level=cumulate(new, np.where(new, 1.0, split / (1 - share))),
            rounding=np.where(usable, divide(digit * scale + share * unit, 2 * known - unit) / (1 - share), 0.0),
            other=cumulate(new, np.where(new, 1.0, split + here)),
            slack=np.where(here > 0, divide(digit * scale + here * unit, 2 * close - unit) / (split + here), 0.0),
            event=np.where(odd, given, amount),
            known=known,
            odd=np.flatnonzero(odd),
            gaps=paid & ~usable & ~new,
            dividend=amount if "dividend" in rows else None,
        )

    after = second & ~first
    both = first & second & (split != 1)
    if both.any():
        earlier, later = (_misfit(rows, pairs, reading(mask)) for mask in (after, after | both))
        pair = pairs.around(np.flatnonzero(both))
        # between no valid rows it does not matter
        after[both] = (pair < 0) | (later <= earlier)[pair] if len(pairs.at) else True
    return reading(after)


def _misfit(rows: Mapping[str, np.ndarray], pairs: Pairs, told: Events) -> np.ndarray:
    """How badly a reading of the events fits, per pair: whatever rounding or a convention explains fits better."""
    step, move = pairs.change(told.level), pairs.change(rows["close"])
    if "adjusted_close" not in rows:
        return size_of_change(step * move)
    says, bound, explained = by_adjusted_close(rows, pairs, told)
    off = np.abs(says - step)
    rank = np.where(off <= bound, 0, np.where(explained & (off <= CONVENTION * step), 1, 2))
    known = within(says, LARGEST_STEP)
    return np.where(known, 1e3 * rank + size_of_change(says / step), size_of_change(step * move))
