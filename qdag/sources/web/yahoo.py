"""Yahoo Finance through the package yfinance.

What Yahoo's chart answers hold, and what is stored:

- Open, high, low, close are divided by every split that came later, volume is multiplied by it, up to the day of the
  asking. Stored are the numbers as traded: prices times the product of the splits after the session, volume divided by
  it and rounded to whole shares. Yahoo sends prices as 32-bit numbers: they are exact to about 1e-7 of their value.
- Dividends are divided by later splits in the same way, a split of the same day among them: F's formula compares the
  dividend with the close of the day before, in whose shares it is.
- ``Adj Close`` is adjusted for dividends as well. It is no source of the factor, which comes from the events, but
  is compared with it.
- The splits after the last stored session matter, so an answer always reaches to the present day.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.settings import UniverseSettings, YahooSource
from qdag.sources.actions import Adjustment, without_splits
from qdag.sources.reasons import Reason
from qdag.sources.web.client import PermanentError, Throttle, TransientError, history_table, judge_status, require
from qdag.sources.web.fetched import Fetched, cache_folder

_CHINA = re.compile(r"(SH|SZ|BJ)(\d{6})")
_SUFFIXES = {"SH": "SS", "SZ": "SZ", "BJ": "BJ"}
_SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9.^=-]{0,30}")
_CHART = "/v8/finance/chart/"


class Yahoo:
    """The client; see ``client.Client``."""

    kind = "yahoo"
    adjustment: Adjustment = "events"
    rebased: tuple[str, ...] = ("adjusted_close",)

    def __init__(self, source: YahooSource, folder: Path):
        self.source = source
        self.yfinance = require("yfinance")
        # time zones and cookies, which yfinance would else keep in the user's own cache folder
        self.yfinance.set_tz_cache_location(str(folder.expanduser() / self.kind / "yfinance"))
        self.session = _session(Throttle(source.interval))

    def symbol(self, instrument: str) -> str | None:
        """``SH600000`` -> ``600000.SS``, ``SZ000001`` -> ``000001.SZ``; others are the same at Yahoo, or are set."""
        symbol = self.source.symbols.get(instrument)
        if symbol is None:
            match = _CHINA.fullmatch(instrument)
            symbol = f"{match[2]}.{_SUFFIXES[match[1]]}" if match else instrument
        return symbol if _SYMBOL.fullmatch(symbol) else None

    def history(self, symbol: str, first: date, last: date) -> pa.Table:
        """Bars as traded; see ``client.Client.history``."""
        errors = require("yfinance.exceptions")
        # the calendar day after tomorrow: a session of today may already be of tomorrow's date in the far east
        end = datetime.now(UTC).date() + timedelta(days=2)
        try:
            with _errors_raised(self.yfinance):
                ticker = self.yfinance.Ticker(symbol, session=self.session)
                frame = ticker.history(
                    start=first.isoformat(),
                    end=end.isoformat(),
                    interval="1d",
                    auto_adjust=False,
                    actions=True,
                    timeout=self.source.timeout,
                )
        except errors.YFRateLimitError as error:
            raise TransientError(str(error)) from error
        except errors.YFTickerMissingError as error:
            raise PermanentError(str(error), Reason.EMPTY_ANSWER) from error
        return as_traded(frame)

    def close(self) -> None:
        """Nothing is held between requests but the session's idle connections."""


def as_traded(frame: Any) -> pa.Table:
    """Undo the split adjustment of yfinance's daily history (``auto_adjust=False``) that reaches to the present."""
    columns = {name.lower(): name for name in ("Open", "High", "Low", "Close", "Volume")}
    columns |= {"adjusted_close": "Adj Close", "split": "Stock Splits", "dividend": "Dividends"}
    numbers = {name: frame[column].to_numpy(np.float64) for name, column in columns.items()}
    for name in ("split", "dividend"):
        numbers[name] = np.where(numbers[name] == 0, np.nan, numbers[name])
    days = [stamp.date() for stamp in frame.index]
    return history_table(days, without_splits(np.array(days, "M8[D]"), numbers))


@contextmanager
def _errors_raised(yfinance: Any) -> Iterator[None]:
    """Have yfinance raise what goes wrong, which it else logs and answers with an empty frame."""
    debug = yfinance.config.debug
    before = debug.hide_exceptions
    debug.hide_exceptions = False
    try:
        yield
    finally:
        debug.hide_exceptions = before


def _session(throttle: Throttle) -> Any:
    """Session of the kind that yfinance asks for, one that takes a failed request for prices as such."""
    sessions = require("curl_cffi.requests")

    class Session(sessions.Session):  # type: ignore[name-defined]
        def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:
            throttle()
            response = super().request(method, url, *args, **options)
            # yfinance reads the body whatever the status; cookies and crumbs are its own affair
            if _CHART in url and (response.status_code == 429 or response.status_code >= 500):
                raise judge_status(response.status_code, response.text, response)
            return response

    return Session(impersonate="chrome")


def source_of(universe: str, settings: UniverseSettings, source: YahooSource, downloads: Path | None) -> Fetched:
    """See ``qdag.sources.open``."""
    folder = cache_folder(universe, source.kind, source.cache or downloads)
    return Fetched(universe, settings, source, Yahoo(source, folder), folder)
