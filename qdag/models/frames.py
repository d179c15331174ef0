"""Rows of instruments as pandas frames: stored features and labels in Qlib's layout. Nothing is computed here, and Qlib
is not imported."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from qdag.errors import MissingDataError, unknown
from qdag.features.catalogue import CUSTOM, feature_sets
from qdag.schema import LABELS, ROW
from qdag.store.arrow import days, text_codes
from qdag.store.joined import read_joined
from qdag.store.threads import map_threads

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
    names = iter(feature_names(features))
    columns = {table: {column: next(names) for column in chosen} for table, chosen in features.items()}
    return pandas_frame(read_joined(store, universe, columns, start, end, instruments, versions))


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
    columns = {LABELS: {label: label}}
    return pandas_frame(read_joined(store, universe, columns, start, end, instruments, versions))


def pandas_frame(table: pa.Table, index: tuple[str, str] = ("datetime", "instrument")) -> pd.DataFrame:
    """Rows sorted by date and instrument as a frame indexed by both; nulls of numbers are NaN.

    Parameters
    ----------
    index : names of the levels; where the instrument comes first, rows are sorted by it first, as ``D.features`` has
        them

    The levels are those of Qlib's frames: datetime64[us] and str. Columns of one floating dtype share one block.
    """
    columns = [name for name in table.column_names if name not in ROW]
    dates = days(table["date"])
    sessions, date_codes = np.unique(dates, return_inverse=True)
    codes, texts = text_codes(table["instrument"])
    order = np.argsort(np.array(texts, object), kind="stable")
    rank = np.empty(len(texts), np.int64)
    rank[order] = np.arange(len(texts))
    levels = [pd.DatetimeIndex(sessions.astype("M8[us]")), pd.Index([texts[at] for at in order], dtype="str")]
    positions = [date_codes, rank[codes] if len(texts) else codes]
    rows = None
    if index[0] == "instrument":
        rows = np.lexsort(positions)
        levels, positions = levels[::-1], [position[rows] for position in positions[::-1]]
    keys = pd.MultiIndex(levels=levels, codes=positions, names=index, verify_integrity=False)  # type: ignore[arg-type]
    types = {table.schema.field(name).type for name in columns}
    if len(types) == 1 and pa.types.is_floating(next(iter(types))):
        block = np.empty((len(columns), table.num_rows), next(iter(types)).to_pandas_dtype())

        def fill(at: int) -> None:
            # nulls come out of Arrow as NaN
            block[at] = table[columns[at]].to_numpy()

        list(map_threads(fill, range(len(columns))))
        return pd.DataFrame((block if rows is None else block[:, rows]).T, keys, pd.Index(columns), copy=False)
    frame = table.select(columns).to_pandas(date_as_object=False)
    frame = frame if rows is None else frame.iloc[rows]
    frame.index = keys
    return frame
