"""The newest rows of stored tables as small frames for people."""

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.pools import ALL
from qdag.errors import MissingDataError, SessionError, UnknownNameError, unknown
from qdag.schema import BOOKKEEPING, FACTOR_METRICS, RAW_OHLCV
from qdag.settings import Settings
from qdag.store.versions import check_readable

if TYPE_CHECKING:
    import pandas as pd


def look(
    platform: Platform,
    table: str,
    universe: str,
    start: date | None,
    end: date | None,
    instruments: list[str] | None,
    columns: list[str] | None,
    rows: int,
    version: int | None = None,
) -> "pd.DataFrame":
    """The newest rows of a table between two days, as a frame; of an older version where one is given.

    Raises
    ------
    UnknownNameError
        No stage of these settings writes a table of that name, and none is stored.
    MissingDataError
        It holds nothing for the universe and the days.
    SessionError
        The days are reversed.
    StoreError
        The version never existed or was vacuumed.
    """
    store = platform.store
    if start is not None and end is not None and end < start:
        raise SessionError(f"start {start} is after end {end}; give the earlier day first")
    if not store.exists(table):
        raise _not_stored(platform.settings, table, store.names())
    if version is not None:
        check_readable(store, table, version)
    if start is None:
        sessions = store.sessions(table, universe, version)
        sessions = sessions[sessions <= np.datetime64(end)] if end else sessions
        if (
            not len(sessions)
            and table in _beside_bars(platform.settings)
            and len(platform.stored(RAW_OHLCV.name, universe))
        ):
            return store.read(table, universe, version=version).to_pandas()
        if not len(sessions):
            until = f" up to {end}" if end else ""
            raise MissingDataError(
                f"table {table!r} holds nothing for universe {universe!r}{until}{_whence(platform.settings, table)}"
            )
        start = sessions[-min(rows, len(sessions))].item()
    keys = [c for c in ("date", "instrument", "pool", "horizon", "factor") if c in store.columns(table, version)]
    wanted = list(dict.fromkeys([*keys, *columns])) if columns else None
    found = store.read(table, universe, start, end, instruments, wanted, version)
    return found.slice(max(0, found.num_rows - rows)).to_pandas()


def _beside_bars(settings: Settings) -> set[str]:
    """Tables without a row where nothing was refused or noticed."""
    return {spec.name for spec in chain(settings)[RAW_OHLCV.name].also}


def _not_stored(settings: Settings, table: str, stored: Iterable[str]) -> MissingDataError | UnknownNameError:
    """Why a table cannot be shown: it is no table at all, or nothing has been written to it yet."""
    assets = chain(settings)
    if table in assets and assets[table].table(settings) is None:
        return MissingDataError(assets[table].elsewhere)
    tables = {spec.name for asset in assets for spec in (asset.table(settings), *asset.also) if spec}
    known = {*tables, *(spec.name for spec in BOOKKEEPING), *stored}
    if table not in known:
        return unknown("table", table, known)
    return MissingDataError(f"table {table!r} holds nothing yet{_whence(settings, table)}")


def _whence(settings: Settings, table: str) -> str:
    """What brings rows into a table, for the end of a message that it has none."""
    writer = chain(settings).writer_of(table)
    return f"; materialize {writer.name if writer else RAW_OHLCV.name} first"


def best_factors(
    platform: Platform, universe: str, horizon: int, start: date | None = None, end: date | None = None, n: int = 10
) -> "pd.DataFrame":
    """The factors with the largest |mean RankIC| over the dates."""
    from qdag.factors.report import top_factors

    return top_factors(platform.store.read(FACTOR_METRICS.name, universe, start, end), horizon, n, pool=ALL)
