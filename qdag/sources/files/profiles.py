"""Vendors' file layouts: which column holds what, in which unit, how symbols and files are named. No reading here."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from qdag.settings import SYMBOL_PATTERN, ColumnMapping
from qdag.sources.actions import Adjustment, without_factor, without_splits
from qdag.sources.rows import COMPARED, NUMBERS

_TUSHARE = re.compile(r"(\d{6})\.(SH|SZ|BJ)", re.IGNORECASE)
_STOOQ = re.compile(r"([^_]+)(?:_[a-z]{2})?_[dwm]", re.IGNORECASE)


def plain_symbol(text: str) -> str | None:
    """The symbol itself; None where it does not match ``SYMBOL_PATTERN``: an instrument's name becomes a folder, a
    field of a tab-separated list, a cell of other people's tables, and part of messages."""
    text = text.strip()
    return text if re.fullmatch(SYMBOL_PATTERN, text) else None


def plain_name(text: str) -> str:
    """A name for what is none, to be stored and shown: each unfit character replaced by an underscore."""
    return re.sub(r"[^A-Za-z0-9.^=_-]", "_", text)[:64] or "_"


def tushare_symbol(text: str) -> str | None:
    """``600018.SH`` -> ``SH600018``; None for any other spelling."""
    match = _TUSHARE.fullmatch(text.strip())
    return f"{match[2].upper()}{match[1]}" if match else None


def stooq_symbol(text: str) -> str | None:
    """``aapl_us_d`` -> ``AAPL``: as stooq.com names its files; any other symbol in capitals."""
    match = _STOOQ.fullmatch(text.strip())
    return plain_symbol((match[1] if match else text).upper())


def name_regex(form: str) -> re.Pattern[str]:
    """What the names of files match, with a group ``instrument``: ``{instrument}`` stands for a symbol, ``{date}`` for
    a day as 2021-04-21, 2021_04_21, 2021.04.21 or 20210421."""
    parts = re.split(r"(\{instrument\}|\{date\})", form)
    groups = {"{instrument}": "(?P<instrument>.+?)", "{date}": r"\d{4}[-_.]?\d\d[-_.]?\d\d"}
    return re.compile("".join(groups.get(part) or re.escape(part) for part in parts))


Numbers = dict[str, np.ndarray]
"""Columns of numbers by name, float64 (N,) each."""


def _as_they_are(days: np.ndarray, numbers: Numbers) -> Numbers:
    return numbers


def _split_adjusted(days: np.ndarray, numbers: Numbers) -> Numbers:
    """Yahoo writes 0 where there is no event."""
    given = {name: np.where(numbers[name] == 0, np.nan, numbers[name]) for name in ("split", "dividend")}
    return without_splits(days, {**numbers, **given})


def _adjusted(days: np.ndarray, numbers: Numbers) -> Numbers:
    return without_factor(numbers)


@dataclass(frozen=True)
class Profile:
    """A layout of files.

    ``symbol`` turns a vendor's symbol, from the instrument column or else the file name without its suffix, into
    Qlib's spelling, or None where it is none. ``as_traded`` turns the numbers of a file, by field, with the days of its
    rows (datetime64[D] (N,)), into those as traded. ``exact``: the header has these columns and no others.
    """

    name: str
    columns: ColumnMapping
    symbol: Callable[[str], str | None] = plain_symbol
    named_files: bool = False
    """Files are named after the one instrument they hold, an instrument column notwithstanding."""
    as_traded: Callable[[np.ndarray, Numbers], Numbers] = _as_they_are
    exact: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that a file must have."""
        names = (self.columns.date, self.columns.instrument, *(getattr(self.columns, name) for name in NUMBERS))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def wanted(self, header: Iterable[str]) -> list[str]:
        """Columns to read of a file that has all required ones."""
        have = set(header)
        compared = [getattr(self.columns, name) for name in COMPARED]
        return list(dict.fromkeys([*self.required, *(name for name in compared if name in have)]))

    @property
    def adjustment(self) -> Adjustment:
        """What tells the factor; where a vendor gives several: its factor, then events, then an adjusted close."""
        given = self.columns
        if given.factor:
            return "factor"
        if given.split or given.dividend:
            return "events"
        if given.adjusted_close:
            return "adjusted_close"
        return "pre_close" if given.pre_close else "none"

    def missing(self, header: Iterable[str]) -> list[str]:
        """Required columns that a header lacks."""
        have = set(header)
        return [name for name in self.required if name not in have]


_YAHOO = {name.lower(): name for name in ("Date", "Open", "High", "Low", "Close", "Volume")}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "alphavantage",
            ColumnMapping(
                date="timestamp",
                open="open",
                high="high",
                low="low",
                close="close",
                volume="volume",
                adjusted_close="adjusted_close",
                split="split_coefficient",
                dividend="dividend_amount",
            ),
        ),
        Profile(
            "tushare",
            ColumnMapping(
                date="trade_date",
                instrument="ts_code",
                open="open",
                high="high",
                low="low",
                close="close",
                volume="vol",
                amount="amount",
                pre_close="pre_close",
                pct_chg="pct_chg",
                date_format="%Y%m%d",
                volume_unit=100,
                amount_unit=1000,
            ),
            symbol=tushare_symbol,
            named_files=True,
        ),
        Profile(
            "yahoo",
            ColumnMapping(**_YAHOO, adjusted_close="Adj Close", split="Stock Splits", dividend="Dividends"),
            as_traded=_split_adjusted,
        ),
        # prices stay adjusted for splits: nothing tells them
        Profile("yahoo_prices", ColumnMapping(**_YAHOO, adjusted_close="Adj Close")),
        Profile("stooq", ColumnMapping(**_YAHOO), symbol=stooq_symbol, exact=True),
        Profile(
            "qlib",
            ColumnMapping(
                date="date",
                instrument="symbol",
                open="open",
                high="high",
                low="low",
                close="close",
                volume="volume",
                factor="factor",
            ),
            as_traded=_adjusted,
        ),
    )
}
"""The known layouts by name, in the order in which they are tried on a header."""


def detect(header: Iterable[str]) -> Profile | None:
    """The profile whose columns a header has, or None."""
    header = list(header)
    fitting = (profile for profile in PROFILES.values() if not profile.missing(header))
    return next((p for p in fitting if not p.exact or set(header) == set(p.required)), None)
