"""China A shares through the package akshare: bars of Eastmoney, adjustment factors of Sina.

- ``stock_zh_a_hist`` with ``adjust=""`` gives prices as traded, volume in lots of 100 shares, and amount in yuan.
- Its change columns compare with the close of the day before as traded, also on ex-dates, so they tell no event. Its
  adjusted prices are shifted by dividends rather than scaled, and become negative in the far past: their ratio to the
  raw ones is no factor. Sina's ``hfq`` table is one: a cumulative factor per ex-date, 1 at the listing.
- Sina's table is read here and not with akshare's own function, which evaluates the answer as Python code.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.settings import AkshareSource, UniverseSettings
from qdag.sources.actions import Adjustment
from qdag.sources.web.client import PermanentError, Throttle, history_table, judge_status, require
from qdag.sources.web.fetched import Fetched, cache_folder

LOT = 100
"""Shares in Eastmoney's unit of volume."""
_INSTRUMENT = re.compile(r"(SH|SZ|BJ)\d{6}")
_COLUMNS = {"开盘": "open", "最高": "high", "最低": "low", "收盘": "close", "成交量": "volume", "成交额": "amount"}
_swapping = threading.Lock()


class Akshare:
    """The client; see ``client.Client``."""

    kind = "akshare"
    adjustment: Adjustment = "factor"
    rebased: tuple[str, ...] = ()

    def __init__(self, source: AkshareSource):
        self.source = source
        self.bars = require("akshare.stock_feature.stock_hist_em")
        self.session = _session(Throttle(source.interval), source.timeout)

    def symbol(self, instrument: str) -> str | None:
        """``SH600000`` -> ``sh600000``."""
        return instrument.lower() if _INSTRUMENT.fullmatch(instrument) else None

    def history(self, symbol: str, first: date, last: date) -> pa.Table:
        """Bars as traded with the cumulative factor; see ``client.Client.history``."""
        with _requests_of(self.bars, self.session):
            frame = self.bars.stock_zh_a_hist(
                symbol=symbol[2:],
                period="daily",
                start_date=f"{first:%Y%m%d}",
                end_date=f"{last:%Y%m%d}",
                adjust="",
                timeout=self.source.timeout,
            )
        if frame.empty:
            return history_table([], {name: np.array([]) for name in (*_COLUMNS.values(), "factor")})
        numbers = {name: frame[column].to_numpy(np.float64) for column, name in _COLUMNS.items()}
        numbers["volume"] = numbers["volume"] * LOT
        day = np.array(frame["日期"].to_list(), "M8[D]")
        numbers["factor"] = self._factor(symbol, day)
        return history_table(day, numbers)

    def _factor(self, symbol: str, day: np.ndarray) -> np.ndarray:
        """Sina's cumulative factor of each day; NaN before its first entry."""
        cons = require("akshare.stock.cons")
        text = self.session.get(cons.zh_sina_a_stock_hfq_url.format(symbol)).text
        # var sh600000hfq={"total":2,"data":[{"d":"2023-07-21","f":"1.5"},...]} and a comment
        begin = text.find("{")
        if begin < 0:
            raise PermanentError(f"Sina's factor table of {symbol!r} cannot be read: {text[:200]!r}")
        entries = json.JSONDecoder().raw_decode(text[begin:])[0]["data"]
        if not entries:
            raise PermanentError(f"Sina has no factor of {symbol!r}")
        since = np.array([entry["d"] for entry in entries], "M8[D]")
        factor = np.array([entry["f"] for entry in entries], np.float64)
        order = np.argsort(since)
        at = np.searchsorted(since[order], day, side="right") - 1
        return np.where(at >= 0, factor[order][at], np.nan)

    def close(self) -> None:
        """Close idle connections."""
        self.session.close()


@contextmanager
def _requests_of(module: Any, session: Any) -> Iterator[None]:
    """Have one of akshare's modules ask through our session: its functions take none, and look at no HTTP status."""
    with _swapping:
        before = module.requests
        module.requests = session
        try:
            yield
        finally:
            module.requests = before


def _session(throttle: Throttle, timeout: float) -> Any:
    """A session that keeps its distance, always has a time limit, and takes a failed request as such."""
    import requests

    class Session(requests.Session):
        def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
            throttle()
            response = super().request(method, url, *args, **{**options, "timeout": timeout})
            if response.status_code >= 400:
                raise judge_status(response.status_code, response.text, response)
            return response

    return Session()


def source_of(universe: str, settings: UniverseSettings, source: AkshareSource, downloads: Path | None) -> Fetched:
    """See ``qdag.sources.open``."""
    folder = cache_folder(universe, source.kind, source.cache or downloads)
    return Fetched(universe, settings, source, Akshare(source), folder)
