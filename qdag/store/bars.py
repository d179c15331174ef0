"""Raw bars to adjusted panels: the engine's fields of raw_ohlcv, and what ``change`` looks back and ahead to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.engine.panel import Panel
from qdag.errors import StoreError, unknown
from qdag.schema import ENGINE_FIELDS, RAW_OHLCV
from qdag.store.arrow import days
from qdag.store.matrices import each, table_matrix
from qdag.store.tables import TableStore
from qdag.store.threads import prefetch

RAW_COLUMNS = ("open", "high", "low", "close", "volume", "vwap", "factor", "amount")
"""Columns of raw_ohlcv that the engine's fields are computed from."""
CHUNK_ROWS = 1 << 18
"""Rows read at a time, about: some 300 MiB of work. More of them gain nothing."""
CHUNK_SESSIONS = 21
"""Fewest sessions read at a time: parts of a month would have its files opened again and again."""
REACHES = (31, 366, None)
"""Days to look back for a last close, or ahead for a next one: nearly all instruments trade within the first reach."""


def read_panel(
    store: TableStore,
    universe: str,
    sessions: np.ndarray,
    instruments: Sequence[str] | None = None,
    fields: Iterable[str] = ENGINE_FIELDS,
    version: int | None = None,
) -> Panel:
    """Adjusted engine fields (float32) of raw_ohlcv over the given sessions.

    Parameters
    ----------
    sessions : datetime64[D], increasing: every session of the calendar in their range
    instruments : in this order; by default those with a row, sorted
    fields : of ``ENGINE_FIELDS``
    version : of raw_ohlcv; None is the newest

    Notes
    -----
    Prices are raw x factor, volume is raw / factor, amount and factor are as stored; ``change`` is the close over the
    last traded close before it, minus 1, looked up before the first session too, so it does not depend on where the
    panel starts (NaN at the listing). A session without a row is NaN.

    Raises
    ------
    UnknownNameError
        A field that the engine does not have.
    StoreError
        Stored rows on a date within the range that is no given session, or rows without a factor.
    """
    sessions = np.asarray(sessions, "datetime64[D]")
    if not len(sessions):
        fields = _known_fields(fields)
        names = tuple(instruments or ())
        return Panel(names, sessions, {f: np.empty((len(names), 0), "f4") for f in fields})
    (panel,) = read_panels(store, universe, sessions, len(sessions), instruments, fields, version)
    return panel


def read_panels(
    store: TableStore,
    universe: str,
    sessions: np.ndarray,
    chunk_sessions: int | None = None,
    instruments: Sequence[str] | None = None,
    fields: Iterable[str] = ENGINE_FIELDS,
    version: int | None = None,
) -> Iterator[Panel]:
    """``read_panel`` some sessions at a time (None: about ``CHUNK_ROWS`` rows): the same values, in memory that does
    not grow with the history.

    Each panel has the instruments with a row in its own sessions, sorted, or the given ones. All are read from one
    version of the table. Parameters and errors are those of ``read_panel``.
    """
    sessions = np.asarray(sessions, "datetime64[D]")
    fields = _known_fields(fields)
    if chunk_sessions is not None and chunk_sessions < 1:
        raise StoreError(f"chunk_sessions must be at least 1, got {chunk_sessions}")
    version = store.version(RAW_OHLCV.name) if version is None else version
    chunk_sessions = chunk_sessions or _chunk_sessions(store, universe, sessions, version)
    closes: dict[str, float] = {}
    chunks = [sessions[low : low + chunk_sessions] for low in range(0, len(sessions), chunk_sessions)]
    raws = prefetch((_raw(store, universe, chunk, instruments, version) for chunk in chunks), 1)
    for chunk, (names, raw) in zip(chunks, raws, strict=True):
        traded = ~np.isnan(raw["close"])
        if "change" in fields:
            listed = traded.any(axis=1)
            asked = [n for n, now in zip(names, listed, strict=True) if now and n not in closes]
            closes |= closes_before(store, universe, sessions[0], asked, version)
            raw["before"] = np.array([closes.get(n, np.nan) for n in names])
        adjusted = _adjusted(raw)
        if "change" in fields:
            last = traded.shape[1] - 1 - traded[:, ::-1].argmax(axis=1)
            rows = np.flatnonzero(listed)
            closes |= zip([names[i] for i in rows], adjusted["close"][rows, last[rows]].tolist(), strict=True)
        # existence comes from all fields, so every panel of the same rows has the same listings
        empty = each(np.isnan, {name: values for name, values in adjusted.items() if name != "change"})
        exists = ~np.logical_and.reduce(list(empty.values()))
        any_row = exists.any(axis=1)
        first = np.where(any_row, exists.argmax(axis=1), len(chunk))
        last = np.where(any_row, len(chunk) - 1 - exists[:, ::-1].argmax(axis=1), -1)
        arrays = each(_float32, {name: adjusted[name] for name in fields})
        yield Panel(names, chunk, arrays, first=first, last=last)


def _chunk_sessions(store: TableStore, universe: str, sessions: np.ndarray, version: int | None) -> int:
    if len(sessions) <= CHUNK_SESSIONS:
        return CHUNK_SESSIONS
    files = store.files(RAW_OHLCV.name, version)
    days = (pc.field("last") >= sessions[0].item()) & (pc.field("first") <= sessions[-1].item())
    rows = pc.sum(files.filter((pc.field("universe") == universe) & days)["rows"]).as_py() or 0
    return max(CHUNK_SESSIONS, CHUNK_ROWS * len(sessions) // max(rows, 1))


def _float32(values: np.ndarray) -> np.ndarray:
    # a value too large for float32 becomes infinite, as it does for any reader of float32 files
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _known_fields(fields: Iterable[str]) -> tuple[str, ...]:
    fields = tuple(fields)
    for name in fields:
        if name not in ENGINE_FIELDS:
            raise unknown("field", name, ENGINE_FIELDS)
    return fields


def _raw(
    store: TableStore, universe: str, sessions: np.ndarray, instruments: Sequence[str] | None, version: int | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Raw columns (I, S), float64, and their instruments."""
    start, end = sessions[0].item(), sessions[-1].item()
    rows = store.read(
        RAW_OHLCV.name, universe, start, end, instruments, ["date", "instrument", *RAW_COLUMNS], version=version
    )
    stored = np.unique(days(rows["date"]))
    if len(strange := np.setdiff1d(stored, sessions)):
        raise StoreError(
            f"raw_ohlcv of {universe!r} has rows on {strange[0]} ({len(strange)} such dates), which is not among the "
            f"given sessions; give every session of the calendar or correct the universe's calendar"
        )
    names = tuple(instruments) if instruments is not None else tuple(sorted(pc.unique(rows["instrument"]).to_pylist()))
    raw = table_matrix(rows, RAW_COLUMNS, names, sessions)
    if len(bad := np.argwhere(np.isnan(raw["factor"]) & ~np.isnan(raw["close"]))):
        row, session = bad[0]
        raise StoreError(
            f"{len(bad)} rows of raw_ohlcv have a close but no factor, first {names[row]} on {sessions[session]}; "
            f"deliver a factor (1 where nothing is adjusted)"
        )
    return names, raw


def _adjusted(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Engine fields of raw columns, float64; ``change`` where ``before`` (I,), the last close before them, is given."""

    def adjusted(name: str) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if name in ("factor", "amount"):
                return raw[name]
            if name == "volume":
                return raw[name] / raw["factor"]
            if name == "change":
                close = raw["close"] * raw["factor"]
                return close / _previous(close, raw["before"]) - 1
            return raw[name] * raw["factor"]

    # the longest first
    names = [*(["change"] if "before" in raw else []), *RAW_COLUMNS]
    return each(adjusted, {name: name for name in names})


def _previous(close: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Last valid close strictly before each cell, ``before`` (I,) standing in front of the first."""
    padded = np.concatenate([before[:, None], close[:, :-1]], axis=1)
    source = np.where(np.isnan(padded), 0, np.arange(padded.shape[1]))
    np.maximum.accumulate(source, axis=1, out=source)
    return np.take_along_axis(padded, source, axis=1)


def closes_before(
    store: TableStore, universe: str, day: np.datetime64, names: Sequence[str], version: int | None
) -> dict[str, float]:
    """Adjusted close (price x factor) of the last traded session before ``day`` of each of some instruments that has
    one."""
    found: dict[str, float] = {}
    for reach in REACHES:
        asked = [n for n in names if n not in found]
        if not asked:
            break
        start = None if reach is None else _day(day - reach)
        rows = store.read(
            RAW_OHLCV.name,
            universe,
            start,
            _day(day - 1),
            asked,
            ["date", "instrument", "close", "factor"],
            version=version,
        )
        value = rows["close"].to_numpy() * rows["factor"].to_numpy()
        valid = ~np.isnan(value)
        # rows are sorted by date: the last assignment to an instrument is its newest
        found |= zip(rows["instrument"].filter(pa.array(valid)).to_pylist(), value[valid].tolist(), strict=True)
    return found


def change_reach(
    store: TableStore,
    universe: str,
    listed: Mapping[str, tuple[np.datetime64, np.datetime64]],
    start: np.datetime64,
    end: np.datetime64,
    version: int | None = None,
) -> np.datetime64:
    """Last session whose ``change`` depends on rows of [start, end]: ``end``, or a later one.

    ``change`` looks back to the last traded close, so a row reaches to its instrument's next one. ``listed``: first and
    last session of the instruments whose later rows matter.
    """
    later = {name: first for name, (first, last) in listed.items() if last > end}
    until: Any = max((listed[name][1] for name in later), default=end)
    known = [name for name, first in later.items() if first <= end]
    if len(known) < len(later):
        # listed after the range as far as was known; rows of theirs in it are new
        unknown_yet = [name for name, first in later.items() if first > end]
        rows = store.read(
            RAW_OHLCV.name, universe, _day(start), _day(end), unknown_yet, ["date", "instrument"], version=version
        )
        known += pc.unique(rows["instrument"]).to_pylist()
    found: dict[str, np.datetime64] = {}
    for reach in REACHES:
        stop = until if reach is None else min(until, end + np.timedelta64(reach, "D"))
        asked = [name for name in known if name not in found]
        if not asked:
            break
        rows = store.read(
            RAW_OHLCV.name, universe, _day(end + 1), _day(stop), asked, ["date", "instrument"], version=version
        )
        dates = days(rows["date"])
        # sorted by date: in reverse the last assignment to an instrument is its first session
        found |= zip(rows["instrument"].to_pylist()[::-1], dates[::-1], strict=True)
        if stop == until:
            break
    return max(found.values(), default=end)


def _day(day: Any) -> date:
    return day.astype("datetime64[D]").item()
