"""Vendors' file layouts: which column holds what, in which unit, and how symbols are spelled. No reading here."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qdag.settings import ColumnMapping
from qdag.sources.actions import Adjustment

OPTIONAL = ("amount", "factor", "adjusted_close", "split", "dividend", "pre_close")
NUMBERS = ("open", "high", "low", "close", "volume", *OPTIONAL)
# read where a file has it, and compared with the factor only
COMPARED = ("pct_chg",)
LONGEST_NAME = 64

# an instrument's name becomes a directory of the Qlib provider and a field of a tab-separated list
_PLAIN = re.compile(r"[^\s/\\.][^\s/\\]*")
_TUSHARE = re.compile(r"(\d{6})\.(SH|SZ|BJ)", re.IGNORECASE)


def plain_symbol(text: str) -> str | None:
    """The symbol itself; None where it is empty or longer than 64 characters, begins with a dot, or has white space, a
    path separator or a character that cannot be printed."""
    text = text.strip()
    fits = len(text) <= LONGEST_NAME and text.isprintable() and _PLAIN.fullmatch(text)
    return text if fits else None


def tushare_symbol(text: str) -> str | None:
    """``600018.SH`` -> ``SH600018``; None for any other spelling."""
    match = _TUSHARE.fullmatch(text.strip())
    return f"{match[2].upper()}{match[1]}" if match else None


@dataclass(frozen=True)
class Profile:
    """A layout of files.

    ``symbol`` turns a vendor's symbol, from the instrument column or else the file name without its suffix, into
    Qlib's spelling, or None where it is none.
    """

    name: str
    columns: ColumnMapping
    symbol: Callable[[str], str | None] = plain_symbol
    named_files: bool = False
    """Files are named after the one instrument they hold, an instrument column notwithstanding."""

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
    )
}


def detect(header: Iterable[str]) -> Profile | None:
    """The profile whose columns a header has, or None."""
    header = list(header)
    return next((profile for profile in PROFILES.values() if not profile.missing(header)), None)
