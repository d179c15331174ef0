"""Arrow columns as arrays: codes of texts, days, plain types, the order of rows. Nothing here knows a table."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def text_codes(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Each row's position in the list of distinct texts, and that list, in order of first appearance.

    Parameters
    ----------
    column : strings, large strings, or a dictionary of them

    Returns int32 (N,), -1 for null, and the texts.
    """
    if pa.types.is_dictionary(column.type):
        encoded = column.unify_dictionaries() if isinstance(column, pa.ChunkedArray) else column
    else:
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = pc.dictionary_encode(whole)
    # what is too large for one array is left in chunks, which share a dictionary
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(encoded.indices.fill_null(-1)), encoded.dictionary.to_pylist()


def days(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of dates as datetime64[D] (N,); null is NaT."""
    if not len(column):
        return np.array([], "M8[D]")
    return column.to_numpy(zero_copy_only=False).astype("M8[D]")


# -- types ------------------------------------------------------------------------------------------------------------


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """The same values' simplest type: how strings are encoded in memory is no property of a table."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    return dtype


def with_plain_types(table: pa.Table) -> pa.Table:
    """The same rows with :func:`plain_type` columns; the table itself where it has them."""
    fields = [pa.field(f.name, plain_type(f.type)) for f in table.schema]
    return table.cast(pa.schema(fields)) if any(f.type != plain_type(f.type) for f in table.schema) else table


def compact_copy(values: pa.Array) -> pa.Array:
    """The values, encoded where they are texts, without what their batch holds in memory besides."""
    return values.dictionary_encode() if pa.types.is_string(values.type) else pa.concat_arrays([values, values[:0]])


def compact_columns(batch: pa.RecordBatch, names: Iterable[str]) -> pa.Table:
    """:func:`compact_copy` of some columns of a batch."""
    return pa.table({name: compact_copy(batch.column(name)) for name in names})


# -- rows -------------------------------------------------------------------------------------------------------------


def row_codes(tables: Sequence[pa.Table]) -> np.ndarray:
    """A number for each row of the tables, one after the other: int64 (N,), the same for equal rows.

    The tables have the same columns, in the same order, without nulls.
    """
    if not tables:
        return np.zeros(0, np.int64)
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    code = np.zeros(table.num_rows, np.int64)
    for name in table.column_names:
        values = table[name] if pa.types.is_dictionary(table[name].type) else pc.dictionary_encode(table[name])
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        # ranks of what came before keep the code below rows x values: no overflow whatever the number of columns
        code = np.unique(code, return_inverse=True)[1] if code.max(initial=0) > 1 << 31 else code
        code = code * max(len(values.dictionary), 1) + values.indices.to_numpy()
    return code


def twins(tables: Sequence[pa.Table]) -> np.ndarray:
    """Which rows of the tables, one after the other, another one equals: bool (N,). Tables as of :func:`row_codes`."""
    codes = row_codes(tables)
    order = np.sort(codes)
    return np.isin(codes, order[1:][order[1:] == order[:-1]])


def ascends(table: pa.Table, names: Sequence[str]) -> bool:
    """Whether rows ascend by some columns without nulls: comparing neighbours costs a tenth of sorting."""
    above = np.zeros(max(table.num_rows - 1, 0), bool)
    for name in names:
        here, following = table[name].slice(0, len(above)), table[name].slice(1)
        if np.any(~above & pc.greater(here, following).to_numpy()):
            return False
        above |= pc.less(here, following).to_numpy()
        if above.all():
            break
    return True
