"""Rows of a version: sorted by date, of a universe and a range of days; sessions and counts without reading all."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError, UnknownNameError, unknown
from qdag.store.arrow import ascends, days, plain_type, with_plain_types
from qdag.store.tables.columns import LAYOUT, column_names, key_names
from qdag.store.tables.commit import added_files
from qdag.store.tables.conflicts import LostFile
from qdag.store.tables.damage import DAMAGED, checked_pages, naming_damage, unreadable
from qdag.store.tables.location import Location, plain_name
from qdag.store.tables.place import as_day
from qdag.store.tables.write import month_of
from qdag.store.threads import map_threads

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from deltalake import DeltaTable
    from pyarrow.fs import FileSystem

Result = TypeVar("Result")

COLUMN_MONTHS = 64
"""So many columns times months are read and sorted as one part: few calls for narrow tables, little memory for wide."""


def read(
    location: Location,
    name: str,
    universe: str,
    start: date | None,
    end: date | None,
    instruments: Iterable[str] | None,
    columns: Sequence[str] | None,
    version: int | None,
    match: tuple[str, str] | None,
) -> pa.Table:
    """Rows as of ``TableStore.read``."""
    table = location.table(name, version)
    chosen = None if instruments is None else instruments if isinstance(instruments, str) else tuple(instruments)
    wanted = None if columns is None else tuple(columns)
    question = ("read", universe, start, end, chosen, wanted, match)
    return location.remembered(
        name, table, question, lambda: _read(location, name, table, universe, start, end, chosen, wanted, match)
    )


def each(
    location: Location,
    name: str,
    universe: str,
    start: date | None,
    end: date | None,
    columns: Sequence[str],
    version: int | None,
    then: Callable[[pa.Table], Result],
) -> Iterator[Result]:
    """What ``then`` gives as of ``TableStore.each``."""
    table = location.table(name, version)
    yield from _each(location, name, table, universe, start, end, None, columns, None, then)


def _read(
    location: Location,
    name: str,
    table: "DeltaTable",
    universe: str,
    start: date | None,
    end: date | None,
    instruments: tuple[str, ...] | str | None,
    columns: tuple[str, ...] | None,
    match: tuple[str, str] | None,
) -> pa.Table:
    wanted = column_names(table) if columns is None else columns
    parts = list(_each(location, name, table, universe, start, end, instruments, wanted, match, lambda part: part))
    return pa.concat_tables(parts).replace_schema_metadata(None)


def _each(
    location: Location,
    name: str,
    table: "DeltaTable",
    universe: str,
    start: date | None,
    end: date | None,
    instruments: tuple[str, ...] | str | None,
    wanted: Sequence[str],
    match: tuple[str, str] | None,
    then: Callable[[pa.Table], Result],
) -> Iterator[Result]:
    """Of every part, sorted and at least one, what ``then`` gives in the thread that has read it."""
    import pyarrow.dataset as pads

    stored, wanted = column_names(table), list(wanted)
    for column in wanted:
        if column not in stored:
            raise unknown(f"column of table {name!r}", column, stored)
    if instruments is not None and "instrument" not in stored:
        raise UnknownNameError(f"table {name!r} has no instrument column; leave instruments out")
    keys = [k for k in key_names(table) if k in stored and k != "universe"]
    keys.sort(key=lambda k: k != "date")
    needed = [*wanted, *(k for k in keys if k not in wanted)]
    dataset, condition = _scan(location, name, table, universe, start, end, instruments)
    if match is not None:
        condition &= pads.field(match[0]) == match[1]
    months: dict[str, list[pads.Fragment]] = {}
    for fragment in dataset.get_fragments(filter=condition):
        month = pads.get_partition_keys(fragment.partition_expression)[LAYOUT.name]
        months.setdefault(month, []).append(fragment)

    fields = [dataset.schema.field(name) for name in needed]
    schema = pa.schema([field.with_type(plain_type(field.type)).remove_metadata() for field in fields])
    picky = instruments is not None or match is not None

    # a few months at a time: mostly in order already, and what is not is sorted in small parts
    def ordered(some: Sequence[str]) -> Result:
        whole = [f for month in some if not picky and _inside(month, start, end) for f in months[month]]
        partly = [f for month in some if picky or not _inside(month, start, end) for f in months[month]]
        found = [_whole_file(dataset.filesystem, fragment.path, schema, universe) for fragment in whole]
        if partly:
            files = pads.FileSystemDataset(partly, dataset.schema, dataset.format, dataset.filesystem)
            some_rows = files.to_table(needed, condition, fragment_scan_options=checked_pages())
            found.append(_as_schema(some_rows, schema))
        # files of one partition follow each other in the order of their keys, as they were written
        part = pa.concat_tables(sorted(found, key=lambda rows: [rows[k][0].as_py() for k in keys] if len(rows) else []))
        part = part if ascends(part, keys) else part.sort_by([(k, "ascending") for k in keys])
        return then(part.select(wanted))

    if not months:
        yield then(schema.empty_table().select(wanted))
    step, every = max(1, COLUMN_MONTHS // len(needed)), sorted(months)
    with naming_damage(location, name, table, dataset, condition):
        yield from map_threads(ordered, [every[at : at + step] for at in range(0, len(every), step)])


def _inside(month: str, start: date | None, end: date | None) -> bool:
    """Whether all rows of a partition lie between two days, by its name alone: in a table of months or of years."""
    after = start is None or month > month_of(as_day(start), yearly=False)
    return after and (end is None or month < month_of(as_day(end), yearly=True))


def _whole_file(folder: "FileSystem", path: str, schema: pa.Schema, universe: str) -> pa.Table:
    """Columns of a data file with all its rows, null where it is older than a column: for wide tables in half the time
    that a scan takes, which looks at each column of each file for rows to leave out."""
    import pyarrow.parquet as pq

    with folder.open_input_file(path) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        held = set(parquet.schema_arrow.names)
        found = parquet.read([n for n in schema.names if n in held], use_threads=False)
    for field in schema:
        if field.name not in held:
            known = pa.scalar(universe if field.name == "universe" else None, field.type)
            found = found.append_column(field, pa.repeat(known, parquet.metadata.num_rows))
    found = found.select(schema.names).replace_schema_metadata(None)
    return _as_schema(found, schema)


def _as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table if table.schema.equals(schema) else with_plain_types(table).cast(schema)


def _scan(
    location: Location,
    name: str,
    table: "DeltaTable",
    universe: str,
    start: date | None,
    end: date | None,
    instruments: Iterable[str] | None = None,
) -> "tuple[pads.Dataset, pads.Expression]":
    """The files that may have such rows, and the condition that the rows fulfil."""
    import pyarrow.dataset as pads

    plain_name("universe", universe)
    start, end = (None if d is None else as_day(d) for d in (start, end))
    partitions: list[tuple[str, str, Any]] = [("universe", "=", universe)]
    condition = pads.field("universe") == universe
    if start is not None:
        # whichever way the table is partitioned; the rest is told by the dates of each file
        partitions.append(("month", ">=", month_of(start, yearly=True)))
        condition &= pads.field("date") >= pa.scalar(start, pa.date32())
    if end is not None:
        partitions.append(("month", "<=", month_of(end, yearly=False)))
        condition &= pads.field("date") <= pa.scalar(end, pa.date32())
    if instruments is not None:
        if isinstance(instruments, str):
            raise StoreError(f"instruments must be a collection of names, got the string {instruments!r}")
        condition &= pads.field("instrument").isin(pa.array(list(instruments), pa.string()))
    dataset = table.to_pyarrow_dataset(partitions=partitions)
    if gone := location.without.get(name):
        fragments = [part for part in dataset.get_fragments() if unquote(part.path) not in gone]
        dataset = pads.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
    return dataset, condition


def sessions(location: Location, name: str, universe: str, version: int | None) -> np.ndarray:
    """Distinct stored dates as of ``TableStore.sessions``."""
    plain_name("universe", universe)
    table = location.table(name, version)
    question = ("sessions", universe)
    return location.remembered(name, table, question, lambda: _sessions(location, name, table, universe)).copy()


def _sessions(location: Location, name: str, table: "DeltaTable", universe: str) -> np.ndarray:
    import pyarrow.dataset as pads

    files = data_files(location, name, table)
    if files.num_rows == 0:
        return np.array([], "datetime64[D]")
    files = files.filter(pc.equal(files["partition.universe"], universe))
    low, high = days(files["min.date"]), days(files["max.date"])
    single = (low == high) & ~np.isnat(low)
    found = [low[single]]
    if not single.all():
        dataset, condition = _scan(location, name, table, universe, None, None)
        months = pc.unique(files["partition.month"].filter(pa.array(~single)))
        condition &= pads.field("month").isin(months)
        with naming_damage(location, name, table, dataset, condition):
            dates = dataset.to_table(columns=["date"], filter=condition)
        found.append(days(pc.unique(dates["date"])))
    return np.unique(np.concatenate(found))


def count(location: Location, name: str, universe: str, start: date | None, end: date | None) -> int:
    """Number of rows as of ``TableStore.count``."""
    table = location.table(name)
    dataset, condition = _scan(location, name, table, universe, start, end)
    with naming_damage(location, name, table, dataset, condition):
        return dataset.count_rows(filter=condition)


def data_files(location: Location, name: str, table: "DeltaTable") -> pa.Table:
    """The data files of a version that are there, as of ``added_files``."""
    files = added_files(table)
    gone = pa.array(location.without.get(name, ()), pa.string())
    return files.filter(pc.invert(pc.is_in(files["path"], gone))) if len(gone) else files


def stored_rows(name: str, folder: "FileSystem", path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A data file of a table as it is, or some columns of it.

    Raises
    ------
    LostFile
        It is not there.
    StoreError
        It cannot be read.
    """
    import pyarrow.parquet as pq

    chosen = None if columns is None else list(columns)
    try:
        with folder.open_input_file(path) as file:
            return with_plain_types(pq.read_table(file, columns=chosen, page_checksum_verification=True))
    except FileNotFoundError:
        raise LostFile(path) from None
    except DAMAGED as error:
        raise unreadable(name, path, error) from error
