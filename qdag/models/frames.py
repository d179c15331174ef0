"""Stored features and labels as pandas frames in Qlib's layout. Nothing is computed here, and Qlib is not imported."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from qdag.errors import MissingDataError, unknown
from qdag.features.catalogue import CUSTOM, feature_sets
from qdag.schema import LABELS

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

KEYS = ("universe", "date", "instrument")

Features = Mapping[str, Sequence[str]]
"""Columns to use, by feature table."""


def stored_features(store: "TableStore", tables: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every feature column of the given tables, in stored order.

    Raises
    ------
    UnknownNameError
        A name that is no feature table.
    MissingDataError
        A feature table that was never written.
    """
    found = {}
    for table in tables:
        if table not in (known := (*feature_sets(), CUSTOM)):
            raise unknown("feature table", table, known)
        if not store.exists(table):
            raise MissingDataError(f"feature table {table!r} holds nothing yet; materialize {table} first")
        found[table] = tuple(column for column in store.columns(table) if column not in KEYS)
    return found


def feature_names(features: Features) -> list[str]:
    """Column names of the frame: those of the tables; ``table.column`` where two tables share a column name."""
    counts = Counter(column for columns in features.values() for column in columns)
    return [
        column if counts[column] == 1 else f"{table}.{column}"
        for table, columns in features.items()
        for column in columns
    ]


def feature_frame(
    store: "TableStore",
    universe: str,
    features: Features,
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None = None,
    versions: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Stored features of the days [start, end], of the given table versions (the newest where left out).

    Returns
    -------
    DataFrame of float32, shape (rows, features), index (datetime, instrument) sorted, columns as ``feature_names``.
    A row that only some of the tables hold is NaN in the others.
    """
    frames = [
        _frame(store, table, universe, columns, start, end, instruments, (versions or {}).get(table))
        for table, columns in features.items()
    ]
    frame = frames[0] if len(frames) == 1 else pd.concat(frames, axis=1, join="outer").sort_index()
    frame.columns = pd.Index(feature_names(features))
    return frame


def label_frame(
    store: "TableStore",
    universe: str,
    label: str,
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None = None,
    versions: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """One label column, float32, indexed as :func:`feature_frame`; NaN where the return is not known."""
    return _frame(store, LABELS, universe, (label,), start, end, instruments, (versions or {}).get(LABELS))


def _frame(
    store: "TableStore",
    table: str,
    universe: str,
    columns: Sequence[str],
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None,
    version: int | None,
) -> pd.DataFrame:
    rows = store.read(
        table,
        universe,
        start=start,
        end=end,
        instruments=None if instruments is None else list(instruments),
        columns=["date", "instrument", *columns],
        version=version,
    )
    # dates as numpy first: Arrow's date32 would become Python objects
    index = pd.MultiIndex.from_arrays(
        [
            pd.DatetimeIndex(rows["date"].cast(pa.timestamp("ns")).to_numpy()),
            pd.Index(rows["instrument"].to_numpy(zero_copy_only=False), dtype=object),
        ],
        names=["datetime", "instrument"],
    )
    frame = rows.select(list(columns)).to_pandas()
    frame.index = index
    return frame
