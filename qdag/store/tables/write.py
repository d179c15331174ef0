"""The data files of one write: rows are checked while they stream and put into Parquet files, in bounded memory.

Which rows a write replaces and what a commit is belong to ``qdag.store.tables``; nothing here reads a table.
"""

import hashlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.schema import TableSpec
from qdag.store.arrow import compact_columns, compact_copy, days, plain_type, row_codes
from qdag.store.files import make_folder, sync

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PARTITIONS = ("universe", "month")
FILE_BYTES = 16 << 20
"""Rows gathered for one file, and so its size."""
GATHERED_BYTES = 128 << 20
"""Most bytes gathered for all files together: a stream that is not in the order of time gets smaller files."""
CHECK_ROWS = 1 << 20
"""Keys held before those of finished dates are checked and dropped."""
LONG_SECONDS = 3600
WAITING = 2
"""Most files that are being written or wait for it."""


@dataclass(frozen=True)
class DataFile:
    """A written file: path below the table's folder, partition, bytes, rows, SHA-256, and least and greatest keys."""

    path: str
    universe: str
    month: str
    size: int
    rows: int
    sha256: str
    low: Mapping[str, Any]
    high: Mapping[str, Any]


def month_of(day: date, yearly: bool) -> str:
    """The partition of a day: its month, or the first one of its year."""
    return f"{day:%Y-01}" if yearly else f"{day:%Y-%m}"


class DataFiles:
    """Parquet files that a commit is to bring, of one table.

    Parameters
    ----------
    folder : the table's own folder, local or of an object store
    local : the same folder as a path, None for an object store; below it files are on disk when :meth:`settle` returns
    keys : key columns without those of the partition; files tell their least and greatest values
    """

    def __init__(self, folder: "FileSystem", local: Path | None, keys: Sequence[str]):
        self.folder, self.local, self.keys = folder, local, keys
        self._paths: list[str] = []

    def put(self, universe: str, month: str, table: pa.Table, parts: int | None = None) -> list[DataFile]:
        """Write rows of one partition, without its columns, in their order; by default as many files as they fill."""
        parts = parts or max(1, round(table.nbytes / FILE_BYTES))
        step = max(1, -(-table.num_rows // parts))
        return [self._file(universe, month, table.slice(at, step)) for at in range(0, table.num_rows, step)]

    def settle(self) -> None:
        """Have the names of the files on disk too."""
        if self.local is not None:
            for folder in {path.rpartition("/")[0] for path in self._paths}:
                sync(self.local / folder)

    def discard(self) -> None:
        """Delete the written files, which no commit knows."""
        for path in self._paths:
            # what stays goes with a vacuum
            with suppress(OSError):
                self.folder.delete_file(path)

    def _file(self, universe: str, month: str, table: pa.Table) -> DataFile:
        import pyarrow.parquet as pq

        texts = [f.name for f in table.schema if f.name in self.keys or pa.types.is_string(f.type)]
        sink = pa.BufferOutputStream()
        # floats hardly ever repeat: trying a dictionary on them takes three times as long and twice the memory
        pq.write_table(
            table,
            sink,
            compression="none",
            use_dictionary=texts,
            write_statistics=texts,
            write_page_checksum=True,
        )
        data = sink.getvalue()
        path = f"universe={universe}/month={month}/part-{uuid.uuid4()}.parquet"
        self._paths.append(path)
        if self.local is None:
            self.folder.create_dir(path.rpartition("/")[0], recursive=True)
        else:
            make_folder((self.local / path).parent)
        # unbuffered, files below a URL are given Arrow's buffers and take bytes only
        with self.folder.open_output_stream(path, buffer_size=data.size + 1) as file:
            file.write(data)
        if self.local is not None:
            sync(self.local / path)
        ends = {key: pc.min_max(table[key]).as_py() for key in self.keys}
        return DataFile(
            path=path,
            universe=universe,
            month=month,
            size=data.size,
            rows=table.num_rows,
            sha256=hashlib.sha256(data).hexdigest(),
            low={key: found["min"] for key, found in ends.items()},
            high={key: found["max"] for key, found in ends.items()},
        )


class Writing:
    """Files of one universe and table.

    Rows of a month are gathered until the stream has moved on to a later one, or until they fill a file; a thread
    encodes and writes while the stream goes on. Memory depends on the rows of a month, not on the number of months.

    Parameters
    ----------
    start, end, match : what all rows must lie in, see ``TableStore.replace``
    made : where the files go
    """

    def __init__(
        self,
        spec: TableSpec,
        universe: str,
        start: date,
        end: date,
        match: tuple[str, str] | None,
        made: DataFiles,
    ):
        self.spec, self.universe, self.start, self.end, self.match = spec, universe, start, end, match
        self.made = made
        self.schema = pa.schema([f for f in spec.arrow() if f.name not in PARTITIONS])
        self.rows = 0
        self.files: list[DataFile] = []
        self._began = time.monotonic()
        self._gathered: dict[str, list[pa.RecordBatch]] = {}
        self._bytes: Counter[str] = Counter()
        self._ascending = True
        self._returned = False
        self._survivors: dict[str, Callable[[], pa.Table]] = {}
        self._waiting: deque[Future[list[DataFile]]] = deque()

    def write(self, source: Iterable[pa.RecordBatch], survivors: Mapping[str, Callable[[], pa.Table]]) -> None:
        """Write all rows of ``source``, and by month the rows that ``survivors`` gives, as they were stored.

        The ``files`` are there afterwards; after an exception none is left.
        """
        self._survivors = dict(survivors)
        with ThreadPoolExecutor(1, "qdag-files") as pool:
            try:
                for batch in self._unique(self._checked(source)):
                    self.rows += batch.num_rows
                    self._gather(pool, batch)
                for month in sorted({*self._gathered, *self._survivors}):
                    self._flush(pool, month)
                while self._waiting:
                    self.files += self._waiting.popleft().result()
                if self._returned:
                    self._unique_in_files()
                self.made.settle()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                self.made.discard()
                raise

    def refuse_lost(self) -> None:
        """Raise where files of a long write are gone again: a vacuum deletes what no commit knows for a day."""
        if time.monotonic() - self._began < LONG_SECONDS:
            return
        found = self.made.folder.get_file_info([file.path for file in self.files])
        if lost := [info.path for info in found if info.size is None]:
            raise StoreError(
                f"{len(lost)} of {len(found)} files of a write to table {self.spec.name!r} were deleted before its "
                f"commit, first {lost[0]}; vacuum when no write is going on, and write again"
            )

    def _gather(self, pool: ThreadPoolExecutor, batch: pa.RecordBatch) -> None:
        for month, rows in self._months(batch):
            if any(other > month for other in self._gathered):
                # neither in order nor soon to be: what was begun is kept open
                self._ascending = False
            if not self._ascending and rows.num_rows < batch.num_rows:
                # a slice that may wait long would hold its whole batch
                rows = rows.take(pa.array(np.arange(rows.num_rows)))
            if self._ascending:
                for other in [other for other in self._gathered if other < month]:
                    self._flush(pool, other)
            self._gathered.setdefault(month, []).append(rows)
            self._bytes[month] += rows.nbytes
            if self._bytes[month] > FILE_BYTES:
                self._flush(pool, month)
            while self._bytes.total() > GATHERED_BYTES:
                self._flush(pool, self._bytes.most_common(1)[0][0])

    def _months(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        months = days(batch.column("date")).astype("M8[Y]" if self.spec.yearly else "M8[M]")
        batch = batch.select(self.schema.names)
        if np.all(months[1:] >= months[:-1]):
            edges = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), len(months)]
            parts = [(months[low], batch.slice(low, high - low)) for low, high in pairwise(edges)]
        else:
            parts = [(month, batch.filter(pa.array(months == month))) for month in np.unique(months)]
        for month, rows in parts:
            yield month_of(month.astype("M8[D]").item(), self.spec.yearly), rows

    def _flush(self, pool: ThreadPoolExecutor, month: str) -> None:
        del self._bytes[month]
        table = pa.Table.from_batches(self._gathered.pop(month, []), self.schema)
        while len(self._waiting) >= WAITING:
            self.files += self._waiting.popleft().result()
        self._waiting.append(pool.submit(self._put, month, table, self._survivors.pop(month, None)))

    def _merged(self, table: pa.Table, stored: pa.Table) -> pa.Table:
        """New rows and those that stay, in order; a column that either has not is null there."""
        both = pa.concat_tables([stored, table], promote_options="default") if table.num_rows else stored
        names = [*table.column_names, *(n for n in stored.column_names if n not in table.column_names)]
        return in_order(both.select([n for n in names if n in both.column_names]), self.spec.keys)

    def _put(self, month: str, table: pa.Table, survivors: Callable[[], pa.Table] | None) -> list[DataFile]:
        if survivors is not None:
            table = self._merged(table, survivors())
        return self.made.put(self.universe, month, table)

    # -- checks --------------------------------------------------------------------------------------------------------

    def _unique(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches; an error where two rows have the same key, in time to leave the table alone.

        Keys of finished dates are checked and forgotten on the way. Where the stream comes back to such a date after
        all, the files tell.
        """
        held: list[pa.Table] = []
        size, last, forgotten, returned = 0, date.min, date.min, False
        for batch in batches:
            ends = pc.min_max(batch.column("date"))
            returned |= ends["min"].as_py() < forgotten
            last = max(last, ends["max"].as_py())
            held.append(compact_columns(batch, self.spec.keys))
            size += batch.num_rows
            if size > CHECK_ROWS:
                _refuse_twins(held, self.spec)
                recent = (table.filter(pc.field("date") == pa.scalar(last, pa.date32())) for table in held)
                held, size, forgotten = [table for table in recent if table.num_rows], 0, last
            yield batch
        _refuse_twins(held, self.spec)
        self._returned = returned

    def _unique_in_files(self) -> None:
        import pyarrow.parquet as pq

        keys = [key for key in self.spec.keys if key not in PARTITIONS]
        for month in sorted({file.month for file in self.files}):
            held = []
            for file in self.files:
                if file.month == month:
                    with self.made.folder.open_input_file(file.path) as stored:
                        rows = pq.read_table(stored, columns=keys)
                    held += [pa.table({key: compact_copy(rows[key].combine_chunks()) for key in keys})]
            _refuse_twins(held, self.spec)

    def _checked(self, source: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches with the columns of the table in its order and types, none larger than part of a file."""
        for batch in source:
            check_schema(self.spec, batch.schema)
            if batch.num_rows:
                columns = [batch.column(f.name) for f in self.spec.arrow()]
                types = [f.type for f in self.spec.arrow()]
                columns = [c if c.type == t else c.cast(t) for c, t in zip(columns, types, strict=True)]
                whole = pa.record_batch(columns, schema=self.spec.arrow())
                self._check(whole)
                step = max(1, FILE_BYTES // 4 * whole.num_rows // max(whole.nbytes, 1))
                yield from (whole.slice(at, step) for at in range(0, whole.num_rows, step))

    def _check(self, batch: pa.RecordBatch) -> None:
        spec = self.spec
        for column in spec.columns:
            if not column.nullable:
                missing = pc.is_null(batch.column(column.name), nan_is_null=True)
                if n := pc.sum(missing).as_py():
                    row = batch.filter(missing).slice(0, 1).select(list(spec.keys)).to_pylist()[0]
                    raise StoreError(
                        f"column {column.name!r} of table {spec.name!r} must have a value; {n} rows have none, first "
                        f"{_show(row)}; drop or quarantine them"
                    )
        strange = pc.not_equal(batch.column("universe"), self.universe)
        if n := pc.sum(strange).as_py():
            other = batch.column("universe").filter(strange)[0].as_py()
            raise StoreError(
                f"{n} rows for table {spec.name!r} are of universe {other!r}, but {self.universe!r} is being replaced; "
                f"write each universe on its own"
            )
        if self.match is not None:
            name, value = self.match
            if n := pc.sum(pc.not_equal(batch.column(name), value)).as_py():
                raise StoreError(f"{n} rows for table {spec.name!r} do not have {name} {value!r}; write it alone")
        dates = batch.column("date")
        first, last = pa.scalar(self.start, pa.date32()), pa.scalar(self.end, pa.date32())
        outside = pc.or_(pc.less(dates, first), pc.greater(dates, last))
        if n := pc.sum(outside).as_py():
            day = dates.filter(outside)[0].as_py()
            raise StoreError(
                f"{n} rows for table {spec.name!r} lie outside the replaced range {self.start}..{self.end}, first "
                f"{day}; widen the range or drop the rows"
            )


def _refuse_twins(keys: Sequence[pa.Table], spec: TableSpec) -> None:
    codes = row_codes(keys)
    order = np.sort(codes)
    if np.any(same := order[1:] == order[:-1]):
        twice = np.flatnonzero(codes == order[1:][same][0])
        row = pa.concat_tables(keys).slice(int(twice[0]), 1).to_pylist()[0]
        raise StoreError(
            f"table {spec.name!r} would get {int(same.sum())} rows with a key that is already in the write, first "
            f"{_show(row)}; keep one row per {', '.join(spec.keys)}"
        )


def in_order(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Rows of one partition, by date and then by the other keys."""
    others = [key for key in keys if key not in (*PARTITIONS, "date")]
    return table.sort_by([(key, "ascending") for key in ("date", *others)])


def check_schema(spec: TableSpec, schema: pa.Schema) -> None:
    """Refuse columns that are not exactly those of ``spec``, in any order and encoding of text."""
    names = schema.names
    declared = spec.arrow()
    problems = []
    if missing := [n for n in declared.names if n not in names]:
        problems.append(f"missing columns {missing}")
    if extra := [n for n in names if n not in declared.names]:
        problems.append(f"extra columns {extra}")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        problems.append(f"repeated columns {twice}")
    else:
        problems += [
            f"column {f.name!r} is {schema.field(f.name).type} instead of {f.type}"
            for f in declared
            if f.name in names and plain_type(schema.field(f.name).type) != f.type
        ]
    if problems:
        raise StoreError(f"data does not fit table {spec.name!r}: {'; '.join(problems)}; fit it to the table's schema")


def _show(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in row.items())
