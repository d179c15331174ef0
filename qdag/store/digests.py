"""Digests of rows and of sessions: whether two tables hold the same values, and which sessions differ.

The algorithm, which is the same in every process and on every platform (arithmetic is modulo 2**64; ``mix`` is the
finalizer of SplitMix64; ``blake(text)`` is BLAKE2b of the UTF-8 text with 8 bytes, little endian):

    cell      null and the empty set of columns: 0
              otherwise mix(value ^ blake(column name)), where value is
              the bits of the float64 (every NaN is one NaN, -0.0 is 0.0; float32 is widened, which loses nothing),
              the two's complement of an integer, the days since 1970 of a date, blake(text) of a string
    row       mix of the sum of its cells: the order of columns has no influence, and a column that holds null
              everywhere has none either, so that a table that gains a column keeps the digests of its older rows
    session   mix of the sum of its rows: the order of rows has no influence, the number of equal rows has

Two different rows have the same digest with a probability of about 2**-64; nobody is kept from making such rows on
purpose. Reading and comparing belong here; what to do about a difference does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.schema import RAW_OHLCV
from qdag.store.arrow import days, text_codes
from qdag.store.tables import TableStore

READ_MONTHS = 3


def row_digests(rows: pa.Table, columns: Sequence[str] | None = None) -> np.ndarray:
    """Digest of each row: uint64 (N,). ``columns``: only these; by default all but ``universe``."""
    total = np.zeros(rows.num_rows, np.uint64)
    for name in rows.column_names if columns is None else columns:
        if columns is not None or name != "universe":
            total += _cells(name, rows[name])
    return mixed(total)


def digests_by_session(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Sessions of a table with a ``date`` column, increasing (datetime64[D]), and their digests (uint64)."""
    sessions, at = np.unique(days(rows["date"]), return_inverse=True)
    return sessions, _by_group(row_digests(rows), at, len(sessions))


def session_digests(
    store: TableStore, universe: str, start: date, end: date, name: str = RAW_OHLCV.name
) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the stored sessions of ``start`` to ``end``, inclusive.

    Returns the sessions that have rows, increasing (datetime64[D], shape (S,)), and their digests (uint64, (S,)). A few
    months are read at a time: memory does not grow with the range. A table that is not stored has no sessions.
    """
    found = [(np.array([], "M8[D]"), np.array([], np.uint64))]
    if store.exists(name):
        stored = store.sessions(name, universe)
        stored = stored[(stored >= np.datetime64(start, "D")) & (stored <= np.datetime64(end, "D"))]
        for first, last in month_spans(stored):
            found.append(digests_by_session(store.read(name, universe, first, last)))
    sessions, values = zip(*found, strict=True)
    return np.concatenate(sessions), np.concatenate(values)


@dataclass(frozen=True)
class Differences:
    """What separates new rows from old ones, by session and by row.

    A session is new where there was no row, changed where some row is new, changed or removed, else unchanged.
    ``first`` and ``last`` are the first and last session that are not unchanged, None where there is none.
    """

    sessions_new: int = 0
    sessions_changed: int = 0
    sessions_unchanged: int = 0
    rows_new: int = 0
    rows_changed: int = 0
    rows_removed: int = 0
    first: date | None = None
    last: date | None = None

    def __bool__(self) -> bool:
        return self.first is not None

    def __add__(self, later: "Differences") -> "Differences":
        """The differences of two parts, of which ``later`` has the later sessions."""
        return Differences(
            self.sessions_new + later.sessions_new,
            self.sessions_changed + later.sessions_changed,
            self.sessions_unchanged + later.sessions_unchanged,
            self.rows_new + later.rows_new,
            self.rows_changed + later.rows_changed,
            self.rows_removed + later.rows_removed,
            self.first or later.first,
            later.last or self.last,
        )


def differences(old: pa.Table, new: pa.Table, keys: Iterable[str]) -> Differences:
    """Compare two tables with a ``date`` column, in which ``keys`` identify a row."""
    keys = [key for key in keys if key != "universe"]
    old_days, new_days = days(old["date"]), days(new["date"])
    old_rows, new_rows = row_digests(old), row_digests(new)
    sessions, at = np.unique(np.concatenate([old_days, new_days]), return_inverse=True)
    old_at, new_at = at[: len(old_days)], at[len(old_days) :]
    count = len(sessions)
    before = np.bincount(old_at, minlength=count)
    differs = _by_group(old_rows, old_at, count) != _by_group(new_rows, new_at, count)
    differs |= (before > 0) != (np.bincount(new_at, minlength=count) > 0)
    if not differs.any():
        return Differences(sessions_unchanged=count)
    old_kept, new_kept = differs[old_at], differs[new_at]
    old_keys = row_digests(old.filter(pa.array(old_kept)), keys)
    new_keys = row_digests(new.filter(pa.array(new_kept)), keys)
    _, old_common, new_common = np.intersect1d(old_keys, new_keys, return_indices=True)
    changed = old_rows[old_kept][old_common] != new_rows[new_kept][new_common]
    where = np.flatnonzero(differs)
    fresh = int((differs & (before == 0)).sum())
    return Differences(
        sessions_new=fresh,
        sessions_changed=len(where) - fresh,
        sessions_unchanged=count - len(where),
        rows_new=len(new_keys) - len(new_common),
        rows_changed=int(changed.sum()),
        rows_removed=len(old_keys) - len(old_common),
        first=sessions[where[0]].item(),
        last=sessions[where[-1]].item(),
    )


def month_spans(sessions: np.ndarray) -> Iterator[tuple[date, date]]:
    """First and last day of parts of a few calendar months each."""
    if not len(sessions):
        return
    months = np.unique(sessions.astype("M8[M]"))
    for at in range(0, len(months), READ_MONTHS):
        part = months[at : at + READ_MONTHS]
        first = max(part[0].astype("M8[D]").item(), sessions[0].item())
        last = min((part[-1] + 1).astype("M8[D]").item() - timedelta(days=1), sessions[-1].item())
        yield first, last


def _by_group(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Digest of the rows of each group; 0 for a group without rows."""
    total = np.zeros(count, np.uint64)
    if len(values):
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        total[ordered[starts]] = mixed(np.add.reduceat(values[order], starts))
    return total


def _cells(name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    missing = column.is_null().to_numpy() if column.null_count else None
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        codes, texts = text_codes(column)
        bits = np.array([text_digest(text) for text in texts] or [0], np.uint64)[codes]
    elif pa.types.is_floating(kind):
        values = np.array(column.to_numpy(), np.float64)
        # adding a positive zero turns -0.0 into 0.0 and leaves every other number as it is
        values += 0.0
        values[np.isnan(values)] = np.nan
        bits = values.view(np.uint64)
    elif pa.types.is_date32(kind) or pa.types.is_integer(kind):
        whole = column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date32(kind) else column.cast(pa.int64())
        bits = pc.fill_null(whole, 0).to_numpy().astype(np.int64).view(np.uint64)
    elif pa.types.is_null(kind):
        return np.zeros(len(column), np.uint64)
    else:
        raise StoreError(f"column {name!r} is {kind}; digests know strings, dates, integers and floats")
    cells = mixed(bits ^ np.uint64(text_digest(name)))
    if missing is not None:
        cells[missing] = 0
    return cells


def text_digest(text: str) -> int:
    """BLAKE2b of a text, 8 bytes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def mixed(value: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64, element by element: uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
