"""Rows of a universe: whose and of which days is checked once, then stored and computed columns come side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from qdag.core.pools import ALL, Pool
from qdag.core.windows import around, within
from qdag.desk.days import Day, span
from qdag.desk.names import Asked, Names, asked_for
from qdag.errors import MissingDataError, QdagError, SessionError, unknown
from qdag.schema import RAW_OHLCV, ROW
from qdag.store.arrow import days, text_codes
from qdag.store.joined import read_joined, side_by_side
from qdag.store.versions import check_readable

if TYPE_CHECKING:
    from qdag.assets.platform import Platform


@dataclass(frozen=True)
class Rows:
    """Which rows are asked for: days [start, end] where not None, instruments where not None, members of a pool."""

    universe: str
    start: date | None = None
    end: date | None = None
    instruments: tuple[str, ...] | None = None
    pool: Pool | None = None


def rows_asked(
    platform: "Platform",
    universe: str,
    start: Day | None = None,
    end: Day | None = None,
    instruments: str | Sequence[str] | None = None,
    pool: str | None = None,
) -> Rows:
    """What people write, checked.

    Raises
    ------
    UnknownNameError
        No such universe, instrument or pool.
    SessionError
        What is no day, or a reversed range.
    MissingDataError
        A pool that is not written yet.
    """
    platform.settings.universe(universe)
    first, last = span(start, end)
    names = None if instruments is None else (instruments,) if isinstance(instruments, str) else tuple(instruments)
    if names is not None:
        names = tuple(dict.fromkeys(names))
        _check_instruments(platform, universe, names)
    return Rows(universe, first, last, names, None if pool is None else _pool(platform, universe, pool))


def asked_columns(platform: "Platform", names: Names) -> Asked:
    """What names of features mean, see ``names``; the stored columns are those of the store's versions."""

    def columns_of(table: str) -> list[str] | None:
        if not platform.store.exists(table):
            return None
        return [name for name in platform.store.columns(table) if name not in ("universe", *ROW)]

    return asked_for(platform.settings, names, columns_of)


def features(platform: "Platform", rows: Rows, asked: Asked) -> pa.Table:
    """Stored columns and values of expressions side by side, in the order asked for."""
    found = [stored(platform, rows, asked.stored)] if asked.stored else []
    if asked.expressions:
        found.append(computed(platform, rows, asked.expressions))
    return side_by_side(found).select([*ROW, *asked.columns])


def stored(platform: "Platform", rows: Rows, columns: Mapping[str, Mapping[str, str]]) -> pa.Table:
    """Columns of stored tables as of ``read_joined``.

    Raises
    ------
    MissingDataError
        A table that is not stored, or that holds nothing on these days.
    SessionError
        No session of the exchange is among the days.
    StoreError
        A version that was vacuumed.
    """
    readable(platform, columns)
    found = read_joined(platform.store, rows.universe, columns, rows.start, rows.end, rows.instruments)
    for table in columns if not found.num_rows else ():
        if not len(within(platform.stored(table, rows.universe), rows.start, rows.end)):
            raise nothing(platform, table, rows)
    return _members(found, rows.pool)


def computed(platform: "Platform", rows: Rows, expressions: Mapping[str, str]) -> pa.Table:
    """Values of expressions; operators across instruments see the pool alone."""
    from qdag.desk.compute import computed as compute_expressions

    pinned = RAW_OHLCV.name in platform.store.pinned
    if pinned:
        readable(platform, (RAW_OHLCV.name,))
    table = compute_expressions(
        platform, rows.universe, expressions, rows.start, rows.end, rows.instruments, rows.pool, as_of=pinned
    )
    if not table.num_rows and rows.instruments is None and rows.pool is None:
        raise nothing(platform, RAW_OHLCV.name, rows)
    return _members(table, rows.pool)


def readable(platform: "Platform", tables: Iterable[str]) -> None:
    """StoreError where a version that was asked for was vacuumed."""
    for table in tables:
        if (version := platform.store.pinned.get(table)) is not None:
            check_readable(platform.store.without({}), table, version)


def nothing(platform: "Platform", table: str, rows: Rows) -> QdagError:
    """Why a table has no row of some days."""
    held = platform.stored(table, rows.universe)
    if not len(held):
        return MissingDataError(
            f"table {table!r} holds nothing of universe {rows.universe!r}; materialize {table} first"
        )
    calendar = platform.calendar(rows.universe)
    first, last = rows.start or calendar.all[0].item(), rows.end or calendar.all[-1].item()
    asked = f"from {first} to {last}" if first != last else f"on {first}"
    if not len(within(calendar.all, first, last)):
        near = " and ".join(around(calendar.all, first))
        return SessionError(f"{calendar.name} has no session {asked}; nearest: {near}")
    return MissingDataError(
        f"table {table!r} holds nothing of universe {rows.universe!r} {asked}; it holds {held[0]} to {held[-1]}: "
        f"choose among these days, or materialize {table}"
    )


def _check_instruments(platform: "Platform", universe: str, names: Sequence[str]) -> None:
    from qdag.store.qlib.reader import read_instruments

    known = set(read_instruments(platform.settings.provider(universe)))
    if set(names) <= known:
        return
    if platform.store.exists(RAW_OHLCV.name):
        import pyarrow.compute as pc

        stored = platform.store.read(RAW_OHLCV.name, universe, columns=["instrument"])
        known |= set(pc.unique(stored["instrument"]).to_pylist())
    for name in names:
        if name not in known:
            raise unknown(f"instrument of universe {universe!r}", name, known)


def _pool(platform: "Platform", universe: str, name: str) -> Pool | None:
    """A pool by name; None of the one that has every instrument."""
    from qdag.assets.inputs import written_pools

    if name == ALL:
        return None
    known = (ALL, *platform.settings.universe(universe).pools)
    if name not in known:
        raise unknown(f"pool of universe {universe!r}", name, known)
    return next(pool for pool in written_pools(platform, universe) if pool.name == name)


def _members(table: pa.Table, pool: Pool | None) -> pa.Table:
    """The rows of a pool's members of the day."""
    if pool is None or not table.num_rows:
        return table
    sessions, day = np.unique(days(table["date"]), return_inverse=True)
    codes, names = text_codes(table["instrument"])
    return table.filter(pa.array(pool.mask(names, sessions)[codes, day]))
