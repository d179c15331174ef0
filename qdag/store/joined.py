"""Columns of several tables of instruments side by side: one set of keys, no value copied where the rows agree."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from qdag.schema import ROW
from qdag.store.arrow import days, text_codes
from qdag.store.tables import TableStore


def read_joined(
    store: TableStore,
    universe: str,
    columns: Mapping[str, Mapping[str, str]],
    start: date | None = None,
    end: date | None = None,
    instruments: Sequence[str] | None = None,
    versions: Mapping[str, int] | None = None,
) -> pa.Table:
    """Columns of the days [start, end] from several tables, as of given versions (the newest where left out).

    Parameters
    ----------
    columns : by table, the stored columns and what each is called in the result

    Returns
    -------
    Table of date, instrument (sorted by both) and the columns in the order asked for; null where a table lacks a row
    that another one has. Errors are those of ``TableStore.read``.
    """
    read = []
    for table, chosen in columns.items():
        version = (versions or {}).get(table)
        rows = store.read(table, universe, start, end, instruments, [*ROW, *chosen], version)
        read.append(rows.rename_columns([*ROW, *chosen.values()]))
    return side_by_side(read)


def side_by_side(tables: Sequence[pa.Table]) -> pa.Table:
    """Join tables of date and instrument, each sorted by both, on the rows of any of them: null where one has none.

    At least one table; their columns besides the keys have different names.
    """
    first, *others = tables
    if all(t["date"].equals(first["date"]) and t["instrument"].equals(first["instrument"]) for t in others):
        keys = {name: first[name] for name in ROW}
        return pa.table(keys | {name: column for t in tables for name, column in _values(t).items()})
    coded = [text_codes(t["instrument"]) for t in tables]
    names = sorted({name for _, texts in coded for name in texts})
    rank = {name: at for at, name in enumerate(names)}
    codes = []
    for table, (rows, texts) in zip(tables, coded, strict=True):
        ranks = np.array([rank[text] for text in texts], np.int64)
        codes.append(days(table["date"]).astype(np.int64) * len(names) + (ranks[rows] if len(rows) else 0))
    wanted = np.unique(np.concatenate(codes))
    joined = {
        "date": pa.array((wanted // max(len(names), 1)).astype("M8[D]"), pa.date32()),
        "instrument": pa.array(names, pa.string()).take(pa.array(wanted % max(len(names), 1))),
    }
    for table, code in zip(tables, codes, strict=True):
        at = np.searchsorted(code, wanted)
        found = at < len(code)
        found[found] = code[at[found]] == wanted[found]
        rows = pa.array(at, pa.int64(), mask=~found)
        joined |= {name: column.take(rows) for name, column in _values(table).items()}
    return pa.table(joined)


def _values(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names if name not in ROW}
