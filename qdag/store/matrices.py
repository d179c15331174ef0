"""Rows to arrays and back: dense (instruments x sessions) arrays against sorted Arrow tables of instruments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.engine.panel import Panel
from qdag.errors import StoreError, unknown
from qdag.schema import TableSpec
from qdag.store.arrow import days
from qdag.store.threads import map_threads

S = TypeVar("S")
T = TypeVar("T")


def table_matrix(
    table: pa.Table, columns: str | Sequence[str], instruments: Sequence[str], sessions: np.ndarray
) -> dict[str, np.ndarray]:
    """Spread rows over (I, S) arrays, one per column.

    Parameters
    ----------
    table : with ``date`` and ``instrument``; rows of other instruments or sessions are left out
    columns : numbers; floats keep their dtype, integers become float64
    instruments, sessions : rows and columns of the arrays; sessions are datetime64[D], increasing

    Cells without a row and nulls are NaN.

    Raises
    ------
    UnknownNameError
        A column that is not there.
    StoreError
        A column that is no number, or two rows for one cell.
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

    def spread(column: str) -> np.ndarray:
        values = table[column]
        if not pa.types.is_floating(values.type):
            if not pa.types.is_integer(values.type):
                raise StoreError(f"column {column!r} is {values.type}; only numbers can be spread over a panel")
            values = values.cast(pa.float64())
        # nulls come out of Arrow as NaN
        array = values.to_numpy()
        matrix = np.full(len(instruments) * width, np.nan, array.dtype)
        matrix[flat] = array if kept is None else array[kept]
        return matrix.reshape(len(instruments), width)

    return each(spread, {column: column for column in columns})


def each(function: Callable[[S], T], items: Mapping[str, S]) -> dict[str, T]:
    """The function of every item by its name, of some in threads at a time."""
    return dict(zip(items, map_threads(function, items.values()), strict=True))


def _cells(table: pa.Table, instruments: Sequence[str], sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Flat position of every kept row and which rows are kept (None for all)."""
    names = pc.index_in(table["instrument"].cast(pa.string()), value_set=pa.array(list(instruments), pa.string()))
    rows = pc.fill_null(names, -1).to_numpy().astype(np.int64)
    dates = days(table["date"])
    positions = np.searchsorted(sessions, dates)
    known = rows >= 0
    if len(sessions):
        known &= sessions[np.minimum(positions, len(sessions) - 1)] == dates
    else:
        known[:] = False
    flat = rows * len(sessions) + positions
    return (flat, None) if known.all() else (flat[known], known)


def panel_batches(
    spec: TableSpec, universe: str, panel: Panel, columns: Mapping[str, np.ndarray]
) -> Iterator[pa.RecordBatch]:
    """Rows of ``spec`` in the order of date and instrument, a month at a time.

    Only cells where ``panel.traded()`` become rows: whether a suspended instrument will trade again is not known at
    the time.

    Parameters
    ----------
    columns : every value column of ``spec`` as an (I, S) array of its dtype; NaN becomes null. Those that hold sessions
        outermost in memory, as the engine's do, are read as they lie. The batches share no memory with them

    Raises
    ------
    StoreError
        Columns of another name, shape or dtype, or a table that is not of instruments.
    """
    schema = spec.arrow()
    order = np.argsort(np.array(panel.instruments, dtype=object), kind="stable")
    sorted_already = bool((order == np.arange(len(order))).all())
    arrays = _checked_columns(spec, panel, columns)
    if not sorted_already:
        arrays = {name: array[:, order] for name, array in arrays.items()}
    names = pa.array([panel.instruments[row] for row in order.tolist()], pa.string())
    traded = np.ascontiguousarray(panel.traded()[order].T)
    width, months = len(names), panel.sessions.astype("M8[M]")
    edges = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), len(months)]
    for begin, stop in pairwise(edges):
        cells = np.flatnonzero(traded[begin:stop])
        if not len(cells):
            continue
        session, rank = np.divmod(cells, width)
        keys = {
            "universe": pa.repeat(pa.scalar(universe, pa.string()), len(cells)),
            "date": pa.array(panel.sessions[begin:stop][session], pa.date32()),
            "instrument": names.take(pa.array(rank)),
        }

        def gathered(array: np.ndarray, low: int = begin, high: int = stop, at: np.ndarray = cells) -> pa.Array:
            return _nullable(array[low:high].reshape(-1).take(at))

        values = each(gathered, arrays)
        yield pa.record_batch([keys.get(n, values.get(n)) for n in schema.names], schema=schema)


def _checked_columns(spec: TableSpec, panel: Panel, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The value columns of a table of instruments as contiguous (S, I) arrays."""
    if spec.keys != ("universe", "date", "instrument"):
        raise StoreError(f"table {spec.name!r} has keys {spec.keys}; only instrument tables are written from panels")
    if set(columns) != set(spec.values):
        missing = [c for c in spec.values if c not in columns]
        extra = [c for c in columns if c not in spec.values]
        raise StoreError(f"columns do not fit table {spec.name!r}: missing {missing}, extra {extra}")
    schema, arrays = spec.arrow(), {}
    for name in spec.values:
        array = np.asarray(columns[name])
        if array.shape != panel.shape:
            raise StoreError(f"column {name!r} has shape {array.shape}, expected (instruments, sessions) {panel.shape}")
        wanted = schema.field(name).type.to_pandas_dtype()
        if array.dtype != wanted:
            raise StoreError(f"column {name!r} has dtype {array.dtype}, table {spec.name!r} declares {wanted.__name__}")
        arrays[name] = np.ascontiguousarray(array.T)
    return arrays


def _nullable(values: np.ndarray) -> pa.Array:
    """An array that keeps the memory of the values: NaN is null."""
    missing = np.isnan(values)
    if not (count := int(np.count_nonzero(missing))):
        return pa.array(values)
    bits = np.packbits(np.logical_not(missing, out=missing), bitorder="little")
    memory = [pa.py_buffer(bits), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), memory, count)
