"""Adjustment factors from what vendors tell about corporate actions. Arithmetic on arrays only; no files, no tables.

The factor F turns raw prices into comparable ones: adjusted price = raw price x F. It is 1 at an instrument's first
valid session in the universe's history and changes forward from there, so that a new event never changes the past.

    events           F[t] = F[t-1] x split[t] / (1 - dividend[t] / close[t-1])     (the dividend per share of the day
                     before; the formula of CRSP and Yahoo)
    pre_close        F[t] = F[t-1] x close[t-1] / pre_close[t]
    adjusted_close   F[t] = (adjusted_close[t] / close[t]) / (the same at the first session)
    factor           F[t] = factor[t] / factor[first session]
    none             F[t] = 1

Where a split and a dividend D share a day, vendors tell D per share of the day before or per share after the split; it
is D or D x split per share of the day before. Taken is the reading that the vendor's adjusted close differs from least:
by rounding only, by a convention (see below), or else by the smaller ratio; without an adjusted close, the one that
leaves the adjusted price nearer to what it was. A reading whose dividend is not below the previous close is none.

State rules, for the rows that precede a session:

- close[t-1] is the close of the last delivered row, be that row valid or refused, as long as the close is a positive
  number; an event in a refused row counts.
- A row that traded (volume > 0) without a usable close leaves the previous close unknown: no ratio can be told for the
  next row, it counts as 1 and in ``factor_gaps``. A row without trade and without close is passed over.
- A dividend not below the previous close, or without one, changes nothing and is a factor gap.

The step of the factor from one valid row to the next, over a change of the raw close from P to C, is refused (an
``event_refused``, the value is the refused step) where

- the vendor's adjusted close says another step, and more than ``CONTRADICTED`` and the rounding lie between the two: F
  follows the adjusted close, unless the adjusted price changes less by the events (then those stand, and the
  difference is listed as a ``factor_difference``);
- it, or one event of it, is beyond ``LARGEST_STEP`` or no number: F does not change;
- it makes a jump that no price made, C/P x step being beyond ``JUMP`` and beyond the square of C/P: F does not change;
- F itself would leave ``LARGEST_FACTOR``: F does not change.

What else a vendor tells is compared with the factor. A difference is listed when it is more than the vendor's rounding
explains, with u the unit of a number's last decimal:

    events beside an adjusted close A
        the change of F from one valid row i to the next one j against the change of A / close. Relative roundings:
        for each dividend D in (i, j], on the previous close P, (u(D) + u D/P) / (2P - u) / (1 - D/P);
        u(A)/2A[i], u(A)/2A[j], u/2close[i], u/2close[j]
        Some vendors reinvest the dividend at the close of its day: A changes by split + D / close. Where this
        explains the difference (P is close then, and 1 + D/P divides), and it is at most ``CONVENTION``, it is a
        ``factor_convention``, else, and for pct_chg always, a ``factor_difference``.
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
CONVENTION, CONTRADICTED = 0.01, 0.05
"""Relative differences of a step of the factor: the largest that a way of reinvesting is an explanation for, and the
largest that is stored although the vendor's adjusted close says another step."""
JUMP = 1.4
"""A change of the adjusted price, this many times up or down, that an event alone does not make."""
LARGEST_STEP, LARGEST_FACTOR = 1e4, 1e15
"""No event changes a price this many times, and no history does: these and their inverses are the limits."""


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


@dataclass(frozen=True)
class Adjusted:
    """What ``factors`` found, arrays of shape (N,).

    ``factor``: float64, finite and positive; of no meaning in a refused row. ``dividend``: float64, per share of the
    day before, 0 without one; None where the vendor tells none. ``gaps``: bool, an event that could not be told.
    ``noticed``: valid rows with such a gap, with a refused step, and whose factor is not what else the vendor tells.
    """

    factor: np.ndarray
    dividend: np.ndarray | None
    gaps: np.ndarray
    noticed: list[Noticed]


@dataclass(frozen=True)
class _Told:
    """What the events of all rows say, arrays of shape (N,).

    ``level``: cumulative factor, and ``rounding``: relative rounding of each row's part in it. ``other`` and ``slack``:
    the same, with dividends reinvested at the close of their day. ``event`` and ``known``: what the vendor tells, and
    the previous close. ``odd``: positions of events that are none, left out.
    """

    level: np.ndarray
    rounding: np.ndarray
    other: np.ndarray
    slack: np.ndarray
    event: np.ndarray
    known: np.ndarray
    odd: np.ndarray
    gaps: np.ndarray
    dividend: np.ndarray | None = None


# refused rows may hold any number; what comes of them is never looked at
@np.errstate(all="ignore")
def factors(adjustment: Adjustment, rows: Mapping[str, np.ndarray]) -> Adjusted:
    """Adjustment factors of all rows.

    Parameters
    ----------
    adjustment : which of the rules above
    rows : arrays of shape (N,), sorted by instrument and date, one row per date: ``code`` (instrument as a number),
        ``date``, ``valid`` (not refused), ``close``, ``volume`` and the columns that the rule needs; NaN: not given.
    """
    new = np.append(True, rows["code"][1:] != rows["code"][:-1])
    pairs = _Pairs.of(rows)
    told = _told(adjustment, rows, new, pairs)
    step, move = pairs.change(told.level), pairs.change(rows["close"])
    nothing = np.full(len(step), np.nan)
    says, bound, explained = nothing, nothing, np.zeros(len(step), bool)
    if adjustment == "events" and "adjusted_close" in rows:
        says, bound, explained = _by_adjusted_close(rows, pairs, told)
    taken = np.where(_within(step, LARGEST_STEP), step, 1.0)
    off = np.abs(says - taken)
    contradicted = _within(says, LARGEST_STEP) & (off - bound > CONTRADICTED * taken)
    better = contradicted & (_size(says * move) < _size(taken * move))
    taken = np.where(better, says, taken)
    jumps = (_size(taken * move) > np.log(JUMP)) & (_size(taken * move) > 2 * _size(move))
    factor, far = _in_parts(rows, new, pairs, told.level, np.where(jumps, 1.0, taken))
    lost = jumps | far | ~(better | _within(step, LARGEST_STEP))
    differs = (off > bound) & ~better & ~lost
    convention = differs & explained & (off <= CONVENTION * taken)
    noticed = _lost_events(rows, pairs, told)
    told_so = "the adjusted close changes the factor by {value:.8g}, the events by {expected:.8g}"
    for kind, mask, more in (
        ("factor_difference", differs & ~convention, "rounding explains {bound:.3g}"),
        ("factor_convention", convention, "the vendor reinvests dividends at the close of their day"),
        ("event_refused", better & ~lost, "the factor follows the adjusted close"),
    ):
        noticed.append(_noticed(kind, mask, pairs.at, says, step, bound, f"{told_so}; {more}"))
    why = "a step of the factor by {value:.4g} where the close changes by {bound:.4g} is no event's; the factor stays"
    noticed.append(_noticed("event_refused", lost, pairs.at, step, np.ones(len(step)), move, why))
    if "pct_chg" in rows:
        refused = np.concatenate([found.at for found in noticed if found.kind == "event_refused"])
        noticed.append(_against_pct_chg(rows, new, factor, refused))
    return Adjusted(factor, told.dividend, told.gaps, noticed)


@dataclass(frozen=True)
class _Pairs:
    """Positions ``at`` of the valid rows with a valid row of the same instrument before them, and ``before``, of it."""

    at: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray]) -> "_Pairs":
        at = np.flatnonzero(rows["valid"])
        same = rows["code"][at[1:]] == rows["code"][at[:-1]]
        return cls(at[1:][same], at[:-1][same])

    def change(self, values: np.ndarray) -> np.ndarray:
        return _divide(values[self.at], values[self.before])

    def around(self, row: np.ndarray) -> np.ndarray:
        """Number of the pair with ``before`` < row <= ``at``; -1 where there is none."""
        if not len(self.at):
            return np.full(len(row), -1)
        pair = np.minimum(np.searchsorted(self.at, row), len(self.at) - 1)
        return np.where((self.before[pair] < row) & (row <= self.at[pair]), pair, -1)


def _told(adjustment: Adjustment, rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: _Pairs) -> _Told:
    if adjustment == "events":
        return _events(rows, new, pairs)
    close = rows["close"]
    nothing, no = np.zeros(len(close)), np.zeros(len(close), bool)
    event, known, odd, gaps = nothing, nothing, no, no
    if adjustment == "pre_close":
        event = rows["pre_close"]
        known = previous_close(new, close, rows["volume"], np.ones(len(close)))
        given = event > 0
        ratio = np.where(given & (known > 0), _divide(known, event), 1.0)
        odd = ~_within(ratio, LARGEST_STEP) & ~new
        gaps = given & ~(known > 0) & ~new
        level = _cumulate(new, np.where(new | odd, 1.0, ratio))
    elif adjustment == "adjusted_close":
        level = _divide(rows["adjusted_close"], close)
    else:
        level = rows["factor"] if adjustment == "factor" else np.ones(len(close))
    return _Told(level, nothing, level, nothing, event, known, np.flatnonzero(odd), gaps)


def _events(rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: _Pairs) -> _Told:
    """From splits and dividends."""
    close = rows["close"]
    given = _or(rows.get("split"), 1.0, close)
    odd = (given > 0) & ~_within(given, LARGEST_STEP) & ~new
    split = np.where(_within(given, LARGEST_STEP), given, 1.0)
    known = previous_close(new, close, rows["volume"], split)
    dividend = _or(rows.get("dividend"), 0.0, close)
    paid = dividend > 0
    digit = _unit(_decimals(2, 6, dividend))
    unit = _unit(_decimals(2, 4, known))
    # a dividend that leaves next to nothing is none either
    most = known * (1 - 1 / LARGEST_STEP)
    first, second = paid & (dividend <= most), paid & (dividend * split <= most)

    def reading(after: np.ndarray) -> _Told:
        """With the dividends of ``after`` per share after a split."""
        scale = np.where(after, split, 1.0)
        amount = dividend * scale
        usable = (first | after) & ~new
        share = np.where(usable, _divide(amount, known), 0.0)
        here = np.where(paid & (close > 0), _divide(amount, close), 0.0)
        return _Told(
            level=_cumulate(new, np.where(new, 1.0, split / (1 - share))),
            rounding=np.where(usable, _divide(digit * scale + share * unit, 2 * known - unit) / (1 - share), 0.0),
            other=_cumulate(new, np.where(new, 1.0, split + here)),
            slack=np.where(here > 0, _divide(digit * scale + here * unit, 2 * close - unit) / (split + here), 0.0),
            event=np.where(odd, given, amount),
            known=known,
            odd=np.flatnonzero(odd),
            gaps=paid & ~usable & ~new,
            dividend=amount if "dividend" in rows else None,
        )

    after = second & ~first
    both = first & second & (split != 1)
    if both.any():
        earlier, later = (_off(rows, pairs, reading(mask)) for mask in (after, after | both))
        pair = pairs.around(np.flatnonzero(both))
        # between no valid rows it does not matter
        after[both] = (pair < 0) | (later <= earlier)[pair] if len(pairs.at) else True
    return reading(after)


def _off(rows: Mapping[str, np.ndarray], pairs: _Pairs, told: _Told) -> np.ndarray:
    """How badly a reading of the events fits, per pair: whatever rounding or a convention explains fits better."""
    step, move = pairs.change(told.level), pairs.change(rows["close"])
    if "adjusted_close" not in rows:
        return _size(step * move)
    says, bound, explained = _by_adjusted_close(rows, pairs, told)
    off = np.abs(says - step)
    rank = np.where(off <= bound, 0, np.where(explained & (off <= CONVENTION * step), 1, 2))
    known = _within(says, LARGEST_STEP)
    return np.where(known, 1e3 * rank + _size(says / step), _size(step * move))


def _lost_events(rows: Mapping[str, np.ndarray], pairs: _Pairs, told: _Told) -> list[Noticed]:
    """Events that could not be told, in valid rows, and events that are none, with the next valid row."""
    gap = np.flatnonzero(told.gaps & rows["valid"])
    odd, pair = told.odd, pairs.around(told.odd)
    odd, at = odd[pair >= 0], pairs.at[pair[pair >= 0]]
    nan = np.full(len(told.event), np.nan)
    return [
        Noticed(
            "factor_gap",
            gap,
            told.event[gap],
            told.known[gap],
            nan[gap],
            "the event {value:g} has no usable previous close; the factor does not change here",
        ),
        Noticed(
            "event_refused",
            at,
            told.event[odd],
            nan[odd],
            nan[odd],
            f"the event {{value:g}} changes no price by more than {LARGEST_STEP:g}; the factor does not follow it",
        ),
    ]


def _in_parts(
    rows: Mapping[str, np.ndarray], new: np.ndarray, pairs: _Pairs, level: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors that follow ``level`` from 1 on, but for pairs whose step ``taken`` is another: from there on anew.

    Also: pairs whose step would have left ``LARGEST_FACTOR``, and is 1.
    """
    at, before = pairs.at, pairs.before
    factor = _divide(level, _first_valid(new, rows["valid"], level))
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
    for pair in np.flatnonzero(~_within(factor[at], LARGEST_FACTOR)).tolist():
        if at[pair] < done:
            continue
        done = end[pair]
        for k in range(pair, int(np.searchsorted(at, done))):
            value = factor[before[k]] * taken[k]
            far[k] = not 1 / LARGEST_FACTOR <= value <= LARGEST_FACTOR
            factor[at[k]] = factor[before[k]] if far[k] else value
    return factor, far


@np.errstate(all="ignore")
def ticker_reuse(rows: Mapping[str, np.ndarray], factor: np.ndarray, position: np.ndarray) -> Noticed:
    """Valid rows that look like another company's first under a used name: see ``REUSE_GAP``.

    ``rows`` and ``factor`` as of ``factors``; ``position`` (N,): number of each row's session in the calendar.
    """
    pairs = _Pairs.of(rows)
    at, before = pairs.at, pairs.before
    price = rows["close"] * factor
    ratio = pairs.change(price)
    missing = position[at] - position[before] - 1
    found = (missing >= REUSE_GAP) & (np.maximum(ratio, _divide(np.ones(len(ratio)), ratio)) >= REUSE_JUMP)
    told = "the adjusted close goes from {expected:g} to {value:g} over {bound:.0f} sessions without a row"
    gone = missing.astype(np.float64)
    return _noticed("ticker_reuse", found, at, price[at], price[before], gone, told)


def _by_adjusted_close(
    rows: Mapping[str, np.ndarray], pairs: _Pairs, told: _Told
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how much the adjusted close changes the factor, per pair; how far rounding explains a difference from the
    events; and whether dividends reinvested at the close of their day explain it."""
    at, before = pairs.at, pairs.before
    close, adjusted = rows["close"], rows["adjusted_close"]
    says = pairs.change(_divide(adjusted, close))
    unit = _unit(_decimals(2, 4, close[at], close[before]))
    digit = _unit(_decimals(2, 8, adjusted[at], adjusted[before]))
    common = _room(_divide(digit, 2 * adjusted[at])) + _room(_divide(digit, 2 * adjusted[before]))
    common += _room(_divide(unit, 2 * close[at])) + _room(_divide(unit, 2 * close[before])) + 1e-9

    def step(level: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.append(0.0, np.cumsum(_room(rounding)))
        change = pairs.change(level)
        return change, change * np.expm1(common + total[at + 1] - total[before + 1])

    _, bound = step(told.level, told.rounding)
    elsewhere, allowed = step(told.other, told.slack)
    return says, bound, np.abs(says - elsewhere) <= allowed


def _against_pct_chg(
    rows: Mapping[str, np.ndarray], new: np.ndarray, factor: np.ndarray, refused: np.ndarray
) -> Noticed:
    """Compare the factor with the vendor's change in percent, but where an event is ``refused`` (positions)."""
    close, pct = rows["close"], rows["pct_chg"]
    known = previous_close(new, close, rows["volume"], np.ones(len(close)))
    before = np.append(np.nan, factor[:-1])
    ratio = _divide(close * factor, known * before)
    base = rows.get("pre_close", known)
    base = np.where(base > 0, base, known)
    unit = _unit(_decimals(2, 4, close, base))
    off = np.expm1(_room(_divide(unit, 2 * close)) + _room(_divide(unit, 2 * base)))
    bound = 100 * ratio * off + _unit(_decimals(2, 4, pct)) / 2 + 1e-9
    at = np.setdiff1d(np.flatnonzero(rows["valid"] & ~new), refused)
    expected = 100 * (ratio - 1)
    differs = np.abs(pct - expected)[at] > bound[at]
    told = "the vendor tells a change of {value:.6g} %, the factor {expected:.6g} %; rounding explains {bound:.3g}"
    return _noticed("factor_difference", differs, at, pct[at], expected[at], bound[at], told)


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
    through = np.cumprod(np.where(_within(split, LARGEST_STEP), split, 1.0)[::-1])[::-1]
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


def _noticed(kind: str, mask: np.ndarray, *found: np.ndarray | str) -> Noticed:
    *columns, detail = found
    at, value, expected, bound = (np.asarray(column)[mask] for column in columns)
    return Noticed(kind, at, value, expected, bound, str(detail))


def _room(rounding: np.ndarray) -> np.ndarray:
    """log 1/(1 - h) of relative roundings h: they add up. Of what is no number, the most there is."""
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
    usable = np.flatnonzero(valid)
    base[group[usable[::-1]]] = level[usable[::-1]]
    return base[group]


def _within(step: np.ndarray, limit: float) -> np.ndarray:
    return (step >= 1 / limit) & (step <= limit)


def _size(ratio: np.ndarray) -> np.ndarray:
    """Of a change: |log|, the same for twice and half."""
    return np.abs(np.log(ratio))


def _or(values: np.ndarray | None, default: float, like: np.ndarray) -> np.ndarray:
    return np.full(len(like), default) if values is None else np.where(np.isnan(values), default, values)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a / b)
