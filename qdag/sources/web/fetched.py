"""A vendor on the network as a source. No vendor is known here.

How the bars of an instrument come about:

1. What was fetched before is read from the cache, one Parquet file per instrument. If it reaches to the asked end,
   nothing is fetched.
2. Else the client is asked for the rows from the ``OVERLAP``-th last cached one on. Where the rows that both have are
   the same, the new ones are appended. Where they differ the vendor has changed its history, and all of it is fetched.
3. Requests keep a least distance in time. One that failed passingly (time-out, broken connection, HTTP 429 or 5xx) is
   tried again, later each time, never before the vendor's Retry-After; any other failure is final at once.
4. An instrument that fails for good becomes one quarantine row with the vendor's error; the others go on, and finished
   ones are in the cache when a run is cut off. Too many failures are an error of the source.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.errors import SourceError
from qdag.settings import UniverseSettings, WebSource
from qdag.sources.cleaning import Cleaner
from qdag.sources.protocol import Delivery
from qdag.sources.reasons import Reason
from qdag.sources.rows import RawRows
from qdag.sources.web.cache import Cache, History, joined, keep_stored_bits
from qdag.sources.web.client import Client, PermanentError, TransientError, judge

OVERLAP = 5
"""Rows that are asked for again, to see whether the vendor still tells the same."""
SETTLED = timedelta(days=2)
"""A session this far back has closed everywhere, whatever the time zone."""
GIVE_UP_AFTER = 10
"""Failed instruments in a row: then the vendor is down or refuses us, and asking on helps nobody."""
_TELL_EVERY = 50
_log = logging.getLogger(__name__)


def _today() -> date:
    return datetime.now(UTC).date()


class Fetched:
    """A vendor as a source: its client behind cache, throttle and retries.

    Parameters
    ----------
    universe, settings : as for every source; ``settings.instruments`` are asked for
    source : times, retries and limits
    client : the vendor
    folder : of the cache
    today, sleep : for tests
    """

    def __init__(
        self,
        universe: str,
        settings: UniverseSettings,
        source: WebSource,
        client: Client,
        folder: Path,
        today: Callable[[], date] = _today,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.universe = universe
        self.settings = settings
        self.source = source
        self.client = client
        self.cache = Cache(folder, client.kind)
        self._today = today
        self._retrying = _retrying(source, sleep)

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Fetch what is lacking and deliver [start, end]; see ``Source.deliver``.

        Besides the checks of every delivery: ``fetched`` (instruments that the vendor was asked for), ``refetched``
        (of these, whose history had changed) and ``fetch_failed`` (instruments with a quarantine row).
        """
        client, source = self.client, self.source
        symbols = self._symbols()
        cleaner = Cleaner(self.universe, sessions, self.settings.start, start, end, client.adjustment)
        counts = {"fetched": 0.0, "refetched": 0.0, "fetch_failed": 0.0}
        streak = 0
        try:
            for instrument, symbol in symbols.items():
                name = f"{client.kind}:{symbol}"
                try:
                    history: History | None = self._history(instrument, symbol, end, counts)
                    streak = 0
                except PermanentError as error:
                    counts["fetch_failed"] += 1
                    streak = streak + 1 if error.reason is Reason.FETCH_FAILED else 0
                    failed = int(counts["fetch_failed"])
                    _log.warning("%s: %s", name, error)
                    too_many = failed > source.failed_share * len(symbols) or failed == len(symbols)
                    if too_many or streak == GIVE_UP_AFTER:
                        raise SourceError(self._gave_up(failed, len(symbols), streak, name, error)) from error
                    cleaner.refuse_file(name, instrument, error.reason, str(error))
                    # what was fetched before is still true
                    history = self.cache.read(instrument, symbol)
                if history is not None and history.table.num_rows:
                    self._add(cleaner, name, instrument, history.table)
        finally:
            client.close()
        delivery = cleaner.finish(len(symbols))
        return replace(delivery, checks={**delivery.checks, **counts})

    def _symbols(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for instrument in self.settings.instruments or ():
            symbol = self.client.symbol(instrument)
            if symbol is None:
                raise SourceError(
                    f"instrument {instrument!r} of universe {self.universe!r} is no instrument of source "
                    f"{self.client.kind!r}; correct the spelling or leave it out"
                )
            found[instrument] = symbol
        return found

    def _gave_up(self, failed: int, total: int, streak: int, name: str, error: PermanentError) -> str:
        if streak == GIVE_UP_AFTER:
            what = f"{streak} instruments in a row failed: the vendor cannot be reached or refuses requests"
        else:
            what = f"{failed} of {total} instruments failed"
            if failed < total:
                what += f", more than failed_share = {self.source.failed_share} of the source allows"
        return f"{what}. The last: {name}: {error}. What was fetched is kept; run again to go on"

    def _history(self, instrument: str, symbol: str, end: date, counts: dict[str, float]) -> History:
        since = self.settings.start
        known = self.cache.read(instrument, symbol)
        if known is not None and known.covers(since, end):
            return known
        with self.cache.lock():
            # another process may have been faster
            known = self.cache.read(instrument, symbol)
            if known is not None and known.covers(since, end):
                return known
            counts["fetched"] += 1
            if counts["fetched"] % _TELL_EVERY == 0:
                _log.info("%s: %d instruments asked for, now %s", self.client.kind, counts["fetched"], instrument)
            settled = self._today() - SETTLED
            last = max(end, min(settled, self.settings.end or settled))
            table = None
            if known is not None and known.since <= since and known.table.num_rows:
                first = known.table["date"][-min(OVERLAP, known.table.num_rows)].as_py()
                table = joined(known.table, self._ask(symbol, first, last), self.client.rebased)
                counts["refetched"] += table is None
            if table is None:
                since = since if known is None else min(since, known.since)
                table = self._ask(symbol, since, last)
                table = table if known is None else keep_stored_bits(known.table, table)
            else:
                since = known.since if known is not None else since
            if not table.num_rows and not (known is not None and not known.table.num_rows):
                raise PermanentError(f"no row from {since} to {last}", Reason.EMPTY_ANSWER)
            newest = table["date"][-1].as_py() if table.num_rows else since
            # a row of the last days may come late: not having it is no knowledge
            history = History(table, since, max(min(last, settled), newest))
            self.cache.write(instrument, symbol, history)
            return history

    def _ask(self, symbol: str, first: date, last: date) -> pa.Table:
        """One request of the client, with retries; raises PermanentError."""

        def ask() -> pa.Table:
            try:
                return self.client.history(symbol, first, last)
            except SourceError:
                raise
            except Exception as error:
                raise judge(error) from error

        try:
            table: pa.Table = self._retrying(ask)
        except TransientError as error:
            asked = "" if error.wait is None else f" (asked to wait {error.wait:.0f} s)"
            raise PermanentError(f"{error}{asked}") from error
        day = table["date"].to_numpy().astype("M8[D]")
        return table.filter(pa.array((day >= np.datetime64(first, "D")) & (day <= np.datetime64(last, "D"))))

    def _add(self, cleaner: Cleaner, name: str, instrument: str, table: pa.Table) -> None:
        size = table.num_rows
        columns = [c for c in table.schema.names if c not in ("date", "bad", "row")]
        numbers = {c: table[c].to_numpy() for c in columns}

        def text(line: np.ndarray) -> Iterator[str]:
            for row in table.take(pa.array(line - 1)).to_pylist():
                yield row["row"] or ",".join(f"{c}={row[c]}" for c in ("date", *columns))

        rows = RawRows(
            np.full(size, instrument, object),
            table["date"].to_numpy().astype("M8[D]"),
            np.arange(1, size + 1, dtype=np.int64),
            numbers,
            table["bad"].to_numpy().astype(bool),
        )
        cleaner.add(name, rows, text, instrument)


def cache_folder(universe: str, kind: str, folder: Path | None) -> Path:
    """The folder for what a source of a kind fetches; SourceError where there is none."""
    if folder is None:
        raise SourceError(f"source {kind!r} of universe {universe!r} needs a folder; set source.cache")
    return folder


def _retrying(source: WebSource, sleep: Callable[[float], None]) -> Callable[[Callable[[], pa.Table]], pa.Table]:
    """Exponential back-off with jitter; a vendor that asks for more patience than ``longest_wait`` is not asked on."""
    import tenacity

    backoff = tenacity.wait_exponential(multiplier=1, max=source.longest_wait)

    def asked(state: Any) -> float | None:
        error = state.outcome.exception()
        return error.wait if isinstance(error, TransientError) else None

    def wait(state: Any) -> float:
        # up to half of it at random: clients that failed together do not come back together
        own: float = backoff(state) * (1 - random.random() / 2)
        return max(own, asked(state) or 0.0)

    retrying: Callable[[Callable[[], pa.Table]], pa.Table] = tenacity.Retrying(
        stop=lambda s: s.attempt_number > source.retries or (asked(s) or 0.0) > source.longest_wait,
        wait=wait,
        retry=tenacity.retry_if_exception_type(TransientError),
        sleep=sleep,
        reraise=True,
    )
    return retrying
