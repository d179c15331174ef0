"""Adjustment factors from what vendors tell about corporate actions. Arithmetic on arrays only; no files, no tables.

``events`` reads what the vendor tells, ``evidence`` weighs what else it tells, ``factors`` takes the one or the other;
``as_traded`` undoes a vendor's own adjustment before.

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

from qdag.sources.actions.as_traded import without_factor, without_splits
from qdag.sources.actions.events import Adjustment
from qdag.sources.actions.evidence import Noticed, ticker_reuse
from qdag.sources.actions.factors import Adjusted, factors

__all__ = ["Adjusted", "Adjustment", "Noticed", "factors", "ticker_reuse", "without_factor", "without_splits"]
