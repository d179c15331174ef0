"""Parquet files: columns as they are typed, checked to the last page; a damaged file is refused as a whole."""

import numpy as np
import pyarrow as pa

from qdag.sources.files.profiles import Profile
from qdag.sources.files.table import FileRefused, FileTable, check_header
from qdag.sources.reasons import Reason

# what Arrow raises on damaged bytes; a size that is no size can ask for any amount of memory
_DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError)


def _opened(data: bytes) -> "pa.parquet.ParquetFile":
    from pyarrow.parquet import ParquetFile

    try:
        if not data:
            raise FileRefused(Reason.EMPTY_FILE, "0 bytes")
        return ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except _DAMAGED as error:
        raise FileRefused(Reason.UNREADABLE, f"{error}; deliver the file again") from None


def read_header(data: bytes) -> list[str]:
    """Column names; FileRefused where the bytes are no Parquet file."""
    return list(_opened(data).schema_arrow.names)


def read(data: bytes, profile: Profile) -> FileTable:
    """The rows of a file's bytes; FileRefused where they are damaged or no table of the layout."""
    file = _opened(data)
    try:
        names = file.schema_arrow.names
        check_header(names, profile)
        if not file.metadata.num_rows:
            raise FileRefused(Reason.HEADER_WITHOUT_ROWS, ",".join(names))
        table = file.read(columns=profile.wanted(names))
        table.validate(full=True)
        if missing := profile.missing(table.column_names):
            raise FileRefused(Reason.UNREADABLE, f"columns {missing} are damaged; deliver the file again")
    except _DAMAGED as error:
        raise FileRefused(Reason.UNREADABLE, f"{error}; deliver the file again") from None

    def lines(line: np.ndarray) -> list[str]:
        cells = [[_shown(value) for value in column.take(pa.array(line - 1))] for column in table.columns]
        return [",".join(row) for row in zip(*cells, strict=True)]

    columns = {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return FileTable(columns, np.arange(1, table.num_rows + 1, dtype=np.int64), [], lines)


def _shown(value: pa.Scalar) -> str:
    """A Parquet cell as text; a value that Python has no word for (a year of 9 digits) as the number it is."""
    try:
        return "" if value.as_py() is None else str(value.as_py())
    except (ValueError, OverflowError):
        return str(value.value) if pa.types.is_temporal(value.type) else repr(value)
