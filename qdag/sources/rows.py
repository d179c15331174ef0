"""Delivered rows, typed: which columns they may have, what a valid one is, and the bars that come of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.schema import RAW_OHLCV
from qdag.sources.actions import Adjustment
from qdag.sources.reasons import ROW_REASONS, Reason

PRICES = ("open", "high", "low", "close")
"""Raw, in currency per share."""
NEEDED = (*PRICES, "volume")
"""Columns that every source delivers; volume is in shares."""
EVENTS = ("factor", "adjusted_close", "split", "dividend", "pre_close")
"""Columns that tell the adjustment factor, of which a source delivers some or none."""
NUMBERS = (*NEEDED, "amount", *EVENTS)
"""All columns that go into bars; amount is in currency."""
COMPARED = ("pct_chg",)
"""Columns that are only compared with the factor."""
LARGEST, SMALLEST_PRICE = 1e18, 1e-12
"""No price, volume or amount of an exchange is beyond these: what is computed from them, by factors as well, fits into
the 32-bit numbers of a Qlib provider."""
ROW_CODES = {reason: code for code, reason in enumerate(ROW_REASONS, start=1)}
"""Of each reason for a row: its number in ``row_reasons``."""


@dataclass(frozen=True)
class RawRows:
    """Rows of one file, typed. All arrays have the shape (N,).

    ``instrument``: object array of str, None where it is malformed. ``date``: datetime64[D], NaT where unreadable.
    ``line``: int64, 1-based line in the file. ``numbers``: float64 per column, NaN where the cell is empty: the four
    prices and volume, and where the vendor has them amount, any of ``EVENTS``, and pct_chg (which is only compared
    with). ``bad``: a cell is no finite number. ValueError where a needed column lacks, or one is none of these.
    """

    instrument: np.ndarray
    date: np.ndarray
    line: np.ndarray
    numbers: Mapping[str, np.ndarray]
    bad: np.ndarray

    def __post_init__(self) -> None:
        if missing := [name for name in NEEDED if name not in self.numbers]:
            raise ValueError(f"rows without the columns {missing}; every source delivers {list(NEEDED)}")
        if odd := [name for name in self.numbers if name not in (*NUMBERS, *COMPARED)]:
            raise ValueError(f"rows with the columns {odd}; known are {[*NUMBERS, *COMPARED]}")

    def take(self, rows: np.ndarray) -> "RawRows":
        """The rows at a mask or at positions."""
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        return RawRows(self.instrument[rows], self.date[rows], self.line[rows], numbers, self.bad[rows])


def row_reasons(rows: RawRows, sessions: np.ndarray, adjustment: Adjustment = "none") -> np.ndarray:
    """Why each row is refused: int8 (N,), 0 for a valid row, else the 1-based position in ``ROW_REASONS``.

    The first reason in that order is given. ``sessions``: datetime64[D], increasing. ``adjustment``: an empty factor
    or adjusted close is refused where that is what tells the adjustment.
    """
    number = rows.numbers
    opened, high, low, close = (number[name] for name in PRICES)
    volume = number["volume"]
    nothing = np.zeros(len(rows.line), bool)
    priced = [number[name] for name in PRICES]
    absurd = np.any([values > LARGEST for values in (*priced, volume, number.get("amount", nothing))], axis=0)
    absurd |= np.any([(values > 0) & (values < SMALLEST_PRICE) for values in priced], axis=0)
    at = np.minimum(np.searchsorted(sessions, rows.date), max(len(sessions) - 1, 0))
    session = sessions[at] == rows.date if len(sessions) else nothing
    # comparisons with NaN are False: an empty cell is judged by null_price and null_volume alone
    broken = {
        Reason.BAD_DATE: np.isnat(rows.date),
        Reason.BAD_INSTRUMENT: _nameless(rows.instrument),
        Reason.UNKNOWN_DATE: ~session,
        Reason.BAD_NUMBER: rows.bad | absurd,
        Reason.NULL_PRICE: np.isnan(opened) | np.isnan(high) | np.isnan(low) | np.isnan(close),
        Reason.NULL_VOLUME: np.isnan(volume),
        Reason.NON_POSITIVE_PRICE: (opened <= 0) | (high <= 0) | (low <= 0) | (close <= 0),
        Reason.NEGATIVE_VOLUME: (volume < 0) | (number["amount"] < 0 if "amount" in number else nothing),
        Reason.HIGH_BELOW_LOW: high < low,
        Reason.CLOSE_OUTSIDE_RANGE: (close < low) | (close > high),
        Reason.OPEN_OUTSIDE_RANGE: (opened < low) | (opened > high),
        Reason.BAD_EVENT: _bad_event(number, adjustment, nothing),
    }
    found = np.zeros(len(rows.line), np.int8)
    for reason, mask in reversed(broken.items()):
        found[mask] = ROW_CODES[reason]
    return found


def _nameless(instrument: np.ndarray) -> np.ndarray:
    return np.equal(instrument, np.array(None, object)).astype(bool)


def _bad_event(number: Mapping[str, np.ndarray], adjustment: Adjustment, nothing: np.ndarray) -> np.ndarray:
    bad = nothing.copy()
    for name in ("split", "pre_close", "adjusted_close", "factor"):
        if name in number:
            bad |= number[name] <= 0
    if "dividend" in number:
        bad |= number["dividend"] < 0
    # an empty event cell means no event, an empty level is no factor
    return bad | np.isnan(number[adjustment]) if adjustment in ("factor", "adjusted_close") else bad


def bars_table(universe: str, rows: Mapping[str, np.ndarray], ordered: bool = False) -> pa.Table:
    """Make the RAW_OHLCV table of valid rows, sorted by date and instrument.

    ``rows`` holds date, instrument, the prices, volume and factor, and where they are known amount, split and dividend
    (NaN in these: not known for amount, no event for the others). Events that the vendor does not deliver are null.
    ``ordered``: the rows are sorted already.
    """
    if not ordered:
        order = np.lexsort((rows["instrument"].astype(str), rows["date"]))
        rows = {name: values[order] for name, values in rows.items()}
    size = len(rows["date"])
    amount = rows.get("amount", np.full(size, np.nan))
    traded, incomparable = traded_average(rows)
    typical = (rows["high"] + rows["low"] + rows["close"]) / 3
    vwap = np.where(np.isnan(traded) | incomparable, typical, traded)
    split, dividend = rows.get("split"), rows.get("dividend")
    columns: dict[str, Any] = {
        "universe": pa.repeat(pa.scalar(universe, pa.string()), size),
        "date": pa.array(rows["date"], pa.date32()),
        "instrument": pa.array(rows["instrument"], pa.string()),
        **{name: rows[name] for name in (*PRICES, "volume")},
        "amount": pa.array(amount, from_pandas=True),
        "vwap": vwap,
        "factor": rows["factor"],
        "split": pa.nulls(size, pa.float64()) if split is None else np.where(np.isnan(split), 1.0, split),
        "dividend": pa.nulls(size, pa.float64()) if dividend is None else np.where(np.isnan(dividend), 0.0, dividend),
    }
    schema = RAW_OHLCV.arrow()
    return pa.Table.from_arrays(
        [pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema
    )


def traded_average(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Amount / volume, NaN where unknown, and where it lies outside [low, high] by more than 0.1 %.

    Such a bar's prices are on another scale than its amount (vendors that adjust prices but not amounts), so the
    average says nothing about the bar.
    """
    volume = rows["volume"]
    amount = rows.get("amount", np.full(len(volume), np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        traded = np.where(volume > 0, amount / volume, np.nan)
    return traded, (traded > rows["high"] * 1.001) | (traded < rows["low"] * 0.999)
