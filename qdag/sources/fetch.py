"""Sources on the network: what every vendor's client shares. No vendor is known here.

How the bars of an instrument come about:

1. What was fetched before is read from the cache, one Parquet file per instrument. If it reaches to the asked end,
   nothing is fetched.
2. Else the client is asked for the rows from the ``OVERLAP``-th last cached one on. Where the rows that both have are
   the same, the new ones are appended. Where they differ the vendor has changed its history, and all of it is fetched.
3. Requests keep a least distance in time. One that failed passingly (time-out, broken connection, HTTP 429 or 5xx) is
   tried again, later each time, never before the vendor's Retry-After; any other failure is final at once.
4. An instrument that fails for good becomes one quarantine row with the vendor's error; the others go on, and finished
   ones are in the cache when a run is cut off. Too many failures are an error of the source.

The cache holds settled sessions only: nothing later than the asked end is kept that may still change.
"""

import importlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from qdag.errors import SourceError, install_command
from qdag.settings import UniverseSettings, WebSource
from qdag.sources.actions import Adjustment
from qdag.sources.base import PRICES, Cleaner, Delivery, RawRows
from qdag.store.files import drop_parts, locked, replacing

OVERLAP = 5
SAME = 1e-5
"""Relative difference up to which two answers tell the same number (some vendors send 32-bit numbers)."""
SETTLED = timedelta(days=2)
"""A session this far back has closed everywhere, whatever the time zone."""
GIVE_UP_AFTER = 10
"""Failed instruments in a row: then the vendor is down or refuses us, and asking on helps nobody."""
_TELL_EVERY = 50

FETCH_REASONS = {
    "fetch_failed": "the vendor did not deliver the instrument; the row holds its error",
    "empty_answer": "the vendor answered, but knows no row of the instrument",
}
_FORMAT = 1
_KEY = b"qdag"
_log = logging.getLogger(__name__)


class Passing(Exception):
    """A request that may succeed later. ``wait``: seconds before which the vendor does not want to be asked again."""

    def __init__(self, text: str, wait: float | None = None):
        self.wait = wait
        super().__init__(text)


class Final(Exception):
    """A request that will not succeed by being repeated. ``reason`` is one of ``FETCH_REASONS``."""

    def __init__(self, text: str, reason: str = "fetch_failed"):
        self.reason = reason
        super().__init__(text)


class Client(Protocol):
    """A vendor: how it is asked, and what its answers mean.

    ``kind`` names the source, ``adjustment`` what tells the factor. Of the columns of a history, ``rebased`` ones are
    cumulative levels whose scale differs between answers; only their change from row to row means anything.
    """

    kind: str
    adjustment: Adjustment
    rebased: tuple[str, ...]

    def symbol(self, instrument: str) -> str | None:
        """The vendor's symbol of an instrument in Qlib's spelling; None where it has no such one."""

    def history(self, symbol: str, first: date, last: date) -> pa.Table:
        """Raw daily bars of [first, last] as traded, as ``history_table`` makes them; empty where there are none.

        Raises ``Passing`` or ``Final``, or lets the library's own error through (see ``judge``).
        """

    def close(self) -> None:
        """Give back connections."""


def require(module: str) -> ModuleType:
    """Import a package of the extra ``sources``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SourceError(
            f"this source needs the package {module.split('.')[0]!r} ({error}); "
            f"install it: {install_command('sources')}"
        ) from error


def history_table(
    day: Any, numbers: Mapping[str, np.ndarray], bad: np.ndarray | None = None, row: list[str] | None = None
) -> pa.Table:
    """Rows of one instrument, ordered by date.

    Parameters
    ----------
    day : datetime64[D] (N,) or what numpy makes it of
    numbers : float64 (N,) each, NaN where there is none: open, high, low, close, volume, and of amount and the events
        of ``qdag.sources.base`` what the vendor has
    bad : a cell of the row was neither empty nor a finite number
    row : the rows as delivered, where the numbers do not tell

    Raises
    ------
    Final
        A date is missing.
    """
    day = np.asarray(day, "M8[D]")
    if np.isnat(day).any():
        raise Final("the answer cannot be read: it has a row without a date")
    order = np.argsort(day, kind="stable")
    size = len(day)
    columns = {
        "date": pa.array(day, pa.date32()),
        **{name: pa.array(np.asarray(values, np.float64)) for name, values in numbers.items()},
        "bad": pa.array(np.zeros(size, bool) if bad is None else bad),
        "row": pa.nulls(size, pa.string()) if row is None else pa.array(row, pa.string()),
    }
    return pa.table(columns).take(pa.array(order))


def judge(error: Exception) -> Passing | Final:
    """Whether a failed request is worth another try, from the error of whichever library."""
    if isinstance(error, Passing | Final):
        return error
    text = f"{type(error).__name__}: {error}"
    if (status := getattr(getattr(error, "response", None), "status_code", None)) and status >= 400:
        return judge_status(status, text, getattr(error, "response", None))
    # the JSON and URL errors of requests and curl_cffi are both OSError and ValueError
    if not isinstance(error, ValueError) and isinstance(error, OSError | HTTPException):
        return Passing(text)
    odd = isinstance(error, ValueError | LookupError | TypeError | AttributeError)
    return Final(f"the answer cannot be read: {text}" if odd else text)


def judge_status(status: int, text: str, response: Any = None) -> Passing | Final:
    """The error of an HTTP status of 400 and more."""
    shown = f"HTTP {status}: {' '.join(text.split())[:300]}"
    if status == 429 or status >= 500:
        headers = getattr(response, "headers", None) or {}
        return Passing(shown, retry_after(headers.get("Retry-After")))
    return Final(shown)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it is missing or neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Throttle:
    """Called before each request: waits until ``interval`` seconds have passed since the one before."""

    def __init__(self, interval: float, sleep: Callable[[float], None] = time.sleep):
        self.interval = interval
        self._sleep = sleep
        self._next = 0.0

    def __call__(self) -> None:
        wait = self._next - time.monotonic()
        if wait > 0:
            self._sleep(wait)
        self._next = time.monotonic() + self.interval


@dataclass(frozen=True)
class History:
    """What is known of an instrument: rows from ``since`` on, complete up to ``until``."""

    table: pa.Table
    since: date
    until: date

    def covers(self, since: date, until: date) -> bool:
        return self.since <= since and self.until >= until


class Cache:
    """One Parquet file per instrument in ``<folder>/<kind>``."""

    def __init__(self, folder: Path, kind: str):
        self.kind = kind
        self.folder = folder.expanduser() / kind

    def path(self, instrument: str) -> Path:
        return self.folder / f"{quote(instrument, safe='')}.parquet"

    def read(self, instrument: str, symbol: str) -> History | None:
        """What is kept; None where there is nothing, or nothing that can be used."""
        from pyarrow.parquet import ParquetFile

        path = self.path(instrument)
        try:
            with ParquetFile(path) as file:
                table = file.read(use_threads=False)
            about = json.loads(table.schema.metadata[_KEY])
            if (about["format"], about["instrument"], about["symbol"]) != (_FORMAT, instrument, symbol):
                return None
            return History(table, date.fromisoformat(about["since"]), date.fromisoformat(about["until"]))
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            _log.warning("cached file %s cannot be read and is fetched anew: %s", path, error)
            return None

    def write(self, instrument: str, symbol: str, history: History) -> None:
        """Put a history in place of the one before, at once."""
        from pyarrow.parquet import write_table

        about = {
            "format": _FORMAT,
            "instrument": instrument,
            "symbol": symbol,
            "since": history.since.isoformat(),
            "until": history.until.isoformat(),
        }
        path = self.path(instrument)
        try:
            with replacing(path) as part:
                write_table(history.table.replace_schema_metadata({_KEY: json.dumps(about).encode()}), part)
        except OSError as error:
            raise SourceError(f"{path} cannot be written: {error}; free space or set source.cache elsewhere") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process fetches at a time: the others wait, and then find what they need."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / ".lock"))
            except OSError as error:
                raise SourceError(
                    f"cache folder {str(self.folder)!r} cannot be used: {error}; set source.cache elsewhere"
                ) from error
            drop_parts(self.folder)
            yield


def joined(known: pa.Table, part: pa.Table, rebased: tuple[str, ...]) -> pa.Table | None:
    """The rows of ``known`` followed by those of ``part``; None where they do not tell the same about the same days.

    ``part`` begins at or before the last rows of ``known``. Its rows take the place of theirs, see
    ``keep_stored_bits``: a late correction of a volume is no reason to doubt the rest, one of a price or an event is.
    """
    if known.schema.names != part.schema.names or not known.num_rows or not part.num_rows:
        return None
    old_day, new_day = (table["date"].to_numpy().astype("M8[D]") for table in (known, part))
    low = int(np.searchsorted(old_day, new_day[0]))
    high = int(np.searchsorted(new_day, old_day[-1], side="right"))
    if low == len(old_day) or not np.array_equal(old_day[low:], new_day[:high]):
        return None
    for name in known.schema.names:
        if name in (*PRICES, "split", "dividend", "pre_close", "factor"):
            old, new = known[name].to_numpy()[low:], part[name].to_numpy()[:high]
            if not np.allclose(old, new, rtol=SAME, atol=0, equal_nan=True):
                return None
    for name in rebased:
        scale = known[name].to_numpy()[-1] / part[name].to_numpy()[high - 1]
        at = part.schema.get_field_index(name)
        part = part.set_column(at, name, pa.array(part[name].to_numpy() * scale))
    return pa.concat_tables(
        [known.slice(0, low).replace_schema_metadata(None), keep_stored_bits(known, part)]
    ).combine_chunks()


def keep_stored_bits(known: pa.Table, table: pa.Table) -> pa.Table:
    """``table`` with the numbers of ``known`` where both tell the same: stored values keep their last bits.

    What is computed from 32-bit numbers differs a little after every split, and would look like a correction.
    """
    if known.schema.names != table.schema.names or not known.num_rows:
        return table
    old_day, new_day = (rows["date"].to_numpy().astype("M8[D]") for rows in (known, table))
    at = np.minimum(np.searchsorted(old_day, new_day), len(old_day) - 1)
    both = old_day[at] == new_day
    for position, column in enumerate(table.schema):
        if pa.types.is_floating(column.type):
            old, new = known[column.name].to_numpy()[at], table[column.name].to_numpy()
            same = both & np.isclose(old, new, rtol=SAME, atol=0, equal_nan=True)
            table = table.set_column(position, column.name, pa.array(np.where(same, old, new)))
    return table


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
                except Final as error:
                    counts["fetch_failed"] += 1
                    streak = streak + 1 if error.reason == "fetch_failed" else 0
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

    def _gave_up(self, failed: int, total: int, streak: int, name: str, error: Final) -> str:
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
                raise Final(f"no row from {since} to {last}", "empty_answer")
            newest = table["date"][-1].as_py() if table.num_rows else since
            # a row of the last days may come late: not having it is no knowledge
            history = History(table, since, max(min(last, settled), newest))
            self.cache.write(instrument, symbol, history)
            return history

    def _ask(self, symbol: str, first: date, last: date) -> pa.Table:
        """One request of the client, with retries; raises Final."""

        def ask() -> pa.Table:
            try:
                return self.client.history(symbol, first, last)
            except SourceError:
                raise
            except Exception as error:
                raise judge(error) from error

        try:
            table: pa.Table = self._retrying(ask)
        except Passing as error:
            asked = "" if error.wait is None else f" (asked to wait {error.wait:.0f} s)"
            raise Final(f"{error}{asked}") from error
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


def _retrying(source: WebSource, sleep: Callable[[float], None]) -> Callable[[Callable[[], pa.Table]], pa.Table]:
    """Exponential back-off with jitter; a vendor that asks for more patience than ``longest_wait`` is not asked on."""
    import tenacity

    backoff = tenacity.wait_exponential(multiplier=1, max=source.longest_wait)

    def asked(state: Any) -> float | None:
        error = state.outcome.exception()
        return error.wait if isinstance(error, Passing) else None

    def wait(state: Any) -> float:
        # up to half of it at random: clients that failed together do not come back together
        own: float = backoff(state) * (1 - random.random() / 2)
        return max(own, asked(state) or 0.0)

    retrying: Callable[[Callable[[], pa.Table]], pa.Table] = tenacity.Retrying(
        stop=lambda s: s.attempt_number > source.retries or (asked(s) or 0.0) > source.longest_wait,
        wait=wait,
        retry=tenacity.retry_if_exception_type(Passing),
        sleep=sleep,
        reraise=True,
    )
    return retrying
