"""Rows to panels and back: dense (instruments x sessions) arrays against sorted Arrow tables; no file I/O here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.engine.panel import Panel
from qdag.errors import StoreError, unknown
from qdag.schema import TableSpec
from qdag.store.tables import TableStore

ENGINE_FIELDS = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")
RAW_COLUMNS = ("open", "high", "low", "close", "volume", "vwap", "factor", "amount")


def table_matrix(
    table: pa.Table, columns: str | Sequence[str], instruments: Sequence[str], sessions: np.ndarray
) -> dict[str, np.ndarray]:
    """Spread rows over (I, S) arrays, one per column.

    Floats keep their dtype, integers become float64; cells without a row and nulls are NaN. Rows of other instruments
    or sessions are left out. Two rows for one cell raise StoreError, a column that is not there UnknownNameError.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    for column in columns:
        if column not in table.column_names:
            raise unknown("column", column, table.column_names)
    sessions = np.asarray(sessions, "datetime64[D]")
    width = len(sessions)
    flat, kept = _cells(table, instruments, sessions)
    seen = np.zeros(len(instruments) * width, bool)
    seen[flat] = True
    if np.count_nonzero(seen) != len(flat):
        cell = int(np.flatnonzero(np.bincount(flat, minlength=len(seen)) > 1)[0])
        raise StoreError(
            f"instrument {instruments[cell // width]!r} has several rows on {sessions[cell % width]}; "
            f"a panel has one value per instrument and session, read one key at a time"
        )
    result = {}
    for column in columns:
        values = table[column]
        if not pa.types.is_floating(values.type):
            if not pa.types.is_integer(values.type):
                raise StoreError(f"column {column!r} is {values.type}; only numbers can be spread over a panel")
            values = values.cast(pa.float64())
        # nulls come out of Arrow as NaN
        array = values.to_numpy()
        matrix = np.full(len(instruments) * width, np.nan, array.dtype)
        matrix[flat] = array if kept is None else array[kept]
        result[column] = matrix.reshape(len(instruments), width)
    return result


def _cells(table: pa.Table, instruments: Sequence[str], sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Flat position of every kept row and which rows are kept (None for all)."""
    names = pc.index_in(table["instrument"].cast(pa.string()), value_set=pa.array(list(instruments), pa.string()))
    rows = pc.fill_null(names, -1).to_numpy().astype(np.int64)
    dates = table["date"].to_numpy().astype("datetime64[D]")
    positions = np.searchsorted(sessions, dates)
    known = rows >= 0
    if len(sessions):
        known &= sessions[np.minimum(positions, len(sessions) - 1)] == dates
    else:
        known[:] = False
    flat = rows * len(sessions) + positions
    return (flat, None) if known.all() else (flat[known], known)


def panel_batches(
    spec: TableSpec,
    universe: str,
    panel: Panel,
    columns: Mapping[str, np.ndarray],
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
    batch_sessions: int = 32,
) -> Iterator[pa.RecordBatch]:
    """Rows of ``spec`` in the order of date and instrument, a few sessions at a time.

    Only cells where ``panel.exists()`` and ``start <= session <= end`` become rows. ``columns`` holds every value
    column of ``spec`` as an (I, S) array; NaN becomes null.
    """
    if spec.keys != ("universe", "date", "instrument"):
        raise StoreError(f"table {spec.name!r} has keys {spec.keys}; only instrument tables are written from panels")
    if set(columns) != set(spec.values):
        missing = [c for c in spec.values if c not in columns]
        extra = [c for c in columns if c not in spec.values]
        raise StoreError(f"columns do not fit table {spec.name!r}: missing {missing}, extra {extra}")
    schema = spec.arrow()
    arrays = {}
    for name in spec.values:
        array = np.asarray(columns[name])
        if array.shape != panel.shape:
            raise StoreError(f"column {name!r} has shape {array.shape}, expected (instruments, sessions) {panel.shape}")
        wanted = schema.field(name).type.to_pandas_dtype()
        if array.dtype != wanted:
            raise StoreError(f"column {name!r} has dtype {array.dtype}, table {spec.name!r} declares {wanted.__name__}")
        arrays[name] = np.ascontiguousarray(array)
    low = 0 if start is None else int(np.searchsorted(panel.sessions, np.asarray(start, "datetime64[D]"), "left"))
    high = (
        len(panel.sessions)
        if end is None
        else int(np.searchsorted(panel.sessions, np.asarray(end, "datetime64[D]"), "right"))
    )
    order = np.argsort(np.array(panel.instruments, dtype=object), kind="stable")
    names = pa.array(list(panel.instruments), pa.string())
    exists = panel.exists()
    for begin in range(low, high, batch_sessions):
        stop = min(begin + batch_sessions, high)
        session, rank = np.nonzero(exists[order, begin:stop].T)
        if not len(session):
            continue
        row, session = order[rank], session + begin
        keys = {
            "universe": pa.repeat(pa.scalar(universe, pa.string()), len(row)),
            "date": pa.array(panel.sessions[session], pa.date32()),
            "instrument": names.take(pa.array(row)),
        }
        cells = row * panel.shape[1] + session
        values = {name: _nullable(array.ravel().take(cells)) for name, array in arrays.items()}
        yield pa.record_batch([keys.get(n, values.get(n)) for n in schema.names], schema=schema)


def _nullable(values: np.ndarray) -> pa.Array:
    # several times faster than from_pandas=True
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def panel_table(
    spec: TableSpec,
    universe: str,
    panel: Panel,
    columns: Mapping[str, np.ndarray],
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
) -> pa.Table:
    """``panel_batches`` as one table."""
    return pa.Table.from_batches(panel_batches(spec, universe, panel, columns, start, end), schema=spec.arrow())


def read_panel(
    store: TableStore,
    universe: str,
    sessions: np.ndarray,
    instruments: Sequence[str] | None = None,
    fields: Iterable[str] = ENGINE_FIELDS,
    version: int | None = None,
) -> Panel:
    """Adjusted engine fields (float32) of raw_ohlcv over the given sessions.

    Prices are raw x factor, volume is raw / factor, amount and factor are as stored; ``change`` is the close over the
    last traded close before it, minus 1, looked up before the first session too, so it does not depend on where the
    panel starts (NaN at the listing). A session without a row is NaN. By default the instruments are those with a row.

    Raises
    ------
    StoreError
        Stored rows on a date within the range that is no given session, or rows without a factor.
    """
    sessions = np.asarray(sessions, "datetime64[D]")
    fields = tuple(fields)
    for name in fields:
        if name not in ENGINE_FIELDS:
            raise unknown("field", name, ENGINE_FIELDS)
    if not len(sessions):
        return Panel(
            tuple(instruments or ()), sessions, {f: np.empty((len(instruments or ()), 0), "f4") for f in fields}
        )
    start, end = sessions[0].item(), sessions[-1].item()
    # existence comes from rows of any field, so every panel of the same rows has the same listings
    rows = store.read(
        "raw_ohlcv", universe, start, end, instruments, ["date", "instrument", *RAW_COLUMNS], version=version
    )
    stored = np.unique(rows["date"].to_numpy().astype("datetime64[D]"))
    if len(strange := np.setdiff1d(stored, sessions)):
        raise StoreError(
            f"raw_ohlcv of {universe!r} has rows on {strange[0]} ({len(strange)} such dates), which is not among the "
            f"given sessions; give every session of the calendar or correct the universe's calendar"
        )
    names = tuple(instruments) if instruments is not None else tuple(sorted(pc.unique(rows["instrument"]).to_pylist()))
    raw = table_matrix(rows, RAW_COLUMNS, names, sessions)
    close, factor = raw["close"], raw["factor"]
    if len(bad := np.argwhere(np.isnan(factor) & ~np.isnan(close))):
        row, session = bad[0]
        raise StoreError(
            f"{len(bad)} rows of raw_ohlcv have a close but no factor, first {names[row]} on {sessions[session]}; "
            f"deliver a factor (1 where nothing is adjusted)"
        )
    adjusted = {n: raw[n] * factor for n in ("open", "high", "low", "close", "vwap")}
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted |= {"volume": raw["volume"] / factor, "factor": factor, "amount": raw["amount"]}
        if "change" in fields:
            before = _close_before(store, universe, sessions[0], names, ~np.isnan(close).all(axis=1), version)
            adjusted["change"] = adjusted["close"] / _previous(adjusted["close"], before) - 1
    exists = np.zeros(close.shape, bool)
    for values in adjusted.values():
        exists |= ~np.isnan(values)
    any_row = exists.any(axis=1)
    first = np.where(any_row, exists.argmax(axis=1), len(sessions))
    last = np.where(any_row, len(sessions) - 1 - exists[:, ::-1].argmax(axis=1), -1)
    return Panel(names, sessions, {f: adjusted[f].astype(np.float32) for f in fields}, first=first, last=last)


def _previous(close: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Last valid close strictly before each cell, ``before`` (I,) standing in front of the first."""
    padded = np.concatenate([before[:, None], close[:, :-1]], axis=1)
    source = np.where(np.isnan(padded), 0, np.arange(padded.shape[1]))
    np.maximum.accumulate(source, axis=1, out=source)
    return np.take_along_axis(padded, source, axis=1)


def _close_before(
    store: TableStore,
    universe: str,
    day: np.datetime64,
    names: Sequence[str],
    wanted: np.ndarray,
    version: int | None,
) -> np.ndarray:
    """Adjusted close of the last traded session before ``day``, (I,), NaN where there is none."""
    result = np.full(len(names), np.nan)
    end: Any = (day - 1).item()
    # nearly all trade within the last month; only long suspensions and new listings need the whole past
    start: Any
    for start in ((day - 31).item(), None):
        open_rows = np.flatnonzero(wanted & np.isnan(result))
        if not len(open_rows):
            break
        asked = [names[int(i)] for i in open_rows]
        rows = store.read(
            "raw_ohlcv", universe, start, end, asked, ["date", "instrument", "close", "factor"], version=version
        )
        if not rows.num_rows:
            continue
        value = rows["close"].to_numpy() * rows["factor"].to_numpy()
        row = open_rows[pc.index_in(rows["instrument"], value_set=pa.array(asked, pa.string())).to_numpy()]
        valid = ~np.isnan(value)
        # rows are sorted by date: the last assignment to an instrument is its newest
        result[row[valid]] = value[valid]
    return result
